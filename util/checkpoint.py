"""Checkpoints: the state of a training run in one file. util/resume.py reads it back.

`checkpoint-{epoch}.pd` is written after an epoch (counted from 0),
`checkpoint-{epoch}-{samples}.pd` within one, after that many of its samples. `paddle.load` reads
both.

Top-level keys as upstream: model, optimizer, epoch (the last complete one), scaler, args. Further
keys: `position`, where training continues, and `environment`, the run's machine and commit.

The optimizer's state is stored by the names that the parameters have in the model, because
Paddle's own names number all layers of the process. No state of a random generator is stored:
all random numbers depend on (seed, epoch, index) or (seed, epoch, step, rank) alone.
"""

import contextlib
import copy
import math
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paddle

from util import atomic, dist, log, provenance, replicas
from util.assign import optimizer_state
from util.background import Background
from util.errors import STOPPED, InputError
from util.progress import Averages, Progress
from util.weights import paddle_file

NAME = re.compile(r'checkpoint-(\d+)(?:-(\d+))?\.pd')


@dataclass
class Position:
    """Where training continues: in `epoch` (from 0), after `samples` of its samples.

    Samples are counted over all processes. `sums` and `count` are the epoch's averages so far.
    """

    epoch: int = 0
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @property
    def averages(self) -> Averages:
        """The averages of the interrupted epoch, to be continued."""
        return Averages(self.sums, self.count)

    def iteration(self, global_batch: int, accum_iter: int) -> int:
        """The first iteration that repeats no sample and begins a round of accumulation."""
        samples_per_step = global_batch * accum_iter
        return math.ceil(self.samples / samples_per_step) * accum_iter


