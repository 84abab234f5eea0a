"""The order of --shuffle window: archives are read from beginning to end, a few at a time.

    blocks, permuted:    7 2 9 | 4 0 1 | 8 3 5 | 6         a window is 3 blocks here
    samples:             those of a window, shuffled

A block is a tar archive or a row group of parquet. The order is a permutation of all samples, made
from (seed, epoch), as that of --shuffle full.

With several parts, the order is cut into as many pieces of equal length, and each global batch
takes its share of every piece. So if the parts are a multiple of the machines, each machine reads
its own blocks only. The order depends on the global batch then, and still not on the ranks.
"""

import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np

from util import log
from util.data.archives.members import Members
from util.data.images import Images
from util.errors import InputError

CHUNK = 2**22  # bytes that are read ahead at a time


def window_of(images: Images, shuffle: str, window: int, parts: int) -> 'Window | None':
    """The order that the flags ask for; None for --shuffle full."""
    if shuffle == 'full':
        if isinstance(images.paths, Members) and images.paths.is_parquet:
            log.warn(
                'parquet is read by whole row groups, so --shuffle window reads it much faster '
                'than full does'
            )
        return None
    if not isinstance(images.paths, Members):
        raise InputError(
            '--shuffle window is for tar shards or parquet in one folder; '
            '`python -m util.data.pack` writes shards of any data set'
        )
    return Window(images.paths, window, parts)


class Window:
    """Draws the order of an epoch from blocks in a window.

    window: blocks whose samples are shuffled together. parts: pieces that a batch is made of.
    """

    def __init__(self, members: Members, window: int, parts: int = 1):
        self.members = members
        self.window = window
        self.parts = parts
        members.keep = max(members.keep, (window + 1) * parts)
        self.index_at = members.in_turn()  # index of the image at each place in the archives

    def check(self, global_batch: int) -> None:
        """InputError if the batches cannot be made of the parts."""
        if global_batch % self.parts:
            raise InputError(
                f'--window_parts {self.parts}: the {global_batch} images of an iteration, over all '
                'processes, cannot be divided by it'
            )

    def order(self, rng: np.random.Generator, global_batch: int) -> np.ndarray:
        """All indices in the order in which they are used; int64 [samples]."""
        starts = self.members.starts
        blocks = rng.permutation(len(starts) - 1)
        pieces = []
        for first in range(0, len(blocks), self.window):
            chosen = blocks[first : first + self.window]
            rows = [np.arange(starts[block], starts[block + 1]) for block in chosen]
            pieces.append(rng.permutation(np.concatenate(rows)))
        indices = self.index_at[np.concatenate(pieces)]
        return self._interleaved(indices, global_batch)

    def _interleaved(self, indices: np.ndarray, global_batch: int) -> np.ndarray:
        """The indices, so that each global batch takes an equal share of each part."""
        batches = len(indices) // global_batch
        used = batches * global_batch
        share = global_batch // self.parts
        by_part = indices[:used].reshape(self.parts, batches, share)
        by_batch = by_part.transpose(1, 0, 2)  # [batches, parts, share]
        return np.concatenate([by_batch.ravel(), indices[used:]])

    def archives(self, batches: list[list[int]]) -> tuple[list[str], np.ndarray]:
        """The archives that batches use, each once, and the batch that uses each first; for tar.

        batches: the indices of each batch, all of the same number.
        """
        indices = np.array(batches, 'int64')  # [batches, batch_size]
        rows = indices if self.members.rows is None else self.members.rows[indices]
        blocks = np.searchsorted(self.members.starts, rows.ravel(), side='right') - 1
        blocks, first = np.unique(blocks, return_index=True)
        in_turn = np.argsort(first)
        paths = [self.members.blocks[block].path for block in blocks[in_turn]]
        return paths, first[in_turn] // indices.shape[1]


class Ahead:
    """Reads the coming archives from beginning to end, in a thread, into the system's page cache.

    So the storage sees long sequential reads, whatever the order of the samples and the number of
    workers. The thread stays one window ahead of the batches.
    """

    def __init__(self, paths: list[str], first_used: np.ndarray, ahead: int):
        self.paths = paths
        self.first_used = first_used  # number of a batch, ascending
        self.ahead = ahead  # archives
        self.allowed = 0  # archives that may be read
        self.changed = threading.Condition()
        self.is_closed = False
        self.thread = threading.Thread(target=self._read_all, daemon=True)

    def reach(self, batch: int) -> None:
        """Say which batch is used now."""
        in_use = int(np.searchsorted(self.first_used, batch, side='right'))
        with self.changed:
            self.allowed = in_use + self.ahead
            self.changed.notify()
        if not self.thread.ident:
            self.thread.start()

    def close(self) -> None:
        """End the thread."""
        with self.changed:
            self.is_closed = True
            self.changed.notify()
        if self.thread.ident:
            self.thread.join()

    def _read_all(self) -> None:
        for number, path in enumerate(self.paths):
            with self.changed:
                while number >= self.allowed and not self.is_closed:
                    self.changed.wait()
            with contextlib.suppress(OSError):  # whoever needs the samples reports it
                for _ in _chunks(path):
                    if self.is_closed:
                        return


def _chunks(path: str) -> Iterator[int]:
    """Read a file from beginning to end; yields the bytes so far."""
    buffer = bytearray(CHUNK)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        offset = 0
        while count := os.preadv(descriptor, [buffer], offset):
            offset += count
            yield offset
    finally:
        os.close(descriptor)
