"""Batches for training, the same whatever the number of workers.

Whatever is random about a sample is drawn from a generator made of (seed, epoch, index), so that a sample does not
depend on who prepares it, or when; nothing about randomness needs to be stored.
"""
from collections.abc import Callable, Iterator

import numpy as np
import paddle

from util import dist
from util.data.folder import Images
from util.errors import InputError

UNREADABLE_SHARE = 0.01  # of the data set; more than that is no accident


class Order:
    """Which samples form which batch of one epoch: a permutation made from (seed, epoch), the incomplete end dropped.

    Rank r takes the r-th part of every joint batch of batch_size * world_size, from the batch `first` on. Iterating
    gives, for each batch, the keys (epoch, index) of its samples.
    """

    def __init__(self, samples: int, batch_size: int, seed: int, epoch: int, rank: int, world_size: int, first: int = 0):
        self.samples, self.batch_size, self.seed, self.epoch = samples, batch_size, seed, epoch
        self.rank, self.world_size, self.first = rank, world_size, first

    def __len__(self) -> int:
        return self.samples // (self.batch_size * self.world_size) - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        for batch in range(self.first, self.first + len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield [(self.epoch, int(index)) for index in order[start:start + self.batch_size]]


def evaluation_order(samples: int, rank: int, world_size: int) -> range:
    """The indices that a rank evaluates: over all ranks each exactly once, none repeated to make parts equal.

    Ranks may get unequal numbers, so nothing may be communicated before the end: one sum of (sum, count).
    """
    return range(rank, samples, world_size)


class TrainSet(paddle.io.Dataset):
    """Samples for training: `samples[epoch, index]` is (image, target, index of an unreadable file or -1).

    read(path) decodes, augment(picture, rng) -> float32 [C, height, width], target(index, rng) gives what goes beside
    the image. A file that cannot be read is replaced by the next readable one, so that the replacement depends on the
    index alone.
    """

    def __init__(self, images: Images, read: Callable, augment: Callable, target: Callable, seed: int):
        self.images, self.read, self.augment, self.target, self.seed = images, read, augment, target, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        target = self.target(index, rng)
        picture, unreadable = None, -1
        for neighbour in range(index, index + len(self)):
            try:
                picture = self.read(self.images.paths[neighbour % len(self)])
                break
            except Exception:  # PIL raises a dozen kinds for broken files; TrainLoader names the file and counts it
                unreadable = index
        if picture is None:
            raise InputError(f'none of {len(self)} images can be read, beginning with {self.images.paths[index]}')
        return self.augment(picture, rng), target, np.int64(unreadable)

    def reason(self, index: int) -> str:
        """Why a file cannot be read."""
        try:
            self.read(self.images.paths[index])
            return 'readable now, but not when it was needed'
        except Exception as error:
            return f'{type(error).__name__}: {error}'


class TrainLoader:
    """Batches of (images, targets) of one rank, epoch by epoch.

    InputError where the data set has not enough images for a joint batch, or an epoch not enough batches for a round
    of accumulation.
    """

    def __init__(self, samples: TrainSet, batch_size: int, accum_iter: int = 1, num_workers: int = 0,
                 pin_mem: bool = True, rank: int = 0, world_size: int = 1):
        self.samples, self.batch_size, self.num_workers = samples, batch_size, num_workers
        self.rank, self.world_size = rank, world_size
        self.unreadable = set()
        if not len(self):
            processes = f' on {world_size} processes' if world_size > 1 else ''
            raise InputError(f'--batch_size {batch_size}{processes} is larger than the data set of {len(samples)} images')
        if len(self) < accum_iter:
            raise InputError(f'--accum_iter {accum_iter} is more than the {len(self)} iterations of an epoch, which '
                             'would never come to an optimizer step')
        paddle.io.reader.use_pinned_memory(pin_mem)

    def order(self, epoch: int, first: int = 0) -> Order:
        return Order(len(self.samples), self.batch_size, self.samples.seed, epoch, self.rank, self.world_size, first)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.order(0))

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """The batches of one epoch, from the one numbered `first` on."""
        order = self.order(epoch, first)
        if self.num_workers:
            loader = paddle.io.DataLoader(self.samples, batch_sampler=order, num_workers=self.num_workers)
        else:  # Paddle's own loader waits for ever once a sample raises without workers
            loader = ([paddle.to_tensor(np.stack(part)) for part in zip(*(self.samples[key] for key in batch))]
                      for batch in order)
        for images, targets, unreadable in loader:
            self._report(unreadable.numpy())
            yield images, targets

    def _report(self, unreadable: np.ndarray) -> None:
        """Name each unreadable file once; InputError when they are more than the tolerated share."""
        for index in sorted(set(unreadable[unreadable >= 0].tolist()) - self.unreadable):
            self.unreadable.add(index)
            dist.warn(f'unreadable image {self.samples.images.paths[index]} ({self.samples.reason(index)}); '
                      f'a neighbour takes its place ({len(self.unreadable)} so far)')
        if len(self.unreadable) > UNREADABLE_SHARE * len(self.samples):
            raise InputError(f'{len(self.unreadable)} of {len(self.samples)} images cannot be read, more than '
                             f'{UNREADABLE_SHARE:.0%}; the last is {self.samples.images.paths[max(self.unreadable)]}')
