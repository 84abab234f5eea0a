"""oneDNN through its C interface (version 3): the library comes within Paddle's wheel for CPUs.

Paddle's own CPU kernels for GELU, layer normalisation and softmax run on one thread and, but for a part, without vector
instructions; oneDNN's do not, and give the same numbers to rounding. All tensors are float32, on the CPU and contiguous.
An operation is prepared once for each shape; the last ones are kept.
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


class _Argument(ctypes.Structure):
    _fields_ = [('name', c_int), ('memory', c_void_p)]


class Library:
    """libdnnl, loaded when it is first asked for; `path` is where Paddle's wheel has it."""

    def __init__(self):
        self.path = Path(paddle.__file__).parent / 'libs/libdnnl.so.3'

    @cached_property
    def functions(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.path))

    def call(self, name: str, *args) -> None:
        status = getattr(self.functions, f'dnnl_{name}')(*args)
        if status:
            raise RuntimeError(f'oneDNN: {name} returned {status}; ONEDNN_VERBOSE=all says more')

    def make(self, name: str, *args) -> c_void_p:
        """What the function writes through its first argument."""
        handle = c_void_p()
        self.call(f'{name}_create', ctypes.byref(handle), *args)
        return handle

    @cached_property
    def engine(self) -> c_void_p:
        return self.make('engine', c_int(CPU), c_size_t(0))

    @cached_property
    def stream(self) -> c_void_p:
        return self.make('stream', self.engine, c_uint(IN_ORDER))

    def layout(self, *shape: int) -> c_void_p:
        """Descriptor of a contiguous float32 tensor."""
        strides = [1]
        for side in shape[:0:-1]:
            strides.insert(0, strides[0] * side)
        handle, sizes = c_void_p(), c_int64 * len(shape)
        self.call(
            'memory_desc_create_with_strides',
            ctypes.byref(handle),
            c_int(len(shape)),
            sizes(*shape),
            c_int(FLOAT32),
            sizes(*strides),
        )
        return handle


library = Library()


class Operation:
    """A prepared operation, with the names and layouts of its tensors in the order in which they are handed over."""

    def __init__(self, description: c_void_p, *tensors: tuple[int, c_void_p]):
        self.primitive = library.make('primitive', description)
        self.arguments = (_Argument * len(tensors))(
            *(
                (name, library.make('memory', layout, library.engine, c_void_p(0)).value)
                for name, layout in tensors
            )
        )
        self.lock = threading.Lock()

    def __call__(self, *tensors: paddle.Tensor) -> None:
        with self.lock:
            for argument, tensor in zip(self.arguments, tensors, strict=True):
                library.call(
                    'memory_set_data_handle', c_void_p(argument.memory), c_void_p(tensor.data_ptr())
                )
            library.call(
                'primitive_execute',
                self.primitive,
                library.stream,
                c_int(len(tensors)),
                self.arguments,
            )


@lru_cache(64)
def gelu(size: int) -> tuple[Operation, Operation]:
    """forward(x, y) and backward(x, dy, dx) of so many values."""
    x, none = library.layout(size), c_float(0)
    forward = library.make(
        'eltwise_forward_primitive_desc',
        library.engine,
        c_int(TRAINING),
        c_int(GELU_ERF),
        x,
        x,
        none,
        none,
        None,
    )
    backward = library.make(
        'eltwise_backward_primitive_desc',
        library.engine,
        c_int(GELU_ERF),
        x,
        x,
        x,
        none,
        none,
        forward,
        None,
    )
    return Operation(forward, (SRC, x), (DST, x)), Operation(
        backward, (SRC, x), (DIFF_DST, x), (DIFF_SRC, x)
    )


@lru_cache(64)
def softmax(rows: int, width: int) -> tuple[Operation, Operation]:
    """forward(x, y) and backward(y, dy, dx) over the rows of [rows, width]."""
    x, axis = library.layout(rows, width), c_int(1)
    forward = library.make(
        'softmax_forward_primitive_desc',
        library.engine,
        c_int(TRAINING),
        c_int(SOFTMAX),
        x,
        x,
        axis,
        None,
    )
    backward = library.make(
        'softmax_backward_primitive_desc',
        library.engine,
        c_int(SOFTMAX),
        x,
        x,
        x,
        axis,
        forward,
        None,
    )
    return Operation(forward, (SRC, x), (DST, x)), Operation(
        backward, (DST, x), (DIFF_DST, x), (DIFF_SRC, x)
    )


@lru_cache(64)
def layer_norm(rows: int, width: int, epsilon: float) -> tuple[Operation, Operation]:
    """Over the rows of [rows, width]: forward(x, weight, bias, y, mean, variance) and
    backward(x, weight, bias, mean, variance, dy, dx, dweight, dbias)."""
    x, row, weight = library.layout(rows, width), library.layout(rows), library.layout(width)
    rest = c_float(epsilon), c_uint(SCALE_AND_SHIFT)
    forward = library.make(
        'layer_normalization_forward_primitive_desc',
        library.engine,
        c_int(TRAINING),
        x,
        x,
        row,
        *rest,
        None,
    )
    backward = library.make(
        'layer_normalization_backward_primitive_desc',
        library.engine,
        c_int(BACKWARD),
        x,
        x,
        x,
        row,
        *rest,
        forward,
        None,
    )
    given = (SRC, x), (SCALE, weight), (SHIFT, weight)
    return (
        Operation(forward, *given, (DST, x), (MEAN, row), (VARIANCE, row)),
        Operation(
            backward,
            *given,
            (MEAN, row),
            (VARIANCE, row),
            (DIFF_DST, x),
            (DIFF_SRC, x),
            (DIFF_SCALE, weight),
            (DIFF_SHIFT, weight),
        ),
    )
