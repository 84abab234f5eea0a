"""Batches of PaddleSeg's data sets, by the workers of util.data.workers.

Paddle's own loader waits forever for a file that does not answer, hangs when a sample raises, and
does not say at which file a worker was killed.
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
    """Batches of a data set as paddle.io.DataLoader gives them, with tensors for arrays.

    order: a list of keys for each batch, the same in every pass. timeout: seconds that a worker may
    take for one sample, 0 for any. InputError names the file where a sample raises, takes longer,
    or its worker dies. Without workers samples are prepared where the batch is asked for.
    """

    def __init__(
        self, samples: paddle.io.Dataset, order: Iterable[list], num_workers: int, timeout: float
    ):
        self.samples, self.order, self.num_workers, self.timeout = (
            samples,
            order,
            num_workers,
            timeout,
        )

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        if not self.num_workers or not workers.supported():
            for keys in self.order:
                yield _tensors(default_collate_fn([self._sample(key) for key in keys]))
            return
        pool = workers.Pool(
            prepare=self._sample,
            collate=default_collate_fn,
            order=self.order,
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


def loading(timeout: float) -> contextlib.AbstractContextManager:
    """Let PaddleSeg's evaluation load by `Loader`."""

    def loader(samples, *, batch_sampler, num_workers=0, **ignored):
        return Loader(samples, batch_sampler, num_workers, timeout)

    return replaced(paddle.io, DataLoader=loader)


@contextlib.contextmanager
def replaced(owner: Any, **ours: Any) -> Iterator[None]:
    """Replace attributes of an object inside the block."""
    theirs = {name: getattr(owner, name) for name in ours}
    for name, value in ours.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in theirs.items():
            setattr(owner, name, value)
