"""--profile FROM:TO: where the time of some iterations goes, by Paddle's profiler."""

import argparse
import contextlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import paddle

from util import atomic, dist, log
from util.errors import InputError


def flag(p: argparse.ArgumentParser) -> None:
    """Add which iterations are profiled."""
    p.add_argument(
        '--profile',
        type=_range,
        default='',
        metavar='FROM:TO',
        help='profile these iterations of this run, counted from 0, without TO: a chrome trace and '
        'a summary of the main process are written to the output folder',
    )


def _range(text: str) -> str:
    """A flag's type: two iterations FROM:TO, kept as text; or nothing."""
    first, _, last = text.partition(':')
    if text and not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(
            f'{text} is not FROM:TO with FROM below TO, such as 10:20; iterations count from 0'
        )
    return text


class Profile:
    """Profiles some of the iterations that pass through `follow`, over all its calls.

    text: FROM:TO, or nothing; then this does nothing. folder: receives profile-FROM-TO.json, a
    trace for chrome://tracing or Perfetto, and profile-FROM-TO.txt, tables of operators and
    kernels. On the main process alone.
    """

    def __init__(self, text: str = '', folder: str = ''):
        if text and not folder:
            raise InputError(f'--profile {text} writes to the output folder; give --output_dir')
        self.text = text
        self.folder = Path(folder)
        self.done = 0  # iterations
        self._profiler = None
        self._begin = self._end = -1  # no iteration
        if text and dist.is_main():
            self._begin, self._end = map(int, text.split(':'))

    def follow(self, batches: Iterable) -> Iterator:
        """The batches; an iteration lasts from one to the next."""
        for batch in batches:
            if self.done == self._begin:
                self._start()
            elif self._profiler:
                self._profiler.step()
            yield batch
            self.done += 1
            if self.done == self._end:
                self._stop()

    def finish(self) -> None:
        """Write what there is, at the end of a run; warn where it was too short."""
        if self.done >= self._end:
            return
        log.warn(f'--profile {self.text}: this run ended after {self.done} iterations')
        if self._profiler:
            self._stop()

    def _start(self) -> None:
        self._profiler = paddle.profiler.Profiler(on_trace_ready=self._save)
        self._profiler.start()

    def _stop(self) -> None:
        if paddle.device.get_device() != 'cpu':
            paddle.device.synchronize()  # kernels of the last iteration may still run
        profiler, self._profiler = self._profiler, None
        profiler.stop()

    def _save(self, profiler: paddle.profiler.Profiler) -> None:
        """Write both files; the profiler calls this when it has stopped."""
        prefix = self.folder / f'profile-{self._begin}-{self._end}'
        with atomic.writing(prefix.with_suffix('.txt')) as file:
            file.write(_summary(profiler).encode())
        profiler.export(f'{prefix}.json', 'json')
        log.info(f'--profile {self.text}: {prefix}.json (trace) and {prefix}.txt (summary)')


def _summary(profiler: paddle.profiler.Profiler) -> str:
    """The tables that Paddle prints."""
    with contextlib.redirect_stdout(io.StringIO()) as lines:
        profiler.summary(time_unit='ms')
    return lines.getvalue()
