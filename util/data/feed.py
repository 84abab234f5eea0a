"""Batches on their way from the loader's workers to the device."""

import ctypes
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import paddle

from util.data import workers


class _Feed(paddle.io.IterableDataset):
    """Batches of a pool for Paddle's loader.

    The loader's thread moves them to the device while the model uses the previous batch; the marks
    of unreadable images stay in `marks`. It would wait forever after an exception, so an exception
    is kept in `failure` instead.
    """

    def __init__(self, pool: workers.Pool):
        self.pool = pool
        self.marks = deque()  # of the batches that the loader has not given yet
        self.failure = None

    def __iter__(self) -> Iterator[list[paddle.Tensor]]:
        try:
            for images, targets, marks in self.pool:
                self.marks.append(marks)
                yield [_tensor(images), _tensor(targets)]
        except Exception as error:
            self.failure = error


def _tensor(array: np.ndarray) -> paddle.Tensor:
    """A copy in host memory; unlike Paddle's own copy, it lets other threads run meanwhile."""
    tensor = paddle.empty(array.shape, array.dtype.name, device='cpu')
    ctypes.memmove(tensor.data_ptr(), array.ctypes.data, array.nbytes)
    return tensor


def _collate(samples: list[tuple]) -> list[np.ndarray]:
    """One array per part of the samples (images, targets, marks), each [N, ...]."""
    return [np.stack(part) for part in zip(*samples)]


def batches(
    samples, order: Iterable[list], num_workers: int, timeout: float
) -> Iterator[tuple[paddle.Tensor, paddle.Tensor, np.ndarray]]:
    """Batches of (images, targets, marks), prepared by worker processes or, without any, here.

    samples: as loader.TrainSet. order: the keys of each batch.
    The marks are not moved to the device, because reading them there would wait for it.
    """
    if not num_workers or not workers.supported():
        for keys in order:
            images, targets, marks = _collate([samples.sample(key) for key in keys])
            yield paddle.to_tensor(images), paddle.to_tensor(targets), marks
        return

    pool = workers.Pool(
        prepare=samples.sample,
        collate=_collate,
        order=order,
        count=num_workers,
        name=samples.name,
        timeout=timeout,
    )
    feed = _Feed(pool)
    # kept in a variable, because deleting the iterator waits for the pool to end
    moved = iter(paddle.io.DataLoader(feed, batch_size=None))
    try:
        for images, targets in moved:
            yield images, targets, feed.marks.popleft()
        if feed.failure:
            raise feed.failure
    finally:
        pool.close()
