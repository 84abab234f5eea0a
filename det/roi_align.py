"""RoIAlign (arXiv:1703.06870) for boxes that are narrower than a cell of their map.

Paddle 3.3's own is right forwards. Backwards it takes such a box as one cell wide, as if its
argument `aligned` were false (tests/test_det_mask_rcnn.py). So training computes these few boxes
here: a mean of bilinear samples is a product with one matrix for the rows, one for the columns.
"""

import math

import numpy as np
import paddle


def is_narrow(boxes: np.ndarray) -> np.ndarray:
    """Which boxes [n, 4], in cells, are narrower or lower than one cell: bool [n]."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return (sides < 1).any(axis=1)


def roi_align(x: paddle.Tensor, boxes: np.ndarray, side: int) -> paddle.Tensor:
    """Features [n, channels, side, side] of boxes [n, 4], in cells, of a map [channels, H, W]."""
    _, height, width = x.shape
    down = [_weights(y1, y2, side, height) for _, y1, _, y2 in boxes]
    across = [_weights(x1, x2, side, width) for x1, _, x2, _ in boxes]
    down = paddle.to_tensor(np.stack(down), x.dtype)  # [n, side, H]
    across = paddle.to_tensor(np.stack(across), x.dtype)  # [n, side, W]
    rows = paddle.einsum('nah,chw->ncaw', down, x)
    return paddle.einsum('ncaw,nbw->ncab', rows, across)


def _weights(first: float, last: float, side: int, length: int) -> np.ndarray:
    """What each cell of a map's axis adds to the `side` parts of an interval: [side, length].

    The interval is in cells; the centre of the first cell is at 1/2.
    """
    part = (last - first) / side
    samples = max(math.ceil(part), 1)  # of each part
    numbers = np.arange(side * samples)
    steps = (numbers + 0.5) / samples
    start = first - 0.5  # 0 is the centre of the first cell
    places = start + steps * part
    outside = (places < -1) | (places > length)

    places = places.clip(0, length - 1)
    cells = np.arange(length)
    apart = np.abs(places[:, None] - cells)
    weights = np.maximum(1 - apart, 0)
    weights[outside] = 0
    weights = weights.reshape(side, samples, length)
    return weights.mean(axis=1)
