"""Show the progress of long work: the lines of a training, and a bar for everything else."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

import paddle
from tqdm import tqdm

from util import dist

DELAY = 1.0  # seconds before a bar appears; short work shows none
LINE_EVERY = 30.0  # seconds between two lines if no terminal shows a bar
LINE = '{n_fmt} of {total_fmt} {unit}, {elapsed} so far, {remaining} left'


class Averages:
    """Running means of named values over one epoch."""

    def __init__(self, sums: dict[str, float] | None = None, count: int = 0):
        self.sums = dict(sums or {})
        self.count = count

    def add(self, **values: float) -> None:
        """Add the values of one iteration."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        """The mean of each value over the iterations so far."""
        return {name: total / self.count for name, total in self.sums.items()}


def peak_memory() -> int:
    """The most memory that this process has used so far, in MB: on a GPU, the device's memory."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() // 2**20
    unit = 1 if sys.platform == 'darwin' else 1024  # ru_maxrss: bytes on macOS, KB on Linux
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss * unit // 2**20


def bar(items: Iterable, unit: str, total: int | None = None) -> Iterator:
    """The items one by one, with their progress and the time left on stderr of the main process.

    A terminal shows a bar; otherwise a line is printed every LINE_EVERY seconds. unit: the name of
    the items, such as 'batches'. total: their number, if `items` has no length.
    """
    if total is None and hasattr(items, '__len__'):
        total = len(items)
    if not dist.is_main():
        return iter(items)
    if sys.stderr.isatty():
        return iter(tqdm(items, unit=f' {unit}', total=total, delay=DELAY))
    return _with_lines(items, unit, total)


def _with_lines(items: Iterable, unit: str, total: int | None) -> Iterator:
    """The items, with a line on stderr from time to time."""
    begun = last = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - last > LINE_EVERY:
            last = now
            line = tqdm.format_meter(number, total, now - begun, unit=unit, bar_format=LINE)
            print(line, file=sys.stderr, flush=True)


class Progress:
    """Follow the iterations of a run and print their figures.

    A line is printed every `print_freq` iterations, and at the end of an epoch. Its `time` is
    seconds per iteration, `data` the part of it spent waiting for the batch, both as means since
    the last line. `left` is the time until the end of the run at its pace so far.
    """

    def __init__(self, epochs: int, iterations: int, print_freq: int):
        self.epochs = epochs
        self.iterations = iterations  # per epoch
        self.print_freq = print_freq
        self.run_begin = time.perf_counter()
        self.run_iterations = 0
        self.begin(0)

    def begin(self, epoch: int, averages: Averages | None = None, iteration: int = 0) -> None:
        """Begin an epoch, or resume one after `iteration` iterations with these averages."""
        self.epoch = epoch
        self.averages = averages or Averages()
        self.latest = {}  # the figures of the last iteration
        self.iteration = iteration
        self._new_line()

    def _new_line(self) -> None:
        """Begin the figures of the next line."""
        self.line_begin = time.perf_counter()
        self.line_data = 0.0  # seconds
        self.line_iterations = 0

    def follow(self, batches: Iterable) -> Iterator:
        """The batches, while the time that each takes to arrive is added up."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.line_data += time.perf_counter() - asked
            yield batch

    def count(self) -> None:
        """Count an iteration that has ended."""
        self.iteration += 1
        self.run_iterations += 1
        self.line_iterations += 1

    @property
    def is_line_due(self) -> bool:
        """Whether there is a line for the iteration that was counted last."""
        is_last = self.iteration == self.iterations
        return is_last or (self.iteration - 1) % self.print_freq == 0

    def update(self, **values: float) -> None:
        """Add the figures of an iteration, its loss, learning rate and so on, to the averages."""
        self.averages.add(**values)
        self.latest = values

    def show(self) -> None:
        """Print the line of the last iteration if it is due; its figures have been added."""
        if self.line_iterations and self.is_line_due:
            if dist.is_main():
                print(self._line(self.latest), flush=True)
            self._new_line()

    def place(self, iteration: int) -> str:
        """Where an iteration is, for a person: the epoch and its number there, both from 0."""
        return f'epoch {self.epoch}, iteration {iteration}'

    def _line(self, values: dict[str, float]) -> str:
        """The line of the last iteration."""
        now = time.perf_counter()
        means = self.averages.means()
        shown = []
        for name, value in values.items():
            if name == 'lr':
                shown.append(f'{name} {value:.3e}')
            else:
                shown.append(f'{name} {value:.4f} ({means[name]:.4f})')

        iteration_time = (now - self.line_begin) / self.line_iterations
        data_time = self.line_data / self.line_iterations
        to_come = self.iterations * (self.epochs - self.epoch) - self.iteration
        left = (now - self.run_begin) / self.run_iterations * to_come

        place = f'epoch {self.epoch + 1}/{self.epochs}  [{self.iteration}/{self.iterations}]'
        times = f'time {iteration_time:.3f} s  data {data_time:.3f} s'
        memory = f'mem {peak_memory()} MB'
        end = f'left {timedelta(seconds=round(left))}'
        return '  '.join([place, *shown, times, memory, end])
