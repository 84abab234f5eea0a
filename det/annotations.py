"""COCO's json of images, categories and objects: read, checked and kept as arrays.

Every fault is an InputError in one line that names the file and the entry.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle_tools

from det import masks
from det.masks import shown
from util.errors import InputError

LARGEST = sys.float_info.max
KINDS = {dict: 'an object', list: 'a list', str: 'text', int: 'a number', float: 'a number'}


@dataclass
class Place:
    """Where an entry stands in a file, for messages: FILE: annotations[3] (id 7)."""

    path: str | Path
    section: str
    number: int
    entry: dict

    def __str__(self) -> str:
        text = f'{self.path}: {self.section}[{self.number}]'
        if 'id' in self.entry and self.section == 'annotations':
            text += f' (id {shown(self.entry["id"])})'
        return text


@dataclass
class Objects:
    """The objects of a file, one row each, in the order of the file.

    image and category: the places of an object's image and category in the lists of `Annotations`.
    boxes: x, y, width, height, as in the file, not clipped. segmentations: as `masks.checked` gives
    them, or None if masks were not asked for.
    """

    image: np.ndarray  # int64 [A]
    category: np.ndarray  # int64 [A]
    boxes: np.ndarray  # float64 [A, 4]
    areas: np.ndarray  # float64 [A]
    crowd: np.ndarray  # bool [A]
    ignored: np.ndarray  # bool [A], left out of training by the file's own mark
    segmentations: list | None


def read(path: str | Path) -> dict:
    """The contents of a COCO json; InputError if it is none or has no list of images.

    COCO's lists of test images have no annotations; these become an empty list.
    """
    try:
        with open(path, encoding='utf-8-sig') as file:
            content = json.load(file)
    except OSError as error:
        raise InputError(f'{path} cannot be read ({error.strerror})') from None
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} is no json: {error}') from None

    if not isinstance(content, dict):
        raise InputError(
            f'{path} is {_kind(content)}; COCO has an object with images, annotations, categories'
        )
    for name in ('images', 'categories'):
        _check_list(content, name, path)
    content.setdefault('annotations', [])
    _check_list(content, 'annotations', path)
    return content


def _kind(value: Any) -> str:
    return KINDS.get(type(value), shown(value))


def _check_list(content: dict, name: str, path: str | Path) -> None:
    """InputError unless the content has a list of objects of that name."""
    if name not in content:
        raise InputError(f'{path} has no `{name}`; it has {", ".join(content) or "nothing"}')
    entries = content[name]
    if not isinstance(entries, list):
        raise InputError(f'{path}: `{name}` is {_kind(entries)}; expected a list of objects')
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f'{path}: {name}[{number}] is {shown(entry)}; expected an object')


def categories_of(content: dict, path: str | Path) -> list[tuple[int, str]]:
    """The (id, name) of each category, sorted by id, as the COCO tools number classes."""
    names: dict[int, str] = {}
    for number, entry in enumerate(content['categories']):
        where = Place(path, 'categories', number, entry)
        key = _whole(entry, 'id', where)
        name = _text(entry, 'name', where)
        if key in names:
            raise InputError(f'{where} has the id {key} of the category {names[key]!r} before it')
        names[key] = name
    if not names:
        raise InputError(f'{path} has no category')
    return sorted(names.items())


def images_of(content: dict, path: str | Path) -> list[dict]:
    """The images in the order of the file; height and width are whole numbers or None."""
    places: dict[int, int] = {}
    for number, entry in enumerate(content['images']):
        where = Place(path, 'images', number, entry)
        key = _whole(entry, 'id', where)
        _text(entry, 'file_name', where)
        if key in places:
            raise InputError(
                f'{where} has the id {key} of images[{places[key]}]; ids of images must differ, '
                f'because objects are assigned by them'
            )
        places[key] = number
        for side in ('height', 'width'):
            if entry.setdefault(side, None) is not None and _whole(entry, side, where) < 1:
                raise InputError(f'{where} has the {side} {entry[side]}; expected 1 or more')
    return content['images']


def _whole(entry: dict, name: str, where: Place) -> int:
    value = entry.get(name)
    if type(value) is not int or abs(value) >= 2**63:
        found = shown(value) if name in entry else 'missing'
        raise InputError(f'{where}: {name} is {found}; expected a whole number')
    return value


def _text(entry: dict, name: str, where: Place) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        found = shown(value) if name in entry else 'missing'
        raise InputError(f'{where}: {name} is {found}; expected text')
    return value


class Reader:
    """Reads the objects of a file; `left_out` counts those that its lists have no place for.

    images: as images_of gives them, with all sizes known. category_ids: sorted.
    """

    def __init__(self, path: str | Path, images: list[dict], category_ids: list, with_masks: bool):
        self.path = path
        self.images = images
        self.with_masks = with_masks
        self.places = {image['id']: place for place, image in enumerate(images)}
        self.classes = {key: place for place, key in enumerate(category_ids)}
        self.left_out = Counter()
        self.repaired = Counter()  # what was added or changed, and how often

    def objects(self, entries: list[dict]) -> Objects:
        """The objects of the file's `annotations`."""
        self._count_ids(entries)
        rows = []
        for number, entry in enumerate(entries):
            row = self._row(entry, Place(self.path, 'annotations', number, entry))
            if row is not None:
                rows.append(row)

        columns = list(zip(*rows)) or [()] * 7
        image, category, boxes, areas, crowd, ignored, segmentations = columns
        return Objects(
            image=np.array(image, 'int64'),
            category=np.array(category, 'int64'),
            boxes=np.array(boxes, 'float64').reshape(-1, 4),
            areas=np.array(areas, 'float64'),
            crowd=np.array(crowd, bool),
            ignored=np.array(ignored, bool),
            segmentations=list(segmentations) if self.with_masks else None,
        )

    def _count_ids(self, entries: list[dict]) -> None:
        """Count ids that pycocotools would take for another object or for none (0)."""
        ids = [repr(entry.get('id')) for entry in entries]
        repeated = len(ids) - len(set(ids))
        if repeated:
            self.repaired['annotation ids that occur twice or are missing'] = repeated
        if '0' in ids:
            self.repaired['annotation id 0'] = ids.count('0')

    def _row(self, entry: dict, where: Place) -> tuple | None:
        """One object as the values of a row; None if it belongs to no image or category."""
        image = self.places.get(_whole(entry, 'image_id', where))
        category = self.classes.get(_whole(entry, 'category_id', where))
        if image is None:
            self.left_out['objects of an unknown image'] += 1
            return None
        if category is None:
            self.left_out['objects of an unknown category'] += 1
            return None

        height = self.images[image]['height']
        width = self.images[image]['width']
        segmentation = entry.get('segmentation')
        if self.with_masks or not _is_number(entry.get('area')):
            segmentation = masks.checked(segmentation, height, width, where)
        box = _box(entry, where)
        area = self._area(entry, box, segmentation, (height, width))
        crowd = self._crowd(entry, where)
        ignored = bool(entry.get('ignore'))
        return image, category, box, area, crowd, ignored, segmentation

    def _area(self, entry: dict, box: list, segmentation, size: tuple[int, int]) -> float:
        """The area of an object; if the file has none, that of its mask or else of its box."""
        if _is_number(entry.get('area')):
            return entry['area']
        self.repaired['objects without area, which was derived'] += 1
        if segmentation is None:
            return box[2] * box[3]
        rle = masks.to_rle(segmentation, *size)
        return float(rle_tools.area(rle))

    def _crowd(self, entry: dict, where: Place) -> bool:
        value = entry.get('iscrowd')
        if value is None:
            self.repaired['objects without iscrowd, taken as 0'] += 1
        elif value not in (0, 1):
            raise InputError(f'{where}: iscrowd is {shown(value)}; expected 0 or 1')
        return bool(value)


def _is_number(value: Any) -> bool:
    """Whether a value of a json is a finite number; a json's true and false are none."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def _box(entry: dict, where: Place) -> list[float]:
    """The x, y, width, height of an object."""
    box = entry.get('bbox')
    is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
    if not is_box:
        found = shown(box) if 'bbox' in entry else 'missing'
        raise InputError(
            f'{where}: bbox is {found}; expected four finite numbers x, y, width, height'
        )
    return box
