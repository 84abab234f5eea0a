"""Batches for PaddleSeg's loops from the workers of util.data.workers.

Paddle's own loader waits forever for a file that does not answer (after its timeout it only looks
again), and does not name the file at which a worker was killed.
"""

import contextlib
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import paddle
from paddle.io.dataloader.collate import default_collate_fn

from seg import dataset
from util.data import workers
from util.errors import InputError


class Loader:
    """Batches of a data set as paddle.io.DataLoader gives them, tensors instead of arrays.

    order: a list of keys for each batch; it can be iterated again. timeout: seconds that a worker
    may take for one sample, 0 for no limit. InputError names the file where a sample raises, takes
    longer, or its worker dies.
    """

    def __init__(
        self, samples: paddle.io.Dataset, order: Iterable[list], num_workers: int, timeout: float
    ):
        self.samples = samples
        self.order = order
        self.num_workers = num_workers
        self.timeout = timeout

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        pool = workers.Pool(
            self._sample,
            default_collate_fn,
            self.order,
            count=self.num_workers,
            name=self._name,
            timeout=self.timeout,
        )
        try:
            for batch in pool:
                yield _tensors(batch)
        finally:
            pool.close()

    def _sample(self, key: Any) -> Any:
        try:
            return self.samples[key]
        except InputError:
            raise
        except Exception as error:
            traceback.print_exc()
            raise InputError(
                f'{self._name(key)} cannot be prepared ({type(error).__name__}: {error})'
            ) from None

    def _name(self, key: Any) -> str:
        samples, key = (
            (self.samples.samples, key[1]) if isinstance(key, tuple) else (self.samples, key)
        )
        return dataset.name_of(samples, key % len(samples))


def _tensors(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _tensors(value) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_tensors(value) for value in tree]
    return paddle.to_tensor(tree) if isinstance(tree, np.ndarray) else tree


def loading(timeout: float):
    """Let PaddleSeg's training and evaluation use these workers, where the system supports them."""
    plain = paddle.io.DataLoader

    def loader(samples, *args, batch_sampler=None, num_workers=0, **kwargs):
        if num_workers and batch_sampler is not None and workers.supported():
            return Loader(samples, batch_sampler, num_workers, timeout)
        return plain(samples, *args, batch_sampler=batch_sampler, num_workers=num_workers, **kwargs)

    return replaced(paddle.io, DataLoader=loader)


@contextlib.contextmanager
def replaced(owner: Any, **ours: Any) -> Iterator[None]:
    """Replace attributes of an object within a `with` block."""
    theirs = {name: getattr(owner, name) for name in ours}
    for name, value in ours.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in theirs.items():
            setattr(owner, name, value)
