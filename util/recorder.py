"""The records of a training: log.txt and VisualDL's curves."""

import json
from pathlib import Path

import numpy as np

from util import atomic, dist


class Recorder:
    """Writes log.txt, one JSON line an epoch, and VisualDL records; on the main process.

    An empty folder name leaves that record out. Lines of log.txt from `first_epoch` on belong to
    epochs that this run does again, or to another run; they move to log.txt.old. Scalars stand on
    upstream's axis: 1000 steps are one epoch, so that runs with different batch sizes can be laid
    over each other.
    """

    def __init__(self, output_dir: str, log_dir: str, first_epoch: int = 0):
        self.log = Path(output_dir) / 'log.txt' if output_dir and dist.is_main() else None
        if self.log and self.log.exists():
            self._set_aside(first_epoch)
        self.counts = {}  # further values for the next line
        self.writer = None
        if log_dir and dist.is_main():
            from visualdl import LogWriter  # imported here because it takes a second

            self.writer = LogWriter(log_dir)

    def _set_aside(self, first_epoch: int) -> None:
        lines = self.log.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _epoch(line) < first_epoch]
        if kept == lines:
            return
        with open(self.log.with_name('log.txt.old'), 'a') as file:
            file.writelines(line for line in lines if line not in kept)
        with atomic.writing(self.log) as file:
            file.write(''.join(kept).encode())

    def scalars(self, epoch: float, **values: float) -> None:
        """Add a point to the curve of each value, at an epoch with its fraction."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, int(epoch * 1000))

    def picture(self, name: str, epoch: float, pixels: np.ndarray) -> None:
        """Show a picture, uint8 [height, width, 3], in VisualDL."""
        if self.writer:
            self.writer.add_image(name, pixels, int(epoch * 1000))
            self.writer.flush()

    def epoch(self, **values: float) -> None:
        """Write one line of log.txt; what VisualDL has buffered goes to the disk as well."""
        if self.writer:
            self.writer.flush()
        if self.log:
            try:
                with open(self.log, 'a', encoding='utf-8') as file:
                    file.write(json.dumps({**values, **self.counts}) + '\n')
            except OSError as error:
                raise atomic.refused(self.log, error) from None


def _epoch(line: str) -> float:
    """The epoch of a line of log.txt; infinity for the half of a line that a killed process leaves."""
    try:
        return json.loads(line)['epoch']
    except (json.JSONDecodeError, KeyError, TypeError):
        return float('inf')
