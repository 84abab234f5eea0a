"""The arithmetic of a comparison: arrays of ours against the original's, rung by rung.

A figure that is no number never passes: every verdict is `not (x <= tolerance)` turned round, and NaN <= x is false.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from util import record

Pairs = Iterable[tuple[str, np.ndarray, np.ndarray]]  # name, ours, the original's


@dataclass(frozen=True)
class Rung:
    """One step of the ladder. `relative` is the largest over the tensors of (largest difference / largest entry of the
    original's tensor); `where` is the first tensor that departs, else the one with the largest relative difference."""

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
        """For a report: without what is empty."""
        return {key: value for key, value in asdict(self).items() if value != ''}


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float, bool]:
    """(largest, sum of all, largest relative to the original's largest entry, all entries finite).

    Infinity for different shapes, and for any difference from an original that is all 0.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    finite = bool(np.isfinite(ours).all() and np.isfinite(theirs).all())
    if ours.shape != theirs.shape or not ours.size:
        return np.inf, np.inf, np.inf, finite
    with np.errstate(invalid='ignore', over='ignore'):
        apart = np.abs(ours.astype('float64') - theirs)
        largest, size = float(apart.max()), float(np.abs(theirs).max())
    relative = largest / size if size > 0 else 0.0 if largest == 0 else np.inf
    return largest, float(apart.sum()), float(relative), finite


def rung(name: str, pairs: Pairs, tolerance: float, note: str = '') -> Rung:
    """Compare tensor by tensor; none to compare is a failure. Only one pair is held at a time."""
    largest = total = relative = 0.0
    entries, count, finite, departs, worst = 0, 0, True, '', ''
    for key, ours, theirs in pairs:
        largest_here, total_here, relative_here, finite_here = difference(ours, theirs)
        if not departs and not (finite_here and relative_here <= tolerance):
            departs = key
        if not worst or relative_here > relative or np.isnan(relative_here):
            # nothing is larger than NaN, which stays
            worst, relative = key, float(np.maximum(relative, relative_here))
        largest, total = float(np.maximum(largest, largest_here)), total + total_here
        entries, count, finite = entries + ours.size, count + 1, finite and finite_here
    passed = count > 0 and not departs and finite and bool(relative <= tolerance)
    return Rung(
        name,
        f'{count} tensors' if count != 1 else '1 tensor',
        largest,
        total / max(entries, 1),
        relative,
        finite,
        tolerance,
        passed,
        departs or worst,
        note,
    )


def keys(ours: dict[str, list[int]], theirs: dict[str, list[int]]) -> Rung:
    """The first rung: the same names, with the same shapes. Its figures count the names that differ."""
    different = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    count = float(len(different))
    note = '; '.join(
        f'{name} is {ours.get(name, "missing")} here, {theirs.get(name, "missing")} there'
        for name in different[:3]
    )
    return Rung(
        'keys and shapes',
        f'{len(theirs)} tensors',
        count,
        count / max(len(theirs), 1),
        count,
        True,
        0.0,
        not different and bool(theirs),
        different[0] if different else '',
        note,
    )


def paired(ours: dict[str, np.ndarray], theirs: Iterable[tuple[str, np.ndarray]]) -> Pairs:
    """Pairs by name, in the original's order; a tensor that one side misses is compared with nothing, and so fails."""
    seen, empty = set(), np.zeros(0, 'float32')
    for name, array in theirs:
        seen.add(name)
        yield name, ours[name] if name in ours else empty, array  # noqa: SIM401  `get` goes past Arrays
    for name in ours.keys() - seen:
        yield name, ours[name], empty


def places(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes score higher than the right one, for each row of scores [N, K]; NaN counts as higher."""
    return (~(scores <= scores[np.arange(len(labels)), labels][:, None])).sum(1)


def table(rungs: list[Rung]) -> str:
    """The ladder for a terminal, notes below it."""
    rows = [record.COLUMNS, *(record.cells(step.record()) for step in rungs)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    ]
    return '\n'.join(lines + [f'{step.name}: {step.note}' for step in rungs if step.note])
