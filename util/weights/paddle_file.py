"""Files that `paddle.load` reads: pickles of nested dicts of arrays.

Reading goes through our own unpickler, because paddle.load itself runs whatever code a crafted file names. Files
written here end in a checksum, which paddle.load does not see (a pickle says where it ends); of a file that carries one,
every byte is verified.
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
    """The dict in the file, tensors as NumPy arrays; InputError where it is damaged, unsafe or no such file."""
    with open(path, 'rb') as file:
        _verify(file, path)
        with unpickler.one_error(path):
            tree = unpickler.plain(
                unpickler.Unpickler(file, path).load(),
                _array,
                without='StructuredToParameterName@@',
            )
    if not isinstance(tree, dict):
        raise InputError(f'{path} holds a {type(tree).__name__}; expected a dict of tensors')
    return tree


def _verify(file, path: Path) -> None:
    """Compare the bytes with the checksum behind them, if there is one, and rewind."""
    size = path.stat().st_size
    file.seek(max(0, size - TRAILER))
    trailer = file.read()
    file.seek(0)
    if not trailer.startswith(MAGIC):
        return
    digest, left = hashlib.sha256(), size - TRAILER
    while left:
        chunk = file.read(min(CHUNK, left))
        digest.update(chunk)
        left -= len(chunk)
    if digest.digest() != trailer[len(MAGIC) :]:
        raise InputError(f'{path} is damaged: its checksum does not match')
    file.seek(0)


def _array(value: Any) -> np.ndarray | None:
    """paddle.save stores a tensor as (name, array), and bfloat16 as its upper 16 bits."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        value = value[1]
    if isinstance(value, np.ndarray):
        return bfloat16(value) if value.dtype == np.uint16 else value


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file):
        self.file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def write(path: str | Path, tree: dict) -> None:
    """Write a nested dict of arrays and plain values, whole or not at all, with its checksum."""
    with atomic.writing(Path(path)) as file:
        hashing = _Hashing(file)
        pickler = pickle.Pickler(hashing, protocol=4)
        pickler.fast = True  # or its memo would keep a copy of every array until the end
        pickler.dump(tree)
        file.write(MAGIC + hashing.digest.digest())
