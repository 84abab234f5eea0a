"""Masks of objects: read from COCO's three forms, and changed together with the picture.

COCO's forms of a segmentation are polygons ([[x1, y1, x2, y2, ...], ...]), uncompressed RLE
({'size': [height, width], 'counts': [0, 3, ...]}) and compressed RLE (counts is text).
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as rle_tools

from util.errors import InputError

FEWEST_NUMBERS = 6  # of a polygon: three corners
EXPECTED = 'polygons [[x1, y1, x2, y2, ...], ...] or RLE {"size": [height, width], "counts": ...}'


def checked(segmentation: Any, height: int, width: int, where: object) -> dict | list | None:
    """A segmentation that pycocotools can use, or None if it describes no mask.

    Polygons become a list of arrays, RLE a dict. Polygons of less than three corners are left out,
    as detectron2 does. where: the entry, for the InputError at anything else.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _checked_rle(segmentation, height, width, where)
    if not isinstance(segmentation, list):
        raise InputError(f'{where} has the segmentation {shown(segmentation)}; expected {EXPECTED}')
    if not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # one polygon, not in a list of its own
    polygons = [_checked_polygon(polygon, where) for polygon in segmentation]
    kept = [polygon for polygon in polygons if len(polygon) >= FEWEST_NUMBERS]
    return kept or None


def _checked_polygon(polygon: Any, where: object) -> np.ndarray:
    """The corners of a polygon, float64 [2 * corners]."""
    try:
        corners = np.array(polygon, 'float64')
    except (TypeError, ValueError):
        corners = np.array([np.nan])
    is_fine = corners.ndim == 1 and np.isfinite(corners).all() and len(corners) % 2 == 0
    if not is_fine:
        raise InputError(
            f'{where} has the polygon {shown(polygon)}; expected finite numbers x1, y1, x2, y2, ...'
        )
    return corners


def _checked_rle(rle: dict, height: int, width: int, where: object) -> dict:
    """The RLE as pycocotools compresses it."""
    size = rle.get('size')
    counts = rle.get('counts')
    if size != [height, width]:
        raise InputError(
            f'{where} has an RLE of size {shown(size)} (height, width), but its image is '
            f'{[height, width]}'
        )
    if isinstance(counts, list):
        return _compressed(counts, height, width, where)
    if not isinstance(counts, str):
        raise InputError(f'{where} has the RLE counts {shown(counts)}; expected numbers or text')

    compressed = {'size': size, 'counts': counts.encode()}
    try:
        rle_tools.decode(compressed)
    except ValueError:
        raise InputError(f'{where} has a damaged RLE: {shown(counts)}') from None
    return compressed


def _compressed(counts: list, height: int, width: int, where: object) -> dict:
    """The compressed form of an RLE's numbers, which must add up to the pixels of the image."""
    are_counts = all(isinstance(count, int) and count >= 0 for count in counts)
    if not are_counts or sum(counts) != height * width:
        raise InputError(
            f'{where} has the RLE counts {shown(counts)}; expected whole numbers that add up to '
            f'{height} x {width}'
        )
    return rle_tools.frPyObjects({'size': [height, width], 'counts': counts}, height, width)


def to_rle(segmentation: dict | list, height: int, width: int) -> dict:
    """The compressed RLE of a checked segmentation; the parts of a polygon are joined."""
    if isinstance(segmentation, dict):
        return segmentation
    parts = rle_tools.frPyObjects(segmentation, height, width)
    return rle_tools.merge(parts)


def encode(bitmap: np.ndarray) -> dict:
    """The compressed RLE of a bitmap [height, width]."""
    return rle_tools.encode(np.asfortranarray(bitmap, 'uint8'))


