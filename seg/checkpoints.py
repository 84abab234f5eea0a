"""Checkpoints of paddleseg.core.train: the state it does not restore, and one before a stop."""

import collections
import contextlib
import importlib
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import paddle

from seg.loading import replaced
from util import dist, log, weights
from util.assign import assign_weights
from util.errors import STOPPED, InputError

AVERAGE = 'ema_model.pdparams'  # of --use_ema, in a checkpoint's folder
# paddleseg.core.train is also the name of its function
loop = importlib.import_module('paddleseg.core.train')


def resumable(network: paddle.nn.Layer, folder: str | None, averaged: bool) -> int:
    """The iteration after which a checkpoint was written, 0 without a checkpoint.

    InputError where its files are damaged or do not fit. averaged: whether --use_ema is on.
    """
    if folder is None:
        return 0
    number = Path(folder).name.rpartition('_')[2]
    if not number.isdecimal():
        raise InputError(
            f'--resume_model {folder}: expected a folder iter_N that this program has written'
        )
    # PaddleSeg reads both again, but would run code in a crafted file, and only warns of tensors
    # that do not fit
    assign_weights(network, weights.read(Path(folder) / 'model.pdparams'), folder)
    weights.read(Path(folder) / 'model.pdopt')
    if averaged and not (Path(folder) / AVERAGE).is_file():  # PaddleSeg writes it last
        raise InputError(
            f'--resume_model {folder} has no {AVERAGE}, which --use_ema needs: it is incomplete, '
            'or was written without --use_ema. Take an earlier one, or copy its model.pdparams to '
            'that name, so that the average begins with these weights'
        )
    return int(number)


class Checkpoints:
    """The folders iter_N of a run in save_dir, of which the newest `keep` are kept (0: all).

    resumed: the folder that the run resumes, written after iteration `start`; None for none.
    """

    def __init__(
        self,
        network: paddle.nn.Layer,
        optimizer,
        save_dir: str,
        keep: int,
        resumed: str | None,
        start: int,
        iters: int,
    ):
        self.network = network
        self.optimizer = optimizer
        self.save_dir = Path(save_dir)
        self.keep = keep
        self.resumed = resumed
        self.start = start
        self.iters = iters
        self.written = collections.deque()
        self.average = None
        self.stop_requested = False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Restore what paddleseg.core.train does not: the average of --use_ema and older folders.

        It deletes the oldest of the folders that it knows. Its record of the best mIoU cannot be
        set; best_model is renamed to best_model_to_N, so that a worse model does not replace it.
        Stop signals ask for a checkpoint from here on.
        """
        if (
            self.resumed is not None
            and Path(self.resumed).resolve().parent == self.save_dir.resolve()
        ):
            numbers = sorted(
                int(path.name[5:])
                for path in self.save_dir.glob('iter_*')
                if path.name[5:].isdecimal()
            )
            self.written.extend(
                str(self.save_dir / f'iter_{number}') for number in numbers if number <= self.start
            )
            if dist.is_main():
                for best in self.save_dir.glob('*best_model'):
                    best.replace(best.with_name(f'{best.name}_to_{self.start}'))
        before = {number: signal.signal(number, self._request_stop) for number in dist.STOP_SIGNALS}
        with replaced(
            loop,
            deque=lambda: self.written,
            init_ema_params=self._begin_average(loop.init_ema_params),
        ):
            yield
        # not after an error or a stop: dist.leave has set other handlers
        for number, handler in before.items():
            signal.signal(number, handler)

    def _request_stop(self, number: int, frame) -> None:
        self.stop_requested = True

    def _begin_average(self, begin):
        def average(ema_model, model):
            self.average = ema_model
            if self.resumed is not None:
                assign_weights(ema_model, weights.read(Path(self.resumed) / AVERAGE), self.resumed)
            else:
                begin(ema_model, model)

        return average

    def following(self, batches: Iterable) -> Iterator:
        """The batches of the run; between two of them it saves and exits if asked to stop.

        It is enough that one rank was asked. The exit code is 75. PaddleSeg asks for one batch
        after the last.
        """
        for iteration, batch in enumerate(batches, self.start + 1):
            yield batch
            if iteration < self.iters and dist.sum_over_ranks([self.stop_requested])[0]:
                self._stop(iteration)

    def _stop(self, iteration: int) -> None:
        folder = self.save_dir / f'iter_{iteration}'
        if dist.is_main() and folder not in map(Path, self.written):
            self._save(folder)
        log.info(
            f'stopped by a signal after iteration {iteration}; '
            f'--resume_model {folder} resumes from there'
        )
        dist.leave(STOPPED)

    def _save(self, folder: Path) -> None:
        """Write the files that PaddleSeg writes, at the same place.

        The optimizer comes last, because a checkpoint without it is refused.
        """
        if self.average is not None:
            paddle.save(self.average.state_dict(), str(folder / AVERAGE))
        paddle.save(self.network.state_dict(), str(folder / 'model.pdparams'))
        paddle.save(self.optimizer.state_dict(), str(folder / 'model.pdopt'))
        self.written.append(str(folder))
        if len(self.written) > self.keep > 0:
            shutil.rmtree(self.written.popleft())
