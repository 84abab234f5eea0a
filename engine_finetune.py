"""One epoch of training a classifier, for fine-tuning and linear probing alike; and evaluation."""
import contextlib
import math

import numpy as np
import paddle
from paddle.nn import functional as F

from util import dist, loop, run


def train_one_epoch(network, batches, schedule, step, progress, recorder, saver, mix, seed: int, ema=None) -> dict:
    """Train on the batches (images [N, C, height, width], labels [N]) of an epoch; its mean loss and rate.

    mix: (images, labels, rng) -> images, targets [N, K], which covers mixup, cutmix, label smoothing and plain targets.
    What is random in a step (drop path, mixing) depends on (seed, epoch, iteration, rank) alone.
    """
    def loss_of(images, labels):
        images, targets = mix(images, labels, run.seed_step(seed, progress.epoch, progress.iteration))
        with step.autocast():
            scores = network(images)
        return F.cross_entropy(scores.astype('float32'), targets, soft_label=True)
    return loop.train(loss_of, batches, network, schedule, step, progress, recorder, saver,
                      after_step=ema.update if ema else lambda: None)


@paddle.no_grad()
def evaluate(model, batches, autocast=contextlib.nullcontext, shared: bool = True) -> dict[str, float]:
    """Accuracy of the first and of five guesses, in percent, and cross-entropy, over the batches (images, labels).

    shared: each rank has a part of the images, so sums are added over the ranks, once, at the end.
    """
    dist.broadcast_buffers(model)
    model.eval()
    loss = top1 = top5 = count = 0.0
    for images, labels in batches:
        with autocast():
            scores = model(images).astype('float32')
        guesses = scores.topk(min(5, scores.shape[1]), axis=1)[1]
        hits = (guesses == labels.unsqueeze(1)).astype('float32')
        loss += F.cross_entropy(scores, labels, reduction='sum').item()
        top1 += hits[:, 0].sum().item()
        top5 += hits.sum().item()
        count += len(labels)
    dist.wait()  # ranks may have had unequal work
    if shared:
        loss, top1, top5, count = dist.sum_over_ranks([loss, top1, top5, count])
    return {'loss': loss / count, 'acc1': 100 * top1 / count, 'acc5': 100 * top5 / count} if count else {
        'loss': math.nan, 'acc1': math.nan, 'acc5': math.nan}


@paddle.no_grad()
def nearest_neighbours(model, train, val, count: int) -> float:
    """Percentage of the batches `val` that most of their `count` nearest training images, by the cosine of the features
    that the head would see, classify correctly."""
    from sklearn.neighbors import KNeighborsClassifier  # takes a second, which programs without this figure need not wait

    def features(batches):
        parts = [(model.forward_features(images).numpy(), labels.numpy()) for images, labels in batches]
        return (np.concatenate(part) for part in zip(*parts))
    model.eval()
    vote = KNeighborsClassifier(count, metric='cosine').fit(*features(train))
    hits, images = dist.sum_over_ranks([float(value) for value in _hits(vote, *features(val))])
    return 100 * hits / images


def _hits(vote, features: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    return (vote.predict(features) == labels).sum(), len(labels)


def after_epoch(epoch: int, stats: dict, result: dict, model, saver, recorder) -> None:
    """Say and record how an epoch went, then save: the latest state, and the best so far under its own name as well."""
    best = saver.extra['best']
    improved = not best or result['acc1'] > best['acc1']
    best = {'epoch': epoch, **result} if improved else best
    saver.extra['best'] = best
    run.say(f'epoch {epoch}: acc1 {result["acc1"]:.2f}  acc5 {result["acc5"]:.2f}  loss {result["loss"]:.4f}  '
            f'(best acc1 {best["acc1"]:.2f}, epoch {best["epoch"]})')
    recorder.scalars(epoch, **{f'perf/test_{name}': value for name, value in result.items()})
    recorder.epoch(train_lr=stats['lr'], train_loss=stats['loss'],
                   **{f'test_{name}': result[name] for name in ('loss', 'acc1', 'acc5')}, epoch=epoch,
                   n_parameters=sum(p.size for p in model.parameters() if not p.stop_gradient))
    saver.after_epoch(epoch, *(['latest', 'best'] if improved else ['latest']))
