"""RandAugment, AutoAugment and AugMix, chosen by timm's strings: rand-m9-mstd0.5-inc1, v0, original, augmix-m5-w4-d2 ...

Results equal timm 1.0.22 (timm/data/auto_augment.py) pixel for pixel where the draws are the same. rng is a
numpy.random.Generator.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from util.augment.operations import TOP, Operation, Paint
from util.errors import InputError

# RandAugment's operations (arXiv:1909.13719), and those among them whose effect can be made to grow with the level
RAND = (
    'AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness Sharpness '
    'ShearX ShearY TranslateXRel TranslateYRel'
).split()
GROWING = {'Posterize', 'Solarize', 'Color', 'Contrast', 'Brightness', 'Sharpness'}
RAND_INCREASING = [name + 'Increasing' if name in GROWING else name for name in RAND]
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
    'AutoContrast ColorIncreasing ContrastIncreasing BrightnessIncreasing SharpnessIncreasing Equalize Rotate '
    'PosterizeIncreasing SolarizeIncreasing ShearX ShearY TranslateXRel TranslateYRel'
).split()

# AutoAugment's pairs of (operation, probability, level): v0 as in the TPU code, original as in arXiv:1805.09501
V0 = """
Equalize .8 1 ShearY .8 4; Color .4 9 Equalize .6 3; Color .4 1 Rotate .6 8; Solarize .8 3 Equalize .4 7;
Solarize .4 2 Solarize .6 2; Color .2 0 Equalize .8 8; Equalize .4 8 SolarizeAdd .8 3; ShearX .2 9 Rotate .6 8;
Color .6 1 Equalize 1 2; Invert .4 9 Rotate .6 0; Equalize 1 9 ShearY .6 3; Color .4 7 Equalize .6 0;
Posterize .4 6 AutoContrast .4 7; Solarize .6 8 Color .6 9; Solarize .2 4 Rotate .8 9; Rotate 1 7 TranslateYRel .8 9;
ShearX 0 0 Solarize .8 4; ShearY .8 0 Color .6 4; Color 1 0 Rotate .6 2; Equalize .8 4 Equalize 0 8;
Equalize 1 4 AutoContrast .6 2; ShearY .4 7 SolarizeAdd .6 7; Posterize .8 2 Solarize .6 10; Solarize .6 8 Equalize .6 1;
Color .8 6 Rotate .4 5"""
ORIGINAL = """
PosterizeOriginal .4 8 Rotate .6 9; Solarize .6 5 AutoContrast .6 5; Equalize .8 8 Equalize .6 3;
PosterizeOriginal .6 7 PosterizeOriginal .6 6; Equalize .4 7 Solarize .2 4; Equalize .4 4 Rotate .8 8;
Solarize .6 3 Equalize .6 7; PosterizeOriginal .8 5 Equalize 1 2; Rotate .2 3 Solarize .6 8;
Equalize .6 8 PosterizeOriginal .4 6; Rotate .8 8 Color .4 0; Rotate .4 9 Equalize .6 2; Equalize 0 7 Equalize .8 8;
Invert .6 4 Equalize 1 8; Color .6 4 Contrast 1 8; Rotate .8 8 Color 1 2; Color .8 8 Solarize .8 7;
Sharpness .4 7 Invert .6 8; ShearX .6 5 Equalize 1 9; Color .4 0 Equalize .6 3; Equalize .4 7 Solarize .2 4;
Solarize .6 5 AutoContrast .6 5; Invert .6 4 Equalize 1 8; Color .6 4 Contrast 1 8; Equalize .8 8 Equalize .6 3"""
AUTO = {
    'v0': V0,
    'v0r': V0.replace('Posterize ', 'PosterizeIncreasing '),
    'original': ORIGINAL,
    'originalr': ORIGINAL.replace('PosterizeOriginal', 'PosterizeIncreasing'),
    '3a': 'Solarize 1 5; Desaturate 1 10; GaussianBlurRand 1 10',
}


@dataclass(frozen=True)
class RandAugment:
    """`layers` operations, drawn with replacement; by weight, without."""

    operations: list[Operation]
    layers: int
    weights: np.ndarray | None = None

    def __call__(self, picture: Image.Image, rng) -> Image.Image:
        for index in rng.choice(
            len(self.operations), self.layers, replace=self.weights is None, p=self.weights
        ):
            picture = self.operations[index](picture, rng)
        return picture


@dataclass(frozen=True)
class AutoAugment:
    """One of the policy's rows, its operations in order."""

    rows: list[list[Operation]]

    def __call__(self, picture: Image.Image, rng) -> Image.Image:
        for operation in self.rows[rng.integers(len(self.rows))]:
            picture = operation(picture, rng)
        return picture


