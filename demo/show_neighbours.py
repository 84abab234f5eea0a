"""The pictures of a folder whose features are nearest to those of given pictures."""

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


def sheet(
    features: Features,
    read: Callable[[Path], np.ndarray],
    as_pixels: Callable[[np.ndarray], np.ndarray],
    files: list[Path],
    among: list[Path],
    count: int,
) -> np.ndarray:
    """A sheet: each of `files`, and the `count` nearest of the files `among`, nearest first.

    read: file -> image [C, height, width] as the model sees it. as_pixels: images -> uint8
    [N, height, width, 3]. A file is no neighbour of itself.
    """
    own = same(files, among)  # [N, M]
    others = len(among) - own.sum(1).max()
    if count > others:
        raise InputError(f'--count {count}: there are only {others} other pictures in --among')

    candidates = embed(features, read, among)  # [M, D]
    queries = embed(features, read, files)  # [N, D]
    nearest, cosines = ranking(queries, candidates, own)

    rows, titles = [], []
    for file, chosen, similar in zip(files, nearest[:, :count], cosines):
        shown = [file, *(among[number] for number in chosen)]
        images = np.stack([read(one) for one in shown])
        rows.append(list(as_pixels(images)))
        titles.append([short(file)])
        for neighbour, cosine in zip(shown[1:], similar):
            titles[-1].append(f'{1 - cosine:.2g}  {short(neighbour)}')

    places = [f'{place}.' for place in range(2, count + 1)]
    captions = ['picture', 'nearest', *places]
    note = (
        f'nearest of {len(among)} pictures by their features: {described(features)}\n'
        'before each name: cosine distance, 1 - cosine of the angle between the features'
    )
    return panels.sheet(rows, captions, note, titles)


def same(files: list[Path], among: list[Path]) -> np.ndarray:
    """Which of `among` is which of `files`, bool [files, among]."""
    candidates = np.array([str(file.resolve()) for file in among])
    queries = np.array([str(file.resolve()) for file in files])
    return queries[:, None] == candidates


@paddle.no_grad()
def embed(features: Features, read: Callable[[Path], np.ndarray], files: list[Path]) -> np.ndarray:
    """The features [files, D] of pictures."""
    found = []
    starts = range(0, len(files), BATCH_SIZE)
    for start in bar(starts, 'batches'):
        batch_files = files[start : start + BATCH_SIZE]
        images = np.stack([read(file) for file in batch_files])
        (batch,) = features(paddle.to_tensor(images)).values()
        found.append(batch.numpy())
    return np.concatenate(found)


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
