"""Learning rate and optimizers of the official recipes (facebookresearch/mae @ efb2a80)."""
import math
from dataclasses import dataclass

import paddle


def absolute_lr(lr: float | None, blr: float, effective_batch: int) -> float:
    """`lr` where given; otherwise the base rate, which is meant for 256 samples an optimizer step, scaled linearly."""
    return blr * effective_batch / 256 if lr is None else lr


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up from 0 to `lr`, then half a cosine down to `min_lr`; times are in epochs and may be fractions."""
    lr: float
    min_lr: float
    warmup_epochs: float
    epochs: float

    def __call__(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(model: paddle.nn.Layer, weight_decay: float) -> list[dict]:
    """Two groups: vectors and biases without decay, all other trainable parameters with it.

    The cls and mask tokens are 3-D and so are decayed, as upstream; frozen position tables are in neither group.
    """
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            (plain if parameter.ndim == 1 or name.endswith('.bias') else decayed).append(parameter)
    return [{'params': plain, 'weight_decay': 0.0}, {'params': decayed, 'weight_decay': weight_decay}]


def adamw(groups: list[dict], beta2: float) -> paddle.optimizer.AdamW:
    """AdamW over groups; the rate is 0 until the engine sets it from the schedule, before every step."""
    return paddle.optimizer.AdamW(0.0, beta1=0.9, beta2=beta2, epsilon=1e-8, parameters=groups, weight_decay=0.0)
