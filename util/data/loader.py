"""Batches for training, the same whatever the number of workers.

Whatever is random about a sample is drawn from a generator made of (seed, epoch, index), so that a sample does not
depend on who prepares it, or when; nothing about randomness needs to be stored.
"""

import ctypes
import traceback
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import paddle

from util import dist, log
from util.data import pictures, workers
from util.data.folder import Images
from util.errors import InputError

UNREADABLE_SHARE = 0.01  # of the data set; more than that is no accident
TIMEOUT = 600.0  # seconds for one sample; the slowest disk of an archive has answered by then
NEIGHBOURS = 10  # files that are tried for one sample


class Order:
    """Which samples form which batch of one epoch: a permutation made from (seed, epoch), the incomplete end dropped.

    Rank r takes the r-th part of every global batch of batch_size * world_size, from the batch `first` on. Iterating
    gives, for each batch, the keys (epoch, index) of its samples.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        seed: int,
        epoch: int,
        rank: int,
        world_size: int,
        first: int = 0,
    ):
        self.samples, self.batch_size, self.seed, self.epoch = samples, batch_size, seed, epoch
        self.rank, self.world_size, self.first = rank, world_size, first

    def __len__(self) -> int:
        return max(0, self.samples // (self.batch_size * self.world_size) - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        for batch in range(self.first, self.first + len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch_size]]


def evaluation_order(samples: int, rank: int, world_size: int) -> range:
    """The indices that a rank evaluates: over all ranks each exactly once, none repeated to make parts equal.

    Ranks may get unequal numbers, so nothing may be communicated before the end: one sum of (sum, count).
    """
    return range(rank, samples, world_size)


class _Samples(paddle.io.Dataset):
    """Images that are read from files; one that cannot be read is replaced by a neighbour, and marked.

    Any other failure, which is a fault of the program or of the machine, is an InputError that names the file.
    """

    def __init__(self, images: Images, in_chans: int):
        self.images, self.in_chans = images, in_chans

    def __len__(self) -> int:
        return len(self.images)

    def picture(self, index: int):
        """(picture, index of the file it is from, `index` if that one is unreadable, else -1). The neighbour is the next
        readable file, and so depends on the index alone; where there is none nearby, a black pixel."""
        for source in range(index, index + NEIGHBOURS):
            source %= len(self)
            try:
                return self._read(source), source, np.int64(-1 if source == index else index)
            except Exception:
                # PIL raises a dozen kinds for broken files; the loader names the file
                continue
        return pictures.blank(self.in_chans), index, np.int64(index)

    def _read(self, index: int):
        return pictures.read(self.images.paths[index], self.in_chans)

    def name(self, key: int | tuple[int, int]) -> str:
        """The file that a sample is from."""
        return self.images.paths[key[1] if isinstance(key, tuple) else key]

    def sample(self, key: int | tuple[int, int]) -> tuple[np.ndarray, ...]:
        """samples[key]; InputError names the file where that fails."""
        try:
            return self[key]
        except Exception as error:
            traceback.print_exc()
            raise InputError(
                f'{self.name(key)} cannot be prepared ({type(error).__name__}: {error})'
            ) from None

    def complaint(self, index: int) -> str:
        """The file and why it cannot be read."""
        try:
            self._read(index)
            reason = 'readable now, but not when it was needed'
        except Exception as error:
            reason = f'{type(error).__name__}: {error}'
        return f'unreadable image {self.images.paths[index]} ({reason})'


class TrainSet(_Samples):
    """Samples for training: `samples[epoch, index]` is (image, target, index of an unreadable file or -1).

    augment(picture, rng) -> float32 [C, height, width]; target(index, rng) gives what goes beside the image.
    """

    def __init__(
        self, images: Images, in_chans: int, augment: Callable, target: Callable, seed: int
    ):
        super().__init__(images, in_chans)
        self.augment, self.target, self.seed = augment, target, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = key
        picture, source, unreadable = self.picture(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        target = self.target(source, rng)
        return self.augment(picture, rng), target, unreadable


class EvalSet(_Samples):
    """Samples for evaluation: `samples[index]` is (image, label, index of an unreadable file or -1)."""

    def __init__(self, images: Images, in_chans: int, transform: Callable):
        super().__init__(images, in_chans)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        picture, source, unreadable = self.picture(index)
        return self.transform(picture), self.images.label(source), unreadable


class _Feed(paddle.io.IterableDataset):
    """Batches of a pool for Paddle's loader, whose thread moves them to the device while the one before is computed with.
    It would wait for ever after an exception, which is therefore kept in `failure`."""

    def __init__(self, pool: workers.Pool):
        self.pool, self.failure = pool, None

    def __iter__(self) -> Iterator[list[paddle.Tensor]]:
        try:
            for batch in self.pool:
                yield [_tensor(array) for array in batch]
        except Exception as error:
            self.failure = error


def _tensor(array: np.ndarray) -> paddle.Tensor:
    """A copy in the computer's memory, while which is made other threads may go on: Paddle's own copy lets none."""
    tensor = paddle.empty(array.shape, array.dtype.name, device='cpu')
    ctypes.memmove(tensor.data_ptr(), array.ctypes.data, array.nbytes)
    return tensor


def _collate(samples: list[tuple]) -> list[np.ndarray]:
    return [np.stack(part) for part in zip(*samples)]


def _batches(
    samples: _Samples, order: Iterable[list], num_workers: int, timeout: float
) -> Iterator[list[paddle.Tensor]]:
    """Samples stacked to batches, prepared by worker processes or, without any, right here."""
    if not num_workers or not workers.supported():
        for batch in order:
            yield [
                paddle.to_tensor(part) for part in _collate([samples.sample(key) for key in batch])
            ]
        return
    pool = workers.Pool(samples.sample, _collate, order, num_workers, samples.name, timeout)
    feed = _Feed(pool)
    # kept, for its end waits for the pool's
    batches = iter(paddle.io.DataLoader(feed, batch_size=None))
    try:
        yield from batches
        if feed.failure:
            raise feed.failure
    finally:
        pool.close()


class Batches:
    """The batches of one epoch of a TrainLoader, from the one numbered `first` on."""

    def __init__(self, loader: 'TrainLoader', epoch: int, first: int):
        self.loader, self.epoch, self.first = loader, epoch, first

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        return self.loader.read(self.epoch, self.first)

    def files(self, number: int) -> list[str]:
        """The files of this rank's batch of that number in the epoch."""
        keys = next(iter(self.loader.order(self.epoch, number)))
        return [self.loader.samples.name(key) for key in keys]


