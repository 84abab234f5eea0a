"""The training loop of all programs: epochs, iterations, resuming, records, checkpoints.

A program builds its model, optimizer and data, and makes a `Run` of them. seg makes a `Loop`
instead, because its flags, files and log lines are PaddleSeg's. An engine gives `train` the loss of
a batch and knows nothing of logging, saving or ranks.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NoReturn

import numpy as np
import paddle

from util import amp, checkpoint, dist, log, machine, optim, profiling, replicas, resume, sharding
from util.errors import NonFiniteLoss
from util.figures import Figures, Unread
from util.progress import Progress
from util.recorder import Recorder
from util.seeding import seed_step


class Loop:
    """The training of a model, from a position to the last epoch that `progress` knows.

    network: the model, wrapped so that gradients are averaged over the ranks.
    data: batches of any shape. It needs `len`, the iterations of an epoch; `global_batch`, the
        images of an iteration over all ranks; `accum_iter`, the iterations of an optimizer step;
        and `batches(epoch, first)`, whose `files(iteration)` gives the files of a batch.
    schedule: fractional epoch -> learning rate, called once per optimizer step. None if the
        optimizer has its own, which `after_step` advances.
    saver, recorder, progress: those of util, or others with the same methods.
    rng: NumPy's generator of the current step.
    profile: which iterations are profiled, if any.
    parts: further scalars of the iteration, by names that are the same on all ranks, which
        `loss_of` may set; they are averaged over the ranks and printed.

    A run counted in iterations is one long epoch; its caller runs `train` for some iterations at a
    time.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        step: amp.Step,
        data,
        *,
        schedule: Callable[[float], float] | None,
        saver: checkpoint.Saver,
        recorder: Recorder,
        progress: Progress,
        start: checkpoint.Position,
        seed: int,
        profile: profiling.Profile | None = None,
    ):
        self.data = data
        self.step = step
        self.schedule = schedule
        self.saver = saver
        self.recorder = recorder
        self.progress = progress
        self.network = replicas.wrap(model)
        self.rng = np.random.default_rng()
        self.parts = {}
        self._profile = profile or profiling.Profile()
        self._unread = Unread()
        self._start = start
        self._seed = seed
        self._batches = None  # of the current epoch
        self._stream = iter(())  # of those batches

        dist.barrier()
        dist.agree('where training begins', [start.epoch, start.samples])

    def epochs(self) -> Iterator[int]:
        """The remaining epochs; the first may be one that a resumed run had already begun.

        Ends when all checkpoints are written.
        """
        start = self._start
        for epoch in range(start.epoch, self.progress.epochs):
            first = 0
            if epoch == start.epoch:
                # The iterations that the resumed run has done are skipped
                first = start.iteration(self.data.global_batch, self.data.accum_iter)
            self.progress.begin(epoch, start.averages if first else None, first)
            self._batches = self.data.batches(epoch, first)
            self._stream = iter(self._batches)
            yield epoch
        self._profile.finish()
        self.saver.join()

    def train(
        self,
        loss_of: Callable[[Any], paddle.Tensor],
        *,
        loss_name: str = 'loss',
        after_step: Callable[[], None] = lambda: None,
        iterations: int | None = None,
        every_loss: bool = False,
    ) -> dict[str, float]:
        """Train on the remaining batches of the epoch; returns the epoch's mean loss and rate.

        loss_of: batch -> scalar.
        loss_name: the name of the loss's curve in VisualDL.
        after_step: called after each optimizer step.
        iterations: how many batches, None for the rest of the epoch.
        every_loss: whether `after_step` needs it; otherwise a GPU's are read when they are due.
        Gradients of an incomplete last round of accumulation are dropped, as upstream.
        NonFiniteLoss on all ranks if one's loss is not finite; at the latest before a checkpoint.
        """
        self.network.train()
        batches = self._profile.follow(islice(self._stream, iterations))
        for number, batch in enumerate(self.progress.follow(batches)):
            if number == 0:
                dist.barrier()  # a rank may be slow to read an epoch's first files

            # The rate is set once per optimizer step
            iteration = self.progress.iteration
            is_last = self.step.is_last(iteration)
            epoch = self.progress.epoch + iteration / self.progress.iterations
            if self.schedule and iteration % self.step.accum_iter == 0:
                self.step.optimizer.set_lr(self.schedule(epoch))

            # Forward and backward; the last pass of a round of accumulation updates the weights.
            # Ranks agree before the gradients are averaged, because there a failed one is a crash
            self.rng = seed_step(self._seed, self.progress.epoch, iteration)
            with replicas.reducing(self.network, reduce=is_last):
                loss = loss_of(batch)
                figures = Figures(epoch, iteration, is_last, shared={'loss': loss, **self.parts})
                self._unread.add(figures)
                stop = self._agree()
                self.step.backward(loss, iteration)

            # Figures, records and checkpoints
            figures.own = {'lr': self.step.optimizer.get_lr(), **self.step.count()}
            self.progress.count()
            saves = is_last and (stop or self.saver.is_due_within(self.progress.iteration))
            is_due = every_loss or saves or self.progress.is_line_due
            if is_due or self._unread.is_free:
                self._record(loss_name)
            if is_last:
                after_step()
                self.saver.after_step(self.progress, stop=stop)
                machine.give_back_once()

        if self._unread.figures:
            self._record(loss_name)
        self.step.optimizer.clear_grad(set_to_zero=False)
        averages = self.progress.averages
        self.recorder.counts = {name: round(averages.sums[name]) for name in self.step.count()}
        return averages.means()

    def _agree(self) -> bool:
        """Whether a signal has asked one of the ranks to stop.

        Where reading is free, one communication suffices for this and for the mean losses.
        """
        told = [self.saver.stop_requested, log.pending()]
        if self._unread.is_free:
            stop, warnings = self._average(told)
        else:
            stop, warnings = dist.any_of_ranks(told)
        if warnings:
            log.show_pending()
        return stop > 0

    def _average(self, told: Sequence[float] = ()) -> list[float]:
        """Read the figures of the last iterations, averaged; the sums of `told` over the ranks.

        NonFiniteLoss if a mean loss is not finite.
        """
        told = self._unread.average(told)
        for figures in self._unread.figures:
            if not math.isfinite(figures.shared['loss']):
                self._end(figures)
        return told

    def _record(self, loss_name: str) -> None:
        """Record the figures of the last iterations, and print the line of the last if it is due.

        Where reading is not free, this reads them.
        """
        if not self._unread.is_free:
            self._average()
        for figures in self._unread.take():
            self.progress.update(**figures.shared, **figures.own)
            if figures.is_step:
                curves = {loss_name: figures.shared['loss'], 'lr': figures.own['lr']}
                parts = {name: figures.shared[name] for name in figures.shared if name != 'loss'}
                self.recorder.scalars(figures.epoch, **curves, **parts)
        self.progress.show()

    def _end(self, figures: Figures) -> NoReturn:
        """Write the names of an iteration's images to a file, and raise NonFiniteLoss."""
        files = self._batches.files(figures.iteration)
        epoch = self.progress.epoch
        self.saver.join()
        named = self.saver.name_images(figures.loss, files, epoch, figures.iteration)
        where = f'{named} names the images of the batch. ' if named else ''
        raise NonFiniteLoss(
            f'the loss is {figures.shared["loss"]} in {self.progress.place(figures.iteration)}; '
            f'training stops. {where}Earlier checkpoints are untouched: resume with a lower rate, '
            'or without mixed precision'
        )


