"""Averages over an epoch and the lines that report on it."""
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta

import paddle


class Averages:
    """Running means of named values, over one epoch."""

    def __init__(self):
        self.sums, self.count = {}, 0

    def add(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float]:
        return {name: total / self.count for name, total in self.sums.items()}


def peak_memory() -> int:
    """Most memory this process has held so far, in MB: the device's on a GPU, else the process's."""
    if paddle.device.get_device().startswith('gpu'):
        return paddle.device.cuda.max_memory_allocated() // 2 ** 20
    unit = 1 if sys.platform == 'darwin' else 1024  # ru_maxrss: bytes on macOS, KB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2 ** 20


class Progress:
    """Follow the iterations of an epoch and print a line every `print_freq` of them, and for the last.

    `time` is seconds an iteration, `data` the part of it spent waiting for the batch, both means since the last line;
    `left` is the time until the run ends, judged by this epoch's pace.
    """

    def __init__(self, epoch: int, epochs: int, iterations: int, print_freq: int, quiet: bool):
        self.epoch, self.epochs, self.iterations = epoch, epochs, iterations
        self.print_freq, self.quiet = print_freq, quiet
        self.averages = Averages()
        self.data_seconds = 0.0

    def follow(self, batches: Iterable) -> Iterator:
        """The batches, with the time that each took to arrive added up."""
        self.begin = self.line_begin = time.perf_counter()
        self.line_data, self.line_iterations = 0.0, 0
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited = time.perf_counter() - asked
            if batch is None:
                return
            self.data_seconds += waited
            self.line_data += waited
            yield batch

    def update(self, **values: float) -> None:
        """Count an iteration that has ended, with its loss, rate and so on."""
        self.averages.add(**values)
        self.line_iterations += 1
        done = self.averages.count
        if done == self.iterations or (done - 1) % self.print_freq == 0:
            if not self.quiet:
                print(self._line(values), flush=True)
            self.line_begin, self.line_data, self.line_iterations = time.perf_counter(), 0.0, 0

    def _line(self, values: dict[str, float]) -> str:
        now, done, means = time.perf_counter(), self.averages.count, self.averages.means()
        left = (now - self.begin) / done * (self.iterations * (self.epochs - self.epoch) - done)
        shown = '  '.join(f'{name} {value:.3e}' if name == 'lr' else f'{name} {value:.4f} ({means[name]:.4f})'
                          for name, value in values.items())
        return (f'epoch {self.epoch + 1}/{self.epochs}  [{done}/{self.iterations}]  {shown}  '
                f'time {(now - self.line_begin) / self.line_iterations:.3f} s  '
                f'data {self.line_data / self.line_iterations:.3f} s  mem {peak_memory()} MB  '
                f'left {timedelta(seconds=round(left))}')
