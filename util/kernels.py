"""Faster versions of Paddle's operations on CPUs: linear layers, layer norm, GELU, softmax,
convolutions. Those on maps alone are in util/maps.py.

`install` replaces Paddle's own, so models need not know of them.
Results are equal up to rounding.
Inputs that these do not serve (other types, a missing bias, static graphs) still go to Paddle.
reports/speed.md shows how much time each saves.
"""

import contextlib
from collections.abc import Iterator
from functools import wraps

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from util import onednn, tensors

NARROW = 384  # width of rows up to which oneDNN's product with a bias is the faster one
LARGE_MAPS = 2**18  # values that a convolution of single pixels makes; less, and copies cost more


def result(operation: onednn.Operation, *given: paddle.Tensor) -> paddle.Tensor:
    """The output of an operation on the given tensors; it has the shape of the first one."""
    given = [x.contiguous() for x in given]
    output = tensors.empty(given[0].shape)
    operation(*given, output)
    return output


class Linear(PyLayer):
    """x [.., D], weight [D, E], bias [E] -> [.., E]."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.wanted = tensors.wanted(x, weight, bias)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, dy):
        """The gradients of x, weight and bias."""
        x, weight = ctx.saved_tensor()
        flat = x.reshape([-1, x.shape[-1]])  # [R, D]
        dy = dy.reshape([-1, dy.shape[-1]])  # [R, E]

        dx = dweight = dbias = None
        x_wanted, weight_wanted, bias_wanted = ctx.wanted
        if x_wanted:
            flat_dx = paddle.matmul(dy, weight, transpose_y=True)  # [R, D]
            dx = flat_dx.reshape(x.shape)
        if weight_wanted:
            dweight = paddle.matmul(flat, dy, transpose_x=True)  # [D, E]
        if bias_wanted:
            # a product with ones: Paddle's sum over rows takes five times as long
            ones = paddle.ones([1, len(dy)])
            dbias = paddle.matmul(ones, dy)[0]  # [E]
        return dx, dweight, dbias


def product(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
    """x [.., D] times weight [D, E] plus bias [E]: [.., E].

    oneDNN adds the bias while it multiplies. Paddle copies it into each row before, which counts
    where rows are narrow; its products of wide rows are faster.
    """
    rows, (width, out_width) = tensors.rows(x), weight.shape
    shape = [*x.shape[:-1], out_width]
    if width > NARROW or not uses_onednn():
        return paddle.addmm(bias, x.reshape([rows, width]), weight).reshape(shape)
    y = tensors.empty(shape)
    sides = [(rows, width), (width, out_width), (rows, out_width)]
    multiply = onednn.product(*[tensors.contiguous(*pair) for pair in sides], has_bias=True)
    multiply(x.contiguous(), weight.contiguous(), bias.contiguous(), y)
    return y


class LayerNorm(PyLayer):
    """x [.., D] normalised over its last axis."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        ctx.wanted = tensors.wanted(x, weight, bias)
        ctx.epsilon = epsilon
        x = x.contiguous()
        inputs = (x, weight, bias)
        y = tensors.empty(x.shape)
        statistics = (
            tensors.empty([tensors.rows(x)]),
            tensors.empty([tensors.rows(x)]),
        )  # mean and variance
        normalise, _ = onednn.layer_norm(tensors.rows(x), x.shape[-1], epsilon)
        normalise(*inputs, y, *statistics)
        ctx.save_for_backward(*inputs, *statistics)
        return y

    @staticmethod
    def backward(ctx, dy):
        """The gradients of x, weight and bias."""
        *inputs, mean, variance = ctx.saved_tensor()
        gradients = [tensors.empty(tensor.shape) for tensor in inputs]
        x = inputs[0]
        _, differentiate = onednn.layer_norm(tensors.rows(x), x.shape[-1], ctx.epsilon)
        differentiate(*inputs, mean, variance, dy.contiguous(), *gradients)

        # Paddle expects None for a gradient that it does not want
        returned = []
        for is_wanted, gradient in zip(ctx.wanted, gradients):
            returned.append(gradient if is_wanted else None)
        return tuple(returned)


