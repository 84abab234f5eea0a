"""oneDNN through its C interface (version 3). The library is part of Paddle's wheel for CPUs.

Paddle's own CPU kernels for GELU, layer normalisation and softmax run on one thread, mostly without
vector instructions, and those for convolutions copy each window of the input. oneDNN's use all
threads and vectors, and give the same numbers up to rounding. All tensors are on the CPU; they are
contiguous and float32 where nothing else is said. An operation is prepared once for each shape, and
the last ones of each kind are kept.
"""

import ctypes
import threading
import weakref
from ctypes import c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import paddle

from util import tensors
from util.tensors import BFLOAT16, FLOAT32, Strided

# Numbers of dnnl_types.h
CPU, IN_ORDER, ANY_LAYOUT, TRAINING, BACKWARD = 1, 1, 1, 64, 128
GELU_ERF, TIMES, SOFTMAX, SCALE_AND_SHIFT, CONVOLUTION = 0x31, 0x26, 0x30000, 6, 1
SRC, DST, WEIGHTS, BIAS, MEAN, VARIANCE, SCALE, SHIFT = 1, 17, 33, 41, 49, 50, 51, 52
DIFF_SRC, DIFF_DST, DIFF_WEIGHTS, DIFF_BIAS, DIFF_SCALE, DIFF_SHIFT = 129, 145, 161, 169, 255, 256
IMPLEMENTATION, LAYOUT_OF_ARGUMENT = 8, 255  # what a descriptor is asked for


class Handle(c_void_p):
    """An object of oneDNN; it is freed when Python drops the handle."""


class _Argument(ctypes.Structure):
    _fields_ = [('name', c_int), ('memory', c_void_p)]


class Library:
    """libdnnl, loaded at its first use. `path` is its file in Paddle's wheel."""

    def __init__(self):
        self.path = Path(paddle.__file__).parent / 'libs/libdnnl.so.3'

    @cached_property
    def functions(self) -> ctypes.CDLL:
        """The loaded library."""
        return ctypes.CDLL(str(self.path))

    def call(self, name: str, *args) -> None:
        """Call dnnl_{name}; RuntimeError if it returns an error."""
        function = getattr(self.functions, f'dnnl_{name}')
        status = function(*args)
        if status:
            raise RuntimeError(f'oneDNN: {name} returned {status}; ONEDNN_VERBOSE=all says more')

    def make(self, name: str, *args) -> Handle:
        """The object that dnnl_{name}_create makes."""
        handle = Handle()
        self.call(f'{name}_create', ctypes.byref(handle), *args)
        kind = 'primitive_desc' if name.endswith('primitive_desc') else name
        return self._owned(handle, kind)

    def _owned(self, handle: Handle, kind: str) -> Handle:
        """The handle, which frees its object in the end, though not at the program's exit."""
        value = c_void_p(handle.value)
        weakref.finalize(handle, self.call, f'{kind}_destroy', value).atexit = False
        return handle

    @cached_property
    def engine(self) -> c_void_p:
        """The CPU as a oneDNN engine."""
        return self.make('engine', c_int(CPU), c_size_t(0))

    @cached_property
    def stream(self) -> c_void_p:
        """The queue of the engine, in which operations run in order."""
        return self.make('stream', self.engine, c_uint(IN_ORDER))

    def layout(self, *shape: int, dtype: int = FLOAT32) -> Handle:
        """The memory descriptor of a contiguous tensor."""
        return self.strided(tensors.contiguous(*shape, dtype=dtype))

    def strided(self, tensor: Strided) -> Handle:
        """The memory descriptor of a tensor with strides."""
        strides = (c_int64 * len(tensor.shape))(*tensor.strides)
        return self._memory_desc('strides', tensor.shape, tensor.dtype, strides)

    def any_layout(self, *shape: int, dtype: int = FLOAT32) -> Handle:
        """A memory descriptor that leaves the order of the values to the operation."""
        return self._memory_desc('tag', shape, dtype, c_int(ANY_LAYOUT))

    def _memory_desc(self, by: str, shape: tuple[int, ...], dtype: int, order) -> Handle:
        handle = Handle()
        sizes = (c_int64 * len(shape))(*shape)
        arguments = [c_int(len(shape)), sizes, c_int(dtype), order]
        self.call(f'memory_desc_create_with_{by}', ctypes.byref(handle), *arguments)
        return self._owned(handle, 'memory_desc')

    def primitive_desc(self, name: str, *args, attributes: Handle | None = None) -> Handle:
        """The descriptor of an operation, from the arguments between engine and attributes."""
        return self.make(f'{name}_primitive_desc', self.engine, *args, attributes)

    def times(self, factor: float) -> Handle:
        """Attributes of an operation: its result is multiplied by a factor."""
        attributes = self.make('primitive_attr')
        steps = self.make('post_ops')
        self.call('post_ops_append_eltwise', steps, c_int(TIMES), c_float(factor), c_float(0))
        self.call('primitive_attr_set_post_ops', attributes, steps)
        return attributes

    def implementation(self, description: c_void_p) -> str:
        """The name of the code that runs an operation, such as jit:avx2 or ref:any."""
        name = c_char_p()
        question = [c_int(IMPLEMENTATION), c_int(0), ctypes.byref(name)]
        self.call('primitive_desc_query', description, *question)
        return name.value.decode()

    def layout_of(self, description: c_void_p, argument: int) -> c_void_p:
        """The layout that an operation has chosen for one of its tensors."""
        ask = self.functions.dnnl_primitive_desc_query_md
        ask.restype = c_void_p
        return c_void_p(ask(description, c_int(LAYOUT_OF_ARGUMENT), c_int(argument)))

    def equal(self, layout: c_void_p, other: c_void_p) -> bool:
        """Whether two layouts are the same."""
        return bool(self.functions.dnnl_memory_desc_equal(layout, other))

    def size_of(self, layout: c_void_p) -> int:
        """The number of float32 values in a layout, padding included."""
        ask = self.functions.dnnl_memory_desc_get_size
        ask.restype = c_size_t
        return ask(layout) // 4