@dataclass(frozen=True)
class AugMix:
    """A mixture of `width` chains of operations (arXiv:1912.02781); depth -1: one to three operations a chain.

    `blended` mixes picture by picture with 8 bits, faster and less exact.
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
        total = sum(
            share * np.asarray(self._chain(picture, rng), dtype='float32') for share in shares
        )
        return Image.blend(picture, Image.fromarray(total.clip(0, 255).astype('uint8')), amount)

    def _chain(self, picture: Image.Image, rng) -> Image.Image:
        depth = self.depth if self.depth > 0 else rng.integers(1, 4)
        for index in rng.choice(len(self.operations), depth, replace=True, p=None):
            picture = self.operations[index](picture, rng)
        return picture

    @staticmethod
    def _one_by_one(shares: np.ndarray) -> np.ndarray:
        """Blend factors that, applied one after the other, give each chain its share."""
        left, factors = 1.0, []
        for share in shares[::-1]:
            factors.append(share / left)
            left *= 1 - factors[-1]
        return np.array(factors[::-1], dtype='float32')


@dataclass
class _Settings:
    """The parts of a string after its first, e.g. m9, mstd0.5, inc1."""

    text: str
    values: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        known = {'rand': 'm n p mstd mmax inc t', 'augmix': 'm w d a b mstd'}
        self.name, *parts = self.text.split('-')
        for part in parts:
            match = (
                re.fullmatch(r'(mstd|mmax|inc|[a-z])(.+)', part)
                if part[:1] != 't'
                else re.fullmatch(r'(t)(.+)', part)
            )
            if not match or match[1] not in known.get(self.name, 'mstd').split():
                raise InputError(f'--aa {self.text}: {part!r} is no setting of {self.name!r}')
            self.values[match[1]] = match[2]

    def number(self, name: str, default: float, kind: type = float) -> float:
        try:
            return kind(self.values.get(name, default))
        except ValueError:
            raise InputError(
                f'--aa {self.text}: {name}{self.values[name]} should be {name} and a number'
            ) from None

    def count(self, name: str, default: int, most: float = math.inf) -> int:
        value = self.number(name, default, int)
        if not 1 <= value <= most:
            raise InputError(
                f'--aa {self.text}: {name}{value} should be {name} and a number from 1 to {most}'
            )
        return value


def create(text: str, mean: tuple[float, ...], resample: int | None = Image.BICUBIC) -> Callable:
    """The policy that a string asks for, as a function (picture, rng) -> picture; InputError for an unknown string.

    mean: of each channel, of values in [0, 1]; it fills what comes in from outside.
    """
    settings = _Settings(text)
    fill = tuple(min(255, round(255 * value)) for value in mean)
    paint = Paint(
        fill if len(fill) > 1 else fill[0],
        resample,
        shift=0.3 if settings.name == 'augmix' else 0.45,
    )
    if settings.name == 'rand':
        return _rand_augment(settings, paint)
    if settings.name == 'augmix':
        std = settings.number('mstd', float('inf'))
        operations = [
            Operation(name, 1.0, settings.number('m', 3, int), paint, std) for name in AUGMIX
        ]
        return AugMix(
            operations,
            settings.number('a', 1.0),
            settings.count('w', 3),
            settings.number('d', -1, int),
            'b' in settings.values,
        )
    if settings.name in AUTO:
        std = settings.number('mstd', 0.0)
        rows = [np.reshape(row.split(), [-1, 3]).tolist() for row in AUTO[settings.name].split(';')]
        return AutoAugment(
            [
                [
                    Operation(name, float(chance), float(level), paint, std)
                    for name, chance, level in row
                ]
                for row in rows
            ]
        )
    raise InputError(f'--aa {text}: unknown; it begins with rand, augmix, {", ".join(AUTO)}')


def _rand_augment(settings: _Settings, paint: Paint) -> RandAugment:
    std = settings.number('mstd', 0.0)
    chosen = settings.values.get('t')
    if chosen is not None and chosen not in RAND_SETS:
        raise InputError(
            f'--aa {settings.text}: no set of operations {chosen!r}; there are {", ".join(RAND_SETS)}'
        )
    names = RAND_SETS[chosen] if chosen else RAND_INCREASING if 'inc' in settings.values else RAND
    operations = [
        Operation(
            name,
            settings.number('p', 0.5),
            settings.number('m', 10, int),
            paint,
            float('inf') if std > 100 else std,
            settings.number('mmax', 0, int) or TOP,
        )
        for name in names
    ]
    weights = (
        np.array(list(names.values())) / sum(names.values()) if isinstance(names, dict) else None
    )
    return RandAugment(
        operations, settings.count('n', 2, math.inf if weights is None else len(names)), weights
    )
