"""On CPUs, four of Paddle's operations done faster: linear layers, layer normalisation, GELU, softmax.

`install` puts them in the place of Paddle's own, so that no model knows of them. Numbers are the same to rounding; what
they do not serve (other types, a missing bias, static graphs) still goes to Paddle. reports/speed.md has what each earns.
"""

from functools import wraps

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from util import onednn


def served(*tensors: paddle.Tensor | None) -> bool:
    """Whether these are tensors of an eager float32 computation on the CPU, none of them empty."""
    return paddle.in_dynamic_mode() and all(
        isinstance(x, paddle.Tensor)
        and x.dtype == paddle.float32
        and x.place.is_cpu_place()
        and x.size
        for x in tensors
    )


def wanted(*tensors: paddle.Tensor) -> list[bool]:
    """Which gradients a PyLayer must return; Paddle wants None for the others."""
    return [not x.stop_gradient for x in tensors]


def rows(x: paddle.Tensor) -> int:
    return x.size // x.shape[-1]


def result(operation: onednn.Operation, *given: paddle.Tensor) -> paddle.Tensor:
    """What an operation makes of the given tensors: one like the first of them."""
    given = [x.contiguous() for x in given]
    made = paddle.empty_like(given[0])
    operation(*given, made)
    return made


class Linear(PyLayer):
    """x [.., D] -> [.., E]. The bias's gradient is a product with ones: Paddle's sum over rows takes five times as long."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.wanted = wanted(x, weight, bias)
        return paddle.addmm(bias, x.reshape([-1, x.shape[-1]]), weight).reshape(
            [*x.shape[:-1], weight.shape[1]]
        )

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensor()
        flat, dy = x.reshape([-1, x.shape[-1]]), dy.reshape([-1, dy.shape[-1]])
        of_x, of_weight, of_bias = ctx.wanted
        return (
            paddle.matmul(dy, weight, transpose_y=True).reshape(x.shape) if of_x else None,
            paddle.matmul(flat, dy, transpose_x=True) if of_weight else None,
            paddle.matmul(paddle.ones([1, len(dy)]), dy)[0] if of_bias else None,
        )


class LayerNorm(PyLayer):
    """x [.., D] normalised over its last axis."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.wanted, ctx.epsilon = wanted(x, weight, bias), epsilon
        x = x.contiguous()
        y, mean, variance = paddle.empty_like(x), paddle.empty([rows(x)]), paddle.empty([rows(x)])
        onednn.layer_norm(rows(x), x.shape[-1], epsilon)[0](x, weight, bias, y, mean, variance)
        ctx.save_for_backward(x, weight, bias, mean, variance)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight, bias, mean, variance = ctx.saved_tensor()
        dx, dweight, dbias = map(paddle.empty_like, (x, weight, bias))
        onednn.layer_norm(rows(x), x.shape[-1], ctx.epsilon)[1](
            x, weight, bias, mean, variance, dy.contiguous(), dx, dweight, dbias
        )
        return tuple(
            gradient if want else None for want, gradient in zip(ctx.wanted, (dx, dweight, dbias))
        )


class Gelu(PyLayer):
    """x any; the exact (erf) form."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return result(onednn.gelu(x.size)[0], x)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensor()
        return result(onednn.gelu(x.size)[1], x, dy)


class Softmax(PyLayer):
    """x [.., D] over its last axis."""

    @staticmethod
    def forward(ctx, x):
        y = result(onednn.softmax(rows(x), x.shape[-1])[0], x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        (y,) = ctx.saved_tensor()
        return result(onednn.softmax(rows(y), y.shape[-1])[1], y, dy)


def linear(layer: nn.Linear, x: paddle.Tensor):
    if paddle.is_grad_enabled() and served(x, layer.weight, layer.bias):
        return Linear.apply(x, layer.weight, layer.bias)


def layer_norm(layer: nn.LayerNorm, x: paddle.Tensor):
    if served(x, layer.weight, layer.bias) and list(layer._normalized_shape) == x.shape[-1:]:
        return LayerNorm.apply(x, layer.weight, layer.bias, layer._epsilon)


def gelu(layer: nn.GELU, x: paddle.Tensor):
    if served(x) and not layer._approximate:
        return Gelu.apply(x)


def softmax(x: paddle.Tensor, axis: int = -1, dtype: str | None = None, name: str | None = None):
    if served(x) and axis in (-1, x.ndim - 1) and dtype is None:
        return Softmax.apply(x)


def install() -> None:
    """From now on Paddle's Linear, LayerNorm, GELU and softmax are these where they serve; a second time does nothing."""
    if hasattr(nn.Linear.forward, '__wrapped__'):
        return
    _put(nn.Linear, 'forward', linear)
    if onednn.library.path.exists():
        # not in wheels for GPUs of other systems than Linux, nor for Arm
        _put(nn.LayerNorm, 'forward', layer_norm)
        _put(nn.GELU, 'forward', gelu)
        _put(nn.functional, 'softmax', softmax)


def _put(owner, name: str, faster) -> None:
    """Let `faster` answer first; where it returns None, Paddle does it."""
    own = getattr(owner, name)

    @wraps(own)
    def either(*args, **kwargs):
        result = faster(*args, **kwargs)
        return own(*args, **kwargs) if result is None else result

    setattr(owner, name, either)
