"""The progress of a training on disk: log.txt and VisualDL's curves."""

import json
from pathlib import Path

import numpy as np

from util import atomic, dist


class Recorder:
    """Writes log.txt, one JSON line per epoch, and VisualDL records; on the main process only.

    output_dir: folder of log.txt; log_dir: folder of VisualDL. An empty name turns that one off.
    first_epoch: lines of log.txt from this epoch on belong to epochs that this run repeats, or to
        another run. They move to log.txt.old.

    The horizontal axis of curves is upstream's: 1000 steps are one epoch, so that runs with
    different batch sizes can be compared. Figures of an evaluation are at the epoch itself.
    """

    def __init__(self, output_dir: str, log_dir: str, first_epoch: int = 0):
        self.log = None
        self.writer = None
        self.counts = {}  # further values for the next line
        if not dist.is_main():
            return

        if output_dir:
            self.log = Path(output_dir) / 'log.txt'
            if self.log.exists():
                self._set_aside(first_epoch)
        if log_dir:
            from visualdl import LogWriter  # imported here because it takes a second

            self.writer = LogWriter(log_dir)

    def _set_aside(self, first_epoch: int) -> None:
        lines = self.log.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _epoch(line) < first_epoch]
        if kept == lines:
            return
        removed = [line for line in lines if line not in kept]
        with open(self.log.with_name('log.txt.old'), 'a') as file:
            file.writelines(removed)
        with atomic.writing(self.log) as file:
            file.write(''.join(kept).encode())

    def scalars(self, epoch: float, **values: float) -> None:
        """Add a point to the curve of each value. `epoch` has a fraction."""
        self._points(int(epoch * 1000), values)

    def evaluation(self, epoch: int, **values: float) -> None:
        """Add a point to the curve of each figure of an evaluation."""
        self._points(epoch, values)

    def _points(self, step: int, values: dict[str, float]) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, epoch: float, pixels: np.ndarray) -> None:
        """Show a picture, uint8 [height, width, 3], in VisualDL."""
        if self.writer:
            self.writer.add_image(name, pixels, int(epoch * 1000))
            self.writer.flush()

    def epoch(self, **values: float) -> None:
        """Write one line of log.txt, and flush VisualDL's buffer to disk."""
        if self.writer:
            self.writer.flush()
        if not self.log:
            return
        line = json.dumps({**values, **self.counts})
        try:
            with open(self.log, 'a', encoding='utf-8') as file:
                file.write(line + '\n')
        except OSError as error:
            raise atomic.refused(self.log, error) from None


def _epoch(line: str) -> float:
    """The epoch of a line of log.txt; infinity for half a line, which a killed process leaves."""
    try:
        return json.loads(line)['epoch']
    except (json.JSONDecodeError, KeyError, TypeError):
        return float('inf')
