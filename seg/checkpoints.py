"""The folders iter_N of a training, in PaddleSeg's form: written, found, read.

`model.pdparams` and `model.pdopt` are what PaddleSeg saves, `ema_model.pdparams` the average of
--use_ema. `training.pd` is ours: the best results so far, the state of the scaler of mixed
precision, the flags, and the run's machine and commit. PaddleSeg's tools read the folder and ignore
that file; a folder that PaddleSeg wrote, without that file, resumes as well.
"""

import contextlib
import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import paddle

from util import amp, atomic, checkpoint, dist, log, resume, weights
from util.assign import KINDS, assign_weights, state_tensor
from util.data.feed import tensors
from util.errors import STOPPED, InputError
from util.progress import Progress
from util.weights import paddle_file

MODEL, OPTIMIZER, AVERAGE = 'model.pdparams', 'model.pdopt', 'ema_model.pdparams'
TRAINING = 'training.pd'
NAME = re.compile(r'iter_(\d+)')
NO_RESULT = {'mIoU': -1.0, 'iter': -1}
# Flags that change no result: a training may be resumed with other values without a warning
HARMLESS = (
    'save_dir output_dir resume_model device deterministic num_workers data_timeout do_eval '
    'save_interval profile keep_checkpoint_max log_iters use_vdl profiler_options'
).split()


