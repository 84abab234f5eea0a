"""The images of many archives in memory: at most 64 bytes an image, name included.

Images in tar archives are numbered by their names, in the order that class folders have. So the
same pictures have the same numbers in a folder, in ImageNet's archives and in shards, wherever they
lie there. Rows of parquet are numbered as they lie, because a row group is read as a whole.
"""

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import numpy as np

from util.data.archives import imagenet, index, labels, parquet, tar
from util.data.archives.listing import Listing
from util.data.images import Images
from util.errors import InputError

NUL = b'\0'


class Block(NamedTuple):
    """What is read from beginning to end: a tar archive, or a row group of a parquet file."""

    path: str
    group: int | None  # of a parquet file


class Part(NamedTuple):
    """The names and places of one archive's images, as arrays; see Members."""

    path: str
    text: bytes
    lengths_of_names: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    groups: list[int]  # images in each block
    first: bytes  # key of the first name
    last: bytes
    is_sorted: bool


def read(files: list[str], suffixes: tuple[str, ...], index_dir: str = '') -> list[Images]:
    """The images of archives: one data set for the tar archives of a folder, one for its parquet.

    They have labels and names of classes where the archives have them.
    """
    groups = {}
    for file in {os.path.realpath(file): file for file in files}.values():
        key = (os.path.dirname(file), index.is_parquet(file))
        groups.setdefault(key, []).append(file)
    return [_read(group, suffixes, index_dir) for group in groups.values()]


def _read(files: list[str], suffixes: tuple[str, ...], index_dir: str) -> Images:
    """The images of archives of one kind, in one folder."""
    parts, found = [], []
    left_out = Counter()
    for path, listing in _listings(files, suffixes, index_dir):
        left_out += listing.left_out
        found.append(labels.of(path, listing))
        parts.append(part(path, listing))
    members = Members(parts)
    if not len(members):
        raise InputError(f'{files[0]}: no image ({" ".join(suffixes)}) in {_count(files)}')
    numbers, classes = labels.merged(found)
    if numbers is None:
        unlabelled = sum(int((one.numbers < 0).sum()) for one in found)
        if unlabelled < len(members):
            left_out['labels, because other images have none'] += len(members) - unlabelled
    elif members.rows is not None:
        numbers = numbers[members.rows]
    return Images(members, numbers, classes, left_out)


def _listings(
    files: list[str], suffixes: tuple[str, ...], index_dir: str
) -> Iterator[tuple[str, Listing]]:
    """(archive, its images), archive by archive."""
    for path, listing in zip(files, index.listings(files, suffixes, index_dir)):
        if imagenet.is_val(listing):
            listing = imagenet.with_classes(path, listing)
        yield path, listing


def _count(files: list[str]) -> str:
    return 'this archive' if len(files) == 1 else f'these {len(files)} archives'


def part(path: str, listing: Listing) -> Part:
    """One archive's images as arrays."""
    keys = [_key(name) for name in listing.names]
    in_order = all(one <= other for one, other in pairwise(keys))
    if listing.lengths and max(listing.lengths) >= 2**32:
        raise InputError(f'{path}: an image of more than 4 GiB')
    return Part(
        path=path,
        text=b''.join(keys),
        lengths_of_names=np.array([len(key) for key in keys], 'int64'),
        offsets=np.array(listing.offsets, 'int64'),
        lengths=np.array(listing.lengths, 'uint32'),
        groups=listing.groups or [len(keys)],
        first=keys[0] if keys else b'',
        last=keys[-1] if keys else b'',
        is_sorted=in_order,
    )


def _key(name: str) -> bytes:
    """A name as bytes that sort as folders do: files outside of folders, then folder by folder.

    So the first slash becomes a zero, and a name without one begins with a zero.
    """
    data = name.encode('utf-8', 'surrogateescape')
    return data.replace(b'/', NUL, 1) if b'/' in data else NUL + data


