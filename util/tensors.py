"""What oneDNN's operations ask of tensors: how many values, of which type, how they lie in memory.

Paddle's own answers make detours: `Tensor.size` takes 13 microseconds and `paddle.empty` 10, which
counts in small models.
"""

import math
from dataclasses import dataclass

import paddle

CPU = paddle.CPUPlace()
BFLOAT16, FLOAT32 = 2, 3  # of dnnl_types.h


def count(x: paddle.Tensor) -> int:
    """The number of values."""
    return math.prod(x.shape)


def empty(shape: list[int], dtype=paddle.float32) -> paddle.Tensor:
    """A tensor on the CPU whose values are not set yet."""
    return paddle._C_ops.empty(shape, dtype, CPU)


def served(*tensors: paddle.Tensor | None) -> bool:
    """Whether these are tensors of an eager float32 computation on the CPU, none of them empty."""
    if not paddle.in_dynamic_mode():
        return False
    return all(_is_served(x) for x in tensors)


def _is_served(x: paddle.Tensor | None) -> bool:
    if not isinstance(x, paddle.Tensor) or x.dtype != paddle.float32:
        return False
    return x.place.is_cpu_place() and count(x) > 0


def wanted(*tensors: paddle.Tensor) -> list[bool]:
    """Whether a PyLayer must return the gradient of each tensor; Paddle expects None if not."""
    return [not x.stop_gradient for x in tensors]


def rows(x: paddle.Tensor) -> int:
    """The number of vectors along the last axis: x [.., D] has x.size / D of them."""
    return count(x) // x.shape[-1]


@dataclass(frozen=True)
class Strided:
    """How an operation finds the values of a tensor: the step along each axis, in values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: int = FLOAT32

    def transposed(self) -> 'Strided':
        """The same values with the last two axes exchanged."""
        *shape, rows, columns = self.shape
        *strides, down, across = self.strides
        return Strided((*shape, columns, rows), (*strides, across, down), self.dtype)


def contiguous(*shape: int, dtype: int = FLOAT32) -> Strided:
    """A tensor in row-major order: the last axis has stride 1."""
    strides = [1]
    for side in shape[:0:-1]:
        strides.insert(0, strides[0] * side)
    return Strided(shape, tuple(strides), dtype)


def dtype(x: paddle.Tensor) -> int:
    """oneDNN's number of a tensor's type, float32 or bfloat16."""
    return FLOAT32 if x.dtype == paddle.float32 else BFLOAT16


@dataclass(frozen=True)
class Part:
    """A tensor from one of its values on, for an operation that reads or writes with strides."""

    tensor: paddle.Tensor
    first: int

    def data_ptr(self) -> int:
        """The address of that value."""
        return self.tensor.data_ptr() + self.first * self.tensor.element_size()
