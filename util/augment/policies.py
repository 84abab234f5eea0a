"""RandAugment, AutoAugment and AugMix.

They are chosen by timm's strings: rand-m9-mstd0.5-inc1, v0, original, augmix-m5-w4-d2 ...

Results equal timm 1.0.22 (timm/data/auto_augment.py) pixel for pixel if the random draws are the
same. rng is a numpy.random.Generator.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from util.augment.operations import TOP, Operation, Paint
from util.errors import InputError

# RandAugment's operations (arXiv:1909.13719)
RAND = (
    'AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness '
    'Sharpness ShearX ShearY TranslateXRel TranslateYRel'
).split()
# operations with a variant whose effect grows with the level
GROWING = {'Posterize', 'Solarize', 'Color', 'Contrast', 'Brightness', 'Sharpness'}
RAND_INCREASING = [name + 'Increasing' if name in GROWING else name for name in RAND]
# sets of operations with the weights by which they are drawn
WEIGHTED = {
    'weights': {
        'Rotate': 3,
        'ShearX': 2,
        'ShearY': 2,
        'TranslateXRel': 1,
        'TranslateYRel': 1,
        'ColorIncreasing': 0.25,
        'SharpnessIncreasing': 0.25,
        'AutoContrast': 0.25,
        'SolarizeIncreasing': 0.05,
        'SolarizeAdd': 0.05,
        'ContrastIncreasing': 0.05,
        'BrightnessIncreasing': 0.05,
        'Equalize': 0.05,
        'PosterizeIncreasing': 0.05,
        'Invert': 0.05,
    },
    '3aw': {
        'SolarizeIncreasing': 6,
        'Desaturate': 6,
        'GaussianBlur': 6,
        'Rotate': 3,
        'ShearX': 2,
        'ShearY': 2,
        'PosterizeIncreasing': 1,
        'AutoContrast': 1,
        'ColorIncreasing': 1,
        'SharpnessIncreasing': 1,
        'ContrastIncreasing': 1,
        'BrightnessIncreasing': 1,
        'Equalize': 1,
        'Invert': 1,
    },
}
RAND_SETS = {'3a': ['SolarizeIncreasing', 'Desaturate', 'GaussianBlur'], **WEIGHTED}
AUGMIX = (
    'AutoContrast ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing '
    'Equalize Rotate PosterizeIncreasing SolarizeIncreasing ShearX ShearY TranslateXRel '
    'TranslateYRel'
).split()

# AutoAugment's policies: each is two operations with probability and level. V0 is the one of the
# TPU code, ORIGINAL the one of arXiv:1805.09501.
V0 = """
Equalize .8 1 ShearY .8 4; Color .4 9 Equalize .6 3; Color .4 1 Rotate .6 8;
Solarize .8 3 Equalize .4 7; Solarize .4 2 Solarize .6 2; Color .2 0 Equalize .8 8;
Equalize .4 8 SolarizeAdd .8 3; ShearX .2 9 Rotate .6 8; Color .6 1 Equalize 1 2;
Invert .4 9 Rotate .6 0; Equalize 1 9 ShearY .6 3; Color .4 7 Equalize .6 0;
Posterize .4 6 AutoContrast .4 7; Solarize .6 8 Color .6 9; Solarize .2 4 Rotate .8 9;
Rotate 1 7 TranslateYRel .8 9; ShearX 0 0 Solarize .8 4; ShearY .8 0 Color .6 4;
Color 1 0 Rotate .6 2; Equalize .8 4 Equalize 0 8; Equalize 1 4 AutoContrast .6 2;
ShearY .4 7 SolarizeAdd .6 7; Posterize .8 2 Solarize .6 10; Solarize .6 8 Equalize .6 1;
Color .8 6 Rotate .4 5
"""
ORIGINAL = """
PosterizeOriginal .4 8 Rotate .6 9; Solarize .6 5 AutoContrast .6 5; Equalize .8 8 Equalize .6 3;
PosterizeOriginal .6 7 PosterizeOriginal .6 6; Equalize .4 7 Solarize .2 4;
Equalize .4 4 Rotate .8 8; Solarize .6 3 Equalize .6 7; PosterizeOriginal .8 5 Equalize 1 2;
Rotate .2 3 Solarize .6 8; Equalize .6 8 PosterizeOriginal .4 6; Rotate .8 8 Color .4 0;
Rotate .4 9 Equalize .6 2; Equalize 0 7 Equalize .8 8; Invert .6 4 Equalize 1 8;
Color .6 4 Contrast 1 8; Rotate .8 8 Color 1 2; Color .8 8 Solarize .8 7;
Sharpness .4 7 Invert .6 8; ShearX .6 5 Equalize 1 9; Color .4 0 Equalize .6 3;
Equalize .4 7 Solarize .2 4; Solarize .6 5 AutoContrast .6 5; Invert .6 4 Equalize 1 8;
Color .6 4 Contrast 1 8; Equalize .8 8 Equalize .6 3
"""
AUTO = {
    'v0': V0,
    'v0r': V0.replace('Posterize ', 'PosterizeIncreasing '),
    'original': ORIGINAL,
    'originalr': ORIGINAL.replace('PosterizeOriginal', 'PosterizeIncreasing'),
    '3a': 'Solarize 1 5; Desaturate 1 10; GaussianBlurRand 1 10',
}


@dataclass(frozen=True)
class RandAugment:
    """Apply `layers` operations, drawn with replacement, or by weight and without replacement."""

    operations: list[Operation]
    layers: int
    weights: np.ndarray | None = None

    def __call__(self, picture: Image.Image, rng) -> Image.Image:
        count = len(self.operations)
        replace = self.weights is None
        for index in rng.choice(count, self.layers, replace=replace, p=self.weights):
            picture = self.operations[index](picture, rng)
        return picture


@dataclass(frozen=True)
class AutoAugment:
    """Apply the operations of one row of the policy, in order; the row is drawn."""

    rows: list[list[Operation]]

    def __call__(self, picture: Image.Image, rng) -> Image.Image:
        row = self.rows[rng.integers(len(self.rows))]
        for operation in row:
            picture = operation(picture, rng)
        return picture


@dataclass(frozen=True)
class AugMix:
    """Mix `width` chains of operations, and the mixture with the picture (arXiv:1912.02781).

    alpha: of the distributions from which the shares are drawn. depth: operations per chain; -1
    draws one to three. blended: mix picture by picture in 8 bits, which is faster and less exact.
    """

    operations: list[Operation]
    alpha: float = 1.0
    width: int = 3
    depth: int = -1
    blended: bool = False

    def __call__(self, picture: Image.Image, rng) -> Image.Image:
        shares = np.float32(rng.dirichlet([self.alpha] * self.width))
        amount = np.float32(rng.beta(self.alpha, self.alpha))
        if self.blended:
            mixed = picture
            for share in self._one_by_one(shares * amount):
                mixed = Image.blend(mixed, self._chain(picture, rng), share)
            return mixed

        total = 0
        for share in shares:
            chain = self._chain(picture, rng)
            total = total + share * np.asarray(chain, dtype='float32')
        mixture = Image.fromarray(total.clip(0, 255).astype('uint8'))
        return Image.blend(picture, mixture, amount)

    def _chain(self, picture: Image.Image, rng) -> Image.Image:
        """The picture after one chain of operations."""
        depth = self.depth if self.depth > 0 else rng.integers(1, 4)
        for index in rng.choice(len(self.operations), depth, replace=True, p=None):
            picture = self.operations[index](picture, rng)
        return picture

    @staticmethod
    def _one_by_one(shares: np.ndarray) -> np.ndarray:
        """Blend factors that give each chain its share if they are applied one after the other."""
        left = 1.0  # the share of all that is blended before
        factors = []
        for share in shares[::-1]:
            factor = share / left
            factors.append(factor)
            left *= 1 - factor
        return np.array(factors[::-1], dtype='float32')


@dataclass
class _Settings:
    """The settings in a policy's string, e.g. rand-m9-mstd0.5-inc1 -> {m: 9, mstd: 0.5, inc: 1}.

    InputError for a setting that the policy does not have.
    """

    text: str
    values: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        known = {'rand': 'm n p mstd mmax inc t', 'augmix': 'm w d a b mstd'}
        self.name, *parts = self.text.split('-')
        allowed = known.get(self.name, 'mstd').split()
        for part in parts:
            pattern = r'(t)(.+)' if part.startswith('t') else r'(mstd|mmax|inc|[a-z])(.+)'
            match = re.fullmatch(pattern, part)
            if not match or match[1] not in allowed:
                raise InputError(f'--aa {self.text}: {part!r} is no setting of {self.name!r}')
            self.values[match[1]] = match[2]

    def number(self, name: str, default: float, kind: type = float) -> float:
        """The value of a setting as a number; InputError if it is none."""
        value = self.values.get(name, default)
        try:
            return kind(value)
        except ValueError:
            raise InputError(
                f'--aa {self.text}: {name}{value} should be {name} and a number'
            ) from None

    def count(self, name: str, default: int, most: float = math.inf) -> int:
        """The value of a setting as a whole number from 1 to `most`, else InputError."""
        value = self.number(name, default, int)
        if not 1 <= value <= most:
            raise InputError(
                f'--aa {self.text}: {name}{value} should be {name} and a number from 1 to {most}'
            )
        return value


def create(text: str, mean: tuple[float, ...], resample: int | None = Image.BICUBIC) -> Callable:
    """The policy that a string asks for, as a function (picture, rng) -> picture.

    mean: of each channel, in 0..1; this colour fills the area outside the picture. InputError for
    an unknown string.
    """
    settings = _Settings(text)
    fill = tuple(min(255, round(255 * value)) for value in mean)
    if len(fill) == 1:
        fill = fill[0]
    shift = 0.3 if settings.name == 'augmix' else 0.45
    paint = Paint(fill, resample, shift)
    if settings.name == 'rand':
        return _rand_augment(settings, paint)
    if settings.name == 'augmix':
        return _augmix(settings, paint)
    if settings.name in AUTO:
        return _auto_augment(settings, paint)
    raise InputError(f'--aa {text}: unknown; it begins with rand, augmix, {", ".join(AUTO)}')


def _rand_augment(settings: _Settings, paint: Paint) -> RandAugment:
    std = settings.number('mstd', 0.0)
    if std > 100:  # by timm's convention, levels are then drawn uniformly
        std = float('inf')
    chosen = settings.values.get('t')
    if chosen is not None and chosen not in RAND_SETS:
        raise InputError(
            f'--aa {settings.text}: no set of operations {chosen!r}; '
            f'there are {", ".join(RAND_SETS)}'
        )
    if chosen:
        names = RAND_SETS[chosen]
    elif 'inc' in settings.values:
        names = RAND_INCREASING
    else:
        names = RAND

    probability = settings.number('p', 0.5)
    level = settings.number('m', 10, int)
    most = settings.number('mmax', 0, int) or TOP
    operations = [Operation(name, probability, level, paint, std=std, most=most) for name in names]

    if not isinstance(names, dict):
        return RandAugment(operations, settings.count('n', 2))
    weights = np.array(list(names.values())) / sum(names.values())
    return RandAugment(operations, settings.count('n', 2, most=len(names)), weights)


def _augmix(settings: _Settings, paint: Paint) -> AugMix:
    std = settings.number('mstd', float('inf'))
    level = settings.number('m', 3, int)
    return AugMix(
        operations=[Operation(name, 1.0, level, paint, std) for name in AUGMIX],
        alpha=settings.number('a', 1.0),
        width=settings.count('w', 3),
        depth=settings.number('d', -1, int),
        blended='b' in settings.values,
    )


def _auto_augment(settings: _Settings, paint: Paint) -> AutoAugment:
    std = settings.number('mstd', 0.0)
    rows = []
    for text in AUTO[settings.name].split(';'):
        row = []
        for name, probability, level in np.reshape(text.split(), [-1, 3]).tolist():
            row.append(Operation(name, float(probability), float(level), paint, std))
        rows.append(row)
    return AutoAugment(rows)
