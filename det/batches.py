"""The batches of a training and of an evaluation: which pictures, prepared how, joined how.

What is random about a sample depends on (seed, epoch, index) alone, so that workers and processes
change nothing, and a resumed training sees what an undisturbed one sees.
"""

import traceback
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from det.dataset import COCODataSet, Unreadable
from util import dist
from util.data import feed, loader
from util.data.unreadable import NEIGHBOURS
from util.errors import InputError

TRIES = 100  # pictures that are tried where random crops leave no box
STACKED = ('im_shape', 'scale_factor', 'origin_shape', 'im_id')
LISTED = ('gt_bbox', 'gt_class', 'gt_segm')  # of another length for each image


class Samples:
    """Prepared samples of a data set, by number or, for training, by (epoch, number).

    transforms: (sample, rng) -> sample, or None where no box is left. In training another random
    picture then takes the place, and the next readable one that of an unreadable picture, whose
    number is `unreadable` in the sample, else -1.
    """

    def __init__(self, dataset: COCODataSet, transforms: Callable, seed: int = 0):
        self.dataset = dataset
        self.transforms = transforms
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, key: int | tuple[int, int]) -> dict:
        """The prepared sample; InputError names the file where that fails."""
        try:
            return self._of_training(*key) if isinstance(key, tuple) else self._plain(key)
        except Unreadable as error:  # in training another picture has taken its place
            raise InputError(f'{error}; evaluation needs every image') from None
        except InputError:
            raise
        except Exception as error:
            traceback.print_exc()
            kind = type(error).__name__
            raise InputError(f'{self.name(key)} cannot be prepared ({kind}: {error})') from None

    def _plain(self, index: int) -> dict:
        rng = np.random.default_rng([self.seed, index])
        return self.transforms(self.dataset.read(index), rng)

    def _of_training(self, epoch: int, index: int) -> dict:
        rng = np.random.default_rng([self.seed, epoch, index])
        draws = rng.integers(2**31)  # the seed of what a detector samples from this image
        source, unreadable = index, -1
        for _ in range(TRIES):
            picture, source, is_replaced = self._readable(source)
            if is_replaced:
                unreadable = index
            sample = self.transforms(picture, rng)
            if sample is not None:
                return {**sample, 'draws': draws, 'unreadable': np.int64(unreadable)}
            source = int(rng.integers(len(self)))
        raise InputError(
            f'{self.name(index)}: no box is left by the transforms of TrainReader, nor in '
            f'{TRIES - 1} other pictures; crop less, or keep images without boxes by allow_empty'
        )

    def _readable(self, index: int) -> tuple[dict, int, bool]:
        """A picture or the next readable one, its number, and whether it is another one."""
        for source in range(index, index + NEIGHBOURS):
            source %= len(self)
            try:
                return self.dataset.read(source), source, source != index
            except Unreadable:
                continue
        raise InputError(f'{self.complaint(index)}; nor can the {NEIGHBOURS - 1} after it')

    def name(self, key: int | tuple[int, int]) -> str:
        """The file of a sample."""
        return self.dataset.name(key[1] if isinstance(key, tuple) else key)

    def complaint(self, index: int) -> str:
        """The file and why it cannot be read."""
        try:
            self.dataset.read(index)
        except Unreadable as error:
            return str(error)
        return f'{self.name(index)} can be read now, but not when it was needed'


def collate(samples: list[dict]) -> tuple[dict, dict]:
    """The images of a batch, for the device, and all else, which is worked with outside of it.

    Images are padded with zeros, right and below, to the largest. Numbers and shapes are stacked;
    what differs in length from image to image stays a list.
    """
    height = max(sample['image'].shape[1] for sample in samples)
    width = max(sample['image'].shape[2] for sample in samples)
    images = np.stack([_padded(sample['image'], height, width) for sample in samples])
    batch = {}
    for name in (*STACKED, 'draws', 'unreadable'):
        if name in samples[0]:
            batch[name] = np.stack([sample[name] for sample in samples])
    for name in LISTED:
        if name in samples[0]:
            batch[name] = [sample[name] for sample in samples]
    if 'gt_segm' in batch:
        batch['gt_segm'] = [_padded(masks, height, width) for masks in batch['gt_segm']]
    return {'image': images}, batch


def _padded(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """An array [any, rows, columns] with zeros up to [any, height, width]."""
    _, rows, columns = array.shape
    return np.pad(array, [(0, 0), (0, height - rows), (0, width - columns)])


def _batches(
    samples: Samples, order: Iterable[list], num_workers: int, timeout: float
) -> Iterator[dict]:
    """The batch of each list of keys, with its images as a tensor on the device."""
    moved = feed.batches(samples, collate, order, num_workers, timeout)
    for images, batch in moved:
        yield images | batch


class TrainLoader(loader.TrainLoader):
    """The data of engine_loop.Run: batches of dicts, epoch by epoch."""

    batch_flag = 'TrainReader.batch_size'

    def read(self, epoch: int, first: int) -> Iterator[dict]:
        """Iterate over the batches of one epoch, starting with batch `first`."""
        self.unreadable.begin_epoch()
        order = self.order(epoch, first)
        for batch in _batches(self.samples, order, self.num_workers, self.timeout):
            self.unreadable.add(batch.pop('unreadable'))
            yield batch
        self.unreadable.end_epoch()


def evaluated(samples: Samples, batch_size: int, num_workers: int, timeout: float):
    """The batches of an evaluation on this rank; over all ranks each picture occurs once."""
    mine = list(loader.evaluation_order(len(samples), dist.rank(), dist.world_size()))
    order = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    return order, _batches(samples, order, num_workers, timeout)
