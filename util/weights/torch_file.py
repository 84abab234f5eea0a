"""Files that `torch.save` writes, read and written without PyTorch.

Since PyTorch 1.6 such a file is a zip archive. <root>/data.pkl is a pickle in which every tensor is
a view of a storage, and <root>/data/<key> is the memory of that storage. Earlier files are a
sequence of pickles (magic number, version, machine, the object, the storages' keys), followed for
each key by the storage's number of values and its memory. Only the zip archive has checksums.

The tree may contain anything else that people put there: namespaces, paths, PyTorch's sizes, types
and devices.
"""

import io
import pickle
import struct
import zipfile
import zlib
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
from util.weights.mapped import mapped
from util.weights.safetensors_file import bfloat16

ZIP = b'PK'
LOCAL = struct.Struct('<26xHH')  # before a file in a zip archive: lengths of its name and extra
ALIGN = 16  # bytes
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
    """`count` values in the file, of which this storage is the part start:stop.

    That is all of them, except for views in files before PyTorch 0.4.
    """

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
    """An OrderedDict or similar class; attributes (a state_dict's _metadata) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any):
        pass


def _tensor(storage: _Storage, offset: int, size: tuple, stride: tuple, *rest: Any) -> _Tensor:
    # rest: requires_grad, hooks, and marks of a negation or conjugation that PyTorch has delayed
    if any(rest[2:]):
        raise ValueError('it holds a tensor that is still to be negated or conjugated')
    return _Tensor(storage, offset, size, stride)


# (module, name) of a class or function -> its replacement here
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
    # checkpoints of mmengine hold the history of their log, an object that also names its methods
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): _Dict,
    ('__builtin__', 'getattr'): lambda *nothing: None,
    **{
        (module, kind.__name__): kind
        for module in ('builtins', '__builtin__')
        for kind in (list, dict, set, int, float)
    },
}


class _Unpickler(unpickler.Unpickler):
    """Puts a _Tensor or _Storage wherever the tree holds one; `storages` has them by key."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, path)
        self.storages = {}

    def find_class(self, module: str, name: str) -> Any:
        """The replacement of a class or function of PyTorch; others as in the parent class."""
        return KNOWN.get((module, name)) or super().find_class(module, name)

    def persistent_load(self, identifier: tuple) -> _Storage:
        """The storage that a persistent id of the pickle describes; ValueError for other ids."""
        kind, dtype, key, _, count, *view = identifier
        is_storage = kind == 'storage' and dtype in STORAGES.values()
        if not is_storage or not isinstance(count, int) or count < 0:
            raise ValueError(f'it holds an unknown storage, {identifier}')
        start = 0
        length = count
        if any(view):
            _, start, length = view[0]
        storage = _Storage(key, dtype, count, start, stop=start + length)
        self.storages[key] = storage
        return storage


def recognises(head: bytes) -> bool:
    """Whether a file with these first bytes, at least 32, is of either format."""
    return head.startswith(ZIP) or LEGACY.to_bytes(10, 'little') in head[:32]


def read(path: Path) -> dict:
    """The dict in the file, in plain containers, tensors as NumPy arrays (bfloat16 as float32).

    Most arrays are read-only; those of one storage share memory. InputError if the file is damaged
    or unsafe, or holds a tensor that is not dense.
    """
    with unpickler.one_error(path), open(path, 'rb') as file:
        is_zip = file.peek().startswith(ZIP)
        tree = _read_zip(file, path) if is_zip else _read_legacy(file, path)
    if not isinstance(tree, dict):
        raise InputError(f'{path} holds a {type(tree).__name__}; expected a dict of tensors')
    return tree


