"""Files that `paddle.load` reads: pickles of nested dicts of arrays.

They are read by our own unpickler, because paddle.load itself runs any code that a crafted file
names. Files written here end in a checksum of all bytes before it. paddle.load ignores it, since a
pickle marks its own end; our reader verifies it.
"""

import hashlib
import pickle
import queue
import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from util import atomic
from util.errors import InputError
from util.weights import unpickler
from util.weights.safetensors_file import bfloat16

MAGIC = b'MAEsha256'
TRAILER = len(MAGIC) + hashlib.sha256().digest_size
CHUNK = 2**24


def read(path: Path) -> dict:
    """The dict in the file, tensors as NumPy arrays.

    InputError if the file is damaged, unsafe or of another format.
    """
    with open(path, 'rb') as file:
        _verify(file, path)
        with unpickler.one_error(path):
            loaded = unpickler.Unpickler(file, path).load()
            tree = unpickler.plain(loaded, _array, without='StructuredToParameterName@@')
    if not isinstance(tree, dict):
        raise InputError(f'{path} holds a {type(tree).__name__}; expected a dict of tensors')
    return tree


def _verify(file, path: Path) -> None:
    """Compare a file with the checksum at its end, if it has one, and go back to its start."""
    size = path.stat().st_size
    file.seek(max(0, size - TRAILER))
    trailer = file.read()
    file.seek(0)
    if not trailer.startswith(MAGIC):
        return
    digest = hashlib.sha256()
    left = size - TRAILER
    while left:
        chunk = file.read(min(CHUNK, left))
        digest.update(chunk)
        left -= len(chunk)
    if digest.digest() != trailer[len(MAGIC) :]:
        raise InputError(f'{path} is damaged: its checksum does not match')
    file.seek(0)


def _array(value: Any) -> np.ndarray | None:
    """The array of a tensor as paddle.save stores it; None for anything else.

    A tensor is an array or (name, array); bfloat16 is stored as uint16.
    """
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        value = value[1]
    if isinstance(value, np.ndarray):
        return bfloat16(value) if value.dtype == np.uint16 else value
    return None


class _Hashing:
    """A file that hashes what is written to it, in a thread beside the writing.

    No buffer may change before `digest` or the end of the block.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._sha256 = hashlib.sha256()
        self._written = queue.SimpleQueue()  # buffers in the order of the file, then None
        # no executor: those take no work while the program ends, when a last checkpoint is written
        self._thread = threading.Thread(target=self._hash)

    def __enter__(self) -> '_Hashing':
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._written.put(None)
        self._thread.join()

    def _hash(self) -> None:
        while (buffer := self._written.get()) is not None:
            self._sha256.update(buffer)

    def write(self, buffer: bytes | pickle.PickleBuffer) -> int:
        """Write bytes and have them hashed; their number."""
        self._written.put(buffer)
        return self._file.write(buffer)

    def digest(self) -> bytes:
        """The digest of all bytes, after the block."""
        return self._sha256.digest()


class _Pickler(pickle.Pickler):
    """Pickles arrays as NumPy does up to protocol 4, but without a copy of their memory.

    Protocol 5 stores a read-only buffer as plain bytes. NumPy's own way of protocol 5 would name a
    function that earlier readers of ours refuse.
    """

    def __init__(self, file: _Hashing):
        super().__init__(file, protocol=5)
        self.fast = True  # the memo would keep every buffer until the end

    def reducer_override(self, value: Any) -> Any:
        """The call and the state that rebuild an array; other objects as pickle does it."""
        if type(value) is not np.ndarray or value.dtype.hasobject:
            return NotImplemented
        if value.ndim == 0:
            return value.__reduce__()

        rebuild, arguments, state = value[:0].__reduce__()  # the state would hold a copy
        version, _, dtype, _, _ = state
        is_fortran = value.flags.fnc  # a transposed matrix, stored as it lies in memory
        memory = value.T if is_fortran else np.ascontiguousarray(value)
        buffer = pickle.PickleBuffer(memoryview(memory.reshape(-1)).toreadonly())
        return rebuild, arguments, (version, value.shape, dtype, is_fortran, buffer)


def write(path: str | Path, tree: dict) -> None:
    """Write a nested dict of arrays and plain values, and its checksum, all or nothing."""
    with atomic.writing(Path(path)) as file:
        with _Hashing(file) as hashing:
            _Pickler(hashing).dump(tree)
        file.write(MAGIC + hashing.digest())
