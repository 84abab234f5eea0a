"""A part of a resized picture without the rest: Pillow's bicubic resize, to the bit.

A picture of 1 x 20000 pixels whose shorter side becomes 256 would be 5 million pixels long, of which
the middle 224 are wanted. Arithmetic of Pillow 12.3 (src/libImaging/Resample.c): columns first, then
rows, weights in double precision; of 8-bit pictures the weights are whole numbers of 2**-22.
"""

import numpy as np
from PIL import Image

BITS = 22  # of a weight, where pixels have 8
SUPPORT = 2.0  # pixels that the bicubic filter reaches to each side


def resized_part(
    picture: Image.Image | np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image | np.ndarray:
    """The part `box` (left, top, right, bottom) of a picture that is resized to `size` (height, width).

    Pictures of 8 bits a channel, or arrays float32 [height, width, C], as in crop.resized_crop.
    """
    is_array = isinstance(picture, np.ndarray)
    width, height = picture.shape[1::-1] if is_array else picture.size
    left, top, right, bottom = box
    columns, across = _weights(width, size[1], left, right)
    rows, down = _weights(height, size[0], top, bottom)

    # the pixels that these depend on
    source = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    if is_array:
        pixels = picture[source[1] : source[3], source[0] : source[2]]
    else:
        pixels = np.asarray(picture.crop([int(edge) for edge in source]))
    pixels = _weighted(pixels, 1, columns - source[0], across)
    pixels = _weighted(pixels, 0, rows - source[1], down)
    return pixels if is_array else Image.fromarray(pixels)


def _weights(before: int, after: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in a row of `before` pixels, and their weights, for the pixels `start` to `stop` of the
    `after` that it becomes; both [stop - start, taps]."""
    scale = before / after
    spread = max(scale, 1.0)  # above 1 the filter is antialiased
    center = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum((center - SUPPORT * spread + 0.5).astype('int64'), 0)
    end = np.minimum((center + SUPPORT * spread + 0.5).astype('int64'), before)
    places = first[:, None] + np.arange((end - first).max())

    weights = _bicubic((places - center[:, None] + 0.5) * (1.0 / spread))
    weights[places >= end[:, None]] = 0
    weights /= weights.cumsum(axis=1)[:, -1:]  # added up in the order of Pillow
    return places.clip(max=before - 1), weights


def _bicubic(x: np.ndarray) -> np.ndarray:
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _weighted(pixels: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums along an axis, of the type of the pixels."""
    eight_bits = pixels.dtype == np.uint8
    shape = [1] * pixels.ndim
    shape[axis] = len(places)
    total = 1 << (BITS - 1) if eight_bits else 0.0  # half of a level, to round
    if eight_bits:
        weights = np.trunc(weights * (1 << BITS) + np.copysign(0.5, weights)).astype('int64')
    for tap in range(places.shape[1]):
        taken = pixels.take(places[:, tap], axis=axis)
        total = total + taken.astype(weights.dtype) * weights[:, tap].reshape(shape)
    if eight_bits:
        return (total >> BITS).clip(0, 255).astype('uint8')
    return total.astype(pixels.dtype)
