"""What paddleseg.core.train forgets of its checkpoints, and the one that it does not write: of a job asked to stop."""

import collections
import contextlib
import importlib
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import paddle

from seg.loading import replaced
from util import checkpoint, dist, log, weights
from util.assign import assign_weights
from util.errors import InputError

AVERAGE = 'ema_model.pdparams'  # of --use_ema, in a checkpoint's folder
# paddleseg.core.train is also the name of its function
loop = importlib.import_module('paddleseg.core.train')


def resumable(network: paddle.nn.Layer, folder: str | None, averaged: bool) -> int:
    """The iteration after which a checkpoint was written, 0 without one; InputError where its files are not whole or do
    not fit. averaged: with --use_ema."""
    if folder is None:
        return 0
    number = Path(folder).name.rpartition('_')[2]
    if not number.isdecimal():
        raise InputError(
            f'--resume_model {folder}: expected a folder iter_N that this program has written'
        )
    # PaddleSeg reads both again, would run what a crafted file names, and merely warns of what does not fit
    assign_weights(network, weights.read(Path(folder) / 'model.pdparams'), folder)
    weights.read(Path(folder) / 'model.pdopt')
    if averaged and not (Path(folder) / AVERAGE).is_file():  # which PaddleSeg writes last
        raise InputError(
            f'--resume_model {folder} has no {AVERAGE}, with which --use_ema goes on: it was not written to '
            'its end, or without --use_ema. Take an earlier one, or let the average begin with a copy of '
            'its model.pdparams under that name'
        )
    return int(number)


class Checkpoints:
    """The folders iter_N of a run, in save_dir, of which the `keep` newest stay (0: all).

    resumed: the one that the run goes on from, after iteration `start`; None for none.
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
        self.network, self.optimizer, self.save_dir, self.keep = (
            network,
            optimizer,
            Path(save_dir),
            keep,
        )
        self.resumed, self.start, self.iters = resumed, start, iters
        self.written, self.average, self.stop_requested = collections.deque(), None, False

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Let paddleseg.core.train know what it forgets of the checkpoint that it goes on from: the average of --use_ema,
        and which others there are, of which the oldest go. Its record of the best mIoU cannot be set; so that a worse model
        does not take the best one's place, that is renamed to best_model_to_N. Signals now ask for a checkpoint."""
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
        for (
            number,
            handler,
        ) in before.items():  # not where it fails or is stopped: dist.leave has chosen others
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
        """The batches of the run; before each but the first, what the iteration before it has left to do: where any rank
        was asked to stop, save and leave with code 75. (PaddleSeg asks for one batch beyond the last.)"""
        for iteration, batch in enumerate(batches, self.start + 1):
            yield batch
            if iteration < self.iters and dist.sum_over_ranks([self.stop_requested])[0]:
                self._stop(iteration)

    def _stop(self, iteration: int) -> None:
        folder = self.save_dir / f'iter_{iteration}'
        if dist.is_main() and folder not in map(Path, self.written):
            self._save(folder)
        log.info(
            f'stopped by a signal after iteration {iteration}; --resume_model {folder} goes on from there'
        )
        dist.leave(checkpoint.STOPPED)

    def _save(self, folder: Path) -> None:
        """What PaddleSeg saves, where it does. Its optimizer comes last: without it the checkpoint is refused."""
        if self.average is not None:
            paddle.save(self.average.state_dict(), str(folder / AVERAGE))
        paddle.save(self.network.state_dict(), str(folder / 'model.pdparams'))
        paddle.save(self.optimizer.state_dict(), str(folder / 'model.pdopt'))
        self.written.append(str(folder))
        if len(self.written) > self.keep > 0:
            shutil.rmtree(self.written.popleft())
