"""Batches for training, the same for any number of workers.

Everything random about a sample is drawn from a generator seeded with (seed, epoch, index). So a
sample does not depend on the process that prepares it or on the time, and no random state is saved.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import paddle

from util import dist
from util.data import feed, pictures
from util.data.images import Images
from util.data.unreadable import NEIGHBOURS, Unreadable
from util.data.window import Ahead, Window
from util.errors import InputError

TIMEOUT = 600.0  # seconds for one sample; enough for a slow archive disk


class Order:
    """Which samples form which batch of one epoch, as a permutation made from (seed, epoch).

    window: draws the permutation of --shuffle window; None for that of --shuffle full.
    Rank r takes the r-th part of every global batch of batch_size * world_size, starting with batch
    `first`. An incomplete batch at the end is dropped. Iterating gives, for each batch, the keys
    (epoch, index) of its samples.
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
        window: Window | None = None,
    ):
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size
        self.first = first
        self.window = window

    def __len__(self) -> int:
        global_batch = self.batch_size * self.world_size
        return max(0, self.samples // global_batch - self.first)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.window:
            order = self.window.order(rng, self.batch_size * self.world_size)
        else:
            order = rng.permutation(self.samples)
        for batch in range(self.first, self.first + len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            chosen = order[start : start + self.batch_size]
            yield [(self.epoch, int(index)) for index in chosen]


def rank_order(
    samples, batch_size: int, epoch: int, first: int = 0, window: Window | None = None
) -> Order:
    """The order of this rank's batches; `samples` has a length and a `seed`."""
    return Order(
        samples=len(samples),
        batch_size=batch_size,
        seed=samples.seed,
        epoch=epoch,
        rank=dist.rank(),
        world_size=dist.world_size(),
        first=first,
        window=window,
    )


def evaluation_order(samples: int, rank: int, world_size: int) -> range:
    """The indices that a rank evaluates; over all ranks, each index occurs exactly once.

    Ranks may get unequal numbers of samples, so they must not communicate before the end, where
    (sum, count) is added up over them.
    """
    return range(rank, samples, world_size)


class _Samples(paddle.io.Dataset):
    """Images read from files; an unreadable one is replaced by a neighbour and marked.

    Any other failure is a fault of the program or of the machine: an InputError names the file.
    """

    def __init__(self, images: Images, in_chans: int):
        self.images = images
        self.in_chans = in_chans

    def __len__(self) -> int:
        return len(self.images)

    def picture(self, index: int):
        """(picture, index of its source, `index` if its own file is unreadable, else -1).

        The replacement is the next readable file, so it depends on the index alone. If there is
        none nearby, it is one black pixel.
        """
        for source in range(index, index + NEIGHBOURS):
            source %= len(self)
            try:
                picture = self._read(source)
            except Exception:
                # PIL raises many exceptions for broken files; the loader names the file
                continue
            unreadable = -1 if source == index else index
            return picture, source, np.int64(unreadable)
        return pictures.blank(self.in_chans), index, np.int64(index)

    def _read(self, index: int):
        return pictures.read(self.images.source(index), self.in_chans)

    def name(self, key: int | tuple[int, int]) -> str:
        """The file of a sample, for a key `index` or (epoch, index)."""
        index = key[1] if isinstance(key, tuple) else key
        return self.images.paths[index]

    def sample(self, key: int | tuple[int, int]) -> tuple[np.ndarray, ...]:
        """samples[key]; InputError names the file if that fails."""
        try:
            return self[key]
        except Exception as error:
            traceback.print_exc()
            kind = type(error).__name__
            raise InputError(f'{self.name(key)} cannot be prepared ({kind}: {error})') from None

    def complaint(self, index: int) -> str:
        """A sentence that names an unreadable file and says why it cannot be read."""
        try:
            self._read(index)
            reason = 'readable now, but not when it was needed'
        except Exception as error:
            reason = f'{type(error).__name__}: {error}'
        return f'unreadable image {self.images.paths[index]} ({reason})'


class TrainSet(_Samples):
    """Samples for training: samples[epoch, index] is (image, target, unreadable).

    augment(picture, rng) -> float32 [C, height, width]. target(index, rng) -> the image's label or
    mask noise. unreadable: the index of a file that a neighbour replaces, else -1.
    """

    def __init__(
        self, images: Images, in_chans: int, augment: Callable, target: Callable, seed: int
    ):
        super().__init__(images, in_chans)
        self.augment = augment
        self.target = target
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = key
        picture, source, unreadable = self.picture(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        target = self.target(source, rng)  # drawn before the augmentation
        image = self.augment(picture, rng)
        return image, target, unreadable


class EvalSet(_Samples):
    """Samples for evaluation: samples[index] is (image, label, unreadable) as in TrainSet."""

    def __init__(self, images: Images, in_chans: int, transform: Callable):
        super().__init__(images, in_chans)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        picture, source, unreadable = self.picture(index)
        return self.transform(picture), self.images.label(source), unreadable


def _collate(samples: list[tuple]) -> tuple[list[np.ndarray], np.ndarray]:
    """[images, targets] for the device, each [N, ...], and the marks [N] for the host."""
    *arrays, marks = (np.stack(part) for part in zip(*samples))
    return arrays, marks


class Batches:
    """The batches of one epoch of a TrainLoader, starting with batch `first`."""

    def __init__(self, loader: 'TrainLoader', epoch: int, first: int):
        self.loader = loader
        self.epoch = epoch
        self.first = first

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        return self.loader.read(self.epoch, self.first)

    def files(self, number: int) -> list[str]:
        """The files of this rank's batch `number` of the epoch."""
        keys = next(iter(self.loader.order(self.epoch, number)))
        return [self.loader.samples.name(key) for key in keys]


class TrainLoader:
    """Batches of (images, targets) of this rank, epoch by epoch.

    timeout: seconds that a worker may take for one sample; 0 turns it off.
    window: the order of --shuffle window, as for Order.
    global_batch: images per iteration, over all ranks. InputError if the data set is smaller.
    """

    batch_flag = '--batch_size'  # the name of the batch's size in an error

    def __init__(
        self,
        samples: TrainSet,
        batch_size: int,
        num_workers: int = 0,
        timeout: float = TIMEOUT,
        window: Window | None = None,
    ):
        self.samples = samples
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.timeout = timeout
        self.window = window
        self.global_batch = batch_size * dist.world_size()
        if window:
            window.check(self.global_batch)
        self.accum_iter = 1
        self.unreadable = Unreadable(samples.complaint, len(samples))
        if not len(self):
            processes = f' on {dist.world_size()} processes' if dist.world_size() > 1 else ''
            raise InputError(
                f'{self.batch_flag} {batch_size}{processes} is larger than '
                f'the data set of {len(samples)} images'
            )

    def accumulate(self, accum_iter: int) -> None:
        """Set the iterations per optimizer step; InputError if an epoch has fewer."""
        if len(self) < accum_iter:
            raise InputError(
                f'--accum_iter {accum_iter} is more than the {len(self)} iterations of an epoch, '
                'so no optimizer step would ever be made; choose a smaller one'
            )
        self.accum_iter = accum_iter

    @property
    def effective_batch(self) -> int:
        """Images per optimizer step, over all ranks."""
        return self.global_batch * self.accum_iter

    def order(self, epoch: int, first: int = 0) -> Order:
        """The keys of this rank's batches of one epoch, starting with batch `first`."""
        return rank_order(self.samples, self.batch_size, epoch, first, self.window)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.order(0))

    def batches(self, epoch: int, first: int = 0) -> Batches:
        """The batches of one epoch, starting with batch `first`."""
        return Batches(self, epoch, first)

    def read(self, epoch: int, first: int) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """Iterate over (images, targets) of one epoch, starting with batch `first`.

        Warns once about each unreadable image; InputError when there are too many.
        """
        self.unreadable.begin_epoch()
        order = self.order(epoch, first)
        with reading_ahead(order) as reach:
            # the iterator gets no name, so an error in the loop ends it and its workers at once
            for number, (batch, marks) in enumerate(
                feed.batches(self.samples, _collate, order, self.num_workers, self.timeout)
            ):
                reach(number)
                self.unreadable.add(marks)
                yield tuple(batch)
        self.unreadable.end_epoch()


@contextmanager
def reading_ahead(order: Order) -> Iterator[Callable[[int], None]]:
    """A function that is told which batch is used, so that the next archives are read in time.

    It starts a thread when it is first called, after the workers have been forked. For parquet it
    does nothing, because a process that needs a row group reads it as a whole.
    """
    if not order.window or order.window.members.is_parquet or not len(order):
        yield lambda number: None
        return
    batches = [[index for _, index in keys] for keys in order]
    ahead = Ahead(*order.window.archives(batches), ahead=order.window.window)
    try:
        yield ahead.reach
    finally:
        ahead.close()


class EvalLoader:
    """Batches of (images, labels), each image exactly once; InputError for an unreadable one.

    shared: the images are divided among the ranks; otherwise each rank gets all of them.
    """

    def __init__(
        self,
        samples: EvalSet,
        batch_size: int,
        num_workers: int = 0,
        shared: bool = False,
        timeout: float = TIMEOUT,
    ):
        self.samples = samples
        self.num_workers = num_workers
        self.timeout = timeout

        rank, world_size = (dist.rank(), dist.world_size()) if shared else (0, 1)
        order = evaluation_order(len(samples), rank, world_size)
        starts = range(0, len(order), batch_size)
        self.order = [list(order[start : start + batch_size]) for start in starts]

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        # the iterator gets no name, so an error in the loop ends it and its workers at once
        for (images, labels), marks in feed.batches(
            self.samples, _collate, self.order, self.num_workers, self.timeout
        ):
            unreadable = marks.max().item()
            if unreadable >= 0:
                complaint = self.samples.complaint(unreadable)
                raise InputError(f'{complaint}; evaluation needs every image')
            yield images, labels
