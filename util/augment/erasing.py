"""Random erasing (arXiv:1708.04896) of a normalised image, equal to timm 1.0.22 where the draws are the same."""

import math
from dataclasses import dataclass

import numpy as np

AREA, ASPECT, ATTEMPTS = (0.02, 1 / 3), (0.3, 1 / 0.3), 10


@dataclass(frozen=True)
class RandomErasing:
    """With `probability`, overwrite 1 to `count` rectangles of altogether 2 to 33 % of an image.

    mode: 'pixel' fills with a normal deviate for each value, 'rand' with one for each channel, 'const' with 0.
    """

    probability: float
    mode: str = 'pixel'
    count: int = 1

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """image: float32 [C, height, width]; changed in place and returned."""
        if rng.random() > self.probability:
            return image
        channels, height, width = image.shape
        count = 1 if self.count == 1 else rng.integers(1, self.count + 1)
        for _ in range(count):
            for _ in range(ATTEMPTS):
                area = rng.uniform(*AREA) * (height * width) / count
                aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
                h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if h < height and w < width:
                    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
                    image[:, top : top + h, left : left + w] = self._filling(channels, h, w, rng)
                    break
        return image

    def _filling(
        self, channels: int, height: int, width: int, rng: np.random.Generator
    ) -> np.ndarray | float:
        if self.mode == 'const':
            return 0.0
        return rng.standard_normal(
            (channels, height, width) if self.mode == 'pixel' else (channels, 1, 1), dtype='float32'
        )
