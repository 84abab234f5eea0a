"""Which classes occur in labels, and how many pixels are ignored.

A class that is in no label is in no figure either: a model that never names it looks perfect.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import paddle
from paddleseg.utils import logger

from util import dist

EARLY = 10  # iterations after which labels of a single class are worth a word
MOST_IGNORED = 0.5  # a larger share is worth a word


class Census:
    """Pixels of each class, int64 [K], and ignored ones, of the labels that were added."""

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.areas = np.zeros(num_classes, 'int64')
        self.ignored, self.ignore_index = 0, ignore_index

    def add(self, label: np.ndarray) -> None:
        """Count labels of any shape, classes from 0."""
        is_ignored = label == self.ignore_index
        self.ignored += int(is_ignored.sum())
        classes = label[~is_ignored].astype('int64')
        self.areas += np.bincount(classes, minlength=len(self.areas))[: len(self.areas)]

    def over_ranks(self) -> 'Census':
        """The sum over all ranks, each of which has to ask for it."""
        total = Census(len(self.areas), self.ignore_index)
        *areas, ignored = dist.sum_over_ranks([*self.areas.tolist(), self.ignored])
        total.areas, total.ignored = np.array(areas, 'int64'), int(ignored)
        return total


def warning(areas: np.ndarray, ignored: int | None, first: int = 0) -> str | None:
    """A sentence where classes are in no label or most pixels are ignored, else None.

    areas: pixels of each class in the labels; ignored: how many are in none of them, None where
    nobody has counted; first: the number of the first class.
    """
    absent = np.flatnonzero(areas == 0) + first
    pixels = int(areas.sum()) + (ignored or 0)
    share = (ignored or 0) / max(pixels, 1)
    if not len(absent) and share <= MOST_IGNORED:
        return None

    found = []
    if len(absent):
        noun, verb = ('class', 'is') if len(absent) == 1 else ('classes', 'are')
        counted = f'of {len(areas)} classes, counted from {first},'
        found.append(f'{noun} {ranges(absent)} {counted} {verb} in no label')
    if ignored is not None:
        found.append(f"{share:.1%} of the labels' pixels are ignored")
    advice = ''
    if len(absent) and ignored:
        advice = '. Is an absent class written in the masks as a number that is ignored?'
    return ', and '.join(found) + advice


def ranges(numbers: np.ndarray) -> str:
    """Sorted whole numbers in short: '0, 3-5, 9'."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ', '.join(f'{p[0]}-{p[-1]}' if len(p) > 1 else str(p[0]) for p in parts)


def watch(batches: Iterable[dict], samples: paddle.io.Dataset, iterations: int) -> Iterator[dict]:
    """The batches of a training, whose first `iterations`, an epoch say, are counted.

    Then a warning says what is in none of their labels, padding included; a first one comes early
    where there is one class or none.
    """
    if not hasattr(samples, 'num_classes') or not hasattr(samples, 'ignore_index'):
        yield from batches
        return
    census = Census(samples.num_classes, samples.ignore_index)
    for number, batch in enumerate(batches, 1):
        if number <= iterations:
            census.add(batch['label'].numpy())
        if number == iterations or number == EARLY < iterations:
            _warn(census.over_ranks(), number, early=number < iterations)
        yield batch


def _warn(total: Census, iterations: int, early: bool) -> None:
    if early and np.count_nonzero(total.areas) > 1:
        return
    text = warning(total.areas, total.ignored)
    if text:
        logger.warning(f'in the {iterations} iterations of training so far {text}')