library = Library()


class Operation:
    """A prepared operation. Call it with its tensors; it writes its results into the last ones.

    tensors: name and layout of each tensor, in the order of the call.
    """

    def __init__(self, description: c_void_p, *tensors: tuple[int, c_void_p]):
        self.primitive = library.make('primitive', description)
        self.arguments = (_Argument * len(tensors))()
        self.memories = []
        for argument, (name, layout) in zip(self.arguments, tensors):
            memory = library.make('memory', layout, library.engine, c_void_p(0))
            self.memories.append(memory)
            argument.name = name
            argument.memory = memory.value
        self.lock = threading.Lock()  # the arguments hold the tensors of one call

    def __call__(self, *given: paddle.Tensor | tensors.Part) -> None:
        count = c_int(len(given))
        with self.lock:
            for memory, tensor in zip(self.memories, given, strict=True):
                library.call('memory_set_data_handle', memory, c_void_p(tensor.data_ptr()))
            run = (self.primitive, library.stream, count, self.arguments)
            library.call('primitive_execute', *run)


class Reordered:
    """A prepared operation on contiguous tensors that works inside in layouts of its own choice.

    Call it as an `Operation`. tensors: name and contiguous layout of each; the operation writes
    the last `results` of them.
    """

    def __init__(self, description: Handle, *tensors: tuple[int, Handle], results: int = 1):
        self.first_result = len(tensors) - results
        self.changes = {}  # place of a tensor -> size of the other layout, change of the layout
        chosen = []
        for place, (name, contiguous) in enumerate(tensors):
            inside = library.layout_of(description, name)
            chosen.append((name, inside))
            if library.equal(contiguous, inside):
                continue
            ways = [contiguous, inside] if place < self.first_result else [inside, contiguous]
            self.changes[place] = library.size_of(inside), change_of_layout(*ways)
        self.operation = Operation(description, *chosen)

    def __call__(self, *given: paddle.Tensor) -> None:
        inside = list(given)
        for place, (size, change) in self.changes.items():
            inside[place] = tensors.empty([size])
            if place < self.first_result:
                change(given[place], inside[place])

        self.operation(*inside)

        for place, (_, change) in self.changes.items():
            if place >= self.first_result:
                change(inside[place], given[place])


