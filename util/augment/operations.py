"""The operations that RandAugment, AutoAugment and AugMix draw from, as in timm 1.0.22 (timm/data/auto_augment.py).

An operation has a level from 0 (nothing) to 10; most turn it into one number, some of them with a random sign. rng is
a numpy.random.Generator.
"""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

TOP = 10.0  # the level at which an operation's range ends


@dataclass(frozen=True)
class Paint:
    """What geometric operations need: the colour for what comes in from outside, how to resample (None: bilinear or
    bicubic, drawn each time), and the largest shift as a share of the side."""

    fill: tuple[int, ...] | int
    resample: int | None = Image.BICUBIC
    shift: float = 0.45

    def affine(self, picture: Image.Image, matrix: tuple[float, ...], rng) -> Image.Image:
        return picture.transform(
            picture.size, Image.AFFINE, matrix, resample=self.filter(rng), fillcolor=self.fill
        )

    def filter(self, rng) -> int:
        return (
            (Image.BILINEAR, Image.BICUBIC)[rng.integers(2)]
            if self.resample is None
            else self.resample
        )


def _signed(value: float, rng) -> float:
    return -value if rng.random() > 0.5 else value


def _shear(x: bool) -> Callable:
    def apply(picture, level, paint, rng):
        factor = _signed(level / TOP * 0.3, rng)
        return paint.affine(picture, (1, factor, 0, 0, 1, 0) if x else (1, 0, 0, factor, 1, 0), rng)

    return apply


def _shift(x: bool) -> Callable:
    def apply(picture, level, paint, rng):
        share = _signed(level / TOP * paint.shift, rng)
        pixels = share * picture.size[0 if x else 1]
        return paint.affine(picture, (1, 0, pixels, 0, 1, 0) if x else (1, 0, 0, 0, 1, pixels), rng)

    return apply


def _rotate(picture, level, paint, rng):
    degrees = _signed(level / TOP * 30.0, rng)
    return picture.rotate(degrees, resample=paint.filter(rng), fillcolor=paint.fill)


def _enhance(kind: type, both_ways: bool) -> Callable:
    """Blend with a grey, blurred or black version: the level goes from nearly that to overdone, or away from 1."""

    def apply(picture, level, paint, rng):
        factor = (
            max(0.1, 1.0 + _signed(level / TOP * 0.9, rng))
            if both_ways
            else level / TOP * 1.8 + 0.1
        )
        return kind(picture).enhance(factor)

    return apply


def _posterize(bits: Callable[[int], int]) -> Callable:
    def apply(picture, level, paint, rng):
        kept = bits(int(level / TOP * 4))
        return picture if kept >= 8 else ImageOps.posterize(picture, kept)

    return apply


def _solarize(threshold: Callable[[int], int]) -> Callable:
    return lambda picture, level, paint, rng: ImageOps.solarize(
        picture, threshold(min(256, int(level / TOP * 256)))
    )


def _solarize_add(picture, level, paint, rng):
    added = min(128, int(level / TOP * 110))
    return picture.point(
        [min(255, i + added) if i < 128 else i for i in range(256)] * len(picture.getbands())
    )


def _desaturate(picture, level, paint, rng):
    return ImageEnhance.Color(picture).enhance(1.0 - min(1.0, 0.5 + 0.5 * level / TOP))


def _blur(picture, level, paint, rng):
    return picture.filter(ImageFilter.GaussianBlur(min(2.0, 0.1 + (2.0 - 0.1) * (level / TOP))))


def _random_blur(picture, level, paint, rng):
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0 * min(1.0, level / TOP))))


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
    """One operation with its probability and level; the level varies by a normal deviate of deviation `std`, or evenly
    from 0 where std is infinite, and stays within [0, most]."""

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
        return OPERATIONS[self.name](picture, max(0.0, min(level, self.most)), self.paint, rng)
