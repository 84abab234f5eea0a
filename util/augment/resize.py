"""Part of a resized picture, without computing the rest: Pillow's bicubic resize, bit for bit.

A picture of 1 x 20000 pixels whose shorter side becomes 256 would be 5 million pixels long, of
which evaluation needs the middle 224. The arithmetic is that of Pillow 12.3
(src/libImaging/Resample.c): columns first, then rows, with weights in double precision. For 8-bit
pictures the weights are whole multiples of 2**-22.
"""

import numpy as np
from PIL import Image

BITS = 22  # of a weight, for pixels of 8 bits
SUPPORT = 2.0  # pixels that the bicubic filter reaches to each side
SHARPNESS = -0.5  # the parameter a of the bicubic filter


def resized_part(
    picture: Image.Image | np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image | np.ndarray:
    """The part `box` (left, top, right, bottom) of the picture resized to `size` (height, width).

    Pictures have 8 bits a channel; arrays are float32 [height, width, C].
    """
    is_array = isinstance(picture, np.ndarray)
    width, height = picture.shape[1::-1] if is_array else picture.size
    left, top, right, bottom = box
    columns, across = _weights(width, size[1], left, right)
    rows, down = _weights(height, size[0], top, bottom)

    # only the pixels that the part depends on
    source_left, source_top = columns.min(), rows.min()
    source_right, source_bottom = columns.max() + 1, rows.max() + 1
    if is_array:
        pixels = picture[source_top:source_bottom, source_left:source_right]
    else:
        source = (source_left, source_top, source_right, source_bottom)
        pixels = np.asarray(picture.crop([int(edge) for edge in source]))

    pixels = _weighted(pixels, 1, columns - source_left, across)
    pixels = _weighted(pixels, 0, rows - source_top, down)
    return pixels if is_array else Image.fromarray(pixels)


def _weights(before: int, after: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """(places, weights) of the input pixels for the output pixels `start` to `stop` of one axis.

    before, after: the length of the whole axis in the input and in the output. Both results are
    [stop - start, taps].
    """
    scale = before / after
    spread = max(scale, 1.0)  # above 1 the filter is antialiased
    reach = SUPPORT * spread
    center = (np.arange(start, stop) + 0.5) * scale  # [stop - start]
    first = np.maximum((center - reach + 0.5).astype('int64'), 0)
    end = np.minimum((center + reach + 0.5).astype('int64'), before)
    taps = (end - first).max()
    places = first[:, None] + np.arange(taps)  # [stop - start, taps]

    distances = places - center[:, None] + 0.5
    weights = _bicubic(distances * (1.0 / spread))
    weights[places >= end[:, None]] = 0
    sums = weights.cumsum(axis=1)[:, -1:]  # added up in Pillow's order
    weights /= sums
    return places.clip(max=before - 1), weights


def _bicubic(x: np.ndarray) -> np.ndarray:
    """The bicubic filter at distances of x pixels."""
    a = SHARPNESS
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1  # x < 1
    far = (((x - 5) * x + 8) * x - 4) * a  # x < 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _weighted(pixels: np.ndarray, axis: int, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums along an axis, of the type of the pixels; places, weights: [length, taps]."""
    eight_bits = pixels.dtype == np.uint8
    total = 0.0
    if eight_bits:
        total = 1 << (BITS - 1)  # half of a level, to round
        rounding = np.copysign(0.5, weights)
        weights = np.trunc(weights * (1 << BITS) + rounding).astype('int64')

    shape = [1] * pixels.ndim  # of a tap's weights, to broadcast against the pixels
    shape[axis] = len(places)
    for tap in range(places.shape[1]):
        taken = pixels.take(places[:, tap], axis=axis)
        weight = weights[:, tap].reshape(shape)
        total = total + taken.astype(weights.dtype) * weight
    if eight_bits:
        return (total >> BITS).clip(0, 255).astype('uint8')
    return total.astype(pixels.dtype)