class TrainLoader:
    """Batches of (images, targets) of this rank, epoch by epoch.

    timeout: seconds that a worker may take for one sample, 0 for any.
    global_batch: images an iteration, over all ranks. InputError where the data set has not enough images for one.
    """

    def __init__(
        self,
        samples: TrainSet,
        batch_size: int,
        num_workers: int = 0,
        pin_mem: bool = True,
        timeout: float = TIMEOUT,
    ):
        self.samples, self.batch_size, self.num_workers, self.timeout = (
            samples,
            batch_size,
            num_workers,
            timeout,
        )
        self.global_batch = batch_size * dist.world_size()
        self.accum_iter = 1
        self.named = set()  # unreadable images that were warned of
        if not len(self):
            processes = f' on {dist.world_size()} processes' if dist.world_size() > 1 else ''
            raise InputError(
                f'--batch_size {batch_size}{processes} is larger than the data set of {len(samples)} images'
            )
        paddle.io.reader.use_pinned_memory(pin_mem)

    def accumulate(self, accum_iter: int) -> None:
        """Let so many iterations make an optimizer step; InputError where an epoch has fewer."""
        if len(self) < accum_iter:
            raise InputError(
                f'--accum_iter {accum_iter} is more than the {len(self)} iterations of an epoch, which '
                'would never come to an optimizer step'
            )
        self.accum_iter = accum_iter

    @property
    def effective_batch(self) -> int:
        """Images an optimizer step, over all ranks."""
        return self.global_batch * self.accum_iter

    def order(self, epoch: int, first: int = 0) -> Order:
        return Order(
            len(self.samples),
            self.batch_size,
            self.samples.seed,
            epoch,
            dist.rank(),
            dist.world_size(),
            first,
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.order(0))

    def batches(self, epoch: int, first: int = 0) -> Batches:
        """The batches of one epoch, from the one numbered `first` on."""
        return Batches(self, epoch, first)

    def read(self, epoch: int, first: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        count = 0  # of unreadable images, in this epoch and on this rank
        order = self.order(epoch, first)
        for images, targets, unreadable in _batches(
            self.samples, order, self.num_workers, self.timeout
        ):
            unreadable = unreadable[unreadable >= 0].tolist()
            for index in unreadable:
                if index not in self.named:
                    self.named.add(index)
                    log.warn_from_rank(
                        f'{self.samples.complaint(index)}; a neighbour takes its place ({len(self.named)} so far)'
                    )
            count += len(unreadable)
            self._tolerate(count)
            yield images, targets
        self._tolerate(dist.sum_over_ranks([count])[0])

    def _tolerate(self, unreadable: float) -> None:
        if unreadable > UNREADABLE_SHARE * len(self.samples):
            raise InputError(
                f'{unreadable:.0f} of {len(self.samples)} images cannot be read, more than '
                f'{UNREADABLE_SHARE:.0%}; the warnings above name them'
            )


class EvalLoader:
    """Batches of (images, labels), each image exactly once; InputError for an unreadable one.

    shared: once over all ranks, of which this one has its part, instead of once on each.
    """

    def __init__(
        self,
        samples: EvalSet,
        batch_size: int,
        num_workers: int = 0,
        shared: bool = False,
        timeout: float = TIMEOUT,
    ):
        self.samples, self.num_workers, self.timeout = samples, num_workers, timeout
        order = evaluation_order(
            len(samples), *((dist.rank(), dist.world_size()) if shared else (0, 1))
        )
        self.order = [
            list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)
        ]

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        for images, labels, unreadable in _batches(
            self.samples, self.order, self.num_workers, self.timeout
        ):
            worst = unreadable.max().item()
            if worst >= 0:
                raise InputError(f'{self.samples.complaint(worst)}; evaluation needs every image')
            yield images, labels