class Saver:
    """Writes checkpoints when they are due, or when a signal (SIGTERM, SIGUSR1) asks to stop.

    Only the main process writes. It copies the state while the others wait, and writes the copy in
    the background, while training goes on. It waits for that before it copies the next state, and
    `join` does so at the end. A file appears when it is complete.

    flags: the program's, as a plain dict; they are saved too. The saver itself obeys `output_dir`
        (empty: nothing is saved), `epochs`, `save_every` (epochs), `save_every_iters` (iterations,
        0 for none within an epoch) and `keep` (how many checkpoints to keep, 0 for all).
    kept: further values to save, by name: plain values, None, or objects with a state_dict.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        step,
        flags: dict,
        effective_batch: int,
        kept: dict | None = None,
    ):
        self.folder = Path(flags['output_dir']) if flags['output_dir'] else None
        self.model = model
        self.step = step
        self.flags = flags
        self.effective_batch = effective_batch
        self.kept = {} if kept is None else kept
        self.origin = provenance.environment() if self._writes() else {}

        self.background = Background()
        self._gathered = {}  # see _whole_optimizer
        self._signalled = False
        for number in dist.STOP_SIGNALS:
            signal.signal(number, self._request_stop)

    def _writes(self) -> bool:
        """Whether this process writes files."""
        return self.folder is not None and dist.is_main()

    def _request_stop(self, number: int, frame) -> None:
        self._signalled = True

    @property
    def stop_requested(self) -> bool:
        """Whether this rank asks for the end, after a signal or because it could not write."""
        return self._signalled or self.background.has_failed

    def join(self) -> None:
        """Wait until all files are written; InputError if one could not be."""
        self.background.join()

    def after_step(self, progress: Progress, stop: bool) -> None:
        """Save within an epoch if that is due, or if the run stops.

        stop: save and leave with exit code 75; equal on every rank.
        """
        if stop or self.is_due_within(progress.iteration):
            name, epoch, position = self._within(progress)
            self.save(name, epoch, position)

        if stop:
            self.join()
            where = f'epoch {progress.epoch} after iteration {progress.iteration}'
            remedy = '; --resume auto continues from there' if self.folder else ''
            log.info(f'stopped by a signal in {where}{remedy}')
            dist.leave(STOPPED)

    def is_due_within(self, done: int) -> bool:
        """Whether `save_every_iters` asks for a checkpoint at this optimizer step."""
        every = self.flags['save_every_iters']
        if not every:
            return False
        before = done - self.step.accum_iter  # at the previous optimizer step
        return done // every > before // every

    def _within(self, progress: Progress) -> tuple[str, int, Position]:
        """Arguments of `save` for an epoch that is not complete."""
        epoch = progress.epoch
        samples = progress.iteration * self.effective_batch // self.step.accum_iter
        averages = progress.averages
        position = Position(epoch, samples, dict(averages.sums), averages.count)
        return f'checkpoint-{epoch}-{samples}.pd', epoch - 1, position

    @contextlib.contextmanager
    def evaluating(self, progress: Progress) -> Iterator[None]:
        """If the block fails on any rank, save the epoch that was just trained.

        A resumed run then repeats only the evaluation.
        """
        with self._whole_optimizer():  # in advance: a rank that has failed sends nothing
            try:
                yield
            except Exception:
                if self._writes():
                    name, epoch, position = self._within(progress)
                    self.join()
                    self._write(name, epoch, position)
                    self.join()
                    path = self.folder / name
                    log.warn(f'the evaluation failed; {path} holds what was trained before it')
                raise

    @contextlib.contextmanager
    def _whole_optimizer(self) -> Iterator[None]:
        """In the block, the main process has the whole state of an optimizer that ranks share.

        All ranks must begin it.
        """
        if self.folder and self.step.sharding:
            self._gathered = self.step.sharding.gather(self.model)
        try:
            yield
        finally:
            self._gathered = {}

    def name_images(self, loss: float, files: list[str], epoch: int, iteration: int) -> str:
        """List a batch's file names, on each rank whose loss is not finite.

        Returns a pattern of the lists' paths, '' if nothing is saved.
        """
        if not self.folder:
            return ''
        name = f'non_finite-{epoch}-{iteration}-rank'
        if not math.isfinite(loss):
            text = ''.join(f'{path}\n' for path in files)
            with atomic.writing(self.folder / f'{name}{dist.rank()}.txt') as file:
                file.write(text.encode(errors='surrogateescape'))
        return str(self.folder / f'{name}*.txt')

    def set_aside_later_than(self, start: Position) -> None:
        """Rename checkpoints of a later position than `start`, where this run begins.

        Otherwise `--resume auto` would take them for the newest of this run.
        """
        if not self._writes():
            return
        for path in ordered(self.folder):
            if _position(path) > (start.epoch, start.samples):
                path.replace(path.with_name(f'{path.name}.old'))
                log.warn(
                    f'{path} is from another run, or further than the start of this run; '
                    f'renamed it to {path.name}.old'
                )

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch ends with a checkpoint: every `save_every` of them, and the last."""
        return epoch % self.flags['save_every'] == 0 or epoch + 1 == self.flags['epochs']

    def after_epoch(self, epoch: int, *names: str) -> None:
        """Save if this epoch ends with a checkpoint, or gets further names, such as 'best'."""
        if not (self.is_due(epoch) or names):
            return
        name = f'checkpoint-{epoch}.pd'
        self.save(name, epoch, Position(epoch + 1))
        if self._writes():
            keeps = self.is_due(epoch)
            self.background.add(lambda: self._rename(self.folder / name, names, keeps))

    def _rename(self, path: Path, names: tuple[str, ...], keeps: bool) -> None:
        """Give a checkpoint further names; keeps: whether it keeps its own."""
        for name in names:
            atomic.link(path, self.folder / f'checkpoint-{name}.pd')
        if not keeps:
            path.unlink()

    def save(self, name: str, epoch: int, position: Position) -> None:
        """Save the state under this name. `epoch` is the last complete one, -1 for none.

        InputError if what was saved before could not be written.
        """
        if self.folder:
            self.join()
            dist.barrier()  # the main process may have waited for its disk
            replicas.broadcast_buffers(self.model)
            with self._whole_optimizer():
                if dist.is_main():
                    self._write(name, epoch, position)
            dist.barrier()

    def _write(self, name: str, epoch: int, position: Position) -> None:
        """Copy the state, and write the copy in the background."""
        state = self._state(epoch, position)
        self.background.add(lambda: self._write_copy(self.folder / name, state))

    def _write_copy(self, path: Path, state: dict) -> None:
        try:
            paddle_file.write(path, state)
        except InputError as error:
            raise InputError(
                f'{error}. Training stops. Once there is room, --resume auto continues from the '
                'checkpoint before'
            ) from None

        keep = self.flags['keep']
        if keep:
            for path in ordered(self.folder)[:-keep]:
                path.unlink()

    def _state(self, epoch: int, position: Position) -> dict:
        """A checkpoint's contents; no later step changes them."""
        arrays = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
        state = {
            'model': arrays,
            'optimizer': self._gathered or optimizer_state(self.model, self.step.optimizer),
            'epoch': epoch,
            'scaler': self.step.state_dict(),
            'args': self.flags,
            'position': {**vars(position), 'effective_batch': self.effective_batch},
            'environment': self.origin,
        }
        for name, value in self.kept.items():
            has_state = hasattr(value, 'state_dict')
            state[name] = value.state_dict() if has_state else copy.deepcopy(value)
        return state


def ordered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, from the earliest position in training to the latest."""
    found = [path for path in folder.glob('checkpoint-*.pd') if NAME.fullmatch(path.name)]
    return sorted(found, key=_position)


def _position(path: Path) -> tuple[int, int]:
    """The epoch and the samples in it where a checkpoint continues, from the file's name."""
    epoch, samples = NAME.fullmatch(path.name).groups()
    if samples:
        return int(epoch), int(samples)
    return int(epoch) + 1, 0
