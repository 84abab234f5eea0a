"""Learning rate and optimizers of the official recipes (facebookresearch/mae @ efb2a80)."""

import math
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import paddle

from util import provenance, tensors

LARGE = 2**16  # values of a parameter for which a thread is worth its while


def absolute_lr(lr: float | None, blr: float, effective_batch: int) -> float:
    """`lr` if given; otherwise the base rate `blr`, scaled linearly from 256 images a step."""
    if lr is not None:
        return lr
    return blr * effective_batch / 256


@dataclass(frozen=True)
class Cosine:
    """Learning rate by epoch: linear warm-up from 0 to `lr`, then half a cosine down to `min_lr`.

    Times are in epochs and may be fractions.
    """

    lr: float
    min_lr: float
    warmup_epochs: float
    epochs: float

    def __call__(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs

        progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)  # 0 to 1
        amplitude = (self.lr - self.min_lr) * 0.5
        return self.min_lr + amplitude * (1 + math.cos(math.pi * progress))


def decay_groups(model: paddle.nn.Layer, weight_decay: float) -> list[dict]:
    """Two groups for pre-training: vectors and biases without weight decay, the rest with it.

    Class and mask tokens are 3-D and so are decayed, as upstream. Frozen parameters, such as
    position tables, are in neither group.
    """
    plain, decayed = [], []
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        if parameter.ndim == 1 or name.endswith('.bias'):
            plain.append(parameter)
        else:
            decayed.append(parameter)
    return [
        {'params': plain, 'weight_decay': 0.0},
        {'params': decayed, 'weight_decay': weight_decay},
    ]


class AdamW(paddle.optimizer.AdamW):
    """Paddle's AdamW over groups; on CPUs its threads share the large parameters.

    Paddle's kernel uses one thread, and an update of ViT-B moves 3 GB. The numbers are the same.
    """

    def step(self) -> None:
        """Update all parameters that have a gradient."""
        self._waiting = []  # the arguments of Paddle's kernel, for each large parameter
        super().step()
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        waiting.sort(key=lambda arguments: -math.prod(arguments[0].shape))
        with ThreadPoolExecutor(provenance.threads()) as pool:
            updates = [pool.submit(paddle._C_ops.adamw_, *arguments) for arguments in waiting]
        for update in updates:
            update.result()  # raises what the update has raised

    def _append_optimize_op(self, block, param_and_grad) -> None:
        """Update a parameter, as Paddle's method of this name does; a large one has to wait."""
        parameter, gradient = param_and_grad['params']
        is_large = math.prod(parameter.shape) >= LARGE
        if not (is_large and tensors.served(parameter, gradient)):
            super()._append_optimize_op(block, param_and_grad)
            return
        self._update_param_group(param_and_grad)  # the group's weight decay becomes the optimizer's
        rate = self._create_param_lr((parameter, gradient))
        kinds = 'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'
        state = [self._get_accumulator_master(kind, parameter) for kind in kinds]
        moments, powers = state[:2], state[2:]
        factors = self._beta1, self._beta2, self._epsilon, 1.0, self._weight_decay
        # no third moment, no master weight, nothing found infinite; with decay, not lazy, ..
        options = True, False, 1000, False, False, False
        self._waiting.append(
            (parameter, gradient, rate, *moments, None, *powers, None, None, *factors, *options)
        )


def adamw(groups: list[dict], beta2: float) -> AdamW:
    """AdamW over groups of parameters; the engine sets its rate, 0 at first, before every step."""
    return AdamW(0.0, beta1=0.9, beta2=beta2, epsilon=1e-8, parameters=groups, weight_decay=0.0)