def _name(key: bytes) -> str:
    """The name that belongs to a key."""
    data = key[1:] if key.startswith(NUL) else key.replace(NUL, b'/', 1)
    return data.decode('utf-8', 'surrogateescape')


class Members(Sequence):
    """The images of archives: members[i] is the name of image i, members.read(i) its bytes.

    Arrays are in the order in which images lie in the archives; `rows` gives the place there of
    image i, or is None where that is i.
    """

    def __init__(self, parts: list[Part]):
        self.blocks = []
        counts = []
        for one in parts:
            is_parquet = index.is_parquet(one.path)
            for group, count in enumerate(one.groups):
                self.blocks.append(Block(one.path, group if is_parquet else None))
                counts.append(count)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype='int64')])  # of the blocks
        self.offsets = np.concatenate([one.offsets for one in parts])
        self.lengths = np.concatenate([one.lengths for one in parts])
        self.text = b''.join([one.text for one in parts])
        self.ends = np.cumsum(np.concatenate([one.lengths_of_names for one in parts]))
        self.rows = self._by_name() if _unsorted(parts) else None
        self.keep = 2  # row groups of parquet that a process keeps in memory

    def _by_name(self) -> np.ndarray:
        """The places of the images in the order of their names."""
        lengths = np.diff(self.ends, prepend=0)
        width = int(lengths.max())
        padded = np.zeros([len(lengths), width], 'uint8')
        padded[np.arange(width) < lengths[:, None]] = np.frombuffer(self.text, 'uint8')
        keys = padded.view(f'S{width}')[:, 0]
        return np.argsort(keys, kind='stable').astype('int32')

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def is_parquet(self) -> bool:
        """Whether blocks are row groups; archives of both kinds are never in one sequence."""
        return self.blocks[0].group is not None

    def row(self, index: int) -> int:
        """The place of an image in the archives, counted over all of them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return int(index if self.rows is None else self.rows[index])

    def block(self, row: int) -> int:
        """The number of the block at a place in the archives."""
        return int(np.searchsorted(self.starts, row, side='right')) - 1

    def __getitem__(self, index: int) -> str:
        row = self.row(index)
        start = self.ends[row - 1] if row else 0
        name = _name(self.text[start : self.ends[row]])
        path = self.blocks[self.block(row)].path
        return f'{path}/{name}'

    def read(self, index: int) -> BinaryIO:
        """The bytes of an image, as a file in memory."""
        row = self.row(index)
        number = self.block(row)
        path, group = self.blocks[number]
        if group is not None:
            return parquet.read(path, group, row - int(self.starts[number]), self.keep)
        data = tar.read(path, int(self.offsets[row]), int(self.lengths[row]))
        return io.BytesIO(data)

    def sizes(self) -> np.ndarray:
        """The bytes of each image; of parquet, the mean of its file."""
        sizes = self.lengths.astype('int64')
        paths = np.array([block.path for block in self.blocks])
        for path in {block.path for block in self.blocks if block.group is not None}:
            [numbers] = np.nonzero(paths == path)
            start, end = self.starts[numbers[0]], self.starts[numbers[-1] + 1]
            sizes[start:end] = os.path.getsize(path) // max(1, end - start)
        return sizes if self.rows is None else sizes[self.rows]

    def in_turn(self) -> np.ndarray:
        """The indices of the images in the order in which they lie in the archives."""
        return np.arange(len(self)) if self.rows is None else np.argsort(self.rows)

    def nbytes(self) -> int:
        """The memory of all names and places, in bytes."""
        arrays = [self.starts, self.offsets, self.lengths, self.ends]
        if self.rows is not None:
            arrays.append(self.rows)
        return len(self.text) + sum(array.nbytes for array in arrays)


def _unsorted(parts: list[Part]) -> bool:
    """Whether images have to be sorted by their names; never with parquet among the archives."""
    if any(index.is_parquet(one.path) for one in parts):
        return False
    filled = [one for one in parts if one.text]
    in_turn = all(one.last <= other.first for one, other in pairwise(filled))
    return not in_turn or not all(one.is_sorted for one in filled)