def _read_zip(file: BinaryIO, path: Path) -> Any:
    """The object in a zip archive."""
    try:
        archive = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        raise InputError(
            f'{path} is cut short: a zip archive without the directory at its end'
        ) from None
    names = set(archive.namelist())
    root = _root(names, path)
    byte_order = '<'
    if root + 'byteorder' in names and archive.read(root + 'byteorder') == b'big':
        byte_order = '>'
    whole = mapped(path)
    memory = {}  # (key, dtype) of a storage -> its values

    def values(storage: _Storage) -> np.ndarray:
        key = storage.key, storage.dtype
        if key not in memory:
            name = f'{root}data/{storage.key}'
            if name not in names:
                raise InputError(f'{path} is incomplete: storage {storage.key!r} is missing')
            memory[key] = _values(_contents(archive, name, whole), storage, byte_order)
        return memory[key]

    # The pickle is read to its end, where the archive compares its checksum; the unpickler may stop
    # before.
    pickled = archive.read(root + 'data.pkl')
    tree = _Unpickler(io.BytesIO(pickled), path).load()
    return _plain(tree, values)


def _contents(archive: zipfile.ZipFile, name: str, whole: memoryview) -> bytes | memoryview:
    """A file in a zip archive, its checksum verified; a part of the `whole` archive, or a copy.

    torch.save neither compresses storages nor leaves them unaligned.
    """
    entry = archive.getinfo(name)
    archive.open(entry).close()  # compares the header before the file with the directory
    start = entry.header_offset + LOCAL.size + sum(LOCAL.unpack_from(whole, entry.header_offset))
    if entry.compress_type != zipfile.ZIP_STORED or start % ALIGN:
        return archive.read(entry)
    contents = whole[start : start + entry.file_size]
    if len(contents) < entry.file_size or zlib.crc32(contents) != entry.CRC:
        raise ValueError(f'the checksum of {name} does not match')
    return contents


