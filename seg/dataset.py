"""Pairs of image and label, read and checked; ADE20K.

Pictures are read as PaddleSeg and mmsegmentation read them, turned the way the camera was held; those of 16 bits are scaled
to 8, grey ones get three equal channels. Whatever is wrong with a file is an InputError that names it.
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

from util.data import finder, lists, pictures
from util.errors import InputError

SOURCE = 'http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip'
FOLDERS = {'train': 'training', 'val': 'validation'}


def read_image(path: str | Path, img_channels: int = 3) -> np.ndarray:
    """uint8 [height, width, 3], BGR as OpenCV has it, or grey [height, width]."""
    try:
        pixels = np.asarray(pictures.read(path, img_channels, as_seen=True))
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise InputError(f'{path} cannot be read as a picture ({error})') from None
    return np.ascontiguousarray(pixels[..., ::-1]) if img_channels == 3 else pixels


def read_label(path: str | Path) -> np.ndarray:
    """int64 [height, width], the class numbers as they stand in the file."""
    try:
        with Image.open(path) as picture:
            label = np.asarray(picture)
    except Exception as error:
        raise InputError(f'{path} cannot be read as a label ({error})') from None
    if label.ndim != 2 or label.dtype.kind not in 'bui':
        raise InputError(
            f'{path}: a label has one channel of class numbers; this is {label.dtype} {list(label.shape)}'
        )
    return label.astype('int64')


def checked(
    label: np.ndarray, path: str | Path, num_classes: int, ignore_index: int, first: int = 0
) -> np.ndarray:
    """The label as PaddleSeg has it, classes counted from 0, uint8 where that suffices. `first` is the file's number of the
    first class; where that is 1, 0 means none of them and is ignored."""
    ignored = (label == ignore_index) | ((label == 0) & (first == 1))
    wrong = np.unique(label[((label < first) | (label >= num_classes + first)) & ~ignored])
    if len(wrong):
        raise InputError(
            f'{path} has the labels {", ".join(map(str, wrong[:5]))}{" and more" * (len(wrong) > 5)}; its '
            f'{num_classes} classes are {first} to {num_classes + first - 1}, and '
            f'{f"0 or {ignore_index}" if first else ignore_index} is ignored'
        )
    dtype = 'uint8' if ignore_index >= 0 and max(num_classes, ignore_index) < 256 else 'int64'
    return np.where(ignored, ignore_index, label - first).astype(dtype)


def sample(dataset: Dataset, index: int) -> dict:
    """What paddleseg.datasets.Dataset gives for an index, from files that are checked first; seg.repairs puts this in the
    place of Dataset.__getitem__."""
    image_path, label_path = dataset.file_list[index]
    image = read_image(image_path, getattr(dataset, 'img_channels', 3))
    data = {'trans_info': [], 'img': image.astype('float32'), 'gt_fields': []}
    if label_path is not None:
        label = read_label(label_path)
        if label.shape != image.shape[:2]:
            raise InputError(
                f'{label_path} is {label.shape[1]} x {label.shape[0]} pixels, but its image {image_path} is '
                f'{image.shape[1]} x {image.shape[0]}'
            )
        first = 1 if getattr(dataset, 'reduce_zero_label', False) else 0
        data['label'] = checked(label, label_path, dataset.num_classes, dataset.ignore_index, first)
    if dataset.mode == 'val':
        data = _transformed(dataset, data, image_path)
        data['label'] = data['label'][np.newaxis]
        return data
    # what geometric transforms change with the image
    data['gt_fields'] += [key for key in ('label',) if key in data]
    data = _transformed(dataset, data, image_path)
    if dataset.edge:
        data['edge'] = mask_to_binary_edge(data['label'], radius=2, num_classes=dataset.num_classes)
    return data


def _transformed(dataset: Dataset, data: dict, image_path: str) -> dict:
    """The sample after its transforms, whose errors name the picture."""
    try:
        return dataset.transforms(data)
    except InputError as error:
        raise InputError(f'{image_path}: {error}') from None


def name_of(samples: Dataset, index: int) -> str:
    """What to call a sample in an error: its files, where it has some."""
    if not hasattr(samples, 'file_list'):
        return f'sample {index} of {type(samples).__name__}'
    image, label = samples.file_list[index]
    return f'{image} with label {label}'


def begin(plain: Callable) -> Callable:
    """A constructor for paddleseg.datasets.Dataset that leaves its list to util.data.lists.

    `plain` is PaddleSeg's own, which fails at marks (BOM), blank lines and blanks in names without saying where.
    """
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def init(self, *args, **kwargs):
        settings = signature.bind(self, *args, **kwargs)
        settings.apply_defaults()
        said = settings.arguments
        key = f'{str(said["mode"]).lower()}_path'
        path = said.get(key)
        if path is not None and os.path.isfile(path):
            said[key] = os.devnull  # a list that is there, and has no lines
        plain(*settings.args, **settings.kwargs)
        if path is not None and os.path.isfile(path):
            self.file_list = listed(path, self.dataset_root, said['separator'], self.mode == 'test')

    return init


def listed(
    path: str, root: str, separator: str = ' ', single: bool = False
) -> list[list[str | None]]:
    """[image, label] of each line of a list in PaddleSeg's form, below `root`; `single` allows images without label."""
    found = []
    for number, line in lists.read(path, 'list of images and labels'):
        words = line.split(separator)
        parts = lists.pair(line, pictures.PICTURES, root, separator)
        if parts is None and len(words) == 2 and (Path(words[0]).suffix or not single):
            parts = words
        if parts is None and single:
            parts = line, None
        if parts is None:
            raise InputError(
                f'{path}, line {number}: expected `image{separator}label`, found {line!r}'
            )
        found.append([part and os.path.join(root, part) for part in parts])
    return found


