"""Our side of a comparison: the same quantities as the original writes.

They come from a model and a function objective(model, i) -> outputs for batch i as a dict of
tensors, the loss last, under 'loss'.
"""

from collections.abc import Callable

import numpy as np
import paddle

from util.amp import Step
from util.optim import Cosine

# A probe's statistics, our names -> PyTorch's
BUFFERS = {'head.0._mean': 'head.0.running_mean', 'head.0._variance': 'head.0.running_var'}


def tensors(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """All parameters and buffers under official names."""
    return {BUFFERS.get(name, name): tensor for name, tensor in model.state_dict().items()}


def shapes(model: paddle.nn.Layer) -> dict[str, list[int]]:
    """The shapes of all tensors in PyTorch's layout, where Linear weights are [out, in]."""
    return {name: official_shape(tensor) for name, tensor in tensors(model).items()}


def official_shape(tensor: paddle.Tensor | np.ndarray) -> list[int]:
    """The shape of a tensor of ours in PyTorch's layout."""
    shape = list(tensor.shape)
    return shape[::-1] if len(shape) == 2 else shape


class Arrays(dict):
    """Tensors that become arrays in PyTorch's layout only when asked for.

    At ViT-H copies of all would take 2.5 GB.
    """

    def __getitem__(self, name: str) -> np.ndarray:
        array = super().__getitem__(name).numpy()
        return array.T if array.ndim == 2 else array


def forward(
    model: paddle.nn.Layer, stacks: dict[str, list[paddle.nn.Layer]], objective: Callable
) -> tuple[dict, dict]:
    """(the input of each stack and the output of each block, by name; the outputs of the model).

    Batch 0 in evaluation mode.
    """
    seen = {}
    hooks = []
    for stack, blocks in stacks.items():
        keep = _keep_input(seen, f'{stack}.input')
        hooks.append(blocks[0].register_forward_pre_hook(keep))
        for i, block in enumerate(blocks):
            keep = _keep_output(seen, f'{stack}.{i}')
            hooks.append(block.register_forward_post_hook(keep))

    model.eval()
    with paddle.no_grad():
        outputs = {name: value.numpy() for name, value in objective(model, 0).items()}
    for hook in hooks:
        hook.remove()
    return seen, outputs


def _keep_input(seen: dict, name: str) -> Callable:
    def hook(block, inputs):
        seen[name] = inputs[0].numpy()

    return hook


def _keep_output(seen: dict, name: str) -> Callable:
    def hook(block, inputs, output):
        seen[name] = output.numpy()

    return hook


def gradients(model: paddle.nn.Layer, objective: Callable) -> tuple[np.ndarray, Arrays]:
    """(the loss, the gradient of every trainable parameter), of batch 0 in training mode."""
    model.train()
    loss = objective(model, 0)['loss']
    loss.backward()
    found = Arrays()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad
    return loss.numpy(), found


def train(
    model: paddle.nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    schedule: Cosine,
    steps: int,
    objective: Callable,
    clip_grad: float,
) -> np.ndarray:
    """The losses of so many optimizer steps, float32 [steps].

    `schedule` counts steps; `clip_grad` may be infinite.
    """
    limit = None if np.isinf(clip_grad) else clip_grad
    step = Step(optimizer, precision='off', clip_grad=limit)
    losses = []
    model.clear_gradients()
    for i in range(steps):
        optimizer.set_lr(schedule(i))
        loss = objective(model, i)['loss']
        step.backward(loss, 0)
        losses.append(loss.item())
    return np.array(losses, 'float32')
