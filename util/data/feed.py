"""Batches on their way from the loader's workers to the device."""

import ctypes
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import paddle

# a name of its own, because seg.loading puts another class in the place of Paddle's
from paddle.io import DataLoader

from util.data import workers


class _Feed(paddle.io.IterableDataset):
    """Batches of a pool for Paddle's loader; what stays in host memory is put into `kept`.

    The loader would wait forever after an exception, so an exception is kept in `failure` instead.
    """

    def __init__(self, pool: workers.Pool):
        self.pool = pool
        self.kept = deque()  # of the batches that the loader has not given yet
        self.failure = None

    def __iter__(self) -> Iterator[Any]:
        try:
            for arrays, kept in self.pool:
                self.kept.append(kept)
                yield tensors(arrays, _in_host_memory)
        except Exception as error:
            self.failure = error


def _in_host_memory(array: np.ndarray) -> paddle.Tensor:
    """A copy in host memory; unlike Paddle's own copy, it lets other threads run meanwhile."""
    array = np.asarray(array, order='C')
    tensor = paddle.empty(array.shape, array.dtype.name, device='cpu')
    ctypes.memmove(tensor.data_ptr(), array.ctypes.data, array.nbytes)
    return tensor


def tensors(tree: Any, tensor_of: Callable[[np.ndarray], paddle.Tensor] = paddle.to_tensor) -> Any:
    """A nested structure with its arrays as tensors, on the device in use unless told otherwise."""
    if isinstance(tree, dict):
        return {name: tensors(value, tensor_of) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [tensors(value, tensor_of) for value in tree]
    return tensor_of(tree) if isinstance(tree, np.ndarray) else tree


def batches(
    samples: Any,
    collate: Callable[[list], tuple[Any, Any]],
    order: Iterable[list],
    num_workers: int,
    timeout: float,
) -> Iterator[tuple[Any, Any]]:
    """Batches by worker processes, on the device before they are asked for.

    samples: `sample` prepares that of a key, and `name` names it. order: the keys of each batch.
    collate: prepared samples -> (a tree of arrays for the device, what stays in host memory, where
    reading it waits for no device). The arrays become tensors.
    Without workers a batch is prepared here, when it is asked for.
    """
    how = samples.sample, collate, order, num_workers, samples.name
    if not num_workers or not workers.supported():
        for arrays, kept in workers.batches(*how):
            yield tensors(arrays), kept
        return

    pool = workers.Pool(*how, timeout)
    feed = _Feed(pool)
    loader = DataLoader(feed, batch_size=None)
    # Paddle's thread copies a batch to the device, through pinned memory and on a stream of its
    # own. With this flag set it would leave that copy to the step, which would wait for it
    loader.pin_memory = False
    # kept in a variable, because deleting the iterator waits for the pool to end
    moved = iter(loader)
    try:
        for batch in moved:
            yield batch, feed.kept.popleft()
        if feed.failure:
            raise feed.failure
    finally:
        pool.close()
