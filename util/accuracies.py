"""The accuracies of frozen features, and the table that is made of them."""

import statistics
from collections import Counter
from dataclasses import dataclass

from util import log

# Of each method: its title in the table, and the name of its setting
METHODS = {
    'knn': ('k-NN, k {}', 'k'),
    'logistic': ('logistic regression', 'C'),
    'linear': ('linear probe', 'rate'),
    'attentive': ('attentive probe', 'rate'),
}
SWEEPS = {'logistic': '--C', 'linear': '--rates', 'attentive': '--rates'}


@dataclass(frozen=True)
class Figure:
    """One accuracy, in percent.

    weights: a name of the encoder's weights. labels, draw: which training images, of which
    `images` is the number. setting: k, C or the rate, by the method.
    """

    weights: str
    labels: str
    draw: int
    images: int
    method: str
    setting: float
    feature: str
    acc1: float

    def entry(self) -> dict:
        """The figure as it stands in the json."""
        entry = dict(vars(self))
        _, name = METHODS[self.method]
        setting = entry.pop('setting')
        return entry | {name: setting}

    def row(self) -> tuple[str, str]:
        """The (labels, method) of its row in the table."""
        title, _ = METHODS[self.method]
        return self.labels, title.format(self.setting)


def table(figures: list[Figure]) -> str:
    """Lines of text: a row for each (labels, method, weights), a column for each feature.

    A cell is the best of a sweep; of several draws it is their mean, with the deviation behind it.
    """
    features = list(dict.fromkeys(figure.feature for figure in figures))
    cells = {}  # row and feature -> draw -> the accuracies of a sweep
    for figure in figures:
        key = (*figure.row(), figure.weights)
        draws = cells.setdefault(key, {}).setdefault(figure.feature, {})
        draws.setdefault(figure.draw, []).append(figure.acc1)

    lines = [['labels', 'method', 'weights', *features]]
    order = list(dict.fromkeys(figure.row() for figure in figures))
    for key in sorted(cells, key=lambda key: order.index(key[:2])):
        row = [_cell(cells[key].get(feature, {})) for feature in features]
        lines.append([*key, *row])
    return _aligned(lines)


def _cell(draws: dict[int, list[float]]) -> str:
    if not draws:
        return ''
    best = [max(sweep) for sweep in draws.values()]
    mean = f'{statistics.mean(best):.1f}'
    if len(best) == 1:
        return mean
    return f'{mean} ± {statistics.stdev(best):.1f}'


def _aligned(lines: list[list[str]]) -> str:
    """Columns of equal width: the first three begin at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    shown = []
    for line in lines:
        words = []
        for number, (word, width) in enumerate(zip(line, widths)):
            words.append(word.ljust(width) if number < 3 else word.rjust(width))
        shown.append('  '.join(words).rstrip())
    return '\n'.join(shown)


def warn_of_edges(figures: list[Figure]) -> None:
    """Warn if the best setting of a sweep is often the smallest or the largest one."""
    sweeps = {}
    for figure in figures:
        if figure.method in SWEEPS:
            key = (figure.method, figure.weights, figure.labels, figure.draw, figure.feature)
            sweeps.setdefault(key, []).append(figure)

    numbers, ends = Counter(), Counter()
    for (method, *_), sweep in sweeps.items():
        sweep.sort(key=lambda figure: figure.setting)
        first, *others = sweep
        last = sweep[-1]
        numbers[method] += 1
        if others and last.acc1 > max(figure.acc1 for figure in sweep[:-1]):
            ends[method, 'largest', last.setting] += 1
        elif others and first.acc1 > max(figure.acc1 for figure in others):
            ends[method, 'smallest', first.setting] += 1
    for (method, which, setting), count in ends.items():
        if 2 * count > numbers[method]:
            title, name = METHODS[method]
            found = f'{title}: the best {name} was {setting:g}, the {which} of {SWEEPS[method]}'
            log.warn(f'{found}, in {count} of {numbers[method]} sweeps; others may be better')
