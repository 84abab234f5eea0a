"""Pairs of image and label, read and checked; ADE20K.

Pictures are read as PaddleSeg and mmsegmentation read them, turned the way the camera was held.
16 bits are scaled to 8, and grey pictures get three equal channels. Every fault of a file is an
InputError that names it.
"""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from paddleseg.cvlibs import manager
from paddleseg.datasets import Dataset
from paddleseg.transforms import Compose
from paddleseg.transforms.functional import mask_to_binary_edge
from PIL import Image

from seg import classes
from util.data import finder, lists, pictures
from util.errors import InputError

SOURCE = 'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'
FOLDERS = {'train': 'training', 'val': 'validation'}


class Unreadable(InputError):
    """A damaged picture or label, or a file that is none; training skips a few of these."""


def read_image(path: str | Path, img_channels: int = 3) -> np.ndarray:
    """A picture as uint8 [height, width, 3], BGR as in OpenCV, or grey [height, width]."""
    try:
        pixels = np.asarray(pictures.read(path, img_channels, as_seen=True))
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise Unreadable(f'{path} cannot be read as a picture ({error})') from None
    if img_channels != 3:
        return pixels
    return np.ascontiguousarray(pixels[..., ::-1])


def read_label(path: str | Path) -> np.ndarray:
    """The class numbers in a file, int64 [height, width]."""
    try:
        with Image.open(path) as picture:
            label = np.asarray(picture)
    except Exception as error:
        raise Unreadable(f'{path} cannot be read as a label ({error})') from None
    if label.ndim != 2 or label.dtype.kind not in 'bui':
        found = f'{label.dtype} {list(label.shape)}'
        raise InputError(f'{path}: a label has one channel of class numbers; this is {found}')
    return label.astype('int64')


def checked(
    label: np.ndarray, path: str | Path, num_classes: int, ignore_index: int, first: int = 0
) -> np.ndarray:
    """The label as PaddleSeg has it, classes counted from 0, uint8 where that suffices.

    first: the file's number of the first class. Where it is 1, 0 means no class and is ignored.
    InputError where the label has other numbers.
    """
    ignored = label == ignore_index
    if first == 1:
        ignored |= label == 0
    outside = (label < first) | (label >= num_classes + first)
    wrong = np.unique(label[outside & ~ignored])
    if len(wrong):
        shown = ', '.join(map(str, wrong[:5]))
        if len(wrong) > 5:
            shown += ' and more'
        ignored_numbers = f'0 or {ignore_index}' if first else ignore_index
        raise InputError(
            f'{path} has the labels {shown}; its {num_classes} classes are '
            f'{first} to {num_classes + first - 1}, and {ignored_numbers} is ignored'
        )

    fits_in_byte = ignore_index >= 0 and max(num_classes, ignore_index) < 256
    dtype = 'uint8' if fits_in_byte else 'int64'
    return np.where(ignored, ignore_index, label - first).astype(dtype)


def sample(dataset: Dataset, index: int) -> dict:
    """The sample that paddleseg.datasets.Dataset gives for an index, from files that are checked.

    seg.repairs puts this in the place of Dataset.__getitem__.
    """
    image_path, label_path = dataset.file_list[index]
    image = read_image(image_path, getattr(dataset, 'img_channels', 3))
    data = {'trans_info': [], 'img': image.astype('float32'), 'gt_fields': []}
    if label_path is not None:
        data['label'] = _label_of(dataset, image, image_path, label_path)

    if dataset.mode == 'val':  # the label keeps its size
        data = _transformed(dataset, data, image_path)
        data['label'] = data['label'][np.newaxis]
        return data

    if 'label' in data:
        data['gt_fields'].append('label')  # geometric transforms change it with the image
    data = _transformed(dataset, data, image_path)
    if dataset.edge:
        data['edge'] = mask_to_binary_edge(data['label'], radius=2, num_classes=dataset.num_classes)
    return data


def _label_of(dataset: Dataset, image: np.ndarray, image_path: str, label_path: str) -> np.ndarray:
    """The checked label of an image; InputError where it is of another size."""
    label = read_label(label_path)
    if label.shape != image.shape[:2]:
        raise InputError(
            f'{label_path} is {label.shape[1]} x {label.shape[0]} pixels, '
            f'but its image {image_path} is {image.shape[1]} x {image.shape[0]}'
        )
    first = 1 if getattr(dataset, 'reduce_zero_label', False) else 0
    return checked(label, label_path, dataset.num_classes, dataset.ignore_index, first)


def _transformed(dataset: Dataset, data: dict, image_path: str) -> dict:
    """The sample after its transforms; their errors name the picture."""
    try:
        return dataset.transforms(data)
    except InputError as error:
        raise InputError(f'{image_path}: {error}') from None


def name_of(samples: Dataset, index: int) -> str:
    """The name of a sample in an error: its files, or its number where it has none."""
    if not hasattr(samples, 'file_list'):
        return f'sample {index} of {type(samples).__name__}'
    image, label = samples.file_list[index]
    return f'{image} with label {label}'


