"""The state of a training run in one file; util/resume.py goes on from it.

`checkpoint-{epoch}.pd` is written after an epoch (counted from 0), `checkpoint-{epoch}-{samples}.pd` within one, after
so many of its samples.
Top-level keys as upstream: model, optimizer, epoch (the last complete one), scaler, args; and `position`, where
training goes on, and `environment`, where it ran and by which commit. `paddle.load` reads it. The optimizer's state is
kept by the names that the parameters have in the model: Paddle's own names count every layer made in the process. No state
of a random generator is needed: whatever is random depends on (seed, epoch, index) or (seed, epoch, step, rank) alone.
"""

import contextlib
import math
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import paddle

from util import atomic, dist, log, provenance
from util.assign import optimizer_state
from util.errors import STOPPED, InputError
from util.progress import Averages, Progress
from util.weights import paddle_file

NAME = re.compile(r'checkpoint-(\d+)(?:-(\d+))?\.pd')


@dataclass
class Position:
    """Where training goes on: within `epoch` (from 0), after `samples` of its samples, over all processes."""

    epoch: int = 0
    samples: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0

    @property
    def averages(self) -> Averages:
        return Averages(self.sums, self.count)

    def iteration(self, global_batch: int, accum_iter: int) -> int:
        """First iteration that sees no sample twice, at the beginning of a round of accumulation."""
        return -(-self.samples // (global_batch * accum_iter)) * accum_iter


class Saver:
    """Writes checkpoints when they are due, or when the job is asked to stop (SIGTERM, SIGUSR1).

    flags: the program's, as a plain dict, saved with the rest. Of them it follows `output_dir` (empty: nothing is saved),
    `epochs`, `save_every` (epochs), `save_every_iters` (iterations, 0 for none within an epoch), and `keep`, how many
    checkpoints stay, 0 for all. Only the main process writes; the others wait for it. `kept` is saved as well, each value
    under its name: plain values, None, or what has a state_dict.
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
        self.model, self.step, self.flags = model, step, flags
        self.effective_batch = effective_batch
        self.kept = {} if kept is None else kept
        self.origin = provenance.environment() if self.folder and dist.is_main() else {}
        self.stop_requested = False
        for number in dist.STOP_SIGNALS:
            signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, frame) -> None:
        self.stop_requested = True

    def after_step(self, progress: Progress, stop: bool) -> None:
        """Save within an epoch where that is due. With `stop`, the same on every rank, save and leave with code 75."""
        done, every = progress.iteration, self.flags['save_every_iters']
        if stop or (every and done // every > (done - self.step.accum_iter) // every):
            self.save(*self._within(progress))
        if stop:
            remedy = '; --resume auto goes on from there' if self.folder else ''
            log.info(
                f'stopped by a signal in epoch {progress.epoch} after iteration {done}{remedy}'
            )
            dist.leave(STOPPED)

    def _within(self, progress: Progress) -> tuple[str, int, Position]:
        """Arguments of `save` for where an epoch has come to."""
        samples = progress.iteration * self.effective_batch // self.step.accum_iter
        return (
            f'checkpoint-{progress.epoch}-{samples}.pd',
            progress.epoch - 1,
            Position(progress.epoch, samples, progress.averages.sums, progress.averages.count),
        )

    @contextlib.contextmanager
    def evaluating(self, progress: Progress) -> Iterator[None]:
        """Save the epoch that has just been trained where the block fails, on any rank: its evaluation can be done again."""
        try:
            yield
        except Exception:
            if self.folder and dist.is_main():
                name, *where = self._within(progress)
                self._write(name, *where)
                log.warn(
                    f'the evaluation failed; {self.folder / name} holds what was trained before it'
                )
            raise

    def name_images(self, loss: float, files: list[str], epoch: int, iteration: int) -> str:
        """Write the names of a batch's files, on the ranks where its loss is not finite; where they are to be found."""
        if not self.folder:
            return ''
        name = f'non_finite-{epoch}-{iteration}-rank'
        if not math.isfinite(loss):
            with atomic.writing(self.folder / f'{name}{dist.rank()}.txt') as file:
                file.write(''.join(f'{path}\n' for path in files).encode(errors='surrogateescape'))
        return str(self.folder / f'{name}*.txt')

    def set_aside_later_than(self, start: Position) -> None:
        """Rename checkpoints beyond the place where training begins: they belong to a future that is not to come, and
        would pass for the newest."""
        if self.folder and dist.is_main():
            for path in ordered(self.folder):
                if _position(path) > (start.epoch, start.samples):
                    path.replace(path.with_name(f'{path.name}.old'))
                    log.warn(
                        f'{path} is from another run, or further than this one begins; it is now {path.name}.old'
                    )

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch ends with a checkpoint: every `save_every` of them, and the last."""
        return epoch % self.flags['save_every'] == 0 or epoch + 1 == self.flags['epochs']

    def after_epoch(self, epoch: int, *names: str) -> None:
        """Save where this epoch ends with a checkpoint, or has earned further names, such as 'best'."""
        if self.is_due(epoch) or names:
            self.save(f'checkpoint-{epoch}.pd', epoch, Position(epoch + 1))
            if self.folder and dist.is_main():
                for name in names:
                    atomic.link(
                        self.folder / f'checkpoint-{epoch}.pd',
                        self.folder / f'checkpoint-{name}.pd',
                    )
                if not self.is_due(epoch):
                    (self.folder / f'checkpoint-{epoch}.pd').unlink()

    def save(self, name: str, epoch: int, position: Position) -> None:
        """Write the state under this name. `epoch` is the last complete one, -1 for none."""
        if self.folder:
            dist.broadcast_buffers(self.model)
            if dist.is_main():
                self._write(name, epoch, position)
            dist.barrier()

    def _write(self, name: str, epoch: int, position: Position) -> None:
        try:
            paddle_file.write(
                self.folder / name,
                {
                    'model': {
                        key: tensor.numpy() for key, tensor in self.model.state_dict().items()
                    },
                    'optimizer': optimizer_state(self.model, self.step.optimizer),
                    'epoch': epoch,
                    'scaler': self.step.state_dict(),
                    'args': self.flags,
                    'position': {**vars(position), 'effective_batch': self.effective_batch},
                    'environment': self.origin,
                    **{
                        key: getattr(value, 'state_dict', lambda value=value: value)()
                        for key, value in self.kept.items()
                    },
                },
            )
        except InputError as error:
            raise InputError(
                f'{error}. Training stops; once there is room, --resume auto goes on from the checkpoint '
                'before'
            ) from None
        keep = self.flags['keep']
        for path in ordered(self.folder)[:-keep] if keep else ():
            path.unlink()


def ordered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, from the earliest position in training to the latest."""
    return sorted(
        (path for path in folder.glob('checkpoint-*.pd') if NAME.fullmatch(path.name)),
        key=_position,
    )


def _position(path: Path) -> tuple[int, int]:
    """Epoch and samples of it, by a checkpoint's name."""
    epoch, samples = NAME.fullmatch(path.name).groups()
    return (int(epoch), int(samples)) if samples else (int(epoch) + 1, 0)