class Run(Loop):
    """Training as the official programs' flags describe it, with their files and log lines.

    It starts at the beginning, or where --resume or --start_epoch says.
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
        saver: type[checkpoint.Saver] = checkpoint.Saver,
    ):
        """Prepare the training, restore the state of a resumed run, and print a summary.

        data: as for Loop, and with `samples`; `effective_batch`, the images of an optimizer step
            over all ranks; and `accumulate(accum_iter)`.
        args: the program's flags; those of the groups training, rate and runtime are read.
        schedule: by default the official half-cycle cosine that the flags describe.
        kept: further entries of checkpoints, see Saver.
        saver: the class that writes them.
        """
        # Find a checkpoint to resume; its effective batch is kept for any number of ranks
        state = resume.find(args.resume, args.output_dir, vars(args))
        data.accumulate(resume.accum_iter(state, data.global_batch, args.accum_iter))
        shared = sharding.Sharding(optimizer) if args.shard_optimizer else None
        step = amp.Step(optimizer, data.accum_iter, args.amp, clip_grad, shared)
        saver = saver(model, step, vars(args), data.effective_batch, kept)

        # Restore it before the model is wrapped, and set later checkpoints aside
        start = checkpoint.Position(args.start_epoch)
        if state:
            start = resume.restore(state, model, step, saver.kept)
        saver.set_aside_later_than(start)
        super().__init__(
            model,
            step,
            data,
            schedule=schedule or _cosine(data.effective_batch, args),
            saver=saver,
            recorder=Recorder(args.output_dir, args.log_dir, start.epoch),
            progress=Progress(args.epochs, len(data), args.print_freq),
            start=start,
            seed=args.seed,
            profile=profiling.Profile(args.profile, args.output_dir),
        )
        self._announce(args.model, model, state.get('path'))

    def _announce(self, name: str, model: paddle.nn.Layer, resumed: str | None) -> None:
        """Print a summary of the training."""
        data = self.data
        count = trainable_parameters(model)
        summary = [
            f'{name} with {count:,} trainable parameters',
            f'{len(data.samples)} images',
            f'effective batch {data.effective_batch}',
            f'rate {self.schedule.lr:.3g}',
            f'{self.progress.epochs} epochs of {len(data)} iterations',
        ]
        log.info(', '.join(summary))
        if resumed:
            start = self._start
            log.info(
                f'resumed from {resumed}: epoch {start.epoch}, {start.samples} samples into it'
            )

    def finish_epoch(
        self,
        epoch: int,
        record: dict[str, float],
        *names: str,
        picture: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Write the epoch's line of log.txt, then its checkpoint if one is due.

        names: names under which the checkpoint is saved in any case, such as best.
        picture: makes uint8 [height, width, 3], shown in VisualDL for each epoch that is saved.
        """
        self.recorder.epoch(**record)
        self.saver.after_epoch(epoch, *names)
        if picture and self.saver.is_due(epoch):
            self.recorder.picture('reconstruction', epoch, picture())
            dist.barrier()  # the main process takes time to write it


def _cosine(effective_batch: int, args) -> optim.Cosine:
    """The official schedule: warm-up and cosine, at the rate for an effective batch."""
    lr = optim.absolute_lr(args.lr, args.blr, effective_batch)
    return optim.Cosine(lr, args.min_lr, args.warmup_epochs, args.epochs)


def trainable_parameters(model: paddle.nn.Layer) -> int:
    """The number of values in a model's trainable parameters."""
    return sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
