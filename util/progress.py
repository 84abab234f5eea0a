"""How far long work has come: the lines of a training with their averages, and a bar for everything else."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

import paddle
from tqdm import tqdm

from util import dist

DELAY = 1.0  # seconds before a bar appears; short work shows none
LINE_EVERY = 30.0  # seconds between two lines where no terminal shows a bar
LINE = '{n_fmt} of {total_fmt} {unit}, {elapsed} so far, {remaining} left'


class Averages:
    """Running means of named values, over one epoch."""

    def __init__(self, sums: dict[str, float] | None = None, count: int = 0):
        self.sums, self.count = dict(sums or {}), count

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()}


def peak_memory() -> int:
    """Most memory this process has held so far, in MB: the device's on a GPU, else the process's."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() // 2**20
    unit = 1 if sys.platform == 'darwin' else 1024  # ru_maxrss: bytes on macOS, KB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def bar(items: Iterable, unit: str, total: int | None = None) -> Iterator:
    """The items, one by one, while stderr of the main process shows how many are done and the time left.

    On a terminal that is a bar, elsewhere a line every LINE_EVERY seconds. unit: what an item is, such as 'batches'.
    total: their number, where `items` has no length.
    """
    total = len(items) if total is None and hasattr(items, '__len__') else total
    if not dist.is_main():
        return iter(items)
    if sys.stderr.isatty():
        return iter(tqdm(items, unit=f' {unit}', total=total, delay=DELAY))
    return _with_lines(items, unit, total)


def _with_lines(items: Iterable, unit: str, total: int | None) -> Iterator:
    begun = last = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        now = time.perf_counter()
        if now - last > LINE_EVERY:
            last = now
            line = tqdm.format_meter(number, total, now - begun, unit=unit, bar_format=LINE)
            print(line, file=sys.stderr, flush=True)


class Progress:
    """Follow the iterations of a run and print a line every `print_freq` of them, and for the last of an epoch.

    `time` is seconds an iteration, `data` the part of it spent waiting for the batch, both means since the last line;
    `left` is the time until the run ends, judged by its pace so far.
    """

    def __init__(self, epochs: int, iterations: int, print_freq: int):
        self.epochs, self.iterations, self.print_freq = epochs, iterations, print_freq
        self.run_begin, self.run_iterations = time.perf_counter(), 0
        self.begin(0)

    def begin(self, epoch: int, averages: Averages | None = None, iteration: int = 0) -> None:
        """Begin an epoch, or go on with one of which `iteration` iterations were done before, with these averages."""
        self.epoch, self.averages, self.iteration = epoch, averages or Averages(), iteration
        self._new_line()

    def _new_line(self) -> None:
        self.line_begin, self.line_data, self.line_iterations = time.perf_counter(), 0.0, 0

    def follow(self, batches: Iterable) -> Iterator:
        """The batches, with the time that each took to arrive added up."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.line_data += time.perf_counter() - asked
            yield batch

    def update(self, **values: float) -> None:
        """Count an iteration that has ended, with its loss, rate and so on."""
        self.averages.add(**values)
        self.iteration += 1
        self.run_iterations += 1
        self.line_iterations += 1
        if self.iteration == self.iterations or (self.iteration - 1) % self.print_freq == 0:
            if dist.is_main():
                print(self._line(values), flush=True)
            self._new_line()

    def _line(self, values: dict[str, float]) -> str:
        now, means = time.perf_counter(), self.averages.means()
        to_come = self.iterations * (self.epochs - self.epoch) - self.iteration
        left = (now - self.run_begin) / self.run_iterations * to_come
        shown = '  '.join(
            f'{name} {value:.3e}' if name == 'lr' else f'{name} {value:.4f} ({means[name]:.4f})'
            for name, value in values.items()
        )
        return (
            f'epoch {self.epoch + 1}/{self.epochs}  [{self.iteration}/{self.iterations}]  {shown}  '
            f'time {(now - self.line_begin) / self.line_iterations:.3f} s  '
            f'data {self.line_data / self.line_iterations:.3f} s  mem {peak_memory()} MB  '
            f'left {timedelta(seconds=round(left))}'
        )
