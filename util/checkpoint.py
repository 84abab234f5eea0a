"""The state of a training run in one file, and going on from it.

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

import numpy as np
import paddle

from util import atomic, dist, provenance, weights
from util.errors import InputError
from util.metrics import Averages, Progress
from util.weights import paddle_file

STOPPED = 75  # exit code after a signal: EX_TEMPFAIL of sysexits.h, "try again later"
HARMLESS = {'output_dir', 'log_dir', 'data_path', 'device', 'num_workers', 'pin_mem', 'resume', 'start_epoch', 'save_every',
            'save_every_iters', 'keep', 'print_freq', 'world_size', 'local_rank', 'dist_on_itp', 'dist_url', 'recompute',
            'finetune', 'dist_eval', 'knn', 'data_timeout'}
KINDS = {'AdamW': {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'}, 'Lars': {'momentum'}}  # of optimizer state
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

    def iteration(self, joint_batch: int, accum_iter: int) -> int:
        """First iteration that sees no sample twice, at the beginning of a round of accumulation."""
        return -(-self.samples // (joint_batch * accum_iter)) * accum_iter


class Saver:
    """Writes checkpoints when they are due, or when the job is asked to stop (SIGTERM, SIGUSR1).

    flags: the program's, as a plain dict; save_every: epochs; save_every_iters: iterations, 0 for none within an epoch;
    keep: how many checkpoints stay, 0 for all. An empty output_dir saves nothing. Only the main process writes; the
    others wait for it. `extra` is saved as well, each under its name: plain values, None, or what has a state_dict.
    """

    def __init__(self, output_dir: str, model: paddle.nn.Layer, step, flags: dict, effective_batch: int, epochs: int,
                 save_every: int = 20, save_every_iters: int = 0, keep: int = 0, **extra):
        self.folder = Path(output_dir) if output_dir else None
        self.model, self.step, self.flags, self.effective_batch = model, step, flags, effective_batch
        self.epochs, self.save_every, self.save_every_iters, self.keep = epochs, save_every, save_every_iters, keep
        self.extra = extra
        self.origin = provenance.environment() if self.folder and dist.is_main() else {}
        self.stop_requested = False
        for number in dist.STOP_SIGNALS:
            signal.signal(number, self._request_stop)

    def _request_stop(self, number: int, frame) -> None:
        self.stop_requested = True

    def after_step(self, progress: Progress, stop: bool) -> None:
        """Save within an epoch where that is due. With `stop`, the same on every rank, save and leave with code 75."""
        done, every = progress.iteration, self.save_every_iters
        if stop or (every and done // every > (done - self.step.accum_iter) // every):
            self.save(*self._within(progress))
        if stop:
            if dist.is_main():
                print(f'stopped by a signal in epoch {progress.epoch} after iteration {done}'
                      + ('; --resume auto goes on from there' if self.folder else ''), flush=True)
            dist.leave(STOPPED)

    def _within(self, progress: Progress) -> tuple[str, int, Position]:
        """Arguments of `save` for where an epoch has come to."""
        samples = progress.iteration * self.effective_batch // self.step.accum_iter
        return (f'checkpoint-{progress.epoch}-{samples}.pd', progress.epoch - 1,
                Position(progress.epoch, samples, progress.averages.sums, progress.averages.count))

    @contextlib.contextmanager
    def evaluating(self, progress: Progress) -> Iterator[None]:
        """Save the epoch that has just been trained where the block fails, on any rank: its evaluation can be done again."""
        try:
            yield
        except Exception:
            if self.folder and dist.is_main():
                name, *where = self._within(progress)
                self._write(name, *where)
                dist.warn(f'the evaluation failed; {self.folder / name} holds what was trained before it')
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
                    dist.warn(f'{path} is from another run, or further than this one begins; it is now {path.name}.old')

    def is_due(self, epoch: int) -> bool:
        """Whether this epoch ends with a checkpoint: every `save_every` of them, and the last."""
        return epoch % self.save_every == 0 or epoch + 1 == self.epochs

    def after_epoch(self, epoch: int, *names: str) -> None:
        """Save where this epoch ends with a checkpoint, or has earned further names, such as 'best'."""
        if self.is_due(epoch) or names:
            self.save(f'checkpoint-{epoch}.pd', epoch, Position(epoch + 1))
            if self.folder and dist.is_main():
                for name in names:
                    atomic.link(self.folder / f'checkpoint-{epoch}.pd', self.folder / f'checkpoint-{name}.pd')
                if not self.is_due(epoch):
                    (self.folder / f'checkpoint-{epoch}.pd').unlink()

    def save(self, name: str, epoch: int, position: Position) -> None:
        """Write the state under this name. `epoch` is the last complete one, -1 for none."""
        if self.folder:
            dist.broadcast_buffers(self.model)
            if dist.is_main():
                self._write(name, epoch, position)
            dist.wait()

    def _write(self, name: str, epoch: int, position: Position) -> None:
        try:
            paddle_file.write(self.folder / name, {
                'model': {key: tensor.numpy() for key, tensor in self.model.state_dict().items()},
                'optimizer': optimizer_state(self.model, self.step.optimizer),
                'epoch': epoch,
                'scaler': self.step.state_dict(),
                'args': self.flags,
                'position': {**vars(position), 'effective_batch': self.effective_batch},
                'environment': self.origin,
                **{key: getattr(value, 'state_dict', lambda value=value: value)() for key, value in self.extra.items()},
            })
        except InputError as error:
            raise InputError(f'{error}. Training stops; once there is room, --resume auto goes on from the checkpoint '
                             'before') from None
        for path in ordered(self.folder)[:-self.keep] if self.keep else ():
            path.unlink()


def ordered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, from the earliest position in training to the latest."""
    return sorted((path for path in folder.glob('checkpoint-*.pd') if NAME.fullmatch(path.name)), key=_position)


