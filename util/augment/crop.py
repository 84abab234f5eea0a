"""Random resized crop, flip and normalisation: the official augmentation of pre-training.

The distribution of the crop is that of torchvision's RandomResizedCrop. For the same box and flip,
the result equals torchvision's on PIL pictures bit for bit.

Pictures are PIL's, 0..255, or arrays float32 [height, width, C], 0..1.
Boxes are (left, top, right, bottom).
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from util import log, sizes
from util.errors import InputError

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
GREY = {'mean': (0.449,), 'std': (0.226,)}  # ImageNet's, averaged over the channels
ATTEMPTS = 10  # draws for one box
FIXED = 7 / 8  # side of a crop of fixed size, as a share of the shorter side: 224 of 256


def statistics(
    in_chans: int, mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...], ...]:
    """(mean, std) of each channel, for values in 0..1: as given, else those of ImageNet.

    InputError if they are missing or do not fit.
    """
    known = {1: GREY, 3: IMAGENET}.get(in_chans, {})
    chosen = []
    for name, values in (('mean', mean), ('std', std)):
        if values is None:
            values = known.get(name)
        if values is None:
            raise InputError(
                f'--in_chans {in_chans} needs --mean and --std: no statistics are known for it'
            )
        if len(values) != in_chans:
            raise InputError(f'--{name} has {len(values)} values for {in_chans} channels')
        is_finite = all(map(math.isfinite, values))
        if not is_finite or (name == 'std' and min(values) <= 0):
            shown = ' '.join(map(str, values))
            raise InputError(
                f'--{name} {shown}: expected finite numbers, and for --std greater than 0'
            )
        chosen.append(tuple(values))
    return tuple(chosen)


def trained_statistics(
    flags: dict, in_chans: int, mean: list[float] | None, std: list[float] | None
) -> tuple[tuple[float, ...], ...]:
    """(mean, std) of each channel for weights that were trained with these flags.

    Without statistics in the flags they are chosen as in `statistics`. Otherwise a warning says if
    `mean` or `std` asks for another one.
    """
    if 'mean' not in flags and 'std' not in flags:
        return statistics(in_chans, mean, std)
    own = statistics(in_chans, flags.get('mean'), flags.get('std'))
    for name, asked, values in zip(('mean', 'std'), (mean, std), own):
        if asked is None or tuple(asked) == values:
            continue
        shown = ' '.join(map(str, asked))
        used = ' '.join(map(str, values))
        log.warn(f'--{name} {shown} is not what these weights were trained with; using {used}')
    return own


def random_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """A box with a share of the area in `scale` and width / height in `ratio`.

    If ten draws do not fit, it is the largest centred box within `ratio`.
    """
    for _ in range(ATTEMPTS):
        w, h = _random_size(width, height, rng, scale, ratio)
        if 0 < w <= width and 0 < h <= height:
            return _random_place(width, height, w, h, rng)

    w = min(width, max(1, round(height * ratio[1])))
    h = min(height, max(1, round(width / ratio[0])))
    return _middle_place(width, height, w, h)


def single_draw_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """As random_box, but from one draw, cut to the image: the official linear probe's crop."""
    w, h = _random_size(width, height, rng, scale, ratio)
    w = min(w, width)
    h = min(h, height)
    return _random_place(width, height, w, h, rng)


def fixed_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """A box of one size, anywhere in the image: FIXED times the largest that fits.

    Its aspect is the middle of `ratio`, so that nothing is distorted; `scale` has no effect.
    """
    w, h = _fixed_size(width, height, ratio)
    return _random_place(width, height, w, h, rng)


