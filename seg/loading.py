"""Batches of PaddleSeg's data sets, by the workers of util.data.workers.

Paddle's own loader waits forever for a file that does not answer, hangs when a sample raises, and
does not say at which file a worker was killed.
"""

import contextlib
import itertools
import traceback
from collections.abc import Iterable, Iterator
from typing import Any

import paddle
from paddle.io.dataloader.collate import default_collate_fn

from seg import dataset
from util.data import feed
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
        self.samples = samples
        self.order = order
        self.num_workers = num_workers
        self.timeout = timeout
        self.in_use = None  # the number of the batch that is worked with

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch, _ in self.both())

    def both(self) -> Iterator[tuple[Any, Any]]:
        """Each batch as tensors on the device and as arrays in host memory."""
        batches = feed.batches(self, _collate, self.order, self.num_workers, self.timeout)
        for number, batch in enumerate(batches):
            self.in_use = number
            yield batch
            self.in_use = None

    @property
    def picture(self) -> str | None:
        """The first picture of the batch that is worked with, None between two batches."""
        if self.in_use is None:
            return None
        keys = next(itertools.islice(self.order, self.in_use, None))
        return self.name(keys[0])

    def sample(self, key: Any) -> Any:
        """The prepared sample of a key; InputError that names what cannot be prepared."""
        try:
            return self.samples[key]
        except InputError:
            raise
        except Exception as error:
            traceback.print_exc()
            raise InputError(
                f'{self.name(key)} cannot be prepared ({type(error).__name__}: {error})'
            ) from None

    def name(self, key: Any) -> str:
        """The picture of a key."""
        samples, key = (
            (self.samples.samples, key[1]) if isinstance(key, tuple) else (self.samples, key)
        )
        return dataset.name_of(samples, key % len(samples))


def _collate(samples: list) -> tuple[Any, Any]:
    """Paddle's batch of arrays, for the device and for the host."""
    batch = default_collate_fn(samples)
    return batch, batch


@contextlib.contextmanager
def loading(timeout: float) -> Iterator[None]:
    """Let PaddleSeg's evaluation load by `Loader`, and an InputError name the picture.

    PaddleSeg gives the model one picture at a time, without its name.
    """
    loaders = []

    def loader(samples, *, batch_sampler, num_workers=0, **ignored):
        loaders.append(Loader(samples, batch_sampler, num_workers, timeout))
        return loaders[-1]

    theirs = paddle.io.DataLoader
    paddle.io.DataLoader = loader
    try:
        yield
    except InputError as error:
        picture = loaders[-1].picture if loaders else None
        if picture is None:  # an error before or between the pictures
            raise
        raise InputError(f'{picture}: {error}') from None
    finally:
        paddle.io.DataLoader = theirs
