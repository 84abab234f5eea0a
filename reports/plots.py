"""Pictures for records: curves of runs over their epochs, and accuracies over what was varied."""

import textwrap
from pathlib import Path

import numpy as np

import recipes
from util import atomic

PANELS = {'train_loss': 'training loss', 'test_acc1': 'accuracy, %', 'train_lr': 'rate'}
COLOURS = ['#1f6fb4', '#d1495b', '#3c8d5a', '#8d5fa8', '#b8860b', '#4d4d4d']
# Of published results
MARKERS = 'DsovP^'
HOLLOW = {'color': 'black', 'capsize': 3, 'markersize': 5, 'markerfacecolor': 'none'}
LOGARITHMIC = 16  # an axis whose numbers differ by this factor


def curves(
    path: str | Path, runs: dict[str, list[dict]], published: tuple[recipes.Figure, ...] = ()
) -> None:
    """Draw a picture with a panel for each of PANELS that the runs' logs have.

    runs: label -> the lines of a log.txt.
    published: accuracies to draw at the last epoch, with their spread if they have one. Results of
        other metrics are left out.
    """
    from matplotlib.figure import Figure  # imported here because it takes a second

    lines = [line for log in runs.values() for line in log]
    shown = [key for key in PANELS if any(key in line for line in lines)]

    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout='constrained')
    row = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, key in zip(row, shown):
        _curves_of(axes, key, runs)
        if key == 'test_acc1':
            accuracies = [point for point in published if point.metric == 'acc1']
            last = max(log[-1]['epoch'] + 1 for log in runs.values())
            _beside(axes, accuracies, last)
        axes.set(title=PANELS[key], xlabel='epochs')
        axes.xaxis.get_major_locator().set_params(integer=True)
        _clean(axes)
    with_legend = -2 if len(shown) > 2 else 0
    figure.axes[with_legend].legend(fontsize=7, frameon=False)
    _save(figure, path)


def _curves_of(axes, key: str, runs: dict[str, list[dict]]) -> None:
    """A curve for each run; a point if it has one epoch."""
    for number, (label, log) in enumerate(runs.items()):
        with_key = [line for line in log if key in line]
        if not with_key:
            continue
        epochs = [line['epoch'] + 1 for line in with_key]
        values = [line[key] for line in with_key]
        marker = '.' if len(values) == 1 else ''
        axes.plot(epochs, values, color=_colour(number), label=label, marker=marker)


def _clean(axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _save(figure, path: str | Path) -> None:
    """Write a figure as PNG, or as SVG if the file is called so."""
    path = Path(path)
    with atomic.writing(path) as file:
        if path.suffix == '.svg':
            _save_svg(figure, file)
        else:
            figure.savefig(file, dpi=110, format='png', metadata={'Software': None})


def _save_svg(figure, file) -> None:
    """Write a figure as SVG without ground, for a page that is light or dark."""
    import matplotlib

    nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
    settings = {
        'svg.fonttype': 'none',  # letters stay text
        'svg.hashsalt': 'reports',  # ids repeat
        'font.sans-serif': ['DejaVu Sans', 'Verdana'],  # each text names all of them
    }
    with matplotlib.rc_context(settings):
        figure.savefig(file, format='svg', metadata=nothing, transparent=True)


def panels(
    path: str | Path, rows: list[list[tuple[str, dict[str, dict[str, list[float]]]]]]
) -> None:
    """Draw a picture of rows of panels; each panel shows accuracies over what was varied.

    rows: of panels (title, series); series: label -> choice -> accuracies. They are drawn as mean
        and standard deviation. Choices that are numbers are placed by their value, on a logarithmic
        axis where the largest is at least LOGARITHMIC times the smallest. A series with the one
        choice '' is a band across the panel.
    """
    from matplotlib.figure import Figure

    widest = max(map(len, rows))
    width = max(4.5 * widest, 9)
    figure = Figure(figsize=(width, 3.6 * len(rows)), layout='constrained')
    grid = figure.subplots(len(rows), widest, squeeze=False)
    for axes, row in zip(grid, rows):
        for panel in axes[len(row) :]:
            panel.set_visible(False)
        for panel, (title, series) in zip(axes, row):
            _panel(panel, title, series)
    _save(figure, path)


def _panel(axes, title: str, series: dict[str, dict[str, list[float]]]) -> None:
    places, are_numbers = _places(series)
    repeated = False
    for number, (label, cells) in enumerate(series.items()):
        colour = _colour(number)
        means = [np.mean(values) for values in cells.values()]
        deviations = [_deviation(values) for values in cells.values()]
        repeated |= any(len(values) > 1 for values in cells.values())
        if list(cells) == ['']:
            low = means[0] - deviations[0]
            high = means[0] + deviations[0]
            axes.axhspan(low, high, color=colour, alpha=0.3, label=label)
            continue
        axes.errorbar(
            x=[places[choice] for choice in cells],
            y=means,
            yerr=deviations if any(deviations) else None,
            capsize=3,
            marker='.',
            color=colour,
            label=label,
            linestyle='-' if are_numbers else '',
        )

    if are_numbers and max(places.values()) >= LOGARITHMIC * min(places.values()) > 0:
        axes.set_xscale('log')
    ylabel = 'accuracy, %'
    if repeated:
        ylabel += ' (bars: standard deviation)'
    axes.set(xlabel=textwrap.fill(title, 45), ylabel=ylabel)
    labels = [textwrap.fill(choice, 13) for choice in places]
    axes.set_xticks(list(places.values()), labels, minor=False, fontsize=7)
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=7, frameon=False)
    _clean(axes)


def _places(series: dict[str, dict[str, list[float]]]) -> tuple[dict[str, float], bool]:
    """Where each choice stands on the horizontal axis, and whether the choices are numbers."""
    choices = []
    for cells in series.values():
        for choice in cells:
            if choice and choice not in choices:
                choices.append(choice)
    are_numbers = all(choice.replace('.', '', 1).isdigit() for choice in choices)
    if are_numbers:
        return {choice: float(choice) for choice in choices}, True
    return {choice: number for number, choice in enumerate(choices)}, False


def _deviation(values: list[float]) -> float:
    return np.std(values, ddof=1) if len(values) > 1 else 0


def _beside(axes, points: list[recipes.Figure], last: int) -> None:
    """Published accuracies, at the last epoch and a little to the right of each other."""
    for number, point in enumerate(points):
        epoch = last * (1 + 0.02 * number)
        axes.errorbar(
            x=[epoch],
            y=[point.value],
            yerr=[point.spread or 0],
            fmt=MARKERS[number % len(MARKERS)],
            label=f'{point.by}: {point.value}',
            **HOLLOW,
        )
