"""The images of a data set, whatever holds them: files, tar archives or parquet."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np


@dataclass(frozen=True)
class Images:
    """The images of a data set: paths, one label each, and class names in the order of the labels.

    paths: a list of files, or archives.Members, or a Chain of both, or Some of one of these. labels
    is None where there are none, classes is None for every list. left_out counts what was passed
    over, by the reason.
    """

    paths: Sequence[str]
    labels: Sequence[int] | None
    classes: list[str] | None
    left_out: Counter = field(default_factory=Counter, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int, rng=None) -> np.int64:
        """The label of an image.

        rng is not used; the signature is that of `target` in loader.TrainSet.
        """
        return np.int64(self.labels[index])

    def source(self, index: int) -> str | BinaryIO:
        """What pictures.read takes: the file of an image, or its bytes out of an archive."""
        return _source(self.paths, index)


class Chain(Sequence):
    """Sequences of paths, one after the other."""

    def __init__(self, parts: list[Sequence[str]]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> str:
        part, place = self._find(index)
        return part[place]

    def read(self, index: int) -> str | BinaryIO:
        """As Images.source."""
        part, place = self._find(index)
        return _source(part, place)

    def _find(self, index: int) -> tuple[Sequence[str], int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self.ends, index, side='right'))
        part = self.parts[number]
        start = self.ends[number] - len(part)
        return part, int(index - start)


class Some(Sequence):
    """The paths at these places of a sequence."""

    def __init__(self, paths: Sequence[str], places: np.ndarray):
        self.paths = paths
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> str:
        return self.paths[int(self.places[index])]

    def read(self, index: int) -> str | BinaryIO:
        """As Images.source."""
        return _source(self.paths, int(self.places[index]))


def _source(paths: Sequence[str], index: int) -> str | BinaryIO:
    return paths[index] if isinstance(paths, list) else paths.read(index)


def by_names(images: Images, names: list[str]) -> Images:
    """The same images, labelled by the place of their class among `names`."""
    place = {name: label for label, name in enumerate(names)}
    new_label = np.array([place[name] for name in images.classes], 'int32')
    labels = new_label[np.asarray(images.labels)]
    if isinstance(images.labels, list):
        labels = labels.tolist()
    return replace(images, labels=labels, classes=names)
