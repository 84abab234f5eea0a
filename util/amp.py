"""Mixed precision and gradient accumulation: one object that turns losses into optimizer steps."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial

import paddle

from util import bfloat16, device, optim, replicas
from util.sharding import Sharding


def autocast(
    precision: str, level: str = 'O1', low: Collection[str] = (), full: Collection[str] = ()
) -> AbstractContextManager:
    """The context of a forward pass in 'off' (float32), 'float16' or 'bfloat16'.

    level: Paddle's; with O2 all is in low precision but for a few operations.
    low, full: operations in low precision and in float32, beyond Paddle's own lists.
    """
    if precision == 'off':
        return paddle.amp.auto_cast(False)
    if device.kind() == 'cpu':
        return bfloat16.products()
    return paddle.amp.auto_cast(True, set(low), set(full), level=level, dtype=precision)


def caster(asked: str | None) -> Callable[[], AbstractContextManager]:
    """A function that makes this context for each batch; `asked` is the flag --amp."""
    return partial(autocast, device.precision(asked))


class Step:
    """Accumulates the gradients of `accum_iter` losses, then makes one optimizer step.

    precision: 'off', 'float16' (with a loss scaler, against underflow) or 'bfloat16'. None means
        what the official programs do: float16 on a GPU, off on a CPU. InputError for what the
        device does not have; see util/device.py.
    clip_grad: largest norm of all gradients together; None does not clip.
    sharding: of the optimizer's state over the ranks; None keeps all of it on every rank.
    """

    def __init__(
        self,
        optimizer: paddle.optimizer.Optimizer,
        accum_iter: int = 1,
        precision: str | None = None,
        clip_grad: float | None = None,
        sharding: Sharding | None = None,
    ):
        self.optimizer = optimizer
        self.parameters = optim.parameters(optimizer)
        self.accum_iter = accum_iter
        self.precision = device.precision(precision)
        self.clip_grad = clip_grad
        self.sharding = sharding
        self.skipped = 0.0  # 1, maybe on the device, if the last iteration left out its step

        # PyTorch's constants: Paddle's scale starts lower and backs off only after two bad steps
        self.scaler = paddle.amp.GradScaler(
            enable=self.precision == 'float16',
            init_loss_scaling=2.0**16,
            incr_every_n_steps=2000,
            decr_every_n_nan_or_inf=1,
        )

    def autocast(self):
        """The context in which the forward pass runs: float32, or mixed precision."""
        return autocast(self.precision)

    def is_last(self, iteration: int) -> bool:
        """Whether `iteration` (from 0) ends a round of accumulation."""
        return (iteration + 1) % self.accum_iter == 0

    def backward(self, loss: paddle.Tensor, iteration: int) -> None:
        """Add the gradients of loss / accum_iter; at the end of a round, make an optimizer step."""
        self.skipped = 0.0
        scaled = self.scaler.scale(loss / self.accum_iter)
        scaled.backward()
        if not self.is_last(iteration):
            return
        replicas.average_gradients(self.parameters)

        # Clipping, and the scaler's search for infinities, need the gradients of all parameters
        if self.clip_grad is not None or self.sharding:
            self.scaler.unscale_(self.optimizer)
        if self.clip_grad is not None:
            paddle.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)

        if self.sharding:
            self.sharding.drop_other_gradients()
        self.scaler.step(self.optimizer)
        if self.sharding:
            self.sharding.exchange()
        self.scaler.update()
        if self.scaler.is_enable():
            # not the scale before and after, because reading that would wait for the device
            self.skipped = self.scaler._found_inf.astype('float32')
        self.optimizer.clear_grad(set_to_zero=False)

    def keeps_state_of(self, parameter: paddle.Tensor) -> bool:
        """Whether this rank has the optimizer's state of a parameter."""
        return self.sharding is None or self.sharding.owns(parameter)

    def count(self) -> dict[str, paddle.Tensor | float]:
        """Whether the scaler skipped the last step, because of gradients that are not finite."""
        if not self.scaler.is_enable():
            return {}
        return {'skipped_steps': self.skipped}

    def state_dict(self) -> dict:
        """The scaler's state as plain numbers; empty without float16."""
        state = dict(self.scaler.state_dict())
        for name, value in state.items():
            if isinstance(value, paddle.Tensor):
                state[name] = value.item()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Resume a scaler's state; does nothing where one of the two runs has no scaler."""
        if state and self.scaler.is_enable():
            self.scaler.load_state_dict(state)
