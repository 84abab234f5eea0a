"""oneDNN through its C interface (version 3). The library is part of Paddle's wheel for CPUs.

Paddle's own CPU kernels for GELU, layer normalisation and softmax run on one thread, mostly without
vector instructions. oneDNN's use both and give the same numbers up to rounding. All tensors are
float32, on the CPU and contiguous. An operation is prepared once for each shape, and the last 64 of
each kind are kept.
"""

import ctypes
import threading
from ctypes import c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from functools import cached_property, lru_cache
from pathlib import Path

import paddle

# Numbers of dnnl_types.h
CPU, IN_ORDER, FLOAT32, TRAINING, BACKWARD = 1, 1, 3, 64, 128
GELU_ERF, SOFTMAX, SCALE_AND_SHIFT = 0x31, 0x30000, 6
SRC, DST, MEAN, VARIANCE, SCALE, SHIFT = 1, 17, 49, 50, 51, 52
DIFF_SRC, DIFF_DST, DIFF_SCALE, DIFF_SHIFT = 129, 145, 255, 256

NO_ATTRIBUTES = None  # the last argument of every primitive descriptor


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

    def make(self, name: str, *args) -> c_void_p:
        """The object that dnnl_{name}_create makes."""
        handle = c_void_p()
        self.call(f'{name}_create', ctypes.byref(handle), *args)
        return handle

    @cached_property
    def engine(self) -> c_void_p:
        """The CPU as a oneDNN engine."""
        return self.make('engine', c_int(CPU), c_size_t(0))

    @cached_property
    def stream(self) -> c_void_p:
        """The queue of the engine, in which operations run in order."""
        return self.make('stream', self.engine, c_uint(IN_ORDER))

    def layout(self, *shape: int) -> c_void_p:
        """The memory descriptor of a contiguous float32 tensor."""
        # row-major: the last axis has stride 1
        strides = [1]
        for side in shape[:0:-1]:
            strides.insert(0, strides[0] * side)

        handle = c_void_p()
        sizes = c_int64 * len(shape)
        arguments = [c_int(len(shape)), sizes(*shape), c_int(FLOAT32), sizes(*strides)]
        self.call('memory_desc_create_with_strides', ctypes.byref(handle), *arguments)
        return handle

    def primitive_desc(self, name: str, *args) -> c_void_p:
        """The descriptor of an operation, from the arguments between engine and attributes."""
        return self.make(f'{name}_primitive_desc', self.engine, *args, NO_ATTRIBUTES)


library = Library()


class Operation:
    """A prepared operation. Call it with its tensors; it writes its results into the last ones.

    tensors: name and layout of each tensor, in the order of the call.
    """

    def __init__(self, description: c_void_p, *tensors: tuple[int, c_void_p]):
        self.primitive = library.make('primitive', description)
        self.arguments = (_Argument * len(tensors))()
        for argument, (name, layout) in zip(self.arguments, tensors):
            memory = library.make('memory', layout, library.engine, c_void_p(0))
            argument.name = name
            argument.memory = memory.value
        self.lock = threading.Lock()  # the arguments hold the tensors of one call

    def __call__(self, *tensors: paddle.Tensor) -> None:
        count = c_int(len(tensors))
        with self.lock:
            for argument, tensor in zip(self.arguments, tensors, strict=True):
                memory = c_void_p(argument.memory)
                library.call('memory_set_data_handle', memory, c_void_p(tensor.data_ptr()))
            run = (self.primitive, library.stream, count, self.arguments)
            library.call('primitive_execute', *run)


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
def softmax(rows: int, width: int) -> tuple[Operation, Operation]:
    """Softmax over the rows of [rows, width]: forward(x, y) and backward(y, dy, dx)."""
    x = library.layout(rows, width)
    kind = c_int(SOFTMAX)
    axis = c_int(1)

    layouts = [x, x]  # of x, y
    forward_desc = library.primitive_desc('softmax_forward', c_int(TRAINING), kind, *layouts, axis)
    layouts = [x, x, x]  # of dx, dy, y
    backward_desc = library.primitive_desc('softmax_backward', kind, *layouts, axis, forward_desc)

    forward = Operation(forward_desc, (SRC, x), (DST, x))
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
