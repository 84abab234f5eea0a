"""Files under the names of Paddle's reproduction guide: <step>_torch.npy, <step>_paddle.npy and <step>_diff.log.

Each .npy is a pickled dictionary of arrays, as that guide's tools read it. The verdicts in the logs are our ladder's:
those tools call a NaN a success.
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
    """Writes the pairs that pass through it, for the rungs that the guide knows; without a folder nothing."""

    def __init__(self, folder: str | None):
        self.folder, self.pairs, self.lines = folder and Path(folder), {}, {}

    def through(self, rung: str, pairs: ladder.Pairs) -> Iterable:
        """The same pairs; those of a step of the guide are written behind the last of them."""
        step = next((step for step, rungs in STEPS.items() if rung in rungs), None)
        return self._written(step, pairs) if self.folder and step else pairs

    def _written(self, step: str, pairs: ladder.Pairs) -> ladder.Pairs:
        kept = self.pairs.setdefault(step, [])
        for pair in pairs:
            kept.append(pair)
            yield pair
        with self._folder():
            for side, name in ((1, 'paddle'), (2, 'torch')):
                np.save(
                    self.folder / f'{step}_{name}.npy',
                    {pair[0]: pair[side] for pair in kept},
                    allow_pickle=True,
                )
        self.lines[step] = [_line(*pair) for pair in kept]
        if len(STEPS[step]) == 1:
            kept.clear()  # no rung adds to them, and at ViT-H the gradients take 5 GB that the optimizer needs next

    def write(self, rungs: list[ladder.Rung]) -> None:
        """The logs of the steps that were reached."""
        for step, lines in self.lines.items():
            verdicts = [
                f'{rung.name}: {"passed" if rung.passed else "FAILED"}, tolerance {rung.tolerance:g}'
                for rung in rungs
                if rung.name in STEPS[step]
            ]
            with self._folder():
                (self.folder / f'{step}_diff.log').write_text('\n'.join(lines + verdicts) + '\n')

    @contextmanager
    def _folder(self) -> Iterator[None]:
        """Make it, and an InputError of what goes wrong there."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise InputError(
                f'--reprod_log {self.folder}: cannot be written ({error.strerror})'
            ) from None


def _line(name: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    largest, total, relative, finite = ladder.difference(ours, theirs)
    return (
        f'{name}: max {largest:.3g}, mean {total / max(ours.size, 1):.3g}, relative {relative:.3g}'
        f'{"" if finite else ", NOT FINITE"}'
    )
