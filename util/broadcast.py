"""Sums, products and quotients of two tensors on CPUs, the second of which may be repeated.

Paddle takes ten to thirty times as long as oneDNN where it repeats values, as with the bias of a
convolution, and as long again to sum their gradients. Inputs that oneDNN does not serve still go to
Paddle. Results are equal bit for bit, sums of gradients up to rounding.
"""

import math
from ctypes import c_int
from functools import lru_cache

import paddle
from paddle.autograd import PyLayer

from util import kernels, onednn, tensors
from util.tensors import Part

# Numbers of dnnl_types.h
ADD, MULTIPLY, DIVIDE = 0x1FFF0, 0x1FFF1, 0x1FFF4
SRC_1 = 2

FAST_AXES = 3  # oneDNN has but reference code for more; see merged
SMALL = 2**13  # values for which a call of oneDNN costs more than it saves

Shape = tuple[int, ...]


def add(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """x + other; other has as many axes as x, or fewer, and 1 where it is repeated."""
    return Sum.apply(x, other) if served(x, other) else x + other


def multiply(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """x * other; other has as many axes as x, or fewer, and 1 where it is repeated."""
    return Product.apply(x, other) if served(x, other) else x * other


def served(x: paddle.Tensor, other: paddle.Tensor) -> bool:
    """Whether oneDNN can repeat `other` along axes of x, and x is not small."""
    if not tensors.served(x, other) or tensors.count(x) < SMALL:
        return False
    if other.ndim > x.ndim or not kernels.uses_onednn():
        return False
    shape = aligned(x, other.shape)
    if len(merged(tuple(x.shape), shape)[0]) > FAST_AXES + 1:
        return False
    return all(side in (1, whole) for side, whole in zip(shape, x.shape))


def aligned(x: paddle.Tensor, shape: list[int]) -> Shape:
    """A shape with as many axes as x: 1 for those that it lacks at the front."""
    missing = x.ndim - len(shape)
    return (1,) * missing + tuple(shape)


class Sum(PyLayer):
    """x of any shape plus a tensor that is repeated along some axes."""

    @staticmethod
    def forward(ctx, x, other):
        ctx.wanted = tensors.wanted(x, other)
        ctx.shape = other.shape
        return combine(ADD, x, other)

    @staticmethod
    def backward(ctx, dy):
        """The gradients of both."""
        x_wanted, other_wanted = ctx.wanted
        return dy if x_wanted else None, total(dy, ctx.shape) if other_wanted else None


class Product(PyLayer):
    """x of any shape times a tensor that is repeated along some axes."""

    @staticmethod
    def forward(ctx, x, other):
        ctx.wanted = tensors.wanted(x, other)
        ctx.save_for_backward(x, other)
        return combine(MULTIPLY, x, other)

    @staticmethod
    def backward(ctx, dy):
        """The gradients of both."""
        x, other = ctx.saved_tensor()
        dx = dother = None
        x_wanted, other_wanted = ctx.wanted
        if other_wanted:
            of_each = combine(MULTIPLY, dy, x)
            dother = total(of_each, other.shape)
        if x_wanted:
            dx = combine(MULTIPLY, dy, other)
        return dx, dother


def combine(
    kind: int, x: paddle.Tensor, other: paddle.Tensor, output: paddle.Tensor | None = None
) -> paddle.Tensor:
    """One of ADD, MULTIPLY, DIVIDE of what `served` allows; `output` may be x itself."""
    x, other = x.contiguous(), other.contiguous()
    if output is None:
        output = tensors.empty(x.shape)
    sides, others = merged(tuple(x.shape), aligned(x, other.shape))
    if len(sides) <= FAST_AXES:
        operation(kind, sides, others)(x, other, output)
        return output
    run = operation(kind, sides[1:], others[1:])
    size = math.prod(sides[1:])
    step = math.prod(others[1:]) if others[0] > 1 else 0  # 0 repeats the same values
    for place in range(sides[0]):
        first = place * size
        run(Part(x, first), Part(other, place * step), Part(output, first))
    return output


def merged(shape: Shape, other: Shape) -> tuple[Shape, Shape]:
    """Both shapes with axes joined along which the other tensor is repeated alike."""
    sides, others = [1], [1]
    was_whole = True
    for side, part in zip(shape, other):
        if side == 1:
            continue
        is_whole = part == side
        if is_whole == was_whole or sides == [1]:
            sides[-1] *= side
            others[-1] *= part
        else:
            sides.append(side)
            others.append(part)
        was_whole = is_whole
    return tuple(sides), tuple(others)


@lru_cache(256)
def operation(kind: int, shape: Shape, other: Shape) -> onednn.Operation:
    """One of ADD, MULTIPLY, DIVIDE of tensors with these shapes: call(x, other, y)."""
    x, y = [onednn.library.layout(*sides) for sides in (shape, other)]
    description = onednn.library.primitive_desc('binary', c_int(kind), x, y, x)
    return onednn.Operation(description, (onednn.SRC, x), (SRC_1, y), (onednn.DST, x))


def total(dy: paddle.Tensor, shape: list[int]) -> paddle.Tensor:
    """The sum of dy over the axes along which a tensor of this shape was repeated.

    By products with ones: Paddle's own sum takes several times as long.
    """
    sides, others = merged(tuple(dy.shape), aligned(dy, shape))
    inner = 1  # values of the axes behind
    for side, part in zip(reversed(sides), reversed(others)):
        if side != part:
            ones = paddle.ones([side])
            if inner == 1:
                dy = paddle.matmul(dy.reshape([-1, side]), ones)
            else:
                dy = paddle.matmul(ones, dy.reshape([-1, side, inner]))
        inner *= part
    return dy.reshape(shape)
