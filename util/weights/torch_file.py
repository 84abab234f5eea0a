"""Files that `torch.save` writes, read and written without PyTorch.

Since PyTorch 1.6 such a file is a zip archive: <root>/data.pkl is a pickle in which every tensor is a view of a storage,
and <root>/data/<key> is the storage's bare memory. Before, it was a row of pickles (magic number, version, machine, the
object, keys of the storages) and then, key by key, a storage's number of values and its memory. Only the zip archive has
checksums. The tree may hold whatever torch.save put there besides: Namespaces, paths, PyTorch's sizes, types and devices.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from util import atomic
from util.errors import InputError
from util.progress import bar
from util.weights import unpickler
from util.weights.safetensors_file import bfloat16

ZIP = b'PK'
LEGACY, VERSION = 0x1950A86A20F9469CFC6C, 1001

STORAGES = {
    'DoubleStorage': 'float64',
    'FloatStorage': 'float32',
    'HalfStorage': 'float16',
    'BFloat16Storage': 'bfloat16',
    'LongStorage': 'int64',
    'IntStorage': 'int32',
    'ShortStorage': 'int16',
    'CharStorage': 'int8',
    'ByteStorage': 'uint8',
    'BoolStorage': 'bool',
    'UntypedStorage': 'uint8',
}


@dataclass(frozen=True)
class _Storage:
    """`count` values in the file, of which start:stop are meant (all, but for views in files before PyTorch 0.4)."""

    key: str
    dtype: str
    count: int
    start: int
    stop: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and stride in values."""

    storage: _Storage
    offset: int
    size: tuple
    stride: tuple


class _Dict(dict):
    """OrderedDict and its kin. What a pickle wants to set on it (state_dict's _metadata) is dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any):
        pass


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> _Tensor:
    if any(rest[2:]):
        # behind requires_grad and the hooks: a negation or conjugation that PyTorch put off
        raise ValueError('it holds a tensor that is still to be negated or conjugated')
    return _Tensor(storage, offset, size, stride)


KNOWN = {
    **{('torch', name): dtype for name, dtype in STORAGES.items()},
    ('torch.storage', 'UntypedStorage'): 'uint8',
    **{('torch', dtype): dtype for dtype in STORAGES.values()},
    ('torch', 'Size'): tuple,
    ('torch', 'device'): lambda *parts: ':'.join(map(str, parts)),
    ('torch._utils', '_rebuild_tensor'): _tensor,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
    ('torch._utils', '_rebuild_parameter_with_state'): lambda tensor, *_: tensor,
    ('collections', 'OrderedDict'): _Dict,
    ('collections', 'Counter'): _Dict,
    ('collections', 'defaultdict'): lambda *factory: _Dict(),
    # mmengine's training checkpoints hold the history of their log, an object that also names its methods
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): _Dict,
    ('__builtin__', 'getattr'): lambda *nothing: None,
    **{
        (module, kind.__name__): kind
        for module in ('builtins', '__builtin__')
        for kind in (list, dict, set, int, float)
    },
}


class _Unpickler(unpickler.Unpickler):
    """Leaves a _Tensor or _Storage wherever the tree holds one; `storages` has them by key."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, path)
        self.storages = {}

    def find_class(self, module: str, name: str) -> Any:
        return KNOWN.get((module, name)) or super().find_class(module, name)

    def persistent_load(self, identifier: tuple) -> _Storage:
        kind, dtype, key, _, count, *view = identifier
        if (
            kind != 'storage'
            or dtype not in STORAGES.values()
            or not isinstance(count, int)
            or count < 0
        ):
            raise ValueError(f'it holds an unknown storage, {identifier}')
        start, length = view[0][1:] if any(view) else (0, count)
        self.storages[key] = storage = _Storage(key, dtype, count, start, start + length)
        return storage


def recognises(head: bytes) -> bool:
    """Whether a file that begins like this is a zip archive or of the format before; `head` of 32 bytes will do."""
    return head.startswith(ZIP) or LEGACY.to_bytes(10, 'little') in head[:32]


def read(path: Path) -> dict:
    """The dict in the file, in plain containers, tensors as NumPy arrays (bfloat16 as float32), most of them read-only.

    Tensors of one storage share memory. InputError where the file is damaged, unsafe, or holds what is no dense tensor.
    """
    with unpickler.one_error(path), open(path, 'rb') as file:
        tree = _read_zip(file, path) if file.peek().startswith(ZIP) else _read_legacy(file, path)
    if not isinstance(tree, dict):
        raise InputError(f'{path} holds a {type(tree).__name__}; expected a dict of tensors')
    return tree


