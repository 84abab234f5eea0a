"""Exponential moving average of a model's weights."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import paddle


class Ema:
    """The average of a model's weights over the optimizer steps; buffers are copied.

    A step changes it to decay * average + (1 - decay) * weights.
    """

    def __init__(self, model: paddle.nn.Layer, decay: float):
        self.model = model
        self.decay = decay
        self.average = {}
        for name, tensor in model.state_dict().items():
            self.average[name] = tensor.clone().detach()

    @paddle.no_grad()
    def update(self) -> None:
        """Average in the weights as they are now. Call it after each optimizer step."""
        for name, tensor in self.model.state_dict().items():
            decay = 0.0 if tensor.stop_gradient else self.decay
            average = self.average[name]
            average.set_value(decay * average + (1 - decay) * tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
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
        """Continue a saved average, or begin from the model's weights if None was saved."""
        tensors = state or self.model.state_dict()
        for name, tensor in tensors.items():
            self.average[name].set_value(tensor)


def in_place(average: Ema | None) -> AbstractContextManager:
    """Context in which a model has its averaged weights, or its own if there is no average."""
    return average.in_place() if average else nullcontext()
