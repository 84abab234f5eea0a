"""The random numbers of a training step."""

import numpy as np
import paddle

from util import dist


def seed_step(seed: int, epoch: int, iteration: int) -> np.random.Generator:
    """Seed Paddle for one step, and return NumPy's generator for it.

    Both depend only on these numbers and the rank, so a resumed run draws the same numbers as one
    that was never interrupted.
    """
    sequence = np.random.SeedSequence([seed, epoch, iteration, dist.rank()])
    paddle_seed = sequence.generate_state(1)[0]
    paddle.seed(int(paddle_seed))
    return np.random.default_rng(sequence)