def begin(plain: Callable) -> Callable:
    """A constructor for paddleseg.datasets.Dataset that reads its list by util.data.lists.

    `plain` is PaddleSeg's own, which fails at marks (BOM), blank lines and blanks in names without
    naming the line.
    """
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def init(self, *args, **kwargs):
        settings = signature.bind(self, *args, **kwargs)
        settings.apply_defaults()
        arguments = settings.arguments
        mode = str(arguments['mode']).lower()
        key = f'{mode}_path'
        path = arguments.get(key)
        is_file = path is not None and os.path.isfile(path)

        if is_file:
            arguments[key] = os.devnull  # for PaddleSeg, a list without lines
        plain(*settings.args, **settings.kwargs)
        if is_file:
            is_test = self.mode == 'test'
            self.file_list = listed(path, self.dataset_root, arguments['separator'], is_test)

    return init


def listed(
    path: str, root: str, separator: str = ' ', single: bool = False
) -> list[list[str | None]]:
    """[image, label] of each line of a list in PaddleSeg's form, below `root`.

    single: lines may name an image without a label, which is then None.
    """
    found = []
    for number, line in lists.read(path, 'list of images and labels'):
        pair = lists.pair(line, pictures.PICTURES, root, separator)
        if pair is None:
            pair = _split(line, separator, single)
        if pair is None:
            raise InputError(
                f'{path}, line {number}: expected `image{separator}label`, found {line!r}'
            )
        found.append([name and os.path.join(root, name) for name in pair])
    return found


def _split(line: str, separator: str, single: bool) -> list[str | None] | None:
    """[image, label] of a line whose files are not there; None where it is neither form."""
    words = line.split(separator)
    is_pair = len(words) == 2
    if single and is_pair and not Path(words[0]).suffix:
        is_pair = False  # one name with a blank in it
    if is_pair:
        return words
    return [line, None] if single else None


@manager.DATASETS.add_component
class ADE20KDataset(Dataset):
    """The scene parsing benchmark's 150 classes (http://sceneparsing.csail.mit.edu).

    dataset_root holds images/{training,validation} and annotations/{training,validation}; mode is
    'train' or 'val'. PaddleSeg's own ADE20K takes the files in the order of the disk and downloads
    900 MB where the root is missing.
    """

    NUM_CLASSES = 150
    NAMES = classes.ADE20K
    IGNORE_INDEX = 255
    IMG_CHANNELS = 3

    def __init__(
        self, transforms: list, dataset_root: str, mode: str = 'train', edge: bool = False
    ):
        if mode not in FOLDERS:
            raise InputError(f"ADE20KDataset: mode is 'train' or 'val', not {mode!r}")
        self.dataset_root = dataset_root
        self.mode = mode
        self.edge = edge
        self.num_classes = self.NUM_CLASSES
        self.ignore_index = self.IGNORE_INDEX
        self.img_channels = self.IMG_CHANNELS
        self.reduce_zero_label = True
        self.transforms = Compose(transforms)
        self.file_list = pairs(Path(dataset_root), FOLDERS[mode])

    def __getitem__(self, index: int) -> dict:
        return sample(self, index)


@manager.DATASETS.add_component
class Scenes(ADE20KDataset):
    """The scenes that demo/make_scenes.py writes: ADE20K's layout with four classes."""

    NUM_CLASSES = 4  # PaddleSeg asks the class, not the instance
    NAMES = ('digit 0', 'digit 1', 'building', 'flower')


def pairs(root: Path, folder: str) -> list[list[str]]:
    """[image, label] of one part of ADE20K, sorted by name.

    InputError where folders are missing or files have no partner.
    """
    images = root / 'images' / folder
    labels = root / 'annotations' / folder
    missing = [str(path) for path in (images, labels) if not path.is_dir()]
    if missing:
        raise InputError(
            f'ADE20K is not at dataset_root {root} (looked in {os.getcwd()}): no folder '
            f'{" nor ".join(missing)}. Expected there: images/training, images/validation, '
            f'annotations/training, annotations/validation, as {SOURCE} unpacks to'
        )

    files = _by_stem(images, pictures.PICTURES)
    partners = _by_stem(labels, ('.png',))
    if not files:
        raise InputError(f'{images} holds no picture')
    alone = sorted(files.keys() ^ partners.keys())
    if alone:
        known = files | partners
        shown = ', '.join(known[stem] for stem in alone[:5])
        raise InputError(
            f'{root}: {len(alone)} files of {folder} have no partner of the same name '
            f'in images and annotations: {shown}'
        )
    return [[files[stem], partners[stem]] for stem in files]


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The files of a folder by their names without suffix, sorted; InputError where two share one.

    One label s0.png cannot belong to both pictures s0.jpg and s0.png.
    """
    files: dict[str, str] = {}
    twice = []
    for path in map(Path, finder.files(folder, suffixes)):
        if path.stem in files:
            other = Path(files[path.stem])
            twice.append(f'{other.name} and {path.name}')
        files.setdefault(path.stem, str(path))
    if twice:
        raise InputError(
            f'{folder}: {len(twice)} files have the name of another but for the suffix: '
            f'{", ".join(twice[:5])}; an image and its label are matched by the name without '
            f'suffix, so rename or remove one of them'
        )
    return files
