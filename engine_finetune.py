"""Fine-tuning and linear probing: the loss of a batch, and the evaluation of a classifier."""

import contextlib
import math

import paddle
from paddle.nn import functional as F

from engine_loop import Run, trainable_parameters
from util import dist, log, replicas
from util.ema import Ema
from util.progress import bar


def train_one_epoch(run: Run, mix, average: Ema | None = None) -> dict[str, float]:
    """Train for an epoch; returns its mean loss and rate.

    A batch is (images [N, C, height, width], labels [N]).
    mix: (images, labels, rng) -> images, targets [N, K], for mixup, cutmix, label smoothing or
    plain targets.
    average: of the weights, updated after each optimizer step.
    """

    def loss_of(batch):
        images, labels = batch
        images, targets = mix(images, labels, run.rng)
        with run.step.autocast():
            scores = run.network(images)  # [N, K]
        return F.cross_entropy(scores.astype('float32'), targets, soft_label=True)

    if average:
        return run.train(loss_of, after_step=average.update)
    return run.train(loss_of)


@paddle.no_grad()
def evaluate(
    model, batches, autocast=contextlib.nullcontext, shared: bool = True
) -> dict[str, float]:
    """Cross-entropy, top-1 and top-5 accuracy in percent, over all batches (images, labels).

    NaN if there are no images. shared: each rank has a part of the images, so the sums are added
    over the ranks, once, at the end.
    """
    replicas.broadcast_buffers(model)
    model.eval()
    count = 0.0
    sums = paddle.zeros([3], 'float64')  # loss, top-1 and top-5; read at the end only
    for images, labels in bar(batches, 'batches'):
        with autocast():
            scores = model(images).astype('float32')  # [N, K]
        num_guesses = min(5, scores.shape[1])
        _, guesses = scores.topk(num_guesses, axis=1)  # [N, 5]
        hits = (guesses == labels.unsqueeze(1)).astype('float32')  # [N, 5]
        loss = F.cross_entropy(scores, labels, reduction='sum')
        of_batch = paddle.stack([loss, hits[:, 0].sum(), hits.sum()])
        sums += of_batch.astype('float64')
        count += len(labels)

    dist.barrier()  # ranks may have had unequal work
    sums = [*sums.tolist(), count]
    if shared:
        sums = dist.sum_over_ranks(sums)
    loss, top1, top5, count = sums
    if not count:
        return {'loss': math.nan, 'acc1': math.nan, 'acc5': math.nan}
    acc1 = 100 * top1 / count
    acc5 = 100 * top5 / count
    return {'loss': loss / count, 'acc1': acc1, 'acc5': acc5}


def report_evaluation(path: str, result: dict[str, float]) -> None:
    """Print the figures of --eval."""
    log.info(f'Resume checkpoint {path}')
    figures = [f'{name} {value:.4f}' for name, value in result.items()]
    log.info('  '.join(figures))


def finish_epoch(run: Run, epoch: int, stats: dict[str, float], result: dict[str, float]) -> None:
    """Print and record the figures of an epoch, then save the latest state.

    An epoch with the best acc1 so far is saved as `best`, too.
    """
    best = run.saver.kept['best']
    improved = not best or result['acc1'] > best['acc1']
    if improved:
        best = {'epoch': epoch, **result}
        run.saver.kept['best'] = best

    loss, acc1, acc5 = result['loss'], result['acc1'], result['acc5']
    figures = f'acc1 {acc1:.2f}  acc5 {acc5:.2f}  loss {loss:.4f}'
    best_figures = f'best acc1 {best["acc1"]:.2f}, epoch {best["epoch"]}'
    log.info(f'epoch {epoch}: {figures}  ({best_figures})')
    curves = {f'perf/test_{name}': value for name, value in result.items()}
    run.recorder.evaluation(epoch, **curves)

    record = {
        'train_lr': stats['lr'],
        'train_loss': stats['loss'],
        'test_loss': loss,
        'test_acc1': acc1,
        'test_acc5': acc5,
        'epoch': epoch,
        'n_parameters': trainable_parameters(run.network),
    }
    names = ['latest', 'best'] if improved else ['latest']
    run.finish_epoch(epoch, record, *names)
