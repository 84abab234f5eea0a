"""Both models on the validation images: their scores, and how often each is right."""

import os
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
import paddle

import models_labels
from parity import ladder, reprod
from parity.climb import OUTPUT
from parity.model import build
from util import convert
from util.augment import crop, transform
from util.data import loader, pictures
from util.progress import bar

PART = 512  # images on the disk at a time
SHARE = 1e-4  # tolerance of accuracies, since a tie may fall either way


@paddle.no_grad()
def accuracy(
    data_path: str,
    settings: dict,
    path: str,
    original: Callable[[np.ndarray], np.ndarray],
    log: reprod.Log,
    class_names: str | None = None,
) -> Iterator[tuple[ladder.Rung, dict]]:
    """Rungs over scores and accuracies, and the figures. path: our weights; original: pixels -> the original's scores.
    Pixels are decoded and transformed here and go to the original in parts, so that the disk need not hold all."""
    state = convert.read(path)[0]
    said, channels = state.get('args', {}), settings['channels']
    images = models_labels.evaluation_images(
        data_path,
        pictures.suffixes(channels),
        settings['classes'],
        path=path,
        names=state.get('classes'),
        class_names=class_names,
    )
    plain = transform.Evaluate(
        settings['side'], *crop.statistics(channels, said.get('mean'), said.get('std'))
    )
    model = build(settings, state['model'], path)
    model.eval()
    batches, pairs = iter(loader.EvalLoader(loader.EvalSet(images, channels, plain), 16)), []
    for _ in bar(range(0, len(images), PART), 'parts of the images'):
        pixels = [batch.numpy() for batch, _ in islice(batches, PART // 16)]
        theirs = original(np.concatenate(pixels))
        scores = np.concatenate([model(paddle.to_tensor(batch)).numpy() for batch in pixels])
        pairs.append((f'images from {PART * len(pairs)}', scores, theirs))
    yield ladder.rung('validation scores', pairs, OUTPUT), {}
    ours_, theirs = (np.concatenate([pair[side] for pair in pairs]) for side in (1, 2))
    labels = np.array(images.labels)
    shares = [
        (
            f'acc{k}',
            *(
                100 * (ladder.places(scores, labels) < k).mean(keepdims=True)
                for scores in (ours_, theirs)
            ),
        )
        for k in (1, 5)
    ]
    apart = [
        os.path.relpath(images.paths[i], data_path)
        for i in np.flatnonzero(ours_.argmax(1) != theirs.argmax(1))
    ]
    figures = {
        'images': len(labels),
        **{
            f'{name} {who}': round(float(value[0]), 4)
            for name, *both in shares
            for who, value in zip(('ours', 'original'), both)
        },
        'predicted differently': apart,
    }
    yield ladder.rung('metric', log.through('metric', shares), SHARE), figures
