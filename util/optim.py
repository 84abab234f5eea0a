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
    return [
        {'params': plain, 'weight_decay': 0.0},
        {'params': decayed, 'weight_decay': weight_decay},
    ]


def adamw(groups: list[dict], beta2: float) -> paddle.optimizer.AdamW:
    """AdamW over groups; the rate is 0 until the engine sets it from the schedule, before every step."""
    return paddle.optimizer.AdamW(
        0.0, beta1=0.9, beta2=beta2, epsilon=1e-8, parameters=groups, weight_decay=0.0
    )


def layer_decay_groups(
    model: paddle.nn.Layer,
    weight_decay: float,
    layer_decay: float,
    undecayed: tuple[str, ...] = ('pos_embed', 'cls_token'),
) -> list[dict]:
    """Groups for fine-tuning: the rate of the layer numbered i of n is scaled by layer_decay^(n - i), floor included.

    Layer 0 is the embedding, block i is layer i + 1 with its relative positions, the rest (norm, heads) is layer n. Vectors
    and what is `undecayed` have no weight decay. Frozen parameters are in no group. The blocks may be those of a backbone.
    """
    last = len(getattr(model, 'backbone', model).blocks) + 1
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        decay = 0.0 if parameter.ndim == 1 or name in undecayed else weight_decay
        layer = layer_of(name.removeprefix('backbone.'), last)
        group = groups.setdefault(
            (layer, decay),
            {'params': [], 'weight_decay': decay, 'learning_rate': layer_decay ** (last - layer)},
        )
        group['params'].append(parameter)
    return list(groups.values())


def layer_of(name: str, last: int) -> int:
    """The layer of a parameter, from 0 to `last`."""
    if name.startswith(('blocks.', 'position_bias.')):
        return int(name.split('.')[1]) + 1
    return 0 if name in ('pos_embed', 'cls_token') or name.startswith('patch_embed.') else last


class Lars(paddle.optimizer.Optimizer):
    """LARS (arXiv:1708.03888) as the official linear probe has it.

    Tensors of at least two dimensions get weight decay and the trust ratio 0.001 |p| / |gradient|, vectors neither; the
    rate stays outside of the momentum buffer. Not Paddle's own: it leaves the ratio out where weight decay is 0.
    As Paddle's own optimizers, it does nothing where the scaler has found a gradient that is not finite.
    """

    def __init__(
        self,
        parameters: list[paddle.Tensor],
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ):
        super().__init__(0.0, parameters=parameters)
        self.decay, self.momentum, self.trust = weight_decay, momentum, trust
        self.buffers = {parameter.name: paddle.zeros_like(parameter) for parameter in parameters}

    @paddle.no_grad()
    def step(self) -> None:
        # Set by GradScaler.step; None without a scaler
        if self._get_auxiliary_var('found_inf'):
            return
        for parameter in self._parameter_list:
            if parameter.grad is None:
                continue
            update = parameter.grad
            if parameter.ndim > 1:
                update = update + self.decay * parameter
                norms = parameter.norm(), update.norm()
                if all(norm.item() > 0 for norm in norms):
                    update = update * (self.trust * norms[0] / norms[1])
            buffer = self.buffers[parameter.name]
            buffer.set_value(self.momentum * buffer + update)
            parameter.set_value(parameter - self.get_lr() * buffer)

    def state_dict(self) -> dict:
        return {f'{name}_momentum_0': buffer for name, buffer in self.buffers.items()}

    def set_state_dict(self, state: dict) -> None:
        for name, buffer in self.buffers.items():
            buffer.set_value(state[f'{name}_momentum_0'])
