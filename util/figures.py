"""The figures of a training's iterations, which stay on the device until they are due.

Reading a number from a GPU waits until it has done all that it was asked to do, and it would stand
idle until it is asked for more. So on GPUs figures are read once for many iterations. On a CPU
reading costs nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import paddle

from util import dist

Value = paddle.Tensor | float


def reading_waits() -> bool:
    """Whether reading a tensor waits for a device, as everywhere but on CPUs."""
    return paddle.device.get_device() != 'cpu'


@dataclass
class Figures:
    """The figures of an iteration; tensors have one value each.

    epoch: with its fraction. is_step: whether the iteration ends with an optimizer step. shared:
    the loss and others, by name, to be averaged over the ranks. own: further ones, which all ranks
    have alike. loss: of this rank, once the mean is known.
    """

    epoch: float
    iteration: int
    is_step: bool
    shared: dict[str, Value]
    own: dict[str, Value] = field(default_factory=dict)
    loss: float = math.nan


class Unread:
    """Figures of the iterations since they were last taken, in order."""

    def __init__(self):
        self.figures: list[Figures] = []

    @property
    def is_free(self) -> bool:
        """Whether they can be read without waiting for a device."""
        return not reading_waits()

    def add(self, figures: Figures) -> None:
        """Keep the figures of one more iteration."""
        for name, value in figures.shared.items():
            if isinstance(value, paddle.Tensor):
                figures.shared[name] = value.detach()  # else it would keep the activations
        self.figures.append(figures)

    def average(self, told: Sequence[float]) -> list[float]:
        """Read all figures and average the shared ones; the sum over the ranks of each of `told`.

        It waits for the device once, and communicates once.
        """
        self._read()
        shared = [value for figures in self.figures for value in figures.shared.values()]
        sums = iter(dist.sum_over_ranks([*told, *shared]))
        told = [next(sums) for _ in told]
        for figures in self.figures:
            figures.loss = figures.shared['loss']
            for name in figures.shared:
                figures.shared[name] = next(sums) / dist.world_size()
        return told

    def take(self) -> list[Figures]:
        """All figures, as numbers; none are left."""
        self._read()
        taken, self.figures = self.figures, []
        return taken

    def _read(self) -> None:
        """Put numbers in the place of tensors."""
        places = []  # (dict, name) of each tensor
        for figures in self.figures:
            for values in (figures.shared, figures.own):
                for name, value in values.items():
                    if isinstance(value, paddle.Tensor):
                        places.append((values, name))
        tensors = [values[name] for values, name in places]
        for (values, name), number in zip(places, numbers(tensors)):
            values[name] = number


def numbers(tensors: list[paddle.Tensor]) -> list[float]:
    """The value of each tensor that has only one, read at once."""
    if len(tensors) < 2 or not reading_waits():
        return [tensor.item() for tensor in tensors]
    scalars = [tensor.astype('float32').reshape([]) for tensor in tensors]
    return paddle.stack(scalars).tolist()
