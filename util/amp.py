"""Mixed precision and gradient accumulation: one object that turns losses into optimizer steps."""

import numpy as np
import paddle

from util.errors import InputError


class Step:
    """Accumulate `accum_iter` losses into one optimizer step, scaled against float16 underflow where that is used.

    precision: 'off', 'float16', 'bfloat16', or None for the official programs' float16 on a GPU and nothing on a CPU,
    where Paddle has no mixed precision: InputError. clip_grad: largest norm of all gradients together, None for any.
    """

    def __init__(
        self,
        optimizer: paddle.optimizer.Optimizer,
        accum_iter: int = 1,
        precision: str | None = None,
        clip_grad: float | None = None,
    ):
        on_gpu = paddle.device.get_device().startswith('gpu')
        precision = precision or ('float16' if on_gpu else 'off')
        if precision != 'off' and not on_gpu:
            raise InputError(f'--amp {precision} needs a GPU; on a CPU use --amp off')
        self.optimizer, self.accum_iter, self.precision, self.clip_grad = (
            optimizer,
            accum_iter,
            precision,
            clip_grad,
        )
        self.skipped = 0.0
        # PyTorch's constants: Paddle's own start lower and wait for two bad steps before they back off
        self.scaler = paddle.amp.GradScaler(
            precision == 'float16',
            init_loss_scaling=2.0**16,
            incr_every_n_steps=2000,
            decr_every_n_nan_or_inf=1,
        )

    def autocast(self):
        """Context in which the forward pass runs."""
        return paddle.amp.auto_cast(
            self.precision != 'off', dtype='float16' if self.precision == 'off' else self.precision
        )

    def is_last(self, iteration: int) -> bool:
        """Whether `iteration` (from 0) ends a round of accumulation."""
        return (iteration + 1) % self.accum_iter == 0

    def backward(self, loss: paddle.Tensor, iteration: int) -> None:
        """Add the gradients of loss / accum_iter; at the end of a round move the weights and forget the gradients."""
        self.skipped = 0.0
        self.scaler.scale(loss / self.accum_iter).backward()
        if self.is_last(iteration):
            if self.clip_grad is not None:
                self.scaler.unscale_(self.optimizer)
                paddle.nn.utils.clip_grad_norm_(self._parameters(), self.clip_grad)
            before = self._scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.skipped = float(self._scale() < before)  # each such step makes it smaller
            self.optimizer.clear_grad(set_to_zero=False)

    def count(self) -> dict[str, float]:
        """Of the last iteration: whether the scaler left out its optimizer step, for gradients that were not finite."""
        return {'skipped_steps': self.skipped} if self.scaler.is_enable() else {}

    def _scale(self) -> float:
        scale = self.state_dict().get('scale', 1.0)  # Paddle's is an array [1]
        return np.ravel(scale)[0].item()

    def _parameters(self) -> list[paddle.Tensor]:
        groups = self.optimizer._param_groups  # of a plain list, the parameters themselves
        return [
            p for group in groups for p in (group['params'] if isinstance(group, dict) else [group])
        ]

    def state_dict(self) -> dict:
        """The scaler's state as plain numbers; empty without float16."""
        return {
            name: value.item() if isinstance(value, paddle.Tensor) else value
            for name, value in self.scaler.state_dict().items()
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on with a scaler's state; where one of the two runs had no scaler there is nothing to do."""
        if state and self.scaler.is_enable():
            self.scaler.load_state_dict(state)
