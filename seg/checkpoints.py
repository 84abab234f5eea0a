"""The folders iter_N of a training, in PaddleSeg's form: written, found, read.

`model.pdparams` and `model.pdopt` are what PaddleSeg saves, `ema_model.pdparams` the average of
--use_ema. `training.pd` is ours: the best results so far, the state of the scaler of mixed
precision, the flags, and the run's machine and commit. PaddleSeg's tools read the folder and ignore
that file; a folder that PaddleSeg wrote, without that file, resumes as well.
"""

import re
import shutil
from pathlib import Path

import paddle

from util import amp, atomic, checkpoint, dist, log, weights
from util.assign import KINDS, assign_weights
from util.errors import STOPPED, InputError
from util.progress import Progress
from util.weights import paddle_file

MODEL, OPTIMIZER, AVERAGE = 'model.pdparams', 'model.pdopt', 'ema_model.pdparams'
TRAINING = 'training.pd'
NAME = re.compile(r'iter_(\d+)')


class Folders(checkpoint.Saver):
    """Writes iter_N every `save_interval` iterations, and when the job is asked to stop.

    flags: the program's. It uses `save_dir`, `save_interval` and `keep_checkpoint_max`, the number
    of folders to keep (0: all; those from before this training do not count).
    average: the model of --use_ema, None without it. kept: saved in training.pd, each value under
    its name; `restore` puts the saved ones in their place.
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

    def is_pending(self, iteration: int) -> bool:
        """Whether the evaluation and the checkpoint after this iteration are still to come."""
        return 0 < iteration != self.done and self.is_due(iteration)

    def until_due(self, iteration: int) -> int:
        """How many iterations there are to the next checkpoint."""
        every = self.flags['save_interval']
        return min(every - iteration % every, self.iterations - iteration)

    def after_step(self, progress: Progress, stop: bool) -> None:
        """With `stop`, the same on every rank, save and leave with code 75.

        If a checkpoint is due anyway, the evaluation comes first: `stop_if_asked` follows it.
        """
        if stop and not self.is_due(progress.iteration):
            self.save(*self._within(progress))
            self._leave(progress.iteration)

    def stop_if_asked(self, iteration: int) -> None:
        """After saving a checkpoint, leave with code 75 if a rank was asked to stop."""
        if iteration < self.iterations and dist.sum_over_ranks([self.stop_requested])[0]:
            self._leave(iteration)

    def _leave(self, iteration: int) -> None:
        folder = self.folder / f'iter_{iteration}'
        log.info(
            f'stopped by a signal after iteration {iteration}; --resume_model {folder}, or auto, '
            'continues from there'
        )
        dist.leave(STOPPED)

    def _within(self, progress: Progress) -> tuple[str, int, checkpoint.Position]:
        return f'iter_{progress.iteration}', 0, checkpoint.Position()

    def after_iteration(self, progress: Progress) -> None:
        """Save iter_N at the current iteration, with the results of its evaluation."""
        self.done = progress.iteration
        self.save(*self._within(progress))

    def save_best(self, name: str, model: paddle.nn.Layer, file: str = MODEL) -> None:
        """Write the weights of a model into the folder `name`, on the main process."""
        if dist.is_main():
            (self.folder / name).mkdir(exist_ok=True)
            paddle_file.write(self.folder / name / file, _arrays(model.state_dict()))
        dist.barrier()

    def _write(self, name: str, epoch: int, position: checkpoint.Position) -> None:
        path = self.folder / name
        files = {
            MODEL: _arrays(self.model.state_dict()),
            OPTIMIZER: _arrays(self.step.optimizer.state_dict()),
        }
        if self.average is not None:
            files[AVERAGE] = _arrays(self.average.state_dict())
        files[TRAINING] = {
            'complete': not self.is_pending(iterations_of(path)),
            'scaler': self.step.state_dict(),
            'args': self.flags,
            'environment': self.origin,
            **self.kept,
        }
        try:
            with atomic.writing_folder(path) as folder:
                for file, tree in files.items():
                    paddle_file.write(folder / file, tree)
        except InputError as error:
            raise InputError(
                f'{error}. Training stops; once there is room, --resume_model auto continues from '
                'the checkpoint before'
            ) from None

        # Delete the oldest ones of this training
        self.written = [folder for folder in self.written if folder != path] + [path]
        most = self.flags['keep_checkpoint_max']
        while len(self.written) > most > 0:
            shutil.rmtree(self.written.pop(0))

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
            files = read(folder, averaged=self.average is not None)
        start = iterations_of(folder) if folder else 0
        if folder:
            if files.get(TRAINING, {}).get('complete', True):
                self.done = start
            if asked != 'auto' and start >= self.iterations and not self.is_pending(start):
                raise InputError(
                    f'--iters {self.iterations} is not beyond the {start} iterations of '
                    f'--resume_model {asked}'
                )
            self._assign(folder, files)
            log.info(f'resumed from {folder}')
        self._set_aside_later_than(start)
        if folder and folder.resolve().parent == self.folder.resolve():
            self.written = ordered(self.folder)
            if TRAINING not in files:
                self._set_best_aside(start)
        dist.barrier()
        return start

    def _newest(self) -> tuple[Path | None, dict]:
        for folder in reversed(ordered(self.folder)):
            try:
                return folder, read(folder, averaged=self.average is not None)
            except InputError as error:
                log.warn(f'--resume_model auto passes over a checkpoint: {error}')
        return None, {}

    def _assign(self, folder: Path, files: dict) -> None:
        assign_weights(self.model, files.pop(MODEL), str(folder))
        if self.average is not None:
            assign_weights(self.average, files.pop(AVERAGE), str(folder))
        assign_optimizer(self.model, self.step.optimizer, files.pop(OPTIMIZER), str(folder))
        state = files.get(TRAINING, {})
        self.step.load_state_dict(state.get('scaler', {}))
        for name in self.kept.keys() & state.keys():
            self.kept[name] = state[name]

    def _set_aside_later_than(self, start: int) -> None:
        """Rename folders that are later than the start, because auto would take them."""
        if not dist.is_main():
            return
        for path in ordered(self.folder):
            if iterations_of(path) > start:
                aside = path.with_name(f'{path.name}.old')
                shutil.rmtree(aside, ignore_errors=True)
                path.replace(aside)
                log.warn(
                    f'{path} is from another training, or later than where this one begins; it is '
                    f'now {aside.name}'
                )

    def _set_best_aside(self, start: int) -> None:
        """Rename best models of unknown mIoU, so that a worse model does not replace them."""
        if dist.is_main():
            for best in self.folder.glob('*best_model'):
                best.replace(best.with_name(f'{best.name}_to_{start}'))


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


def read(folder: Path, averaged: bool) -> dict[str, dict]:
    """The files of a checkpoint by name, as dicts of arrays; PaddleSeg's have no training.pd.

    averaged: with --use_ema. InputError if a file is missing or damaged.
    """
    iterations_of(folder)
    files = {name: weights.read(folder / name) for name in (MODEL, OPTIMIZER)}
    if averaged:
        if not (folder / AVERAGE).is_file():
            raise InputError(
                f'--resume_model {folder} has no {AVERAGE}, which --use_ema needs: it was '
                'written without --use_ema. Leave the flag out, or copy its model.pdparams to that '
                'name to start the average'
            )
        files[AVERAGE] = weights.read(folder / AVERAGE)
    if (folder / TRAINING).exists():
        files[TRAINING] = weights.read(folder / TRAINING)
    return files


def assign_optimizer(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, state: dict, path: str
) -> None:
    """Set an optimizer's state, its schedule included, from a model.pdopt.

    Its arrays have Paddle's own names, which number a process's layers in order: a program that
    builds the same model first has the same names. InputError if they differ.
    """
    kinds = KINDS.get(type(optimizer).__name__, set())
    for name, parameter in model.named_parameters():
        for kind in kinds:
            key = f'{parameter.name}_{kind}_0'
            if not parameter.stop_gradient and key not in state:
                raise InputError(
                    f'{path}/{OPTIMIZER} has no {key}, the {kind} of {name}: '
                    'it belongs to another model or optimizer'
                )
    tensors = {
        key: paddle.to_tensor(value) if hasattr(value, 'shape') else value
        for key, value in state.items()
    }
    optimizer.set_state_dict(tensors)


def _arrays(state: dict) -> dict:
    """A state_dict with its tensors as arrays."""
    return {
        name: value.numpy() if isinstance(value, paddle.Tensor) else value
        for name, value in state.items()
    }
