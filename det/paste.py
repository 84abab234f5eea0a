"""Masks of boxes, pasted into pictures (as mmdetection and detectron2 do)."""

import numpy as np


def paste(masks: np.ndarray, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Masks [n, side, side] of probabilities, in boxes [n, 4] of a picture (height, width).

    Returns bool [n, height, width]: where the mask, resized to its box bilinearly with zeros around
    it, is at least one half.
    """
    height, width = shape
    result = np.zeros([len(masks), height, width], bool)
    for mask, box, picture in zip(masks, boxes, result):
        side = len(mask)
        rows, by_row = _weights(box[1], box[3], side, height)
        columns, by_column = _weights(box[0], box[2], side, width)
        resized = by_row @ mask @ by_column.T
        picture[rows, columns] = resized >= 0.5
    return result


def _weights(first: float, last: float, side: int, length: int) -> tuple[slice, np.ndarray]:
    """The pixels of an axis that a box from `first` to `last` reaches, and their weights [., side].

    A pixel's weights are those of the two cells of the mask whose centres are around its own.
    """
    cell = (last - first) / side
    start = np.floor(first - cell).clip(0, length)
    end = np.ceil(last + cell).clip(0, length)
    pixels = slice(int(start), int(end))
    centres = np.arange(pixels.start, pixels.stop, dtype='float32') + 0.5
    places = (centres - first) / cell - 0.5  # in cells
    cells = np.arange(side)
    apart = np.abs(places[:, None] - cells)
    weights = np.maximum(1 - apart, 0)
    return pixels, weights.astype('float32')