@manager.DATASETS.add_component
class ADE20KDataset(Dataset):
    """The scene parsing benchmark's 150 classes (http://sceneparsing.csail.mit.edu).

    dataset_root holds images/{training,validation} and annotations/{training,validation}; mode is 'train' or 'val'.
    PaddleSeg's own ADE20K takes the files in the order of the disk and downloads 900 MB where the root is missing.
    """

    NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 150, 255, 3

    def __init__(
        self, transforms: list, dataset_root: str, mode: str = 'train', edge: bool = False
    ):
        if mode not in FOLDERS:
            raise InputError(f"ADE20KDataset: mode is 'train' or 'val', not {mode!r}")
        self.dataset_root, self.mode, self.edge = dataset_root, mode, edge
        self.num_classes, self.ignore_index, self.img_channels = (
            self.NUM_CLASSES,
            self.IGNORE_INDEX,
            self.IMG_CHANNELS,
        )
        self.reduce_zero_label = True
        self.transforms = Compose(transforms)
        self.file_list = pairs(Path(dataset_root), FOLDERS[mode])

    def __getitem__(self, index: int) -> dict:
        return sample(self, index)


@manager.DATASETS.add_component
class Scenes(ADE20KDataset):
    """What demo/make_scenes.py writes: ADE20K's layout, but four classes. (PaddleSeg asks the class for their number.)"""

    NUM_CLASSES = 4


def pairs(root: Path, folder: str) -> list[list[str]]:
    """[image, label] of one part of ADE20K, by name; InputError where folders are missing or files have no partner."""
    images, labels = (root / kind / folder for kind in ('images', 'annotations'))
    missing = [str(path) for path in (images, labels) if not path.is_dir()]
    if missing:
        raise InputError(
            f'ADE20K is not at dataset_root {root} (looked in {os.getcwd()}): no folder '
            f'{" nor ".join(missing)}. Expected there: images/training, images/validation, '
            f'annotations/training, annotations/validation, as {SOURCE} unpacks to'
        )
    files, partners = _by_stem(images, pictures.PICTURES), _by_stem(labels, ('.png',))
    if not files:
        raise InputError(f'{images} holds no picture')
    if alone := sorted(files.keys() ^ partners.keys()):
        raise InputError(
            f'{root}: {len(alone)} files of {folder} have no partner of the same name in images and '
            f'annotations: {", ".join((files | partners)[stem] for stem in alone[:5])}'
        )
    return [[files[stem], partners[stem]] for stem in files]


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """The files of a folder by their names without suffix, sorted; InputError where two share one.

    Of two pictures s0.jpg and s0.png, one label s0.png cannot be both's.
    """
    files: dict[str, str] = {}
    twice = []
    for path in map(Path, finder.files(folder, suffixes)):
        if path.stem in files:
            twice.append(f'{Path(files[path.stem]).name} and {path.name}')
        files.setdefault(path.stem, str(path))
    if twice:
        raise InputError(
            f'{folder}: {len(twice)} files have the name of another but for the suffix: '
            f'{", ".join(twice[:5])}; an image and its label find each other by the name without '
            f'suffix, so rename or remove one of them'
        )
    return files
