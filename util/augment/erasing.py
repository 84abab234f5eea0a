"""Random erasing (arXiv:1708.04896) of a normalised image.

Equal to timm 1.0.22 if the random draws are the same.
"""

import math
from dataclasses import dataclass

import numpy as np

AREA = (0.02, 1 / 3)  # share of the image that all rectangles cover
ASPECT = (0.3, 1 / 0.3)  # height / width of a rectangle
ATTEMPTS = 10  # draws for one rectangle


@dataclass(frozen=True)
class RandomErasing:
    """With `probability`, overwrite 1 to `count` rectangles that cover 2 to 33 % of an image.

    mode: 'pixel' fills with a normal deviate per value, 'rand' with one per channel, 'const' with
    0.
    """

    probability: float
    mode: str = 'pixel'
    count: int = 1

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The image with erased rectangles: float32 [C, height, width], changed in place."""
        if rng.random() > self.probability:
            return image
        count = 1 if self.count == 1 else rng.integers(1, self.count + 1)
        for _ in range(count):
            self._erase(image, count, rng)
        return image

    def _erase(self, image: np.ndarray, count: int, rng: np.random.Generator) -> None:
        """Overwrite one of `count` rectangles; none if ten draws do not fit into the image."""
        channels, height, width = image.shape
        for _ in range(ATTEMPTS):
            area = rng.uniform(*AREA) * (height * width) / count
            log_aspect = rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1]))
            aspect = math.exp(log_aspect)
            h = round(math.sqrt(area * aspect))
            w = round(math.sqrt(area / aspect))
            if h < height and w < width:
                top = rng.integers(height - h + 1)
                left = rng.integers(width - w + 1)
                filling = self._filling(channels, h, w, rng)
                image[:, top : top + h, left : left + w] = filling
                return

    def _filling(
        self, channels: int, height: int, width: int, rng: np.random.Generator
    ) -> np.ndarray | float:
        """The values of a rectangle: [C, height, width], [C, 1, 1] or 0."""
        if self.mode == 'const':
            return 0.0
        shape = (channels, height, width) if self.mode == 'pixel' else (channels, 1, 1)
        return rng.standard_normal(shape, dtype='float32')
