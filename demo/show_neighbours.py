"""The pictures of a folder whose features are nearest to those of given pictures."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle

from engine_frozen import normalised
from models_features import Features
from util import panels
from util.errors import InputError
from util.progress import bar

WORDS = {'cls': 'class token', 'mean': 'mean of the patches'}
BATCH_SIZE = 32  # pictures at a time


class Among:
    """The pictures in which neighbours are searched; their features are computed once.

    read: file -> image [C, height, width] as the model sees it.
    """

    def __init__(self, features: Features, read: Callable[[Path], np.ndarray], files: list[Path]):
        self.features = features
        self.read = read
        self.files = files

    @functools.cached_property
    def embedded(self) -> np.ndarray:
        """The features [M, D] of these pictures."""
        return self.embed(self.files)

    @paddle.no_grad()
    def embed(self, files: list[Path]) -> np.ndarray:
        """The features [files, D] of any pictures."""
        found = []
        starts = range(0, len(files), BATCH_SIZE)
        for start in bar(starts, 'batches'):
            batch_files = files[start : start + BATCH_SIZE]
            images = np.stack([self.read(file) for file in batch_files])
            (batch,) = self.features(paddle.to_tensor(images)).values()
            found.append(batch.numpy())
        return np.concatenate(found)


def sheet(
    among: Among, as_pixels: Callable[[np.ndarray], np.ndarray], files: list[Path], count: int
) -> panels.Sheet:
    """A sheet: each of `files`, and its `count` nearest pictures of `among`, nearest first.

    as_pixels: images -> uint8 [N, height, width, 3]. A file is no neighbour of itself.
    """
    own = same(files, among.files)  # [N, M]
    others = len(among.files) - own.sum(1).max()
    if count > others:
        raise InputError(f'--count {count}: there are only {others} other pictures in --among')

    queries = among.embed(files)  # [N, D]
    nearest, cosines = ranking(queries, among.embedded, own)

    rows, titles = [], []
    for file, chosen, similar in zip(files, nearest[:, :count], cosines):
        shown = [file, *(among.files[number] for number in chosen)]
        images = np.stack([among.read(one) for one in shown])
        rows.append(list(as_pixels(images)))
        titles.append([short(file)])
        for neighbour, cosine in zip(shown[1:], similar):
            titles[-1].append(f'{1 - cosine:.2g}  {short(neighbour)}')

    places = [f'{place}.' for place in range(2, count + 1)]
    captions = ['picture', 'nearest', *places]
    note = (
        f'nearest of {len(among.files)} pictures by their features: {described(among.features)}\n'
        'before each name: cosine distance, 1 - cosine of the angle between the features'
    )
    return panels.Sheet(rows, captions, note, titles)


def same(files: list[Path], among: list[Path]) -> np.ndarray:
    """Which of `among` is which of `files`, bool [files, among]."""
    candidates = np.array([str(file.resolve()) for file in among])
    queries = np.array([str(file.resolve()) for file in files])
    return queries[:, None] == candidates


def ranking(
    queries: np.ndarray, candidates: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each query [N, D] the candidates [M, D] by falling cosine: numbers and cosines [N, M].

    left_out: bool [N, M], pairs that come last, with a cosine of -inf.
    """
    cosines = normalised(queries) @ normalised(candidates).T  # [N, M]
    cosines = np.where(left_out, -np.inf, cosines)
    order = np.argsort(-cosines, axis=1, kind='stable')
    return order, np.take_along_axis(cosines, order, axis=1)


def short(file: Path) -> str:
    """The name of a file with its folder, which often is its class."""
    return f'{file.parent.name}/{file.name}'


def described(features: Features) -> str:
    """The features in words."""
    words = WORDS[features.feature]
    if features.blocks:
        words = f'{words} of block {features.blocks[0]}'
    return words
