"""Exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import paddle


class Ema:
    """After each optimizer step, average = decay * average + (1 - decay) * weights; buffers are copied."""

    def __init__(self, model: paddle.nn.Layer, decay: float):
        self.model, self.decay = model, decay
        self.average = {
            name: tensor.clone().detach() for name, tensor in model.state_dict().items()
        }

    @paddle.no_grad()
    def update(self) -> None:
        for name, tensor in self.model.state_dict().items():
            decay = 0.0 if tensor.stop_gradient else self.decay
            self.average[name].set_value(decay * self.average[name] + (1 - decay) * tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average into the model for as long as the block lasts."""
        own = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        self.model.set_state_dict(self.average)
        try:
            yield
        finally:
            self.model.set_state_dict(own)

    def state_dict(self) -> dict:
        """The average as arrays."""
        return {name: tensor.numpy() for name, tensor in self.average.items()}

    def load_state_dict(self, state: dict | None) -> None:
        """Go on with a saved average; with None, of a run that kept none, begin from the weights as they are now."""
        for name, tensor in (state or self.model.state_dict()).items():
            self.average[name].set_value(tensor)


def in_place(average: Ema | None) -> AbstractContextManager:
    """Context in which a model has its average's weights; its own where there is none."""
    return average.in_place() if average else nullcontext()
