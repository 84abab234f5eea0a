"""Files under the names of Paddle's reproduction guide.

They are <step>_torch.npy, <step>_paddle.npy and <step>_diff.log. Each .npy is a pickled dictionary
of arrays, as that guide's tools read it. The verdicts in the logs are our ladder's, because those
tools call NaN a success.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from parity import ladder
from util.errors import InputError

STEPS = {
    'forward': ('logits', 'features', 'prediction', 'mask'),
    'loss': ('loss',),
    'bp_align': ('gradients',),
    'train_align': ('losses of the steps',),
    'metric': ('metric',),
}


class Log:
    """Writes the pairs of the rungs that the guide knows, if there is a folder for them."""

    def __init__(self, folder: str | None):
        self.folder = folder and Path(folder)
        self.pairs = {}
        self.lines = {}

    def through(self, rung: str, pairs: ladder.Pairs) -> Iterable:
        """The same pairs; those of a step of the guide are written after the last of them."""
        step = _step_of(rung)
        return self._written(step, pairs) if self.folder and step else pairs

    def _written(self, step: str, pairs: ladder.Pairs) -> ladder.Pairs:
        kept = self.pairs.setdefault(step, [])
        for pair in pairs:
            kept.append(pair)
            yield pair

        ours = {name: array for name, array, _ in kept}
        theirs = {name: array for name, _, array in kept}
        with self._folder():
            np.save(self.folder / f'{step}_paddle.npy', ours, allow_pickle=True)
            np.save(self.folder / f'{step}_torch.npy', theirs, allow_pickle=True)
        self.lines[step] = [_line(*pair) for pair in kept]
        if len(STEPS[step]) == 1:
            # no other rung adds to them, and the optimizer needs the 5 GB of ViT-H's gradients
            kept.clear()

    def write(self, rungs: list[ladder.Rung]) -> None:
        """Write the logs of the steps that were reached."""
        for step, lines in self.lines.items():
            verdicts = [_verdict(rung) for rung in rungs if rung.name in STEPS[step]]
            text = '\n'.join(lines + verdicts) + '\n'
            with self._folder():
                (self.folder / f'{step}_diff.log').write_text(text)

    @contextmanager
    def _folder(self) -> Iterator[None]:
        """Make the folder, and turn what fails there into an InputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise InputError(
                f'--reprod_log {self.folder}: cannot be written ({error.strerror})'
            ) from None


def _step_of(rung: str) -> str | None:
    """The guide's step that a rung belongs to; None where it belongs to none."""
    for step, rungs in STEPS.items():
        if rung in rungs:
            return step
    return None


def _verdict(rung: ladder.Rung) -> str:
    result = 'passed' if rung.passed else 'FAILED'
    return f'{rung.name}: {result}, tolerance {rung.tolerance:g}'


def _line(name: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    largest, total, relative, finite = ladder.difference(ours, theirs)
    mean = total / max(ours.size, 1)
    line = f'{name}: max {largest:.3g}, mean {mean:.3g}, relative {relative:.3g}'
    return line if finite else f'{line}, NOT FINITE'