def change_of_layout(before: c_void_p, after: c_void_p) -> Operation:
    """A copy from one layout into another: change(x, y)."""
    ends = [before, library.engine, after, library.engine]
    description = library.make('reorder_primitive_desc', *ends, None)
    return Operation(description, (SRC, before), (DST, after))


@lru_cache(64)
def rounding(size: int) -> Operation:
    """`size` values from float32 to the nearest bfloat16: round(x, y)."""
    return change_of_layout(library.layout(size), library.layout(size, dtype=BFLOAT16))


@lru_cache(256)
def product(
    x: Strided,
    y: Strided,
    result: Strided,
    factor: float = 1.0,
    has_bias: bool = False,
) -> Operation:
    """Products of matrices x [.., L, K] and y [.., K, M], times a factor: [.., L, M].

    multiply(x, y, result), or multiply(x, y, bias, result) with a float32 bias [M]. The factors
    have one type, float32 or bfloat16; sums are float32.
    """
    layouts = [library.strided(tensor) for tensor in (x, y, result)]
    width = result.shape[-1]
    bias = library.layout(*[1] * (len(result.shape) - 1), width) if has_bias else None
    attributes = None if factor == 1 else library.times(factor)
    ends = [*layouts[:2], bias, layouts[2]]
    description = library.primitive_desc('matmul', *ends, attributes=attributes)
    of_bias = [(BIAS, bias)] if has_bias else []
    inputs = [(SRC, layouts[0]), (WEIGHTS, layouts[1]), *of_bias]
    return Operation(description, *inputs, (DST, layouts[2]))


@lru_cache(64)
def gelu(size: int) -> tuple[Operation, Operation]:
    """GELU of `size` values: forward(x, y) and backward(x, dy, dx)."""
    x = library.layout(size)
    kind = c_int(GELU_ERF)
    options = [c_float(0), c_float(0)]  # alpha and beta, which GELU does not use

    layouts = [x, x]  # of x, y
    forward_desc = library.primitive_desc(
        'eltwise_forward', c_int(TRAINING), kind, *layouts, *options
    )
    layouts = [x, x, x]  # of dx, dy, x
    backward_desc = library.primitive_desc(
        'eltwise_backward', kind, *layouts, *options, forward_desc
    )

    forward = Operation(forward_desc, (SRC, x), (DST, x))
    backward = Operation(backward_desc, (SRC, x), (DIFF_DST, x), (DIFF_SRC, x))
    return forward, backward


@lru_cache(64)
def softmax(rows: int, width: int) -> tuple[Operation, Operation | None]:
    """Softmax over the rows of [rows, width]: forward(x, y) and backward(y, dy, dx).

    backward is None where oneDNN has but its reference code: without AVX-512.
    """
    x = library.layout(rows, width)
    kind = c_int(SOFTMAX)
    axis = c_int(1)

    layouts = [x, x]  # of x, y
    forward_desc = library.primitive_desc('softmax_forward', c_int(TRAINING), kind, *layouts, axis)
    layouts = [x, x, x]  # of dx, dy, y
    backward_desc = library.primitive_desc('softmax_backward', kind, *layouts, axis, forward_desc)

    forward = Operation(forward_desc, (SRC, x), (DST, x))
    if library.implementation(backward_desc).startswith('ref'):
        return forward, None
    backward = Operation(backward_desc, (DST, x), (DIFF_DST, x), (DIFF_SRC, x))
    return forward, backward