class Folders(checkpoint.Saver):
    """Writes iter_N every `save_interval` iterations, and when the job is asked to stop.

    flags: the program's. It uses `save_dir`, `save_interval` and `keep_checkpoint_max`, the number
    of folders to keep (0: all; those from before this training do not count).
    average: the model of --use_ema, None without it. kept: saved in training.pd, each value under
    its name; the result of a best model, NO_RESULT at first. `restore` restores it.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        step: amp.Step,
        flags: dict,
        iterations: int,
        *,
        average: paddle.nn.Layer | None = None,
        kept: dict | None = None,
    ):
        super().__init__(model, step, {**flags, 'output_dir': flags['save_dir']}, 1, kept)
        self.iterations, self.average = iterations, average
        self.written: list[Path] = []
        self.done = 0  # the last iteration whose evaluation and checkpoint are complete

    def is_due(self, iteration: int) -> bool:
        """Whether this iteration ends with an evaluation and a checkpoint."""
        return iteration % self.flags['save_interval'] == 0 or iteration == self.iterations

    def is_due_within(self, done: int) -> bool:
        """Never: the program itself saves, between two calls of `Loop.train`."""
        return False

    def is_pending(self, iteration: int) -> bool:
        """Whether the evaluation and the checkpoint after this iteration are still to come."""
        return 0 < iteration != self.done and self.is_due(iteration)

    def until_due(self, iteration: int) -> int:
        """How many iterations there are to the next checkpoint."""
        every = self.flags['save_interval']
        return min(every - iteration % every, self.iterations - iteration)

    def after_step(self, progress: Progress, stop: bool) -> None:
        """With `stop`, the same on every rank, save and leave with code 75.

        An evaluation that is due is done by the run that resumes.
        """
        if stop:
            self.save_iteration(progress)
            self._leave(progress.iteration)

    def stop_if_asked(self, iteration: int) -> None:
        """After saving a checkpoint, leave with code 75 if a rank was asked to stop."""
        if iteration < self.iterations and dist.sum_over_ranks([self.stop_requested])[0]:
            self._leave(iteration)

    def _leave(self, iteration: int) -> None:
        self.join()
        folder = self.folder / f'iter_{iteration}'
        log.info(
            f'stopped by a signal after iteration {iteration}; --resume_model {folder}, or auto, '
            'continues from there'
        )
        dist.leave(STOPPED)

    def save_iteration(self, progress: Progress) -> None:
        """Save iter_N at the current iteration; its evaluation, if one is due, is still to come."""
        self.save(f'iter_{progress.iteration}', 0, checkpoint.Position())

    def complete(self, iteration: int) -> None:
        """Note in iter_N that all that was due is done, and the best results."""
        self.done = iteration
        if dist.is_main():
            path = self.folder / f'iter_{iteration}' / TRAINING
            state = self._training_state(iteration)
            self.background.add(lambda: paddle_file.write(path, state))

    @contextlib.contextmanager
    def evaluating(self, progress: Progress) -> Iterator[None]:
        """If the block fails, say where the training is saved."""
        try:
            yield
        except Exception:
            self.join()
            folder = self.folder / f'iter_{progress.iteration}'
            log.warn(f'the evaluation failed; {folder} holds what was trained before it')
            raise

    def save_best(self, name: str, model: paddle.nn.Layer, file: str = MODEL) -> None:
        """Write the weights of a model, and its result, into the folder `name`."""
        if dist.is_main():
            files = {file: _arrays(model.state_dict()), TRAINING: dict(self.kept[name])}
            self.background.add(lambda: _write_files(self.folder / name, files))
        dist.barrier()

    def _write(self, name: str, epoch: int, position: checkpoint.Position) -> None:
        """Copy the state, and write the copy in the background."""
        path = self.folder / name
        files = {
            MODEL: _arrays(self.model.state_dict()),
            OPTIMIZER: _arrays(self.step.optimizer.state_dict()),
        }
        if self.average is not None:
            files[AVERAGE] = _arrays(self.average.state_dict())
        files[TRAINING] = self._training_state(iterations_of(path))
        self.background.add(lambda: self._write_copy(path, files))

    def _write_copy(self, path: Path, files: dict[str, dict]) -> None:
        try:
            _write_files(path, files)
        except InputError as error:
            raise InputError(
                f'{error}. Training stops; once there is room, --resume_model auto continues from '
                'the checkpoint before'
            ) from None

        # Delete the oldest ones of this training
        self.written = [folder for folder in self.written if folder != path] + [path]
        most = self.flags['keep_checkpoint_max']
        while len(self.written) > most > 0:
            shutil.rmtree(self.written.pop(0), ignore_errors=True)

    def _training_state(self, iteration: int) -> dict:
        """The contents of training.pd; no later step changes them."""
        return {
            'complete': not self.is_pending(iteration),
            'scaler': self.step.state_dict(),
            'args': self.flags,
            'environment': self.origin,
            **copy.deepcopy(self.kept),
        }

    def restore(self, asked: str | None) -> int:
        """Restore model, optimizer, scaler, average and `kept`; returns the iterations done.

        asked: --resume_model, a folder iter_N, 'auto' for the newest intact one in save_dir, or
        None. InputError if its files are damaged or do not fit. Later folders in save_dir are
        renamed to iter_N.old.
        """
        folder, files = None, {}
        if asked == 'auto':
            folder, files = self._newest()
        elif asked is not None:
            folder = Path(asked)
            files = read(folder)
        start = iterations_of(folder) if folder else 0
        if folder:
            state = files.pop(TRAINING, {})
            if state.get('complete', True):
                self.done = start
            if asked != 'auto' and start >= self.iterations and not self.is_pending(start):
                raise InputError(
                    f'--iters {self.iterations} is not beyond the {start} iterations of '
                    f'--resume_model {asked}'
                )
            resume.warn_of_changes(state.get('args', {}), self.flags, HARMLESS)
            self._assign(folder, files, state)
            log.info(f'resumed from {folder}')

        dist.barrier()  # all ranks have read
        self._set_aside_later_than(start)
        is_here = folder is not None and folder.resolve().parent == self.folder.resolve()
        if folder:
            self._check_best(start, is_here)
        if is_here:
            self.written = ordered(self.folder)
        dist.barrier()
        return start

    def _newest(self) -> tuple[Path | None, dict]:
        for folder in reversed(ordered(self.folder)):
            try:
                return folder, read(folder)
            except InputError as error:
                log.warn(f'--resume_model auto passes over a checkpoint: {error}')
        return None, {}

    def _assign(self, folder: Path, files: dict, state: dict) -> None:
        assign_weights(self.model, files[MODEL], str(folder))
        if self.average is not None:
            if AVERAGE not in files:
                raise InputError(
                    f'--resume_model {folder} has no {AVERAGE}, which --use_ema needs: it was '
                    'written without --use_ema. Leave the flag out, or copy its model.pdparams to '
                    'that name to start the average'
                )
            assign_weights(self.average, files[AVERAGE], str(folder))
        assign_optimizer(self.model, self.step.optimizer, files[OPTIMIZER], str(folder))
        self.step.load_state_dict(state.get('scaler', {}))
        for name in self.kept.keys() & state.keys():
            self.kept[name] = state[name]

    def _check_best(self, start: int, is_here: bool) -> None:
        """Begin a record of the best anew if save_dir does not hold the model that it names.

        That is so after PaddleSeg's own training, in another save_dir, or if a training has gone
        further than the resumed checkpoint. A best model in the way is renamed.
        """
        for name, record in self.kept.items():
            best = self.folder / name
            found = weights.read(best / TRAINING) if (best / TRAINING).exists() else None
            if found == record:
                continue
            self.kept[name] = dict(NO_RESULT)
            is_repeated = found is not None and found['iter'] == start
            if is_here and best.exists() and not is_repeated and dist.is_main():
                why = f'{best} is not the best model of the first {start} iterations'
                _rename(best, f'{name}_to_{start}', why)

    def _set_aside_later_than(self, start: int) -> None:
        """Rename folders that are later than the start, because auto would take them."""
        if not dist.is_main():
            return
        for path in ordered(self.folder):
            if iterations_of(path) > start:
                why = f'{path} is from another training, or later than where this one begins'
                _rename(path, f'{path.name}.old', why)


def _write_files(path: Path, files: dict[str, dict]) -> None:
    """Write a folder of files, given by name, all or nothing."""
    with atomic.writing_folder(path) as folder:
        for file, tree in files.items():
            paddle_file.write(folder / file, tree)


def _rename(folder: Path, name: str, why: str) -> None:
    """Rename a folder, in place of what had that name, and warn why."""
    aside = folder.with_name(name)
    shutil.rmtree(aside, ignore_errors=True)
    folder.replace(aside)
    log.warn(f'{why}; it is now {name}')


def iterations_of(folder: Path) -> int:
    """The N of a folder iter_N; InputError for any other name."""
    found = NAME.fullmatch(folder.name)
    if not found:
        raise InputError(
            f'--resume_model {folder}: expected a folder iter_N that this program has written, '
            'or auto'
        )
    return int(found[1])


def ordered(folder: Path) -> list[Path]:
    """The checkpoints in a folder, from the earliest to the latest."""
    found = [path for path in folder.glob('iter_*') if NAME.fullmatch(path.name)]
    return sorted(found, key=iterations_of)


def read(folder: Path) -> dict[str, dict]:
    """The files of a checkpoint by name, as dicts of arrays.

    The average is missing without --use_ema, and training.pd in PaddleSeg's checkpoints.
    InputError if another file is missing, or one is damaged.
    """
    iterations_of(folder)
    names = [MODEL, OPTIMIZER]
    names += [name for name in (AVERAGE, TRAINING) if (folder / name).exists()]
    return {name: weights.read(folder / name) for name in names}


def assign_optimizer(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, state: dict, path: str
) -> None:
    """Set an optimizer's state, its schedule included, from a model.pdopt.

    Its arrays have Paddle's own names, which number a process's layers in order: a program that
    builds the same model first has the same names. A parameter that never got a gradient has none.
    InputError if the arrays are another model's or another optimizer's.
    """
    misfit = f'{path}/{OPTIMIZER} is of another model or optimizer:'
    shapes = {parameter.name: list(parameter.shape) for parameter in model.parameters()}
    kinds = {}  # parameter -> its kinds of arrays
    for key, array in state.items():
        if not hasattr(array, 'shape'):
            continue
        # <parameter>_<kind>_0, or with float32 copies <parameter>_fp32_master_0_<kind>_0
        owners = [name for name in shapes if key.startswith(f'{name}_')]
        if not owners:
            raise InputError(f'{misfit} the model has no parameter for {key}')
        owner = max(owners, key=len)
        if list(array.shape) not in (shapes[owner], [1]):
            raise InputError(f'{misfit} {key} is {list(array.shape)} there, {shapes[owner]} here')
        kind = key.removeprefix(f'{owner}_').removeprefix('fp32_master_0_').removesuffix('_0')
        kinds.setdefault(owner, set()).add(kind)

    needed = KINDS.get(type(optimizer).__name__, set())
    for owner, found in kinds.items():
        if not needed <= found:
            raise InputError(f'{misfit} {min(needed - found)} of {owner} is missing')
    if needed and not kinds:
        raise InputError(f'{misfit} it has no {min(needed)}')
    placed = tensors(state)
    for key in state:
        if key.endswith('_pow_acc_0'):
            placed[key] = state_tensor(key, state[key])
    optimizer.set_state_dict(placed)


def _arrays(tree):
    """A nested dict with its tensors as arrays."""
    if isinstance(tree, dict):
        return {name: _arrays(value) for name, value in tree.items()}
    return tree.numpy() if isinstance(tree, paddle.Tensor) else tree
