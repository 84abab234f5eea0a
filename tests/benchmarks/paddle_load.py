"""The project's loader and augmentation, in one process."""

from pathlib import Path

# this comes first, because it prepares the machine before Paddle is imported
from paddle_steps import repeated

# isort: split
import numpy as np
import pictures

from util import program
from util.augment import crop, transform
from util.augment.erasing import RandomErasing
from util.data import folder, loader
from util.data.pictures import suffixes


def load(case):
    """One step is one batch; the floor is to decode its files."""
    program.start(None, seed=0)
    images = folder.find(str(Path(case['scratch']) / 'pictures'), 'train', suffixes(3))
    mean, std = crop.statistics(3, None, None)
    if case['what'] != 'finetune':
        augment = transform.Train(
            crop.CropAndFlip(case['side'], (0.2, 1.0), fast=case['what'] == 'fast'), mean, std
        )
    else:
        augment = transform.Train(
            crop.CropAndFlip(case['side'], (0.08, 1.0)),
            mean,
            std,
            'rand-m9-mstd0.5-inc1',
            erasing=RandomErasing(0.25, 'pixel', 1),
        )
    samples = loader.TrainSet(images, 3, augment, lambda index, rng: np.int64(0), seed=0)
    batches = loader.TrainLoader(samples, case['batch'])
    epochs = iter(range(10**9))

    def step():
        for batch, _ in batches.batches(next(epochs)):
            assert len(batch) == case['batch']
            return

    return repeated(step), {'floor_ms': 1000 * pictures.seconds(images.paths[: case['batch']])}
