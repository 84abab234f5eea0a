"""The arithmetic of a comparison: arrays of ours against the original's, rung by rung.

A figure that is NaN never passes: comparisons are written so that they are false for it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from util import record

Pairs = Iterable[tuple[str, np.ndarray, np.ndarray]]  # name, ours, the original's


@dataclass(frozen=True)
class Rung:
    """One step of the ladder.

    `relative` is the largest over the tensors of (largest difference / largest entry of the
    original's tensor). `where` is the first tensor that departs, or else the one with the largest
    relative difference.
    """

    name: str
    compared: str
    max_abs: float
    mean_abs: float
    relative: float
    finite: bool
    tolerance: float
    passed: bool
    where: str = ''
    note: str = ''

    def record(self) -> dict:
        """The rung as a dict for a report, without empty texts."""
        return {key: value for key, value in asdict(self).items() if value != ''}


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float, bool]:
    """(largest, sum, largest relative to the original's largest entry, all entries finite).

    Infinity for different shapes, and for any difference from an original that is all 0.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    finite = bool(np.isfinite(ours).all() and np.isfinite(theirs).all())
    if ours.shape != theirs.shape or not ours.size:
        return np.inf, np.inf, np.inf, finite

    with np.errstate(invalid='ignore', over='ignore'):
        apart = np.abs(ours.astype('float64') - theirs)
        largest = float(apart.max())
        size = float(np.abs(theirs).max())
    if size > 0:
        relative = largest / size
    elif largest == 0:
        relative = 0.0
    else:
        relative = np.inf
    return largest, float(apart.sum()), float(relative), finite


def rung(name: str, pairs: Pairs, tolerance: float, note: str = '') -> Rung:
    """The rung over these pairs, of which one is held at a time; without a pair it fails."""
    largest = total = relative = 0.0
    entries = count = 0
    all_finite = True
    departs = worst = ''
    for key, ours, theirs in pairs:
        largest_here, total_here, relative_here, finite_here = difference(ours, theirs)
        within = finite_here and relative_here <= tolerance
        if not departs and not within:
            departs = key
        if not worst or relative_here > relative or np.isnan(relative_here):
            worst = key
            relative = float(np.maximum(relative, relative_here))  # once NaN, it stays NaN
        largest = float(np.maximum(largest, largest_here))
        total += total_here
        entries += ours.size
        count += 1
        all_finite = all_finite and finite_here
    passed = count > 0 and not departs and all_finite and bool(relative <= tolerance)
    return Rung(
        name=name,
        compared=_tensors(count),
        max_abs=largest,
        mean_abs=total / max(entries, 1),
        relative=relative,
        finite=all_finite,
        tolerance=tolerance,
        passed=passed,
        where=departs or worst,
        note=note,
    )


def _tensors(count: int) -> str:
    return '1 tensor' if count == 1 else f'{count} tensors'


def keys(ours: dict[str, list[int]], theirs: dict[str, list[int]]) -> Rung:
    """The first rung: the same names with the same shapes. Its figures count names that differ."""
    names = sorted(ours.keys() | theirs.keys())
    different = [name for name in names if ours.get(name) != theirs.get(name)]
    notes = []
    for name in different[:3]:
        here, there = ours.get(name, 'missing'), theirs.get(name, 'missing')
        notes.append(f'{name} is {here} here, {there} there')
    count = float(len(different))
    return Rung(
        name='keys and shapes',
        compared=f'{len(theirs)} tensors',
        max_abs=count,
        mean_abs=count / max(len(theirs), 1),
        relative=count,
        finite=True,
        tolerance=0.0,
        passed=bool(theirs) and not different,
        where=different[0] if different else '',
        note='; '.join(notes),
    )


def paired(ours: dict[str, np.ndarray], theirs: Iterable[tuple[str, np.ndarray]]) -> Pairs:
    """Pairs by name, in the original's order.

    A tensor that one side lacks is paired with an empty one, and so the rung fails.
    """
    seen = set()
    empty = np.zeros(0, 'float32')
    for name, array in theirs:
        seen.add(name)
        own = ours[name] if name in ours else empty  # noqa: SIM401  `get` goes past ours.Arrays
        yield name, own, array
    for name in ours.keys() - seen:
        yield name, ours[name], empty


def places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The number of classes that score higher than the right one: scores [N, K] -> [N].

    NaN counts as higher.
    """
    rows = np.arange(len(labels))
    right = scores[rows, labels][:, None]  # [N, 1]
    lower_or_equal = scores <= right  # [N, K], false for NaN
    return (~lower_or_equal).sum(1)


def table(rungs: list[Rung]) -> str:
    """The ladder as a text table, with the notes below it."""
    rows = [record.COLUMNS]
    rows += [record.cells(step.record()) for step in rungs]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append('  '.join(padded).rstrip())
    lines += [f'{step.name}: {step.note}' for step in rungs if step.note]
    return '\n'.join(lines)