def _position(path: Path) -> tuple[int, int]:
    """Epoch and samples of it, by a checkpoint's name."""
    epoch, samples = NAME.fullmatch(path.name).groups()
    return (int(epoch), int(samples)) if samples else (int(epoch) + 1, 0)


def load(resume: str, output_dir: str, flags: dict | None = None) -> dict:
    """The checkpoint to go on from: a file's, or with 'auto' the newest whole one in output_dir; {} for none.

    Warns where `flags`, the program's, differ from those that the checkpoint was made with.
    """
    if resume == 'auto' and not output_dir:
        raise InputError('--resume auto looks in --output_dir, which is empty')
    if resume != 'auto':
        state = {**_training_state(resume), 'path': resume} if resume else {}
    else:
        state = _newest(Path(output_dir))
    _warn_of_changes(state.get('args', {}), flags or {})
    return state


def _newest(folder: Path) -> dict:
    for path in reversed(ordered(folder)):
        try:
            return {**_training_state(path), 'path': str(path)}
        except InputError as error:
            if dist.is_main():
                dist.warn(f'--resume auto passes over a checkpoint: {error}')
    return {}


def _training_state(path: str | Path) -> dict:
    state = weights.read(path)
    if isinstance(state.get('optimizer'), dict) and 'param_groups' in state['optimizer']:
        raise InputError(f'--resume {path}: training of PyTorch cannot go on here; main_finetune.py and main_linprobe.py '
                         'begin from its weights with --finetune')
    for key, kind in (('model', dict), ('optimizer', dict), ('epoch', int)):
        if not isinstance(state.get(key), kind):
            raise InputError(f'--resume {path}: this is no checkpoint of a training run, it has no {key!r}')
    return state


def _warn_of_changes(before: dict, flags: dict) -> None:
    """Say which flags differ from those of the run that is resumed, where they may change its results."""
    changed = [f'--{name} was {before[name]} and is {value}' for name, value in flags.items()
               if name in before and before[name] != value and name not in HARMLESS]
    if changed and dist.is_main():
        dist.warn('resuming with other flags: ' + '; '.join(changed))


