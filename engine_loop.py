"""The one loop of all training: epochs, iterations, resuming, records, checkpoints.

A program builds its model, optimizer and data, and makes a `Run` of them. An engine hands
`Run.train` the loss of one batch and knows nothing of logging, saving or ranks.
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import paddle

from util import amp, checkpoint, dist, log, optim, resume
from util.errors import NonFiniteLoss
from util.progress import Progress
from util.recorder import Recorder
from util.seeding import seed_step


class Run:
    """A training, from the place where --resume or --start_epoch says to its last epoch.

    network: the model as it is trained, its gradients averaged over the ranks.
    data: batches of any shape. It needs `len`, the iterations of an epoch; `samples`;
        `global_batch` and `effective_batch`, the images of an iteration and of an optimizer step
        over all ranks; `accum_iter` with `accumulate(accum_iter)`; and `batches(epoch, first)`,
        whose `files(iteration)` names the files of a batch.
    schedule: epoch, with a fraction -> rate, asked once an optimizer step.
    rng: NumPy's generator of the present step.

    A loop that is counted in iterations is a run of one long epoch, which calls `train` for some
    iterations at a time.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        optimizer: paddle.optimizer.Optimizer,
        data,
        args,
        *,
        schedule: Callable[[float], float] | None = None,
        clip_grad: float | None = None,
        kept: dict[str, Any] | None = None,
    ):
        """Prepare everything, restore what is resumed, and say what is about to happen.

        args: the program's flags, of the groups training, rate and runtime of util/flags. schedule:
        by default the official half-cycle cosine, which the flags describe. kept: what else a
        checkpoint keeps, see Saver.
        """
        state = resume.find(args.resume, args.output_dir, vars(args))
        data.accumulate(resume.accum_iter(state, data.global_batch, args.accum_iter))
        self.data = data
        self.schedule = schedule or _cosine(data.effective_batch, args)
        self.step = amp.Step(optimizer, data.accum_iter, args.amp, clip_grad)
        self.saver = checkpoint.Saver(model, self.step, vars(args), data.effective_batch, kept)

        self._start = checkpoint.Position(args.start_epoch)
        if state:
            self._start = resume.restore(state, model, self.step, self.saver.kept)
        self.network = dist.wrap(model)
        self.saver.set_aside_later_than(self._start)
        self.recorder = Recorder(args.output_dir, args.log_dir, self._start.epoch)
        self.progress = Progress(args.epochs, len(data), args.print_freq)
        self.rng = np.random.default_rng()
        self._seed, self._batches, self._stream = args.seed, None, iter(())
        self._announce(args.model, model, state.get('path'))

    def _announce(self, name: str, model: paddle.nn.Layer, resumed: str | None) -> None:
        """Say what is about to happen, once all processes are ready for it."""
        dist.barrier()
        start, data = self._start, self.data
        dist.agree('where training begins', [start.epoch, start.samples])
        log.info(
            f'{name} with {trainable_parameters(model):,} trainable parameters, {len(data.samples)} images, '
            f'effective batch {data.effective_batch}, rate {self.schedule.lr:.3g}, '
            f'{self.progress.epochs} epochs of {len(data)} iterations'
        )
        if resumed:
            log.info(
                f'resumed from {resumed}: epoch {start.epoch}, {start.samples} samples into it'
            )

    def epochs(self) -> Iterator[int]:
        """Each epoch that is still to come; the first one may have been begun by the run that is resumed."""
        start = self._start
        for epoch in range(start.epoch, self.progress.epochs):
            first = 0
            if epoch == start.epoch:
                first = start.iteration(self.data.global_batch, self.data.accum_iter)
            self.progress.begin(epoch, start.averages if first else None, first)
            self._batches = self.data.batches(epoch, first)
            self._stream = iter(self._batches)
            yield epoch

    def train(
        self,
        loss_of: Callable[[Any], paddle.Tensor],
        *,
        loss_name: str = 'loss',
        after_step: Callable[[], None] = lambda: None,
        iterations: int | None = None,
    ) -> dict[str, float]:
        """Train on the batches of the epoch that are still to come; the epoch's mean loss and rate.

        loss_of: batch -> scalar. loss_name: the loss's curve in VisualDL. after_step: called after
        each optimizer step.
        iterations: how many batches, None for the rest of the epoch. Gradients of an incomplete
        last round of accumulation are dropped, as upstream. NonFiniteLoss on all ranks when the
        loss of one is not finite.
        """
        self.network.train()
        for number, batch in enumerate(self.progress.follow(islice(self._stream, iterations))):
            if number == 0:
                dist.barrier()  # the first files of an epoch may take one rank long
            iteration = self.progress.iteration
            is_last = self.step.is_last(iteration)
            epoch = self.progress.epoch + iteration / self.progress.iterations
            if iteration % self.step.accum_iter == 0:
                self.step.optimizer.set_lr(self.schedule(epoch))

            # Forward and backward; the last pass of a round of accumulation moves the weights
            self.rng = seed_step(self._seed, self.progress.epoch, iteration)
            with dist.reducing(self.network, reduce=is_last):
                loss = loss_of(batch)
                mean, stop = self._agree(loss.item())
                self.step.backward(loss, iteration)

            # Records and checkpoints
            lr = self.step.optimizer.get_lr()
            self.progress.update(loss=mean, lr=lr, **self.step.count())
            if is_last:
                after_step()
                self.recorder.scalars(epoch, **{loss_name: mean, 'lr': lr})
                self.saver.after_step(self.progress, stop=stop)

        self.step.optimizer.clear_grad(set_to_zero=False)
        averages = self.progress.averages
        self.recorder.counts = {name: round(averages.sums[name]) for name in self.step.count()}
        return averages.means()

    def _agree(self, loss: float) -> tuple[float, bool]:
        """Mean loss over the ranks, and whether one of them was asked to stop, in one communication.

        NonFiniteLoss where that mean is not finite; the files of the batch are written down before.
        """
        mean, stop, warnings = dist.mean([loss, self.saver.stop_requested, log.pending()])
        if not math.isfinite(mean):
            epoch, iteration = self.progress.epoch, self.progress.iteration
            files = self._batches.files(iteration)
            named = self.saver.name_images(loss, files, epoch, iteration)
            where = f'{named} names the images of the batch. ' if named else ''
            raise NonFiniteLoss(
                f'the loss is {mean} in epoch {epoch}, iteration {iteration}; training stops. {where}Earlier '
                'checkpoints are untouched: resume with a lower rate, or without mixed precision'
            )
        if warnings:
            log.show_pending()
        return mean, stop > 0

    def finish_epoch(
        self,
        epoch: int,
        record: dict[str, float],
        *names: str,
        picture: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Write the epoch's line of log.txt, then its checkpoint where one is due or has earned further `names`.

        picture: makes uint8 [height, width, 3], shown in VisualDL for each epoch that is saved.
        """
        self.recorder.epoch(**record)
        self.saver.after_epoch(epoch, *names)
        if picture and self.saver.is_due(epoch):
            self.recorder.picture('reconstruction', epoch, picture())
            dist.barrier()  # for the main process, which writes it


def _cosine(effective_batch: int, args) -> optim.Cosine:
    """The official schedule for an effective batch."""
    lr = optim.absolute_lr(args.lr, args.blr, effective_batch)
    return optim.Cosine(lr, args.min_lr, args.warmup_epochs, args.epochs)


def trainable_parameters(model: paddle.nn.Layer) -> int:
    """How many numbers of a model are trained."""
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
