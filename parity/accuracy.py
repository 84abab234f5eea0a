"""Both models on the validation images: their scores, and how often each is right."""

import os
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import paddle

import models_labels
from parity import ladder, reprod, tolerances
from parity.model import build
from util import convert
from util.augment import crop, transform
from util.data import loader, pictures
from util.progress import bar

BATCH = 16  # images a forward pass
PART = 512  # images on the disk at a time


@paddle.no_grad()
def accuracy(
    data_path: str,
    settings: dict,
    path: str,
    original: Callable[[np.ndarray], np.ndarray],
    log: reprod.Log,
    class_names: str | None = None,
    use_ema: bool = False,
) -> Iterator[tuple[ladder.Rung, dict]]:
    """The rungs over scores and accuracies, each with figures.

    path: our weights; use_ema: take their average; original: pixels [N, C, S, S] -> the original's
    scores [N, K]. Images are decoded and transformed here and go to the original in parts, which
    the disk holds one by one.
    """
    state = convert.read(path, use_ema=use_ema)[0]
    flags = state.get('args', {})
    channels = settings['channels']
    images = models_labels.evaluation_images(
        data_path,
        pictures.suffixes(channels),
        settings['classes'],
        path=path,
        names=state.get('classes'),
        class_names=class_names,
    )
    mean, std = crop.statistics(channels, flags.get('mean'), flags.get('std'))
    plain = transform.Evaluate(settings['sides'], mean, std)
    model = build(settings, state['model'], path)
    model.eval()

    # Scores, part by part
    batches = iter(loader.EvalLoader(loader.EvalSet(images, channels, plain), BATCH))
    pairs = []
    for first in bar(range(0, len(images), PART), 'parts of the images'):
        pixels = [batch.numpy() for batch, _ in islice(batches, PART // BATCH)]
        theirs = original(np.concatenate(pixels))
        ours = np.concatenate([model(paddle.to_tensor(batch)).numpy() for batch in pixels])
        pairs.append((f'images from {first}', ours, theirs))
    yield ladder.rung('validation scores', pairs, tolerances.OUTPUT), {}

    # Accuracies
    ours = np.concatenate([ours for _, ours, _ in pairs])  # [all images, K]
    theirs = np.concatenate([theirs for _, _, theirs in pairs])
    shares, figures = _compared(ours, theirs, np.array(images.labels))
    different = np.flatnonzero(ours.argmax(1) != theirs.argmax(1))
    paths = [images.paths[i] for i in different]
    figures['predicted differently'] = [os.path.relpath(path, data_path) for path in paths]
    yield ladder.rung('metric', log.through('metric', shares), tolerances.ACCURACY), figures


def _compared(ours: np.ndarray, theirs: np.ndarray, labels: np.ndarray) -> tuple[list, dict]:
    """Top-1 and top-5 accuracies in percent: pairs for a rung, and figures for a report."""
    shares = []
    figures = {'images': len(labels)}
    for k in (1, 5):
        here = _share(ours, labels, k)
        there = _share(theirs, labels, k)
        shares.append((f'acc{k}', here, there))
        figures[f'acc{k} ours'] = round(float(here[0]), 4)
        figures[f'acc{k} original'] = round(float(there[0]), 4)
    return shares, figures


def _share(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The percentage of rows whose right class is among the k best, [1]."""
    right = ladder.places(scores, labels) < k
    return 100 * right.mean(keepdims=True)