def accum_iter(state: dict, joint_batch: int, asked: int) -> int:
    """Iterations an optimizer step, so that the effective batch stays what it was, if that is a multiple of the batch
    of all processes; a warning says what changes."""
    before = state.get('position', {}).get('effective_batch', joint_batch * asked)
    if before == joint_batch * asked:
        return asked
    kept = before // joint_batch if before % joint_batch == 0 else asked
    if dist.is_main():
        remedy = (f'so --accum_iter is now {kept}' if kept != asked else
                  f'and no --accum_iter keeps it: it is now {joint_batch * asked}')
        dist.warn(f'the effective batch was {before}; --accum_iter {asked} with {joint_batch} images an iteration '
                  f'would make it {joint_batch * asked}, {remedy}')
    return kept


def restore(state: dict, model: paddle.nn.Layer, step, extra: dict | None = None) -> Position:
    """Put a loaded checkpoint into model, optimizer and step, and into the Saver's `extra`; where to go on."""
    load_model(model, state.pop('model'), state['path'])  # pop: the arrays need not stay in memory
    set_optimizer_state(model, step.optimizer, state.pop('optimizer'), state['path'])
    step.load_state_dict(state.get('scaler', {}))
    for name, value in (extra or {}).items():
        if hasattr(value, 'load_state_dict') and name in state:
            value.load_state_dict(state[name])
        elif name in state:
            extra[name] = state[name]
    position = dict(state.get('position', {'epoch': state['epoch'] + 1}))  # upstream's files say no more
    return Position(**{name: position[name] for name in Position.__dataclass_fields__ if name in position})


def load_model(model: paddle.nn.Layer, tensors: dict, path: str) -> None:
    """Set every parameter and buffer of `model`; InputError names the first key that differs."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise InputError(f'{path} does not fit the model: {name} {list(tensor.shape)} is missing there')
        if list(tensors[name].shape) != list(tensor.shape):
            raise InputError(f'{path} does not fit the model: {name} is {list(tensors[name].shape)} there, '
                             f'{list(tensor.shape)} here')
        if not np.issubdtype(np.asarray(tensors[name]).dtype, np.floating):
            raise InputError(f'{path} does not fit the model: {name} is {tensors[name].dtype} there, and no floating number')
    extra = [name for name in tensors if name not in own]
    if extra:
        raise InputError(f'{path} does not fit the model: it has {extra[0]}, which the model has not '
                         f'({len(extra)} such keys)')
    model.set_state_dict(tensors)


def optimizer_state(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, dict]:
    """{parameter: {'moment1': array, ...}}, by the parameters' names in the model."""
    state = {key: value for key, value in optimizer.state_dict().items() if isinstance(value, paddle.Tensor)}
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    structured = {name: {} for name in names.values()}
    for key, tensor in state.items():
        parameter = next(name for name in names if key.startswith(name + '_'))
        structured[names[parameter]][key[len(parameter) + 1:].removesuffix('_0')] = tensor.numpy()
    return structured


def set_optimizer_state(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, structured: dict, path: str) -> None:
    """The inverse of optimizer_state; InputError where the state is another optimizer's or another model's."""
    needed = KINDS.get(type(optimizer).__name__, set())
    for name, parameter in model.named_parameters():
        kinds = structured.get(name, {})
        if not isinstance(kinds, dict) or (set(kinds) != needed and not parameter.stop_gradient):
            raise InputError(f'{path} has no {" and ".join(sorted(needed))} for {name}: its optimizer state is that of '
                             'another program or optimizer')
        for kind, array in kinds.items():
            if list(array.shape) not in (list(parameter.shape), [1]):
                raise InputError(f'{path}: {kind} of {name} is {list(array.shape)} there, {list(parameter.shape)} here')
    names = {name: parameter.name for name, parameter in model.named_parameters()}
    optimizer.set_state_dict({f'{names[name]}_{kind}_0': paddle.to_tensor(array) for name, kinds in structured.items()
                              if name in names for kind, array in kinds.items()})