def shown(value: Any, most: int = 60) -> str:
    """A value as it stands in a json, cut after `most` characters."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    if len(text) > most:
        text = text[:most] + ' ...'
    return text


class Masks:
    """The masks of the objects in one picture, which follow each change of the picture.

    Nothing is drawn until `bitmaps` is called: a change only alters which row and column of the
    original picture each pixel comes from, -1 outside it. So pixels that are cropped away cost no
    memory. Resizing takes the nearest pixel, as mmdetection does.
    """

    def __init__(self, segmentations: list, height: int, width: int):
        self.segmentations = segmentations
        self.size = (height, width)
        self.rows = np.arange(height)
        self.columns = np.arange(width)

    def __len__(self) -> int:
        return len(self.segmentations)

    def kept(self, indices: np.ndarray) -> 'Masks':
        """The masks of some of the objects; indices may be a mask of booleans."""
        numbers = np.arange(len(self))[indices]
        segmentations = [self.segmentations[number] for number in numbers]
        return self._changed(self.rows, self.columns, segmentations)

    def resized(self, height: int, width: int) -> 'Masks':
        """The masks of the picture at another size."""
        return self._changed(_nearest(self.rows, height), _nearest(self.columns, width))

    def cropped(self, top: int, left: int, height: int, width: int) -> 'Masks':
        """The masks of a part of the picture."""
        rows = self.rows[top : top + height]
        columns = self.columns[left : left + width]
        return self._changed(rows, columns)

    def flipped(self) -> 'Masks':
        """The masks of the picture mirrored from left to right."""
        return self._changed(self.rows, self.columns[::-1])

    def padded(self, height: int, width: int) -> 'Masks':
        """The masks of the picture with empty rows below and empty columns on the right."""
        rows = _extended(self.rows, height)
        columns = _extended(self.columns, width)
        return self._changed(rows, columns)

    def bitmaps(self) -> np.ndarray:
        """The masks drawn, uint8 [n, height, width]."""
        drawn = np.zeros([len(self), len(self.rows), len(self.columns)], 'uint8')
        for bitmap, original in zip(drawn, self._originals()):
            framed = np.pad(original, (0, 1))  # the last row and column are what -1 picks: empty
            wide = framed.take(self.columns, axis=1)  # before the rows: whole rows are fast to take
            wide.take(self.rows, axis=0, out=bitmap, mode='wrap')
        return drawn

    def boxes(self) -> np.ndarray:
        """The tight boxes around the masks, float32 [n, 4]; zeros for a mask without pixels.

        Found without drawing the masks at their size.
        """
        rows = np.unique(self.rows[self.rows >= 0])
        columns = np.unique(self.columns[self.columns >= 0])
        boxes = np.zeros([len(self), 4], 'float32')
        for box, original in zip(boxes, self._originals()):
            part = original[np.ix_(rows, columns)]
            used_rows = rows[part.any(axis=1)]
            used_columns = columns[part.any(axis=0)]
            y = np.flatnonzero(np.isin(self.rows, used_rows))
            x = np.flatnonzero(np.isin(self.columns, used_columns))
            if len(y):
                box[:] = x[0], y[0], x[-1] + 1, y[-1] + 1
        return boxes

    def _originals(self) -> Iterator[np.ndarray]:
        """The masks of the original picture, uint8 [height, width], one after the other."""
        for segmentation in self.segmentations:
            rle = to_rle(segmentation, *self.size)
            yield np.ascontiguousarray(rle_tools.decode(rle))

    def _changed(
        self, rows: np.ndarray, columns: np.ndarray, segmentations: list | None = None
    ) -> 'Masks':
        if segmentations is None:
            segmentations = self.segmentations
        masks = Masks(segmentations, *self.size)
        masks.rows = rows
        masks.columns = columns
        return masks


def _nearest(sources: np.ndarray, length: int) -> np.ndarray:
    """The sources of `length` pixels by OpenCV's nearest neighbour, which rounds down."""
    step = 1 / (length / len(sources))
    places = np.floor(np.arange(length) * step).astype('int64')
    return sources[np.minimum(places, len(sources) - 1)]


def _extended(sources: np.ndarray, length: int) -> np.ndarray:
    """The sources with -1 for each pixel that is added to make them `length`."""
    return np.pad(sources, (0, length - len(sources)), constant_values=-1)
