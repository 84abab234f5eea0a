"""Learning rates of detectors by iteration, with the names of PaddleDetection's configs.

Sources: mmcv 1.4 (lr_updater.py: a cosine by epoch, multiplied by a linear warm-up), and detectron2
(steps by iteration after a linear warm-up).
"""

import math
from collections.abc import Callable

from util.errors import InputError


class Schedule:
    """Fractional epoch -> learning rate: a decay of the base rate, times a warm-up.

    decay: (iteration, iterations per epoch, epochs) -> factor. warmup: iteration -> factor.
    """

    def __init__(
        self,
        lr: float,
        per_epoch: int,
        epochs: int,
        decay: Callable[[int, int, int], float],
        warmup: Callable[[int], float],
    ):
        self.lr = lr
        self.per_epoch = per_epoch
        self.epochs = epochs
        self.decay = decay
        self.warmup = warmup

    def __call__(self, epoch: float) -> float:
        iteration = round(epoch * self.per_epoch)
        factor = self.decay(iteration, self.per_epoch, self.epochs)
        return self.lr * factor * self.warmup(iteration)


def cosine_by_epoch(min_ratio: float = 0.0) -> Callable:
    """Half a cosine from 1 to `min_ratio` over all epochs, constant within an epoch."""

    def decay(iteration, per_epoch, epochs):
        return _half_cosine(iteration // per_epoch / epochs, min_ratio)

    return decay


def cosine_by_iteration(min_ratio: float = 0.0) -> Callable:
    """Half a cosine from 1 to `min_ratio` over all iterations."""

    def decay(iteration, per_epoch, epochs):
        return _half_cosine(iteration / (per_epoch * epochs), min_ratio)

    return decay


def _half_cosine(done: float, least: float) -> float:
    return least + (1 - least) * (1 + math.cos(math.pi * done)) / 2


def piecewise_decay(
    milestones: list[int], gamma: float | list[float] = 0.1, by_epoch: bool = True
) -> Callable:
    """`gamma` to the power of the milestones that have passed; they are epochs or iterations.

    A list of gammas has the factor after each milestone, as in PaddleDetection.
    """
    factors = (
        gamma if isinstance(gamma, list) else [gamma**n for n in range(1, 1 + len(milestones))]
    )
    if len(factors) != len(milestones):
        raise InputError(
            f'LearningRate: PiecewiseDecay has {len(milestones)} milestones, '
            f'but {len(factors)} gammas'
        )

    def decay(iteration, per_epoch, epochs):
        place = iteration // per_epoch if by_epoch else iteration
        passed = sum(place >= milestone for milestone in milestones)
        return ([1.0] + factors)[passed]

    return decay


def linear_warmup(steps: int, start_factor: float = 0.001) -> Callable[[int], float]:
    """A factor from `start_factor` to 1 over the first `steps` iterations."""

    def warmup(iteration):
        if iteration >= steps:
            return 1.0
        return start_factor + (1 - start_factor) * iteration / steps

    return warmup


DECAYS = {
    'CosineByEpoch': cosine_by_epoch,
    'CosineByIteration': cosine_by_iteration,
    'PiecewiseDecay': piecewise_decay,
}
WARMUPS = {'LinearWarmup': linear_warmup}


def build(section: dict, per_epoch: int, epochs: int) -> Schedule:
    """The schedule of a config's LearningRate: {base_lr, schedulers: [{name, arguments}]}.

    Without a decay or a warm-up the rate is constant. InputError where the section is wrong.
    """
    lr = section.get('base_lr')
    if isinstance(lr, bool) or not isinstance(lr, (int, float)) or lr < 0:
        raise InputError(f'LearningRate.base_lr is a number from 0, not {lr!r}')
    parts = {'decay': lambda *place: 1.0, 'warmup': lambda iteration: 1.0}
    schedulers = section.get('schedulers') or []
    if not isinstance(schedulers, list):
        raise InputError(f'LearningRate.schedulers is a list, not {schedulers!r}')
    for item in schedulers:
        arguments = dict(item) if isinstance(item, dict) else {}
        name = arguments.pop('name', None)
        kind, known = ('warmup', WARMUPS) if name in WARMUPS else ('decay', DECAYS)
        if name not in known:
            raise InputError(
                f'LearningRate.schedulers: {name!r} is unknown; '
                f'known are {", ".join([*DECAYS, *WARMUPS])}'
            )
        try:
            parts[kind] = known[name](**arguments)
        except TypeError as error:
            raise InputError(f'LearningRate.schedulers: {name}: {error}') from None
    return Schedule(lr, per_epoch, epochs, **parts)