@lru_cache(64)
def layer_norm(rows: int, width: int, epsilon: float) -> tuple[Operation, Operation]:
    """Layer normalisation over the rows of [rows, width].

    forward(x, weight, bias, y, mean, variance) and
    backward(x, weight, bias, mean, variance, dy, dx, dweight, dbias).
    """
    name = 'layer_normalization'
    x = library.layout(rows, width)
    row = library.layout(rows)  # mean and variance have one value a row
    weight = library.layout(width)
    options = [c_float(epsilon), c_uint(SCALE_AND_SHIFT)]

    layouts = [x, x, row]  # of x, y, statistics
    forward_desc = library.primitive_desc(f'{name}_forward', c_int(TRAINING), *layouts, *options)
    layouts = [x, x, x, row]  # of dx, dy, x, statistics
    backward_desc = library.primitive_desc(
        f'{name}_backward', c_int(BACKWARD), *layouts, *options, forward_desc
    )

    inputs = [(SRC, x), (SCALE, weight), (SHIFT, weight)]
    statistics = [(MEAN, row), (VARIANCE, row)]
    gradients = [(DIFF_SRC, x), (DIFF_SCALE, weight), (DIFF_SHIFT, weight)]
    forward = Operation(forward_desc, *inputs, (DST, x), *statistics)
    backward = Operation(backward_desc, *inputs, *statistics, (DIFF_DST, x), *gradients)
    return forward, backward


@dataclass(frozen=True)
class Windows:
    """The windows of a convolution: (vertical, horizontal) steps, zeros at each edge, dilation."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def arguments(self) -> list:
        """The last arguments of a convolution's descriptor; a dilation of 1 is 0 there."""
        pair = c_int64 * 2
        gaps = [step - 1 for step in self.dilation]
        return [pair(*self.stride), pair(*gaps), pair(*self.padding), pair(*self.padding)]

    def places(self, x: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...]:
        """Rows and columns of the result."""
        sides = []
        for axis in (0, 1):
            reach = self.dilation[axis] * (weight[2 + axis] - 1) + 1
            room = x[2 + axis] + 2 * self.padding[axis] - reach
            sides.append(room // self.stride[axis] + 1)
        return tuple(sides)


@lru_cache(256)
def convolution(
    x: tuple[int, ...],
    weight: tuple[int, ...],
    windows: Windows,
    has_bias: bool,
    dtype: int = FLOAT32,
) -> tuple[Reordered, Reordered, Reordered]:
    """Convolution of maps [N, C, ..] with weights [O, C, ..], both given by their shapes.

    forward(x, weight, bias, y), of_maps(dy, weight, dx) and
    of_weights(x, dy, dweight, dbias), without the bias and its gradient if there is none.
    dtype: to which the factors of the products are rounded; all tensors are float32.
    """
    y = (x[0], weight[0], *windows.places(x, weight))
    shapes = (x, weight, (weight[0],), y)
    low_x, low_weight, low_y = [library.any_layout(*shape, dtype=dtype) for shape in (x, weight, y)]
    any_x, any_weight, any_y = [library.any_layout(*shape) for shape in (x, weight, y)]
    plain_x, plain_weight, plain_bias, plain_y = [library.layout(*shape) for shape in shapes]
    bias = plain_bias if has_bias else None
    kind = c_int(CONVOLUTION)
    options = windows.arguments()

    layouts = [low_x, low_weight, bias, any_y]
    forward_desc = library.primitive_desc(
        'convolution_forward', c_int(TRAINING), kind, *layouts, *options
    )
    layouts = [any_x, low_weight, low_y]
    maps_desc = library.primitive_desc(
        'convolution_backward_data', kind, *layouts, *options, forward_desc
    )
    layouts = [low_x, any_weight, bias, low_y]
    weights_desc = library.primitive_desc(
        'convolution_backward_weights', kind, *layouts, *options, forward_desc
    )

    of_bias = [(BIAS, plain_bias)] if has_bias else []
    of_dbias = [(DIFF_BIAS, plain_bias)] if has_bias else []
    inputs = [(SRC, plain_x), (WEIGHTS, plain_weight), *of_bias]
    gradients = [(DIFF_WEIGHTS, plain_weight), *of_dbias]
    dy = (DIFF_DST, plain_y)
    forward = Reordered(forward_desc, *inputs, (DST, plain_y))
    of_maps = Reordered(maps_desc, dy, (WEIGHTS, plain_weight), (DIFF_SRC, plain_x))
    of_weights = Reordered(weights_desc, (SRC, plain_x), dy, *gradients, results=len(gradients))
    return forward, of_maps, of_weights
