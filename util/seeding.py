"""Random numbers of a training step."""

import numpy as np
import paddle

from util import dist


def seed_step(seed: int, epoch: int, iteration: int) -> np.random.Generator:
    """Seed Paddle for one step, and return NumPy's generator for it.

    Both depend on these numbers and the rank alone, so a resumed run draws what the undisturbed one
    would have drawn.
    """
    sequence = np.random.SeedSequence([seed, epoch, iteration, dist.rank()])
    paddle.seed(int(sequence.generate_state(1)[0]))
    return np.random.default_rng(sequence)
