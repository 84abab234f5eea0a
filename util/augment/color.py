"""Colour jitter (torchvision's ColorJitter).

Brightness, contrast and saturation change by random factors, in random order.
"""

import numpy as np
from PIL import Image, ImageEnhance

KINDS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class ColorJitter:
    """Each factor is drawn uniformly from [1 - strength, 1 + strength], cut at 0."""

    def __init__(self, strength: float):
        self.range = max(0.0, 1 - strength), 1 + strength

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        factors = [rng.uniform(*self.range) for _ in KINDS]
        for index in rng.permutation(len(KINDS)):
            enhancer = KINDS[index](picture)
            picture = enhancer.enhance(factors[index])
        return picture
