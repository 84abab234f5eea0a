"""The batches of a training: which samples, in which order, from which iteration on.

What is random about a sample depends on (seed, epoch, index) alone, so that workers and processes
change nothing, and a resumed training sees what an undisturbed one sees.
"""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import paddle

from seg import census, dataset
from seg.loading import Loader
from seg.sizes import Sizes, refused
from util import dist
from util.data import loader
from util.data.unreadable import NEIGHBOURS, Unreadable
from util.errors import InputError


class Samples(paddle.io.Dataset):
    """A data set of PaddleSeg's by (epoch, index), with the transforms seeded for each sample.

    A picture that cannot be read is replaced by the next one that can; `unreadable` in the sample
    is its index, or -1. repeats: how many times an epoch each image is taken.
    """

    def __init__(
        self, samples: paddle.io.Dataset, seed: int, repeats: int = 1, sizes: Sizes | None = None
    ):
        self.samples, self.seed, self.repeats, self.sizes = samples, seed, repeats, sizes

    def __len__(self) -> int:
        return len(self.samples) * self.repeats

    def __getitem__(self, key: tuple[int, int]) -> dict:
        words = np.random.SeedSequence([self.seed, *key]).generate_state(2)
        index = key[1] % len(self.samples)
        for source in range(index, index + NEIGHBOURS):
            source %= len(self.samples)
            np.random.seed(words[0])
            random.seed(int(words[1]))
            try:
                sample = self._prepared(source)
            except dataset.Unreadable:
                continue
            sample['unreadable'] = np.int64(-1 if source == index else index)
            return sample
        raise InputError(f'{self.complaint(index)}; nor can the {NEIGHBOURS - 1} after it')

    def _prepared(self, index: int) -> dict:
        try:
            sample = self.samples[index]
        except InputError:
            raise
        except ValueError as error:
            raise refused(self.samples, index, error) from error
        if self.sizes:
            self.sizes.check(self.samples, index, sample)
        return sample

    def complaint(self, index: int) -> str:
        """The file and why it cannot be read."""
        try:
            self.samples[index]
        except dataset.Unreadable as error:
            return str(error)
        return f'{dataset.name_of(self.samples, index)} can be read now, but not when it was needed'


class Stream:
    """The keys of this rank's batches from an iteration on, epoch after epoch.

    InputError where the data set has not enough images for one batch.
    """

    def __init__(self, samples: Samples, batch_size: int, start: int, stop: int | None = None):
        self.samples, self.batch_size, self.start, self.stop = samples, batch_size, start, stop
        if not len(self):
            raise InputError(
                f'batch_size {batch_size} on {dist.world_size()} processes is more than the '
                f'{len(samples)} training images'
            )

    def _order(self, epoch: int, first: int = 0) -> loader.Order:
        return loader.rank_order(self.samples, self.batch_size, epoch, first)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order(0))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        left = None if self.stop is None else self.stop - self.start
        return itertools.islice(self._endless(), left)

    def _endless(self) -> Iterator[list[tuple[int, int]]]:
        epoch, first = divmod(self.start, len(self))
        for later in itertools.count(epoch):
            yield from self._order(later, first if later == epoch else 0)


class Batches:
    """The data of engine_loop.Loop: `iterations` batches as one long epoch.

    timeout: seconds that a worker may take for one sample, 0 for any.
    """

    accum_iter = 1  # PaddleSeg accumulates no gradients

    def __init__(
        self, samples: Samples, batch_size: int, iterations: int, num_workers: int, timeout: float
    ):
        self.samples, self.batch_size, self.iterations = samples, batch_size, iterations
        self.num_workers, self.timeout = num_workers, timeout
        self.global_batch = batch_size * dist.world_size()
        self.per_epoch = len(Stream(samples, batch_size, 0))

    def __len__(self) -> int:
        return self.iterations

    def batches(self, epoch: int, first: int) -> '_Rest':
        """The batches from the iteration `first` on."""
        return _Rest(self, first)

    def read(self, first: int) -> Iterator[dict]:
        """The batches as dicts of tensors, while unreadable pictures and classes are counted."""
        source = self.samples.samples
        order = Stream(self.samples, self.batch_size, first, self.iterations)
        batches = Loader(self.samples, order, self.num_workers, self.timeout).both()
        counted = min(self.per_epoch, self.iterations - first)
        unreadable = Unreadable(self.samples.complaint, len(self.samples))
        watched = census.watch(batches, source, counted)
        for done, (batch, arrays) in enumerate(watched, first + 1):
            unreadable.add(arrays['unreadable'])
            if done % self.per_epoch == 0:
                unreadable.end_epoch()
                unreadable.begin_epoch()
            del batch['unreadable']
            yield batch


class _Rest:
    """What is left of the batches from one iteration on."""

    def __init__(self, data: Batches, first: int):
        self.data, self.first = data, first

    def __iter__(self) -> Iterator[dict]:
        return self.data.read(self.first)

    def files(self, iteration: int) -> list[str]:
        """The images and labels of this rank's batch of that number."""
        data = self.data
        keys = next(iter(Stream(data.samples, data.batch_size, iteration)))
        source = data.samples.samples
        return [dataset.name_of(source, index % len(source)) for _, index in keys]
