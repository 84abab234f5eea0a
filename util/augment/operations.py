"""The operations that RandAugment, AutoAugment and AugMix draw from.

As in timm 1.0.22 (timm/data/auto_augment.py). An operation has a level from 0 (no change) to 10.
Most operations turn it into one number, some of them with a random sign.

Signature of an operation: (picture, level, paint, rng) -> picture, where rng is a
numpy.random.Generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

TOP = 10.0  # the level at which an operation's range ends


@dataclass(frozen=True)
class Paint:
    """How geometric operations fill, resample and shift.

    fill: the colour, 0..255, of the area outside the picture. resample: None draws bilinear or
    bicubic each time. shift: the largest shift as a share of the side.
    """

    fill: tuple[int, ...] | int
    resample: int | None = Image.BICUBIC
    shift: float = 0.45

    def affine(self, picture: Image.Image, matrix: tuple[float, ...], rng) -> Image.Image:
        """The picture under an affine map; the matrix takes output positions to input positions."""
        return picture.transform(
            picture.size, Image.AFFINE, matrix, resample=self.filter(rng), fillcolor=self.fill
        )

    def filter(self, rng) -> int:
        """Pillow's resampling filter for one operation."""
        if self.resample is None:
            return (Image.BILINEAR, Image.BICUBIC)[rng.integers(2)]
        return self.resample


def _signed(value: float, rng) -> float:
    return -value if rng.random() > 0.5 else value


def _shear(x: bool) -> Callable:
    def apply(picture, level, paint, rng):
        factor = _signed(level / TOP * 0.3, rng)
        matrix = (1, factor, 0, 0, 1, 0) if x else (1, 0, 0, factor, 1, 0)
        return paint.affine(picture, matrix, rng)

    return apply


def _shift(x: bool) -> Callable:
    def apply(picture, level, paint, rng):
        share = _signed(level / TOP * paint.shift, rng)
        width, height = picture.size
        if x:
            return paint.affine(picture, (1, 0, share * width, 0, 1, 0), rng)
        return paint.affine(picture, (1, 0, 0, 0, 1, share * height), rng)

    return apply


def _rotate(picture, level, paint, rng):
    degrees = _signed(level / TOP * 30.0, rng)
    return picture.rotate(degrees, resample=paint.filter(rng), fillcolor=paint.fill)


def _enhance(kind: type, both_ways: bool) -> Callable:
    """Blend the picture with its version without colour, contrast, light or detail.

    A blend factor of 1 changes nothing. both_ways: it moves up or down from 1 with the level;
    otherwise it grows with the level from 0.1 to 1.9.
    """

    def apply(picture, level, paint, rng):
        if both_ways:
            change = _signed(level / TOP * 0.9, rng)
            factor = max(0.1, 1.0 + change)
        else:
            factor = level / TOP * 1.8 + 0.1
        return kind(picture).enhance(factor)

    return apply


def _posterize(bits: Callable[[int], int]) -> Callable:
    """Keep the upper bits of each channel; bits: level 0..4 -> number of bits."""

    def apply(picture, level, paint, rng):
        kept = bits(int(level / TOP * 4))
        return picture if kept >= 8 else ImageOps.posterize(picture, kept)

    return apply


def _solarize(threshold: Callable[[int], int]) -> Callable:
    """Invert the values from a threshold on; threshold: level 0..256 -> value."""

    def apply(picture, level, paint, rng):
        whole_level = min(256, int(level / TOP * 256))
        return ImageOps.solarize(picture, threshold(whole_level))

    return apply


def _solarize_add(picture, level, paint, rng):
    """Brighten the values below 128."""
    added = min(128, int(level / TOP * 110))
    dark = [min(255, value + added) for value in range(128)]
    bright = list(range(128, 256))
    return picture.point((dark + bright) * len(picture.getbands()))


def _desaturate(picture, level, paint, rng):
    strength = min(1.0, 0.5 + 0.5 * level / TOP)
    return ImageEnhance.Color(picture).enhance(1.0 - strength)


def _blur(picture, level, paint, rng):
    radius = min(2.0, 0.1 + (2.0 - 0.1) * (level / TOP))
    return picture.filter(ImageFilter.GaussianBlur(radius))


def _random_blur(picture, level, paint, rng):
    radius = rng.uniform(0.1, 2.0 * min(1.0, level / TOP))
    return picture.filter(ImageFilter.GaussianBlur(radius))


OPERATIONS = {
    'AutoContrast': lambda picture, *_: ImageOps.autocontrast(picture),
    'Equalize': lambda picture, *_: ImageOps.equalize(picture),
    'Invert': lambda picture, *_: ImageOps.invert(picture),
    'Rotate': _rotate,
    'Posterize': _posterize(lambda level: level),
    'PosterizeIncreasing': _posterize(lambda level: 4 - level),
    'PosterizeOriginal': _posterize(lambda level: 4 + level),
    'Solarize': _solarize(lambda level: level),
    'SolarizeIncreasing': _solarize(lambda level: 256 - level),
    'SolarizeAdd': _solarize_add,
    'Desaturate': _desaturate,
    'GaussianBlur': _blur,
    'GaussianBlurRand': _random_blur,
    'ShearX': _shear(x=True),
    'ShearY': _shear(x=False),
    'TranslateXRel': _shift(x=True),
    'TranslateYRel': _shift(x=False),
    **{
        name + suffix: _enhance(getattr(ImageEnhance, name), both_ways=bool(suffix))
        for name in ('Color', 'Contrast', 'Brightness', 'Sharpness')
        for suffix in ('', 'Increasing')
    },
}


@dataclass(frozen=True)
class Operation:
    """One operation with its probability and level.

    The level is drawn from a normal distribution of deviation `std`, or uniformly from 0 to `level`
    if std is infinite, and is limited to [0, most].
    """

    name: str
    probability: float
    level: float
    paint: Paint
    std: float = 0.0
    most: float = TOP

    def __call__(self, picture: Image.Image, rng) -> Image.Image:
        if self.probability < 1 and rng.random() > self.probability:
            return picture
        level = self.level
        if self.std == float('inf'):
            level = rng.uniform(0, level)
        elif self.std > 0:
            level = rng.normal(level, self.std)
        level = max(0.0, min(level, self.most))
        apply = OPERATIONS[self.name]
        return apply(picture, level, self.paint, rng)
