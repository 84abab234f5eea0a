"""The iteration that all training shares: rate, loss, check, step, record, save."""
from collections.abc import Callable, Iterable

import paddle

from util import dist, run


def train(loss_of: Callable, batches: Iterable, network: paddle.nn.Layer, schedule: Callable, step, progress, recorder,
          saver, loss_name: str = 'loss', after_step: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Train `network` on the batches of an epoch; mean loss and rate.

    loss_of(*batch) -> scalar. schedule: epoch, with a fraction -> rate, asked once an optimizer step. Gradients of an
    incomplete last round of accumulation are dropped, as upstream. run.NonFiniteLoss on all ranks when the loss of one
    is not finite. loss_name: of the scalar in VisualDL.
    """
    network.train()
    for batch in progress.follow(batches):
        i = progress.iteration
        epoch = progress.epoch + i / progress.iterations
        if i % step.accum_iter == 0:
            step.optimizer.set_lr(schedule(epoch))
        with dist.reducing(network, reduce=step.is_last(i)):
            loss = loss_of(*batch)
            value, stop = dist.mean([loss.item(), saver.stop_requested])
            run.check_finite(value, progress.epoch, i)
            step.backward(loss, i)
        lr = step.optimizer.get_lr()
        progress.update(loss=value, lr=lr)
        if step.is_last(i):
            after_step()
            recorder.scalars(epoch, **{loss_name: value, 'lr': lr})
            saver.after_step(progress, stop=stop > 0)
    step.optimizer.clear_grad()
    return progress.averages.means()
