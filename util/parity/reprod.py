"""Files under the names of Paddle's reproduction guide: <step>_torch.npy, <step>_paddle.npy and <step>_diff.log.

Each .npy is a pickled dictionary of arrays, as that guide's tools read it. The verdicts in the logs are our ladder's:
those tools call a NaN a success.
"""
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from util.errors import InputError
from util.parity import ladder

STEPS = {'forward': ('logits', 'features', 'prediction', 'mask'), 'loss': ('loss',), 'bp_align': ('gradients',),
         'train_align': ('losses of the steps',), 'metric': ('metric',)}


class Log:
    """Keeps the pairs that pass through it, for the rungs that the guide knows; without a folder nothing is kept."""

    def __init__(self, folder: str | None):
        self.folder, self.pairs = folder and Path(folder), {}

    def through(self, rung: str, pairs: ladder.Pairs) -> Iterable:
        """The same pairs; those of a step of the guide are remembered."""
        step = next((step for step, rungs in STEPS.items() if rung in rungs), None)
        if not self.folder or step is None:
            return pairs
        kept = self.pairs.setdefault(step, [])
        return (kept.append(pair) or pair for pair in pairs)

    def write(self, rungs: list[ladder.Rung]) -> None:
        """All files of the steps that were reached."""
        if not self.folder:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for step, pairs in self.pairs.items():
                np.save(self.folder / f'{step}_paddle.npy', {name: ours for name, ours, _ in pairs}, allow_pickle=True)
                np.save(self.folder / f'{step}_torch.npy', {name: theirs for name, _, theirs in pairs}, allow_pickle=True)
                lines = [_line(*pair) for pair in pairs]
                verdicts = [f'{rung.name}: {"passed" if rung.passed else "FAILED"}, tolerance {rung.tolerance:g}'
                            for rung in rungs if rung.name in STEPS[step]]
                (self.folder / f'{step}_diff.log').write_text('\n'.join(lines + verdicts) + '\n')
        except OSError as error:
            raise InputError(f'--reprod_log {self.folder}: cannot be written ({error.strerror})') from None


def _line(name: str, ours: np.ndarray, theirs: np.ndarray) -> str:
    largest, total, relative, finite = ladder.difference(ours, theirs)
    return (f'{name}: max {largest:.3g}, mean {total / max(ours.size, 1):.3g}, relative {relative:.3g}'
            f'{"" if finite else ", NOT FINITE"}')