def layer_decay_groups(
    model: paddle.nn.Layer,
    weight_decay: float,
    layer_decay: float,
    undecayed: tuple[str, ...] = ('pos_embed', 'cls_token'),
) -> list[dict]:
    """Groups for fine-tuning: layer i of n has its rate scaled by layer_decay^(n - i).

    The factor applies to the whole schedule, to `min_lr` as well. Layers are those of `layer_of`;
    the blocks may be those of a model's `backbone`. Vectors and the parameters named in `undecayed`
    have no weight decay. Frozen parameters are in no group.
    """
    encoder = getattr(model, 'backbone', model)
    last = len(encoder.blocks) + 1
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        layer = layer_of(name.removeprefix('backbone.'), last)
        plain = parameter.ndim == 1 or name in undecayed

        if (layer, plain) not in groups:
            # Paddle multiplies the optimizer's rate by a group's
            scale = layer_decay ** (last - layer)
            decay = 0.0 if plain else weight_decay
            groups[layer, plain] = {'params': [], 'weight_decay': decay, 'learning_rate': scale}
        groups[layer, plain]['params'].append(parameter)
    return list(groups.values())


def layer_of(name: str, last: int) -> int:
    """The layer of a parameter, from 0 to `last`.

    Layer 0 is the embedding; block i, with its relative positions, is layer i + 1; norms and heads
    are the last layer.
    """
    if name.startswith(('blocks.', 'position_bias.')):
        block = int(name.split('.')[1])
        return block + 1
    if name in ('pos_embed', 'cls_token') or name.startswith('patch_embed.'):
        return 0
    return last


def parameters(optimizer: paddle.optimizer.Optimizer) -> list[paddle.Tensor]:
    """All parameters of an optimizer, whether it has groups or not."""
    found = []
    for group in optimizer._param_groups:
        if isinstance(group, dict):
            found.extend(group['params'])
        else:  # an optimizer over a plain list has the parameters themselves here
            found.append(group)
    return found


class Lars(paddle.optimizer.Optimizer):
    """LARS (arXiv:1708.03888) as in the official linear probe.

    Tensors of at least two dimensions get weight decay and the trust ratio 0.001 |p| / |gradient|,
    vectors neither. The rate is not part of the momentum buffer.
    Paddle's own LARS cannot be used: it leaves the ratio out if weight decay is 0.
    """

    def __init__(
        self,
        parameters: list[paddle.Tensor],
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ):
        super().__init__(0.0, parameters=parameters)
        self.decay = weight_decay
        self.momentum = momentum
        self.trust = trust
        self.buffers = {parameter.name: paddle.zeros_like(parameter) for parameter in parameters}

    def keep(self, names: Collection[str]) -> None:
        """Free the momentum of all parameters but these; the others must not have a gradient."""
        self.buffers = {name: buffer for name, buffer in self.buffers.items() if name in names}

    @paddle.no_grad()
    def step(self) -> None:
        """Update all parameters that have a gradient.

        Does nothing if the scaler of mixed precision has found a gradient that is not finite, as
        Paddle's own optimizers.
        """
        # Set by GradScaler.step; None without a scaler. It is not read here, but used on the device
        found_inf = self._get_auxiliary_var('found_inf')
        for parameter in self._parameter_list:
            if parameter.grad is None:
                continue
            update = parameter.grad
            if parameter.ndim > 1:
                update = self._decayed_and_scaled(parameter, update)
            buffer = self.buffers[parameter.name]
            momentum = self.momentum * buffer + update
            moved = parameter - self.get_lr() * momentum
            if found_inf is not None:
                momentum = paddle.where(found_inf, buffer, momentum)
                moved = paddle.where(found_inf, parameter, moved)
            buffer.set_value(momentum)
            parameter.set_value(moved)

    def _decayed_and_scaled(
        self, parameter: paddle.Tensor, gradient: paddle.Tensor
    ) -> paddle.Tensor:
        """The gradient with weight decay, times the trust ratio unless a norm is 0."""
        update = gradient + self.decay * parameter
        weight_norm = parameter.norm()
        update_norm = update.norm()
        has_ratio = (weight_norm > 0) & (update_norm > 0)
        ratio = self.trust * weight_norm / update_norm
        return update * paddle.where(has_ratio, ratio, paddle.ones_like(ratio))

    def state_dict(self) -> dict:
        """The momentum buffers, by the names that Paddle's Momentum optimizer would give them."""
        return {f'{name}_momentum_0': buffer for name, buffer in self.buffers.items()}

    def set_state_dict(self, state: dict) -> None:
        """Restore the momentum buffers from a `state_dict`."""
        for name, buffer in self.buffers.items():
            buffer.set_value(state[f'{name}_momentum_0'])
