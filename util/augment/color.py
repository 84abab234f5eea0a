"""Colour jitter: brightness, contrast and saturation by random factors, in random order (torchvision's ColorJitter)."""

import numpy as np
from PIL import Image, ImageEnhance


class ColorJitter:
    """Each factor is drawn evenly from [1 - strength, 1 + strength], cut at 0."""

    def __init__(self, strength: float):
        self.range = max(0.0, 1 - strength), 1 + strength

    def __call__(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        factors = [rng.uniform(*self.range) for _ in kinds]
        for index in rng.permutation(len(kinds)):
            picture = kinds[index](picture).enhance(factors[index])
        return picture
