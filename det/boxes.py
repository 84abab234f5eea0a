"""Geometry of boxes in NumPy.

Shapes: n boxes as x1 y1 x2 y2, [n, 4], in pixels from the upper left corner of an image; two dots
stand for any number of leading axes.
"""

import numpy as np

EPSILON = 1e-6  # the least area of a union, as in mmdetection


def areas(boxes: np.ndarray) -> np.ndarray:
    """Area of each box: [.., 4] -> [..]."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes [.., 4] that lie beside each other or broadcast."""
    upper_left = np.maximum(first[..., :2], second[..., :2])
    lower_right = np.minimum(first[..., 2:], second[..., 2:])
    sides = (lower_right - upper_left).clip(min=0)
    shared = sides[..., 0] * sides[..., 1]
    union = areas(first) + areas(second) - shared
    return shared / np.maximum(union, EPSILON)


def from_distances(points: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Boxes around points [n, 2] (x, y), from distances [n, 4] to the left, top, right, bottom."""
    upper_left = points - distances[:, :2]
    lower_right = points + distances[:, 2:]
    return np.concatenate([upper_left, lower_right], axis=1)


def clip(boxes: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Boxes within an image of this shape, (height, width)."""
    height, width = shape
    limits = np.array([width, height, width, height], boxes.dtype)
    return boxes.clip(0, limits)


def rescale(boxes: np.ndarray, scale_factor: np.ndarray) -> np.ndarray:
    """Boxes in the original picture, which was resized by these factors of (height, width)."""
    down, across = scale_factor
    return boxes / np.array([across, down, across, down], boxes.dtype)


def suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, threshold: float, most: int
) -> np.ndarray:
    """Indices of the boxes that are left, by descending score; at most `most`.

    Greedy: a box is removed if its intersection over union with a better box that is left, of the
    same class, is greater than `threshold`. Equal scores keep their order.
    """
    order = np.argsort(-scores, kind='stable')
    boxes, classes = boxes[order], classes[order]
    alive = np.ones(len(order), bool)
    kept = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == most:
            break
        rivals = i + 1 + np.flatnonzero(classes[i + 1 :] == classes[i])
        overlaps = ious(boxes[rivals], boxes[i])
        alive[rivals[overlaps > threshold]] = False
    return order[np.array(kept, 'int64')]
