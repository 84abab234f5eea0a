"""COCO's data sets: pictures with boxes, classes and masks.

What this does with files that are not as COCO's own:

- Classes are numbered by the order of their category ids, which may have gaps and begin at 0.
- Crowds are not trained. Evaluation hands them to pycocotools, which ignores what they cover.
- Boxes are clipped to the picture. Objects that are less than a pixel wide or high, of area 0, or
  outside the picture are not trained (as in mmdetection), but evaluated as pycocotools does.
- A picture stands as it is stored, unless EXIF turns it to the size in the json. Any other size
  than that in the json is an InputError, as in detectron2: the boxes would be somewhere else.
- What was left out, and why, is counted in one line.
"""

import os
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from det import annotations
from det.masks import Masks
from util import log
from util.data import pictures
from util.errors import InputError

LAYOUT = (
    'annotations/instances_train2017.json, annotations/instances_val2017.json, train2017, val2017'
)


class Unreadable(InputError):
    """A damaged picture; training skips a few of these."""


def read_picture(path: str | Path, width: int, height: int) -> np.ndarray:
    """A picture of the labelled size, uint8 [height, width, 3], RGB.

    It is turned as EXIF says if it then has that size. Unreadable for a damaged file, InputError
    for a picture of another size.
    """
    try:
        stored, seen = _both_ways(path)
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise Unreadable(f'{path} cannot be read as a picture ({error})') from None
    for picture in (seen, stored):
        if picture.size == (width, height):
            return np.array(picture)
    raise InputError(
        f'{path} is {stored.width} x {stored.height} pixels, but the annotation file says '
        f'{width} x {height}; its boxes would be in other places'
    )


def _both_ways(path: str | Path) -> tuple[Image.Image, Image.Image]:
    """A picture as it is stored, and as it is seen, turned the way the camera was held."""
    with Image.open(path) as file:
        stored = pictures.converted(file, 'RGB')
        turn = pictures.TURNS.get(pictures.orientation_of(file))
    seen = stored if turn is None else stored.transpose(turn)
    return stored, seen


def match_classes(
    here: dict, there: dict, name_here: str, name_there: str, exact: bool = False
) -> list[int]:
    """The place in `there` of each class in `here`, both as COCODataSet.categories.

    InputError if a class of `here` is not in `there` with the same category id and the same name.
    exact: also if `there` has more classes. name_here and name_there stand in these messages.
    """
    known = list(zip(there['ids'], there['names']))
    matched = []
    for pair in zip(here['ids'], here['names']):
        if pair not in known:
            raise InputError(
                f'{name_here} has the category {pair[0]} {pair[1]!r}, but {name_there} '
                f'{_nearly(pair, known)}; classes must agree in id and name'
            )
        matched.append(known.index(pair))

    absent = [name for place, (_, name) in enumerate(known) if place not in matched]
    if exact and absent:
        raise InputError(
            f'{name_here} lacks {len(absent)} of the {len(known)} categories of {name_there}: '
            f'{", ".join(absent[:5])}'
        )
    return matched


def _nearly(pair: tuple[int, str], known: list[tuple[int, str]]) -> str:
    """What a list of classes has instead of a class: its id or its name with another partner."""
    for key, name in known:
        if key == pair[0]:
            return f'has {key} as {name!r}'
        if name == pair[1]:
            return f'has {name!r} as category {key}'
    return f'has neither that id nor that name among its {len(known)} categories'


