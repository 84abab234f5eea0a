"""The lines of a training in PaddleSeg's form, and its VisualDL curves."""

import contextlib
import time
from collections.abc import Iterator

from paddleseg.utils import calculate_eta, logger

from util import dist
from util.progress import Averages, Progress


class Lines(Progress):
    """Prints a line every `every` iterations, with means since the last line.

    batch_size: images of this process, of which `ips` is the number a second. per_epoch:
    iterations an epoch of the data set. save_dir: where VisualDL's records go, None for none.
    """

    def __init__(
        self, iterations: int, every: int, batch_size: int, per_epoch: int, save_dir: str | None
    ):
        super().__init__(1, iterations, every)
        self.batch_size, self.per_epoch = batch_size, per_epoch
        self.writer = None
        if save_dir and dist.is_main():
            from visualdl import LogWriter  # imported here because it takes a second

            self.writer = LogWriter(save_dir)

    def place(self, iteration: int) -> str:
        """Where an iteration is, for a person: its number, from 0."""
        return f'iteration {iteration}'

    @property
    def is_line_due(self) -> bool:
        """Whether there is a line for the iteration that was counted last."""
        return self.iteration % self.print_freq == 0

    def update(self, **values: float) -> None:
        """Add the figures of an iteration: loss, lr, and what else is to be averaged."""
        super().update(**values)
        self.since_line.add(**values)

    def show(self) -> None:
        """Print the line of the last iteration if it is due; its figures have been added."""
        if self.line_iterations and self.is_line_due:
            self._show(self.latest['lr'])
            self._new_line()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the costs of iterations."""
        begun = time.perf_counter()
        yield
        self.line_begin += time.perf_counter() - begun

    def _new_line(self) -> None:
        super()._new_line()
        self.since_line = Averages()

    def _show(self, lr: float) -> None:
        means = self.since_line.means()
        seconds = (time.perf_counter() - self.line_begin) / self.line_iterations
        reading = self.line_data / self.line_iterations
        epoch = (self.iteration - 1) // self.per_epoch + 1
        left = calculate_eta(self.iterations - self.iteration, seconds)
        images = self.batch_size / seconds
        logger.info(
            f'[TRAIN] epoch: {epoch}, iter: {self.iteration}/{self.iterations}, '
            f'loss: {means["loss"]:.4f}, lr: {lr:.6f}, batch_cost: {seconds:.4f}, '
            f'reader_cost: {reading:.5f}, ips: {images:.4f} samples/sec | ETA {left}'
        )
        curves = {name: means[name] for name in means if name not in ('lr', 'loss_0')}
        if 'loss_1' in means:
            curves['loss_0'] = means['loss_0']
        self.curves('Train', **curves, lr=lr, batch_cost=seconds, reader_cost=reading)

    def curves(self, group: str, **values: float) -> None:
        """Add a point to VisualDL's curve of each value."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f'{group}/{name}', value, self.iteration)

    def close(self) -> None:
        """Write what VisualDL has buffered."""
        if self.writer:
            self.writer.close()