def _root(names: set[str], path: Path) -> str:
    """The prefix of the names in a zip archive; InputError if it is not one of torch.save."""
    roots = [name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')]
    if not roots:
        raise InputError(
            f'{path} is a zip archive, but not a PyTorch file: there is no data.pkl in it'
        )
    root = min(roots, key=len)
    has_code = any(name.startswith(root + 'code/') for name in names)
    if has_code or root + 'constants.pkl' in names:
        raise InputError(
            f'{path} is a TorchScript program, not a weight file; '
            'save its state_dict() with torch.save'
        )
    return root


def _read_legacy(file: BinaryIO, path: Path) -> Any:
    """The object in a file of PyTorch before 1.6."""
    _, version, _ = (unpickler.Unpickler(file, path).load() for _ in range(3))
    if version != VERSION:
        raise InputError(
            f'{path} is of version {version!r} of the PyTorch format; '
            f'known are {VERSION} and zip archives'
        )
    reader = _Unpickler(file, path)
    tree = reader.load()
    keys = unpickler.Unpickler(file, path).load()

    file_size = path.stat().st_size
    memory = {}  # key of a storage -> its values
    for key in keys:
        storage = reader.storages[key]
        size = storage.count * _numpy_dtype(storage).itemsize  # bytes
        count = int.from_bytes(file.read(8), 'little', signed=True)
        if size > file_size - file.tell():
            raise InputError(f'{path} is cut short: storage {key!r} should have {size} bytes')
        if count != storage.count:
            raise InputError(
                f'{path} is damaged: storage {key!r} has {count} values here, '
                f'{storage.count} in the pickle'
            )
        memory[key] = _values(file.read(size), storage, '<')

    missing = reader.storages.keys() - memory
    if missing:
        raise InputError(f'{path} is incomplete: storage {min(missing)!r} is missing')
    return _plain(tree, lambda storage: memory[storage.key])


def _numpy_dtype(storage: _Storage) -> np.dtype:
    return np.dtype('uint16' if storage.dtype == 'bfloat16' else storage.dtype)


def _values(data: bytes | memoryview, storage: _Storage, byte_order: str) -> np.ndarray:
    """The storage's memory as an array [count], without a copy if possible.

    ValueError if there are too few bytes.
    """
    dtype = _numpy_dtype(storage)
    if len(data) < storage.count * dtype.itemsize:
        raise ValueError(
            f'storage {storage.key!r} has {len(data)} bytes, too few for {storage.count} values'
        )
    in_file = np.frombuffer(data, dtype.newbyteorder(byte_order), storage.count)
    array = in_file.astype(dtype, copy=False)  # in this machine's byte order
    return bfloat16(array) if storage.dtype == 'bfloat16' else array


def _plain(tree: Any, values: Callable[[_Storage], np.ndarray]) -> Any:
    """The tree with arrays in place of tensors and storages."""

    def array(value: Any) -> np.ndarray | None:
        if isinstance(value, _Tensor):
            return _view(value, array(value.storage))
        if isinstance(value, _Storage):
            return values(value)[value.start : value.stop]
        return None

    return unpickler.plain(tree, array)


def _view(tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """The tensor as an array over the values [count]; ValueError if it would reach beyond them."""
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    last = offset  # index of the last value
    for length, step in zip(size, stride, strict=True):
        last = last + (length - 1) * step
    is_negative = min(*size, *stride, offset, 0) < 0
    is_empty = 0 in size
    if is_negative or (last >= len(values) and not is_empty):
        raise ValueError(
            f'a tensor of size {size}, stride {stride} and offset {offset} '
            f'does not fit a storage of {len(values)} values'
        )
    width = values.itemsize
    return np.ndarray(
        shape=size,
        dtype=values.dtype,
        buffer=values,
        offset=offset * width,
        strides=[step * width for step in stride],
    )


@dataclass(frozen=True)
class _Name:
    """The name, to be written to a file, of a function or class that cannot be imported here."""

    module: str
    name: str

    def __call__(self):
        """Never called, but pickle refuses to write an object whose rebuilder is not callable."""


class _Stored(tuple):
    """The persistent id of a storage; a class of its own, unlike the other tuples of a file."""

    __slots__ = ()


class _Pickler(pickle._Pickler):
    """Pickles arrays as PyTorch's tensors and collects their memory in `memory`.

    Only the pickler that is written in Python can write a name without importing it.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, protocol=2)
        self.memory = []

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        """Write one object; a _Name as the name it stands for."""
        if isinstance(value, _Name):
            self.write(pickle.GLOBAL + f'{value.module}\n{value.name}\n'.encode())
            return
        if isinstance(value, np.generic):
            value = value.item()  # torch.load accepts no numbers of NumPy
        super().save(value, save_persistent_id)

    def persistent_id(self, value: Any) -> tuple | None:
        """The tuple that stands for a storage; None for other objects."""
        return tuple(value) if isinstance(value, _Stored) else None

    def reducer_override(self, value: Any) -> Any:
        """The call that rebuilds an array as a tensor; other objects as pickle does it."""
        if not isinstance(value, np.ndarray):
            return NotImplemented
        key = str(len(self.memory))
        self.memory.append(value)
        kind = next(name for name, dtype in STORAGES.items() if dtype == value.dtype.name)
        storage = _Stored(('storage', _Name('torch', kind), key, 'cpu', value.size))
        offset = 0
        stride = tuple(int(np.prod(value.shape[axis + 1 :])) for axis in range(value.ndim))
        requires_grad = False
        hooks = OrderedDict()
        arguments = (storage, offset, value.shape, stride, requires_grad, hooks)
        return _Name('torch._utils', '_rebuild_tensor_v2'), arguments


def write(path: Path, tree: dict) -> None:
    """Write nested dicts and lists of arrays and plain values, completely or not at all.

    The file is a zip archive that torch.load(weights_only=True) reads.
    """
    pickled = io.BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(tree)
    with atomic.writing(path) as file, zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', pickled.getvalue())
        archive.writestr('archive/byteorder', 'little')
        for number, array in enumerate(bar(pickler.memory, 'tensors')):
            archive.writestr(f'archive/data/{number}', array.tobytes())
        archive.writestr('archive/version', '3\n')
