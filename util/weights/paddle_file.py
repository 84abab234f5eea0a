"""Files that `paddle.load` reads: pickles of nested dicts of arrays.

They are read by our own unpickler, because paddle.load itself runs any code that a crafted file
names. Files written here end in a checksum of all bytes before it. paddle.load ignores it, since a
pickle marks its own end; our reader verifies it.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any

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
    """A file that hashes what is written to it."""

    def __init__(self, file):
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write and hash bytes; the number of bytes written."""
        self.digest.update(data)
        return self.file.write(data)


def write(path: str | Path, tree: dict) -> None:
    """Write a nested dict of arrays and plain values, and its checksum, all or nothing."""
    with atomic.writing(Path(path)) as file:
        hashing = _Hashing(file)
        pickler = pickle.Pickler(hashing, protocol=4)
        pickler.fast = True  # the memo would keep a copy of every array until the end
        pickler.dump(tree)
        file.write(MAGIC + hashing.digest.digest())
