"""A model on several ranks: the same weights on all of them, and gradients that are averaged."""

import contextlib
from collections.abc import Sequence

import paddle

from util import device, dist

LARGE = 2**18  # values of a gradient that is a message of its own: 1 MB


def wrap(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """The model for training, with the weights of rank 0.

    On GPUs its gradients are averaged over the ranks while others are still computed. On CPUs
    nothing is gained by that, since computing and sending share the cores: average_gradients does
    it afterwards, with fewer copies.
    """
    if dist.world_size() == 1:
        return model
    dist.barrier()  # some ranks read files for longer than the others wait for weights
    if device.kind() != 'cpu':
        return paddle.DataParallel(model)
    dist.copy_from_first(model.state_dict().values())
    return model


def reducing(network: paddle.nn.Layer, reduce: bool) -> contextlib.AbstractContextManager:
    """Context of a forward and backward pass of a wrapped model.

    Where DataParallel averages the gradients, it does so if `reduce` is true. It averages those of
    earlier passes too, so a round of accumulation communicates once, in its last pass.
    """
    if reduce or not isinstance(network, paddle.DataParallel):
        return contextlib.nullcontext()
    return network.no_sync()


@paddle.no_grad()
def average_gradients(parameters: Sequence[paddle.Tensor]) -> None:
    """Average the gradients over the ranks, on CPUs; elsewhere DataParallel has done so.

    All ranks have gradients of the same parameters. Large ones are summed where they are, small
    ones in one message.
    """
    if dist.world_size() == 1 or device.kind() != 'cpu':
        return
    small = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.size < LARGE:
            small.append(parameter.grad)
        else:
            dist.mean_tensor(parameter.grad)
    if not small:
        return
    means = dist.mean_tensor(paddle.concat([gradient.flatten() for gradient in small]))
    for gradient, mean in zip(small, means.split([gradient.size for gradient in small])):
        paddle.assign(mean.reshape(gradient.shape), gradient)


def broadcast_buffers(model: paddle.nn.Layer) -> None:
    """Copy rank 0's state that has no gradient to every rank, such as BatchNorm's statistics.

    They differ between ranks after training. Paddle counts some of them as parameters, so this
    looks for tensors without a gradient and not for buffers.
    """
    tensors = model.state_dict().values()
    dist.copy_from_first([tensor for tensor in tensors if tensor.stop_gradient])