class Gelu(PyLayer):
    """GELU in its exact (erf) form; x of any shape."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        activate, _ = onednn.gelu(tensors.count(x))
        return result(activate, x)

    @staticmethod
    def backward(ctx, dy):
        """The gradient of x."""
        (x,) = ctx.saved_tensor()
        _, differentiate = onednn.gelu(tensors.count(x))
        return result(differentiate, x, dy)


class Softmax(PyLayer):
    """Softmax of x [.., D] over its last axis."""

    @staticmethod
    def forward(ctx, x):
        softmax_of_rows, _ = onednn.softmax(tensors.rows(x), x.shape[-1])
        y = result(softmax_of_rows, x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        """The gradient of x."""
        (y,) = ctx.saved_tensor()
        return softmax_gradient(y, dy)


def softmax_gradient(y: paddle.Tensor, dy: paddle.Tensor) -> paddle.Tensor:
    """The gradient of what a softmax over the last axis has made into y."""
    _, differentiate = onednn.softmax(tensors.rows(y), y.shape[-1])
    if differentiate is None:
        return paddle._C_ops.softmax_grad(y, dy, -1)
    return result(differentiate, y, dy)


class Convolution(PyLayer):
    """x [N, C, ..], weight [O, C, ..], bias [O] or None -> [N, O, ..]."""

    @staticmethod
    def forward(ctx, x, weight, bias, windows, dtype):
        given = [x, weight] if bias is None else [x, weight, bias]
        given = [tensor.contiguous() for tensor in given]
        ctx.wanted = tensors.wanted(*given)
        ctx.options = windows, bias is not None, dtype
        ctx.save_for_backward(*given)
        shapes = [tuple(tensor.shape) for tensor in (x, weight)]
        convolve, _, _ = onednn.convolution(*shapes, *ctx.options)
        y = tensors.empty([x.shape[0], weight.shape[0], *windows.places(*shapes)])
        convolve(*given, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        """The gradients of x, weight and, if there is one, bias."""
        x, weight, *biases = ctx.saved_tensor()
        dy = dy.contiguous()
        shapes = [tuple(tensor.shape) for tensor in (x, weight)]
        _, of_maps, of_weights = onednn.convolution(*shapes, *ctx.options)

        dx = None
        x_wanted, *others_wanted = ctx.wanted
        if x_wanted:
            dx = tensors.empty(x.shape)
            of_maps(dy, weight, dx)
        gradients = [None] * len(others_wanted)
        if any(others_wanted):
            made = [tensors.empty(tensor.shape) for tensor in (weight, *biases)]
            of_weights(x, dy, *made)
            for place, is_wanted in enumerate(others_wanted):
                if is_wanted:
                    gradients[place] = made[place]
        return dx, *gradients


def linear(layer: nn.Linear, x: paddle.Tensor) -> paddle.Tensor | None:
    """nn.Linear.forward, or None where Paddle must do it.

    The gain is in the backward pass, so Paddle also does it where no gradients are wanted.
    """
    if paddle.is_grad_enabled() and tensors.served(x, layer.weight, layer.bias):
        return Linear.apply(x, layer.weight, layer.bias)
    return None


def layer_norm(layer: nn.LayerNorm, x: paddle.Tensor) -> paddle.Tensor | None:
    """nn.LayerNorm.forward over the last axis, or None where Paddle must do it."""
    if not normalises(layer, x):
        return None
    return LayerNorm.apply(x, layer.weight, layer.bias, layer._epsilon)


def normalises(layer: nn.LayerNorm, x: paddle.Tensor) -> bool:
    """Whether a layer normalises x over its last axis, and oneDNN can do it."""
    if not tensors.served(x, layer.weight, layer.bias):
        return False
    return list(layer._normalized_shape) == x.shape[-1:]


def gelu(layer: nn.GELU, x: paddle.Tensor) -> paddle.Tensor | None:
    """nn.GELU.forward in its exact form, or None where Paddle must do it."""
    if tensors.served(x) and not layer._approximate:
        return Gelu.apply(x)
    return None


def softmax(
    x: paddle.Tensor, axis: int = -1, dtype: str | None = None, name: str | None = None
) -> paddle.Tensor | None:
    """nn.functional.softmax over the last axis, or None where Paddle must do it."""
    if dtype is not None or not tensors.served(x):
        return None
    over_last_axis = axis in (-1, x.ndim - 1)
    return Softmax.apply(x) if over_last_axis else None


def convolution(
    layer: nn.Conv2D, x: paddle.Tensor, dtype: int = tensors.FLOAT32
) -> paddle.Tensor | None:
    """nn.Conv2D.forward, or None where Paddle must do it. dtype: of the factors of products.

    Paddle loses time where windows overlap, and with the gradient of a bias over large maps.
    Patches and small maps are left to it.
    """
    given = [x, layer.weight] if layer.bias is None else [x, layer.weight, layer.bias]
    if not tensors.served(*given):
        return None
    size = layer.weight.shape[2:]
    overlap = any(side > step for side, step in zip(size, layer._stride))
    is_large = tensors.count(x) // x.shape[1] * layer.weight.shape[0] > LARGE_MAPS
    is_point = size == [1, 1] and layer.bias is not None and is_large
    plain = layer._groups == 1 and layer._padding_mode == 'zeros' and layer._data_format == 'NCHW'
    explicit = layer._padding_algorithm == 'EXPLICIT' and len(layer._updated_padding) == 2
    if not ((overlap or is_point) and plain and explicit):
        return None
    windows = onednn.Windows(
        tuple(layer._stride), tuple(layer._updated_padding), tuple(layer._dilation)
    )
    return Convolution.apply(x, layer.weight, layer.bias, windows, dtype)


def install() -> None:
    """Replace Paddle's layers and functions by those of this file; a second call does nothing."""
    if is_replaced(nn.Linear, 'forward'):
        return
    replace(nn.Linear, 'forward', linear)
    # Paddle's wheels have oneDNN except those for Arm, and those for GPUs outside Linux
    if onednn.library.path.exists():
        replace(nn.LayerNorm, 'forward', layer_norm)
        replace(nn.GELU, 'forward', gelu)
        replace(nn.functional, 'softmax', softmax)
        replace(nn.Conv2D, 'forward', convolution)


