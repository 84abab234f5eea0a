"""Random resized crop, flip and normalisation: the official augmentation of pre-training.

The distribution of the crop is torchvision's RandomResizedCrop; given the same box and flip, the result equals
torchvision's on PIL pictures bit by bit.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from util import log
from util.errors import InputError

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
GREY = {'mean': (0.449,), 'std': (0.226,)}  # ImageNet's, averaged over the channels


def statistics(
    in_chans: int, mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...], ...]:
    """(mean, std) of each channel: as given, else ImageNet's. InputError where they are missing or do not fit."""
    known = {1: GREY, 3: IMAGENET}.get(in_chans, {})
    chosen = []
    for name, values in (('mean', mean), ('std', std)):
        values = known.get(name) if values is None else values
        if values is None:
            raise InputError(
                f'--in_chans {in_chans} needs --mean and --std: nothing is known of such channels'
            )
        if len(values) != in_chans:
            raise InputError(f'--{name} has {len(values)} values for {in_chans} channels')
        if not all(map(math.isfinite, values)) or (name == 'std' and min(values) <= 0):
            raise InputError(
                f'--{name} {" ".join(map(str, values))}: finite numbers are needed, for --std greater than 0'
            )
        chosen.append(tuple(values))
    return tuple(chosen)


def trained_statistics(
    said: dict, in_chans: int, mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...], ...]:
    """(mean, std) of each channel for weights whose file says these flags: its own, else as `statistics` has them.

    A warning says where `mean` or `std` was asked for and is another.
    """
    if 'mean' not in said and 'std' not in said:
        return statistics(in_chans, mean, std)
    own = statistics(in_chans, said.get('mean'), said.get('std'))
    for name, asked, values in zip(('mean', 'std'), (mean, std), own):
        if asked is not None and tuple(asked) != values:
            shown = ' '.join(map(str, values))
            log.warn(
                f'--{name} {" ".join(map(str, asked))} is not what these weights were trained with; '
                f'theirs holds: {shown}'
            )
    return own


def random_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop with a share of the area in `scale` and width / height in `ratio`.

    Ten draws; where none fits, the largest centred crop within `ratio`.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def single_draw_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """As random_box, but of one draw, cut to the image where it is too large: the official linear probe's crop."""
    area = width * height * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    w, h = min(round(math.sqrt(area * aspect)), width), min(round(math.sqrt(area / aspect)), height)
    left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    return left, top, left + w, top + h


def resized_crop(
    picture: Image.Image | np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]
):
    """The part within `box`, resized (bicubic, antialiased) to `size` (height, width); arrays channel by channel."""
    if isinstance(picture, Image.Image):
        return picture.crop(box).resize(size[::-1], Image.BICUBIC)
    left, top, right, bottom = box
    part = picture[top:bottom, left:right]
    return np.stack(
        [
            np.asarray(Image.fromarray(channel).resize(size[::-1], Image.BICUBIC))
            for channel in part.transpose(2, 0, 1)
        ],
        axis=2,
    )


def fast_resized_crop(
    picture: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    """As resized_crop, by OpenCV, in a fifth of the time; not bit-equal: pixels are averaged where the part shrinks, and
    interpolated (bicubic) without antialiasing where it grows in one direction or both."""
    import cv2  # takes long to load, and is used in the training that asks for it only

    left, top, right, bottom = box
    shrinks = right - left >= size[1] and bottom - top >= size[0]
    return Image.fromarray(
        cv2.resize(
            np.asarray(picture)[top:bottom, left:right],
            size[::-1],
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC,
        )
    )


class Normalize:
    """(x - mean) / std per channel, to float32 [C, height, width]; 8-bit pictures are scaled to [0, 1] before.

    They go through a table of their 256 values, which is bit-equal to computing and twice as fast.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = (
            np.asarray(values, dtype='float32')[:, None, None] for values in (mean, std)
        )
        # [C, 256]
        self.table = self._standardize(np.arange(256, dtype='float32') / np.float32(255))[:, 0]

    def _standardize(self, values: np.ndarray) -> np.ndarray:
        return (values - self.mean) / self.std

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        if isinstance(picture, np.ndarray):
            return self._standardize(picture.transpose(2, 0, 1))
        pixels = np.asarray(picture)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        result = np.empty(pixels.shape, 'float32')
        for row, channel, place in zip(self.table, pixels, result):
            # which no byte needs, but the default copies `out` to be safe
            np.take(row, channel, out=place, mode='clip')
        return result


class CropAndFlip:
    """Random resized crop to `size` x `size` pixels, mirrored with probability `hflip`.

    scale: smallest and largest share of the area. box: random_box, or single_draw_box for the linear probe. fast: pictures
    by fast_resized_crop.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float],
        hflip: float = 0.5,
        box: Callable = random_box,
        fast: bool = False,
    ):
        self.size, self.scale, self.hflip, self.box, self.fast = (
            (size, size),
            scale,
            hflip,
            box,
            fast,
        )
        if not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(
                f'--scale {scale[0]} {scale[1]}: expected 0 < smallest <= largest <= 1'
            )

    def __call__(
        self, picture: Image.Image | np.ndarray, rng: np.random.Generator
    ) -> Image.Image | np.ndarray:
        is_array = isinstance(picture, np.ndarray)
        width, height = picture.shape[1::-1] if is_array else picture.size
        resize = fast_resized_crop if self.fast and not is_array else resized_crop
        part = resize(picture, self.box(width, height, rng, self.scale), self.size)
        if rng.random() < self.hflip:
            part = part[:, ::-1] if is_array else part.transpose(Image.FLIP_LEFT_RIGHT)
        return part


class CenterCrop:
    """The shorter side resized to `size` pixels, the middle cut out, normalised: float32 [C, size, size]."""

    def __init__(self, size: int, normalize: Normalize):
        self.size, self.normalize = size, normalize

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return self.normalize(
            resized_crop(picture, (left, top, left + side, top + side), (self.size, self.size))
        )
