"""What a training does about pictures that cannot be read."""

from collections.abc import Callable

import numpy as np

from util import dist, log
from util.errors import InputError

SHARE = 0.01  # of the data set; more than that is no accident
NEIGHBOURS = 10  # files that are tried for one sample


class Unreadable:
    """Warns once about each unreadable picture, and ends a training with too many of them.

    complaint: index -> the file and what is wrong with it. samples: images of the data set.
    """

    def __init__(self, complaint: Callable[[int], str], samples: int):
        self.complaint = complaint
        self.samples = samples
        self.named = set()  # indices that a warning has named
        self.count = 0  # in this epoch and on this rank

    def begin_epoch(self) -> None:
        """Count from 0 again."""
        self.count = 0

    def add(self, marks: np.ndarray) -> None:
        """Count those of a batch; marks: the index of each sample's unreadable file, or -1.

        InputError if more than SHARE of the data set cannot be read.
        """
        unreadable = marks[marks >= 0].tolist()
        for index in unreadable:
            self._warn_once(index)
        self.count += len(unreadable)
        self._tolerate(self.count)

    def end_epoch(self) -> None:
        """Judge those of all ranks together. All ranks meet here, after their last batch."""
        total = dist.sum_over_ranks([self.count])[0]
        self._tolerate(total)

    def _warn_once(self, index: int) -> None:
        if index in self.named:
            return
        self.named.add(index)
        so_far = len(self.named)
        log.warn_from_rank(
            f'{self.complaint(index)}; a neighbour takes its place ({so_far} so far)'
        )

    def _tolerate(self, unreadable: float) -> None:
        if unreadable > SHARE * self.samples:
            raise InputError(
                f'{unreadable:.0f} of {self.samples} images cannot be read, more than '
                f'{SHARE:.0%}; the warnings above name them'
            )
