"""What all training shares: the epochs, and the iteration: rate, loss, check, step, record, save."""
import math
from collections.abc import Callable, Iterable, Iterator

import paddle

from util import dist, run


def epochs(start, count: int, data, progress) -> Iterator[tuple[int, Iterable]]:
    """Each epoch from the position `start` on, of `count` in all, with its batches: in the first, those still to come."""
    for epoch in range(start.epoch, count):
        first = start.iteration(data.joint_batch, data.accum_iter) if epoch == start.epoch else 0
        progress.begin(epoch, start.averages if first else None, first)
        yield epoch, data.batches(epoch, first)


def train(loss_of: Callable, batches: Iterable, network: paddle.nn.Layer, schedule: Callable, step, progress, recorder,
          saver, loss_name: str = 'loss', after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Train `network` on the batches of an epoch; mean loss and rate.

    loss_of(*batch) -> scalar. schedule: epoch, with a fraction -> rate, asked once an optimizer step. Gradients of an
    incomplete last round of accumulation are dropped, as upstream. run.NonFiniteLoss on all ranks when the loss of one
    is not finite. loss_name: of the scalar in VisualDL.
    """
    network.train()
    for number, batch in enumerate(progress.follow(batches)):
        if number == 0:
            dist.wait()  # the first files of an epoch may take one rank long
        i = progress.iteration
        epoch = progress.epoch + i / progress.iterations
        if i % step.accum_iter == 0:
            step.optimizer.set_lr(schedule(epoch))
        with dist.reducing(network, reduce=step.is_last(i)):
            loss = loss_of(*batch)
            own = loss.item()
            value, stop, warnings = dist.mean([own, saver.stop_requested, dist.warnings_pending()])
            if not math.isfinite(value):
                run.check_finite(value, progress.epoch, i, saver.name_images(own, batches.files(i), progress.epoch, i))
            step.backward(loss, i)
        lr = step.optimizer.get_lr()
        progress.update(loss=value, lr=lr, **step.count())
        if warnings:
            dist.show_warnings()
        if step.is_last(i):
            after_step()
            recorder.scalars(epoch, **{loss_name: value, 'lr': lr})
            saver.after_step(progress, stop=stop > 0)
    step.optimizer.clear_grad(set_to_zero=False)
    recorder.counts = {name: round(progress.averages.sums[name]) for name in step.count()}
    return progress.averages.means()
