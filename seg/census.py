"""Which classes occur in labels, and how many pixels are ignored.

A class that is in no label counts in no metric: a model that never predicts it looks perfect.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import paddle
from paddleseg.utils import logger

from util import dist

EARLY = 10  # iterations after which labels of a single class are reported
MOST_IGNORED = 0.5  # a larger share of ignored pixels is reported


class Census:
    """Counts of the pixels of each class, int64 [K], and of ignored pixels."""

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.areas = np.zeros(num_classes, 'int64')
        self.ignored = 0
        self.ignore_index = ignore_index

    def add(self, label: np.ndarray) -> None:
        """Count labels of any shape, classes from 0."""
        is_ignored = label == self.ignore_index
        self.ignored += int(is_ignored.sum())
        classes = label[~is_ignored].astype('int64')
        num_classes = len(self.areas)
        counts = np.bincount(classes, minlength=num_classes)
        self.areas += counts[:num_classes]

    def over_ranks(self) -> 'Census':
        """The sum over all ranks; every rank has to call this."""
        total = Census(len(self.areas), self.ignore_index)
        counts = [*self.areas.tolist(), self.ignored]
        *areas, ignored = dist.sum_over_ranks(counts)
        total.areas = np.array(areas, 'int64')
        total.ignored = int(ignored)
        return total


def warning(areas: np.ndarray, ignored: int | None, first: int = 0) -> str | None:
    """A sentence where classes are in no label or most pixels are ignored, else None.

    areas: pixels of each class in the labels. ignored: the number of ignored pixels, None where it
    is not known. first: the number of the first class.
    """
    absent = np.flatnonzero(areas == 0) + first
    num_ignored = ignored or 0
    pixels = int(areas.sum()) + num_ignored
    share = num_ignored / max(pixels, 1)
    if not len(absent) and share <= MOST_IGNORED:
        return None

    found = []
    if len(absent):
        noun, verb = 'classes', 'are'
        if len(absent) == 1:
            noun, verb = 'class', 'is'
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
    gaps = np.flatnonzero(np.diff(numbers) > 1)
    shown = []
    for part in np.split(numbers, gaps + 1):
        first, last = part[0], part[-1]
        shown.append(f'{first}-{last}' if len(part) > 1 else str(first))
    return ', '.join(shown)


def watch(
    batches: Iterable[tuple[dict, dict]], samples: paddle.io.Dataset, iterations: int
) -> Iterator[tuple[dict, dict]]:
    """The batches of a training run; the labels of the first `iterations` are counted.

    batches: as tensors and as arrays, of which only the arrays are read.

    After these, usually an epoch, a warning names the classes that were in no label and the share
    of ignored pixels, padding included. An earlier warning comes where there is at most one class.
    """
    if not hasattr(samples, 'num_classes') or not hasattr(samples, 'ignore_index'):
        yield from batches
        return
    census = Census(samples.num_classes, samples.ignore_index)
    for number, (batch, arrays) in enumerate(batches, 1):
        if number <= iterations:
            census.add(arrays['label'])
        is_early = number == EARLY and iterations > EARLY
        if number == iterations or is_early:
            _warn(census.over_ranks(), number, is_early)
        yield batch, arrays


def _warn(total: Census, iterations: int, early: bool) -> None:
    if early and np.count_nonzero(total.areas) > 1:
        return
    text = warning(total.areas, total.ignored)
    if text:
        logger.warning(f'in the {iterations} iterations of training so far {text}')