def uses_onednn() -> bool:
    """Whether `install` has put oneDNN in the place of Paddle's kernels."""
    return is_replaced(nn.GELU, 'forward')


def is_hooked(layer: nn.Layer) -> bool:
    """Whether somebody counts or watches the calls of a layer, so that it has to be called."""
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def in_use() -> str:
    """Whose kernels compute on the device in use, for a program's first line."""
    on_cpu = paddle.device.get_device() == 'cpu'
    if on_cpu and uses_onednn():
        return 'of oneDNN, others of Paddle'
    return 'of Paddle'


@contextlib.contextmanager
def plain_linear() -> Iterator[None]:
    """Have nn.Linear written as a product and a sum, as a Paddle for CPUs writes it.

    A Paddle for GPUs writes the operation linear_v2, which paddle2onnx 2.1 does not know.
    """
    flag = 'FLAGS_use_legacy_linear'
    before = paddle.get_flags(flag)
    paddle.set_flags({flag: True})
    try:
        yield
    finally:
        paddle.set_flags(before)


def is_replaced(owner, name: str) -> bool:
    """Whether `replace` has replaced a function."""
    return hasattr(getattr(owner, name), '__wrapped__')


def replace(owner, name: str, faster) -> None:
    """Replace a function: `faster` is called first, and what was there where that returns None.

    A second call does nothing.
    """
    own = getattr(owner, name)
    if getattr(own, 'faster', None) is faster:
        return

    @wraps(own)
    def either(*args, **kwargs):
        result = faster(*args, **kwargs)
        if result is None:
            return own(*args, **kwargs)
        return result

    either.faster = faster
    setattr(owner, name, either)