class COCODataSet:
    """The pictures of a COCO json, by index.

    image_dir and anno_path are relative to dataset_dir. allow_empty: keep pictures without a box to
    train, which evaluation needs. min_side: leave out pictures with a side below it. with_masks:
    read the masks as well.

    classes: names in the order of their labels; category_ids: their ids; categories: both, as
    {'ids': ..., 'names': ...}; images: the entries of the json, and paths: the files of the
    pictures that are kept; all_images and objects: everything in the json.
    """

    def __init__(
        self,
        dataset_dir: str,
        image_dir: str,
        anno_path: str,
        allow_empty: bool = False,
        min_side: int = 0,
        with_masks: bool = False,
    ):
        self.anno_path = os.path.join(dataset_dir, anno_path)
        self.image_dir = os.path.join(dataset_dir, image_dir)
        self.with_masks = with_masks
        _check_places(dataset_dir, self.image_dir, self.anno_path)
        content = annotations.read(self.anno_path)
        categories = annotations.categories_of(content, self.anno_path)
        self.category_ids = [key for key, _ in categories]
        self.classes = [name for _, name in categories]
        self.categories = {'ids': self.category_ids, 'names': self.classes}
        self.all_images = annotations.images_of(content, self.anno_path)
        all_paths = paths_of(self.all_images, self.image_dir, self.anno_path)
        _add_sizes(self.all_images, all_paths)

        reader = annotations.Reader(self.anno_path, self.all_images, self.category_ids, with_masks)
        self.objects = reader.objects(content['annotations'])
        self.left_out = reader.left_out
        self.repaired = reader.repaired

        self.boxes, rows = self._trained()
        self.rows_of = _by_image(self.objects.image[rows], rows, len(self.all_images))
        kept = self._kept(allow_empty, min_side)
        self.images = [self.all_images[place] for place in kept]
        self.paths = [all_paths[place] for place in kept]
        self.rows_of = [self.rows_of[place] for place in kept]
        log.info(self.summary())
        if not kept:
            raise InputError(f'{self.anno_path} has no picture to use: {self.summary()}')

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        """The file of a picture, for messages."""
        return self.paths[index]

    def read(self, index: int) -> dict:
        """A picture with its objects.

        image: uint8 [height, width, 3], RGB; gt_bbox: float32 [n, 4], x1, y1, x2, y2; gt_class:
        int64 [n], from 0; gt_segm: det.masks.Masks, if asked for; im_id; origin_shape: [2], height
        and width. Unreadable for a damaged picture.
        """
        entry = self.images[index]
        height = entry['height']
        width = entry['width']
        rows = self.rows_of[index]
        sample = {
            'image': read_picture(self.paths[index], width, height),
            'im_id': np.int64(entry['id']),
            'origin_shape': np.array([height, width], 'int64'),
            'gt_bbox': self.boxes[rows],
            'gt_class': self.objects.category[rows],
        }
        if self.with_masks:
            segmentations = [self.objects.segmentations[row] for row in rows]
            sample['gt_segm'] = Masks(segmentations, height, width)
        return sample

    def summary(self) -> str:
        """A line: pictures, boxes, classes, and what was left out or repaired, with numbers."""
        boxes = sum(len(rows) for rows in self.rows_of)
        text = (
            f'{self.anno_path}: {len(self.images)} pictures with {boxes} boxes of '
            f'{len(self.classes)} classes'
        )
        if self.left_out:
            text += f'; left out: {_listed(self.left_out)}'
        if self.repaired:
            text += f'; repaired: {_listed(self.repaired)}'
        return text

    def _trained(self) -> tuple[np.ndarray, np.ndarray]:
        """The boxes of all objects, clipped, float32 [A, 4], and the rows of those to train."""
        objects = self.objects
        sizes = [(image['width'], image['height']) for image in self.all_images]
        limits = np.array(sizes, 'float64').reshape(-1, 2)[objects.image]  # [A, 2]
        start = objects.boxes[:, :2]
        size = objects.boxes[:, 2:]
        first = np.clip(start, 0, limits)
        last = np.clip(start + size, 0, limits)

        is_thin = (size < 1).any(axis=1) | (objects.areas <= 0)
        is_outside = (last <= first).any(axis=1)
        rejected = [
            ('crowds', objects.crowd),
            ('objects marked `ignore`', objects.ignored),
            ('boxes without area', is_thin),
            ('boxes outside the picture', is_outside),
        ]
        if self.with_masks:
            is_missing = [segmentation is None for segmentation in objects.segmentations]
            rejected.append(('objects without a mask', np.array(is_missing, bool)))

        remain = np.ones(len(objects.image), bool)
        for reason, mask in rejected:
            self._count(self.left_out, reason, mask & remain)
            remain &= ~mask
        is_clipped = (first != start) | (last != start + size)  # [A, 2]
        self._count(self.repaired, 'boxes clipped to the picture', is_clipped.any(axis=1) & remain)

        boxes = np.concatenate([first, last], axis=1)
        return boxes.astype('float32'), np.flatnonzero(remain)

    def _count(self, counter: Counter, reason: str, mask: np.ndarray) -> None:
        if mask.any():
            counter[reason] = int(mask.sum())

    def _kept(self, allow_empty: bool, min_side: int) -> list[int]:
        """The places of the pictures that are kept."""
        kept = []
        for place, image in enumerate(self.all_images):
            if min(image['height'], image['width']) < min_side:
                self.left_out[f'pictures with a side below {min_side} pixels'] += 1
            elif not allow_empty and not len(self.rows_of[place]):
                self.left_out['pictures without a box'] += 1
            else:
                kept.append(place)
        return kept


def _listed(counter: Counter) -> str:
    return ', '.join(f'{count} {what}' for what, count in counter.items())


def _by_image(images: np.ndarray, rows: np.ndarray, count: int) -> list[np.ndarray]:
    """The rows of each of `count` images; images: the place of each row's image."""
    order = np.argsort(images, kind='stable')
    numbers = np.arange(1, count)
    ends = np.searchsorted(images[order], numbers)
    return np.split(rows[order], ends)


def _check_places(dataset_dir: str, image_dir: str, anno_path: str) -> None:
    """InputError if the folders or the json are not there."""
    expected = f'COCO has in it {LAYOUT}'
    if not os.path.isdir(dataset_dir):
        raise InputError(
            f'dataset_dir {dataset_dir} is no folder (looked in {os.getcwd()}); {expected}'
        )
    if not os.path.isdir(image_dir):
        raise InputError(f'image_dir {image_dir} is no folder; {expected}')
    if not os.path.isfile(anno_path):
        raise InputError(f'anno_path {anno_path} is no file; {expected}')


def paths_of(images: list[dict], image_dir: str, anno_path: str) -> list[str]:
    """The files of the images; InputError names one that is missing.

    A name with accents is found in each of Unicode's two spellings, because some systems change it.
    """
    paths = []
    missing = []
    for image in images:
        name = image['file_name']
        spellings = [name] + [unicodedata.normalize(form, name) for form in ('NFC', 'NFD')]
        candidates = [os.path.join(image_dir, spelling) for spelling in spellings]
        path = next(filter(os.path.isfile, candidates), None)
        if path is None:
            missing.append(name)
        paths.append(path)
    if missing:
        raise InputError(
            f'{anno_path}: {len(missing)} of {len(images)} pictures are not in image_dir '
            f'{image_dir}: {", ".join(missing[:5])}'
        )
    return paths


def _add_sizes(images: list[dict], paths: list[str]) -> None:
    """Add the sizes that the json lacks, as the pictures are seen."""
    for image, path in zip(images, paths):
        if image['height'] is not None and image['width'] is not None:
            continue
        try:
            _, seen = _both_ways(path)
        except Exception as error:
            raise InputError(
                f'{path} cannot be read ({error}), and the json does not say its size'
            ) from None
        image['width'], image['height'] = seen.size
