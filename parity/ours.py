"""Our side of a comparison: the same quantities as the original writes, from a model and a function that are handed in.

`objective(model, i)` gives the outputs for batch i as a dictionary of tensors, the loss under 'loss'.
"""

from collections.abc import Callable

import numpy as np
import paddle

from util.amp import Step
from util.optim import Cosine

# of a probe, in PyTorch
BUFFERS = {'head.0._mean': 'head.0.running_mean', 'head.0._variance': 'head.0.running_var'}


def tensors(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """All parameters and buffers under official names."""
    return {BUFFERS.get(name, name): tensor for name, tensor in model.state_dict().items()}


def shapes(model: paddle.nn.Layer) -> dict[str, list[int]]:
    """Shapes in PyTorch's layout, which has Linear weights as [out, in]."""
    return {
        name: tensor.shape[::-1] if tensor.ndim == 2 else list(tensor.shape)
        for name, tensor in tensors(model).items()
    }


class Arrays(dict):
    """Tensors that become arrays in PyTorch's layout only when they are asked for: at ViT-H copies of all take 2.5 GB."""

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name).numpy()
        return array.T if array.ndim == 2 else array


def forward(
    model: paddle.nn.Layer, stacks: dict[str, list[paddle.nn.Layer]], objective: Callable
) -> tuple[dict, dict]:
    """Evaluation mode, batch 0: (what enters and leaves each block, by name; outputs)."""
    seen, hooks = {}, []
    for stack, blocks in stacks.items():
        hooks.append(
            blocks[0].register_forward_pre_hook(
                lambda block, inputs, name=f'{stack}.input': seen.update({name: inputs[0].numpy()})
            )
        )
        hooks += [
            block.register_forward_post_hook(
                lambda block, inputs, out, name=f'{stack}.{i}': seen.update({name: out.numpy()})
            )
            for i, block in enumerate(blocks)
        ]
    model.eval()
    with paddle.no_grad():
        outputs = {name: value.numpy() for name, value in objective(model, 0).items()}
    for hook in hooks:
        hook.remove()
    return seen, outputs


def gradients(model: paddle.nn.Layer, objective: Callable) -> tuple[np.ndarray, Arrays]:
    """Training mode, batch 0: (the loss, the gradient of every trainable parameter)."""
    model.train()
    loss = objective(model, 0)['loss']
    loss.backward()
    return loss.numpy(), Arrays(
        {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
    )


def train(
    model: paddle.nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    schedule: Cosine,
    steps: int,
    objective: Callable,
    clip_grad: float,
) -> np.ndarray:
    """The losses of so many optimizer steps, float32 [steps]; `schedule` counts steps, `clip_grad` may be infinite."""
    step, losses = (
        Step(optimizer, precision='off', clip_grad=None if np.isinf(clip_grad) else clip_grad),
        [],
    )
    model.clear_gradients()
    for i in range(steps):
        optimizer.set_lr(schedule(i))
        loss = objective(model, i)['loss']
        step.backward(loss, 0)
        losses.append(loss.item())
    return np.array(losses, 'float32')
