"""Training a classifier, for fine-tuning and linear probing alike: the loss of a batch, and evaluation."""

import contextlib
import math

import numpy as np
import paddle
from paddle.nn import functional as F

from engine_loop import Run, trainable_parameters
from util import dist, log
from util.ema import Ema
from util.progress import bar


def train_one_epoch(run: Run, mix, average: Ema | None = None) -> dict[str, float]:
    """Train on the batches (images [N, C, height, width], labels [N]) of an epoch; its mean loss and rate.

    mix: (images, labels, rng) -> images, targets [N, K], which covers mixup, cutmix, label
    smoothing and plain targets.
    average: of the weights, updated after each optimizer step.
    """

    def loss_of(batch):
        images, targets = mix(*batch, run.rng)
        with run.step.autocast():
            scores = run.network(images)
        return F.cross_entropy(scores.astype('float32'), targets, soft_label=True)

    if average:
        return run.train(loss_of, after_step=average.update)
    return run.train(loss_of)


@paddle.no_grad()
def evaluate(
    model, batches, autocast=contextlib.nullcontext, shared: bool = True
) -> dict[str, float]:
    """Accuracy of the first and of five guesses, in percent, and cross-entropy, over the batches (images, labels).

    shared: each rank has a part of the images, so sums are added over the ranks, once, at the end.
    """
    dist.broadcast_buffers(model)
    model.eval()
    loss = top1 = top5 = count = 0.0
    for images, labels in bar(batches, 'batches'):
        with autocast():
            scores = model(images).astype('float32')  # [N, K]
        guesses = scores.topk(min(5, scores.shape[1]), axis=1)[1]
        hits = (guesses == labels.unsqueeze(1)).astype('float32')  # [N, 5]
        loss += F.cross_entropy(scores, labels, reduction='sum').item()
        top1 += hits[:, 0].sum().item()
        top5 += hits.sum().item()
        count += len(labels)

    dist.barrier()  # ranks may have had unequal work
    if shared:
        loss, top1, top5, count = dist.sum_over_ranks([loss, top1, top5, count])
    if not count:
        return {'loss': math.nan, 'acc1': math.nan, 'acc5': math.nan}
    return {'loss': loss / count, 'acc1': 100 * top1 / count, 'acc5': 100 * top5 / count}


def report_evaluation(path: str, result: dict[str, float]) -> None:
    """Print the figures of --eval."""
    log.info(f'Resume checkpoint {path}')
    log.info('  '.join(f'{name} {value:.4f}' for name, value in result.items()))


@paddle.no_grad()
def nearest_neighbours(model, train, val, count: int) -> float:
    """Percentage of the batches `val` that most of their `count` nearest training images classify correctly.

    Nearest by the cosine of the features that the head would see.
    """
    from sklearn.neighbors import KNeighborsClassifier  # imported here because it takes a second

    model.eval()
    vote = KNeighborsClassifier(count, metric='cosine').fit(*_features(model, train))
    hits, images = dist.sum_over_ranks(
        [float(value) for value in _hits(vote, *_features(model, val))]
    )
    return 100 * hits / images


def _features(model, batches) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and labels [N] of all batches."""
    parts = [
        (model.forward_features(images).numpy(), labels.numpy())
        for images, labels in bar(batches, 'batches')
    ]
    features, labels = zip(*parts)
    return np.concatenate(features), np.concatenate(labels)


def _hits(vote, features: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    return (vote.predict(features) == labels).sum(), len(labels)


def finish_epoch(run: Run, epoch: int, stats: dict[str, float], result: dict[str, float]) -> None:
    """Say and record how an epoch went, then save: the latest state, and the best so far under its own name as well."""
    best = run.saver.kept['best']
    improved = not best or result['acc1'] > best['acc1']
    best = {'epoch': epoch, **result} if improved else best
    run.saver.kept['best'] = best

    log.info(
        f'epoch {epoch}: acc1 {result["acc1"]:.2f}  acc5 {result["acc5"]:.2f}  loss {result["loss"]:.4f}  '
        f'(best acc1 {best["acc1"]:.2f}, epoch {best["epoch"]})'
    )
    run.recorder.scalars(epoch, **{f'perf/test_{name}': value for name, value in result.items()})
    record = {
        'train_lr': stats['lr'],
        'train_loss': stats['loss'],
        **{f'test_{name}': result[name] for name in ('loss', 'acc1', 'acc5')},
        'epoch': epoch,
        'n_parameters': trainable_parameters(run.network),
    }
    names = ['latest', 'best'] if improved else ['latest']
    run.finish_epoch(epoch, record, *names)
