"""Faster versions of Paddle's operations on maps: bilinear resizing, cross-entropy, biases.

As in util/kernels.py, `install` replaces Paddle's own, and what these do not serve goes to Paddle.
"""

import inspect
from functools import lru_cache

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from util import bfloat16, broadcast, tensors
from util.kernels import Linear, is_hooked, is_replaced, replace, uses_onednn


class Resize(PyLayer):
    """Bilinear resizing of maps x [N, C, h, w] to [N, C, H, W] as two products of matrices."""

    @staticmethod
    def forward(ctx, x, height, width):
        rows, columns = resizing(x.shape[2], height), resizing(x.shape[3], width)
        ctx.matrices = rows, columns
        return (rows @ x) @ columns.t()

    @staticmethod
    def backward(ctx, dy):
        """The gradient of x."""
        rows, columns = ctx.matrices
        return paddle.matmul(rows, dy, transpose_x=True) @ columns


@lru_cache(64)
def resizing(size: int, target: int) -> paddle.Tensor:
    """The matrix [target, size] that resizes one axis as Paddle does, pixels centred at halves."""
    with paddle.no_grad():
        one_hot = paddle.eye(size).reshape([1, 1, size, size])
        resize = inspect.unwrap(nn.functional.interpolate)
        return resize(one_hot, [target, size], mode='bilinear')[0, 0]


def interpolate(
    x: paddle.Tensor,
    size: list[int] | None = None,
    scale_factor: float | None = None,
    mode: str = 'nearest',
    align_corners: bool = False,
    **options,
) -> paddle.Tensor | None:
    """nn.functional.interpolate of maps to a size, bilinear, or None where Paddle must do it."""
    if mode != 'bilinear' or align_corners or options or scale_factor is not None:
        return None
    is_size = isinstance(size, list | tuple) and all(isinstance(side, int) for side in size)
    if not (is_size and tensors.served(x)):
        return None
    return Resize.apply(x, *size)


def cross_entropy(
    input: paddle.Tensor, label: paddle.Tensor, *others, axis: int = -1, **options
) -> paddle.Tensor | None:
    """nn.functional.cross_entropy of scores [N, K, ..] and labels [N, 1, ..] at each place of maps.

    None where Paddle must do it. With the classes last, it takes half of the time.
    """
    of_maps = axis == 1 and input.ndim == 4 and label.ndim == 4 and tensors.served(input)
    if not of_maps or others or options.get('reduction') != 'none':
        return None
    own = nn.functional.cross_entropy
    scores = input.transpose([0, 2, 3, 1])  # [N, rows, columns, K]
    losses = own(scores, label.transpose([0, 2, 3, 1]), axis=-1, **options)
    return losses.transpose([0, 3, 1, 2])


def convolution(
    x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None = None, *others, **options
) -> paddle.Tensor | None:
    """A convolution of maps [N, C, ..], its bias added here, or None where Paddle must do it."""
    if bias is None or others or options.get('channel_dim') != 1:
        return None
    if not tensors.served(x, weight, bias):
        return None
    y = nn.functional.conv._conv_nd(x, weight, bias=None, **options)
    return add_channels(y, bias, axis=1)


def add_channels(x: paddle.Tensor, y: paddle.Tensor, axis: int = -1) -> paddle.Tensor | None:
    """The sum of maps x [N, C, ..] and a bias y [C], or None where Paddle must do it."""
    if axis != 1 or y.ndim != 1 or x.ndim < 3 or not tensors.served(x, y):
        return None
    return broadcast.add(x, y.reshape([-1] + [1] * (x.ndim - 2)))


def patches(layer: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor:
    """The convolution of images [N, C, ..] by windows that touch, as [N, rows, columns, E]."""
    if _is_product(layer, x):
        return project(layer, x.transpose([0, 2, 3, 1]))
    return layer(x).transpose([0, 2, 3, 1])


def merged(layer: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor:
    """The same for maps with the channels last: [N, .., C] -> [N, rows, columns, E]."""
    if _is_product(layer, x):
        return project(layer, x)
    return layer(x.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])


def _is_product(layer: nn.Conv2D, x: paddle.Tensor) -> bool:
    """Whether a product of matrices does as well as the convolution."""
    if not uses_onednn() or is_hooked(layer) or layer.bias is None:
        return False
    return tensors.served(x, layer.weight, layer.bias)


def project(layer: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor:
    """The convolution of x [N, height, width, C] as one product: [N, rows, columns, E].

    Windows touch, and the layer has no padding. Rows and columns that fill no window are left out.
    """
    N, height, width, C = x.shape
    E, _, p, q = layer.weight.shape
    rows, columns = height // p, width // q
    if height % p or width % q:
        x = x[:, : rows * p, : columns * q]
    x = x.reshape([N * rows, p, columns, q * C])
    x = x.transpose([0, 2, 1, 3])  # [N rows, columns, p, q C]
    x = x.reshape([N, rows, columns, p * q * C])
    weight = layer.weight.transpose([2, 3, 1, 0])  # [p, q, C, E]
    product = bfloat16.Linear if bfloat16.is_on() else Linear
    return product.apply(x, weight.reshape([-1, E]), layer.bias)


def install() -> None:
    """Replace Paddle's functions by those of this file; a second call does nothing."""
    if is_replaced(nn.functional, 'interpolate'):
        return
    replace(nn.functional, 'interpolate', interpolate)
    replace(nn.functional, 'cross_entropy', cross_entropy)
    if uses_onednn():
        replace(nn.functional.conv, '_conv_nd', convolution)
        replace(nn.functional.conv, '_add_with_axis', add_channels)  # of transposed ones