def _read_zip(file: BinaryIO, path: Path) -> Any:
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise InputError(
            f'{path} is cut short: a zip archive without the directory at its end'
        ) from None
    names = set(archive.namelist())
    root = min(
        (name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')),
        key=len,
        default=None,
    )
    if root is None:
        raise InputError(
            f'{path} is a zip archive, but not a PyTorch file: there is no data.pkl in it'
        )
    if root + 'constants.pkl' in names or any(name.startswith(root + 'code/') for name in names):
        raise InputError(
            f'{path} is a TorchScript program, not a weight file; save its state_dict() with torch.save'
        )
    big = root + 'byteorder' in names and archive.read(root + 'byteorder') == b'big'
    memory = {}

    def values(storage: _Storage) -> np.ndarray:
        key = storage.key, storage.dtype
        if key not in memory:
            name = f'{root}data/{storage.key}'
            if name not in names:
                raise InputError(f'{path} is incomplete: storage {storage.key!r} is missing')
            memory[key] = _values(archive.read(name), storage, '>' if big else '<')
        return memory[key]

    # read whole, for its checksum is compared at its end, which the unpickler need not reach
    return _plain(_Unpickler(io.BytesIO(archive.read(root + 'data.pkl')), path).load(), values)


def _read_legacy(file: BinaryIO, path: Path) -> Any:
    _, version, _ = (unpickler.Unpickler(file, path).load() for _ in range(3))
    if version != VERSION:
        raise InputError(
            f'{path} is of version {version!r} of the PyTorch format; known is {VERSION}, and zip archives'
        )
    reader = _Unpickler(file, path)
    tree = reader.load()
    memory, file_size = {}, path.stat().st_size
    for key in unpickler.Unpickler(file, path).load():
        storage = reader.storages[key]
        size = storage.count * _numpy_dtype(storage).itemsize
        count = int.from_bytes(file.read(8), 'little', signed=True)
        if size > file_size - file.tell():
            raise InputError(f'{path} is cut short: storage {key!r} should have {size} bytes')
        if count != storage.count:
            raise InputError(
                f'{path} is damaged: storage {key!r} has {count} values here, {storage.count} in the pickle'
            )
        memory[key] = _values(file.read(size), storage, '<')
    if missing := reader.storages.keys() - memory:
        raise InputError(f'{path} is incomplete: storage {min(missing)!r} is missing')
    return _plain(tree, lambda storage: memory[storage.key])


def _numpy_dtype(storage: _Storage) -> np.dtype:
    return np.dtype('uint16' if storage.dtype == 'bfloat16' else storage.dtype)


def _values(data: bytes, storage: _Storage, byte_order: str) -> np.ndarray:
    """The storage's memory as an array [count], over the same bytes where it can; ValueError where they are too few."""
    dtype = _numpy_dtype(storage)
    if len(data) < storage.count * dtype.itemsize:
        raise ValueError(
            f'storage {storage.key!r} has {len(data)} bytes, too few for {storage.count} values'
        )
    array = np.frombuffer(data, dtype.newbyteorder(byte_order), storage.count).astype(
        dtype, copy=False
    )
    return bfloat16(array) if storage.dtype == 'bfloat16' else array


def _plain(tree: Any, values: Callable[[_Storage], np.ndarray]) -> Any:
    """The tree with arrays in place of tensors and storages."""

    def array(value: Any) -> np.ndarray | None:
        if isinstance(value, _Tensor):
            return _view(value, array(value.storage))
        return values(value)[value.start : value.stop] if isinstance(value, _Storage) else None

    return unpickler.plain(tree, array)


def _view(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The tensor's array over the values [count]; ValueError where it would reach beyond them."""
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(*size, *stride, offset, 0) < 0 or (0 not in size and last >= len(values)):
        raise ValueError(
            f'a tensor of size {size}, stride {stride} and offset {offset} '
            f'does not fit a storage of {len(values)} values'
        )
    width = values.itemsize
    return np.ndarray(size, values.dtype, values, offset * width, [step * width for step in stride])


@dataclass(frozen=True)
class _Name:
    """A name that the file is to hold, of a function or class that is not here to be imported."""

    module: str
    name: str

    def __call__(self):
        """Never called; pickle wants what rebuilds an object to be callable."""


class _Stored(tuple):
    """A storage's mark, and no tuple that the file happens to hold."""

    __slots__ = ()


class _Pickler(pickle._Pickler):
    """Pickles arrays as PyTorch's tensors; their memory is left in `memory`. (Only the pickler written in Python can be
    made to write a name without importing it.)"""

    def __init__(self, file: BinaryIO):
        super().__init__(file, protocol=2)
        self.memory = []

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        if isinstance(value, _Name):
            self.write(pickle.GLOBAL + f'{value.module}\n{value.name}\n'.encode())
        else:  # NumPy's numbers as plain ones, because torch.load takes no others
            super().save(
                value.item() if isinstance(value, np.generic) else value, save_persistent_id
            )

    def persistent_id(self, value: Any) -> tuple | None:
        return tuple(value) if isinstance(value, _Stored) else None

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return NotImplemented
        self.memory.append(value)
        kind = next(name for name, dtype in STORAGES.items() if dtype == value.dtype.name)
        storage = _Stored(
            ('storage', _Name('torch', kind), str(len(self.memory) - 1), 'cpu', value.size)
        )
        stride = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim))
        return _Name('torch._utils', '_rebuild_tensor_v2'), (
            storage,
            0,
            value.shape,
            stride,
            False,
            OrderedDict(),
        )


def write(path: Path, tree: dict) -> None:
    """Write nested dicts and lists of arrays and plain values as a zip archive that torch.load(weights_only=True) reads,
    whole or not at all."""
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(tree)
    with atomic.writing(path) as file, zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled.getvalue())
        archive.writestr('archive/byteorder', 'little')
        for number, array in enumerate(bar(pickler.memory, 'tensors')):
            archive.writestr(f'archive/data/{number}', array.tobytes())
        archive.writestr('archive/version', '3\n')
