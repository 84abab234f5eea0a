"""Products of matrices and convolutions in bfloat16, on CPUs that have it.

Factors are rounded to bfloat16 (8 bits) just before a product; sums, results, weights and all that
is not a product stay float32. So weights need no second copy in float32, and losses no scaling.
The products are oneDNN's. On GPUs, Paddle's own auto_cast does more than this file.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from util import broadcast, kernels, onednn, tensors

FAST = ('avx512_bf16', 'amx_bf16')  # as Linux names them

_is_on = False


@lru_cache(1)
def is_fast() -> bool:
    """Whether this processor has instructions for products in bfloat16, and oneDNN uses them."""
    if not onednn.library.path.exists():
        return False
    matrices = onednn.library.layout(64, 64, dtype=tensors.BFLOAT16)
    try:
        description = onednn.library.primitive_desc('matmul', matrices, matrices, None, matrices)
    except RuntimeError:  # without AVX-512 there is no such product
        return False
    code = onednn.library.implementation(description)
    return 'amx' in code or 'avx512_core_bf16' in code  # else it emulates them


def is_on() -> bool:
    """Whether factors are rounded at present."""
    return _is_on


@contextlib.contextmanager
def products(on: bool = True) -> Iterator[None]:
    """Have the products of linear layers, convolutions and attention take bfloat16, or float32."""
    global _is_on
    before, _is_on = _is_on, on
    try:
        yield
    finally:
        _is_on = before


def as_now(function: Callable) -> Callable:
    """A function that computes in the precision of now, whenever it is called."""
    on = _is_on

    def call(*args):
        with products(on):
            return function(*args)

    return call


def rounded(x: paddle.Tensor) -> paddle.Tensor:
    """x in bfloat16."""
    x = x.contiguous()
    y = tensors.empty(x.shape, paddle.bfloat16)
    onednn.rounding(tensors.count(x))(x, y)
    return y


def chosen() -> Callable[[paddle.Tensor], paddle.Tensor]:
    """What makes a tensor a factor of a product now: `rounded`, or `contiguous` if this is off."""
    return rounded if _is_on else paddle.Tensor.contiguous


def matrix(rows: int, columns: int) -> tensors.Strided:
    """A contiguous matrix in bfloat16."""
    return tensors.contiguous(rows, columns, dtype=tensors.BFLOAT16)


class Linear(PyLayer):
    """x [.., D], weight [D, E], bias [E] or None -> [.., E]."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        given = [x, weight] if bias is None else [x, weight, bias]
        ctx.wanted = tensors.wanted(*given)
        x, weight = rounded(x), rounded(weight)
        ctx.save_for_backward(x, weight)
        rows, (width, out_width) = tensors.rows(x), weight.shape
        y = tensors.empty([*x.shape[:-1], out_width])
        ends = [matrix(rows, width), matrix(width, out_width), tensors.contiguous(rows, out_width)]
        multiply = onednn.product(*ends, has_bias=bias is not None)
        multiply(x, weight, *given[2:], y)
        return y

    @staticmethod
    def backward(ctx, dy):
        """The gradients of x, weight and, if there is one, bias."""
        x, weight = ctx.saved_tensor()
        rows, (width, out_width) = tensors.rows(x), weight.shape
        x_wanted, weight_wanted, *bias_wanted = ctx.wanted
        low = rounded(dy)

        dx = dweight = None
        if x_wanted:
            dx = tensors.empty(x.shape)
            ends = [matrix(rows, out_width), matrix(width, out_width).transposed()]
            onednn.product(*ends, tensors.contiguous(rows, width))(low, weight, dx)
        if weight_wanted:
            dweight = tensors.empty(weight.shape)
            ends = [matrix(rows, width).transposed(), matrix(rows, out_width)]
            onednn.product(*ends, tensors.contiguous(width, out_width))(x, low, dweight)
        if not bias_wanted:
            return dx, dweight
        dbias = None
        if bias_wanted[0]:
            dbias = broadcast.total(dy, [out_width])
        return dx, dweight, dbias


def linear(layer: nn.Linear, x: paddle.Tensor) -> paddle.Tensor | None:
    """nn.Linear.forward in bfloat16, or None where it is off or cannot be served."""
    given = [x, layer.weight] if layer.bias is None else [x, layer.weight, layer.bias]
    if _is_on and tensors.served(*given):
        return Linear.apply(x, layer.weight, layer.bias)
    return None


def convolution(layer: nn.Conv2D, x: paddle.Tensor) -> paddle.Tensor | None:
    """nn.Conv2D.forward in bfloat16, or None where it is off or cannot be served."""
    return kernels.convolution(layer, x, tensors.BFLOAT16) if _is_on else None


def install() -> None:
    """Let Paddle's layers ask these first; a second call does nothing. After kernels.install."""
    if onednn.library.path.exists():
        kernels.replace(nn.Linear, 'forward', linear)
        kernels.replace(nn.Conv2D, 'forward', convolution)
