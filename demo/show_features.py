"""An encoder of any file, with the preparation of its pictures."""

from pathlib import Path

import numpy as np

import models_features
from util import panels
from util.augment import crop, transform
from util.data import pictures


class Viewer:
    """An encoder that reads pictures as its evaluation does.

    path and asked: as models_features.model_from takes them.
    """

    def __init__(self, path: str, use_ema: bool = False, **asked):
        model, about = models_features.model_from(path, use_ema, **asked)
        self.model = model
        self.labels = about.get('labels')  # of a classifier
        self.channels = about['in_chans']
        mean, std = about.get('mean'), about.get('std')
        self.mean, self.std = crop.statistics(self.channels, mean, std)
        size = about['input_size']
        self.evaluated = transform.Evaluate(size, self.mean, self.std)

    def read(self, file: Path) -> np.ndarray:
        """A picture [C, height, width] as the model sees it."""
        picture = pictures.read_as_seen(file, self.channels)
        return self.evaluated(picture)

    def as_pixels(self, images: np.ndarray) -> np.ndarray:
        """Images [N, C, height, width] for people, uint8 [N, height, width, 3]."""
        return panels.as_pixels(images, self.mean, self.std)