def middle_box(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """As fixed_box, but in the middle of the image."""
    w, h = _fixed_size(width, height, ratio)
    return _middle_place(width, height, w, h)


def _fixed_size(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int]:
    aspect = math.sqrt(ratio[0] * ratio[1])
    w = FIXED * min(width, height * aspect)
    h = w / aspect
    return max(1, round(w)), max(1, round(h))


# The crops of --augmentation (arXiv:2111.06377, table 1e)
BOXES = {'random_crop': random_box, 'fixed_crop': fixed_box, 'none': middle_box}


def _random_size(
    width: int,
    height: int,
    rng: np.random.Generator,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int]:
    """(width, height) of a box; area and logarithm of the aspect ratio are drawn uniformly."""
    area = width * height * rng.uniform(*scale)
    log_aspect = rng.uniform(math.log(ratio[0]), math.log(ratio[1]))
    aspect = math.exp(log_aspect)
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _random_place(
    width: int, height: int, w: int, h: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box of w x h pixels anywhere in an image of width x height."""
    left = int(rng.integers(width - w + 1))
    top = int(rng.integers(height - h + 1))
    return left, top, left + w, top + h


def _middle_place(width: int, height: int, w: int, h: int) -> tuple[int, int, int, int]:
    """A box of w x h pixels in the middle of an image of width x height."""
    left = (width - w) // 2
    top = (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(
    picture: Image.Image | np.ndarray, box: tuple[int, int, int, int], size: tuple[int, int]
):
    """The part within `box`, resized to `size` (height, width), bicubic with antialiasing."""
    if isinstance(picture, Image.Image):
        return picture.crop(box).resize(size[::-1], Image.BICUBIC)
    left, top, right, bottom = box
    part = picture[top:bottom, left:right]

    # Pillow resizes floats only one channel at a time
    channels = []
    for channel in part.transpose(2, 0, 1):
        resized = Image.fromarray(channel).resize(size[::-1], Image.BICUBIC)
        channels.append(np.asarray(resized))
    return np.stack(channels, axis=2)  # [height, width, C]


def fast_resized_crop(
    picture: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]
) -> Image.Image:
    """As resized_crop, by OpenCV, in a fifth of the time; not bit-equal.

    Pixels are averaged if the part shrinks in both directions, else interpolated (bicubic) without
    antialiasing.
    """
    import cv2  # takes long to load, and only trainings that ask for it need it

    left, top, right, bottom = box
    part = np.asarray(picture)[top:bottom, left:right]
    shrinks = right - left >= size[1] and bottom - top >= size[0]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    resized = cv2.resize(part, size[::-1], interpolation=interpolation)
    return Image.fromarray(resized)


class Normalize:
    """(x - mean) / std per channel, to float32 [C, height, width].

    PIL pictures are scaled to 0..1 first. They use a table of the 256 levels, which is bit-equal to
    computing and twice as fast.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean = np.asarray(mean, dtype='float32')[:, None, None]  # [C, 1, 1]
        self.std = np.asarray(std, dtype='float32')[:, None, None]
        levels = np.arange(256, dtype='float32') / np.float32(255)
        self.table = self._standardize(levels)[:, 0]  # [C, 256]

    def _standardize(self, values: np.ndarray) -> np.ndarray:
        return (values - self.mean) / self.std

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        if isinstance(picture, np.ndarray):
            return self._standardize(picture.transpose(2, 0, 1))
        pixels = np.asarray(picture)
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        pixels = pixels.transpose(2, 0, 1)  # [C, height, width]

        image = np.empty(pixels.shape, 'float32')
        for levels, channel, out in zip(self.table, pixels, image):
            # bytes are never clipped, but with the default mode NumPy would buffer `out`
            np.take(levels, channel, out=out, mode='clip')
        return image


class CropAndFlip:
    """Random resized crop to `size` pixels, mirrored with probability `hflip`.

    size: a side, or (height, width). The crop's aspect ratio is that of `size` times 3/4 to 4/3, so
    that rectangles are not distorted more than squares (torchvision leaves out the former).
    scale: smallest and largest share of the area. box: random_box, or single_draw_box for the
    linear probe. fast: use fast_resized_crop for PIL pictures.
    """

    def __init__(
        self,
        size: sizes.Size,
        scale: tuple[float, float],
        hflip: float = 0.5,
        box: Callable = random_box,
        fast: bool = False,
    ):
        self.size = sizes.pair(size)
        aspect = self.size[1] / self.size[0]
        self.ratio = (3 / 4 * aspect, 4 / 3 * aspect)
        self.scale = scale
        self.hflip = hflip
        self.box = box
        self.fast = fast
        if not 0 < scale[0] <= scale[1] <= 1:
            raise InputError(
                f'--scale {scale[0]} {scale[1]}: expected 0 < smallest <= largest <= 1'
            )

    def __call__(
        self, picture: Image.Image | np.ndarray, rng: np.random.Generator
    ) -> Image.Image | np.ndarray:
        is_array = isinstance(picture, np.ndarray)
        width, height = picture.shape[1::-1] if is_array else picture.size
        box = self.box(width, height, rng, self.scale, self.ratio)
        resize = fast_resized_crop if self.fast and not is_array else resized_crop
        part = resize(picture, box, self.size)

        if rng.random() < self.hflip:
            part = part[:, ::-1] if is_array else part.transpose(Image.FLIP_LEFT_RIGHT)
        return part


class CenterCrop:
    """The largest part in the middle of the shape of `size`, resized to it and normalised.

    size: a side, or (height, width). The result is float32 [C, height, width].
    """

    def __init__(self, size: sizes.Size, normalize: Normalize):
        self.size = sizes.pair(size)
        self.normalize = normalize

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
        rows, columns = self.size
        w = min(width, max(1, round(height * columns / rows)))
        h = min(height, max(1, round(width * rows / columns)))
        middle = _middle_place(width, height, w, h)
        return self.normalize(resized_crop(picture, middle, self.size))
