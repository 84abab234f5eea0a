"""What Mask R-CNN's two heads share: draws of samples, and boxes as deltas from other boxes.

Both follow detectron2 (arXiv:1703.06870, arXiv:1506.01497). All in NumPy.
"""

import math

import numpy as np
import paddle

LARGEST = math.log(1000 / 16)  # limit of the predicted logarithm of a scale


def generators(batch: dict, purpose: int) -> list[np.random.Generator]:
    """One generator for each image, seeded by its `draws` and by what is drawn.

    A batch without `draws` takes seeds from Paddle's own generator.
    """
    images = batch['image'].shape[0]
    draws = batch.get('draws')
    if draws is None:
        draws = paddle.randint(0, 2**31 - 1, [images]).tolist()
    seeds = np.asarray(draws).tolist()
    return [np.random.default_rng([seed, purpose]) for seed in seeds]


def sample(
    positive: np.ndarray,
    negative: np.ndarray,
    total: int,
    share: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """`total` random ones of two lists of numbers, of which at most `share` are positive."""
    most = min(len(positive), int(total * share))
    shuffled = rng.permutation(positive)
    rest = rng.permutation(negative)
    return shuffled[:most], rest[: total - most]


def encode(boxes: np.ndarray, targets: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """What moves boxes [n, 4] to targets [n, 4]: shifts of the centre, logarithms of the scale.

    Shifts are in units of the box; weights multiply (dx, dy, dw, dh).
    """
    center, size = _center_and_size(boxes)
    wanted_center, wanted_size = _center_and_size(targets)
    shift = (wanted_center - center) / size
    growth = np.log(wanted_size / size)
    deltas = np.concatenate([shift, growth], axis=1)
    deltas = deltas * np.asarray(weights)
    return deltas.astype('float32')


def decode(boxes: np.ndarray, deltas: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """The boxes [.., 4] that deltas [.., 4] make of boxes [.., 4]: the inverse of `encode`."""
    center, size = _center_and_size(boxes)
    deltas = deltas / np.asarray(weights, 'float32')
    shift, growth = np.split(deltas, 2, axis=-1)
    growth = np.minimum(growth, LARGEST)
    center = center + shift * size
    half = np.exp(growth) * size / 2
    return np.concatenate([center - half, center + half], axis=-1)


def has_area(boxes: np.ndarray) -> np.ndarray:
    """Whether boxes [n, 4] are wider and higher than 0: bool [n]."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides > 0).all(axis=1)


def _center_and_size(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [.., 2] and sizes [.., 2] of boxes [.., 4], both (x, y)."""
    first, last = np.split(boxes, 2, axis=-1)
    size = last - first
    return first + size / 2, size
