"""Curves of one or several runs over their epochs, with the published results beside them; figures over what was varied."""

import textwrap
from pathlib import Path

import numpy as np

import recipes
from util import atomic

PANELS = {'training loss': 'train_loss', 'accuracy, %': 'test_acc1', 'rate': 'train_lr'}
COLOURS = ['#1f6fb4', '#d1495b', '#3c8d5a', '#8d5fa8', '#b8860b', '#4d4d4d']


def curves(
    path: str | Path, runs: dict[str, list[dict]], published: tuple[recipes.Figure, ...] = ()
) -> None:
    """A PNG with a panel for each of PANELS that the runs' logs have.

    runs: label -> the lines of a log.txt. published: accuracies, drawn at the last epoch, with their spread where there is
    one; what is of another metric is left out.
    """
    from matplotlib.figure import Figure  # takes a second, which pages without plots need not wait

    panels = {
        title: key
        for title, key in PANELS.items()
        if any(key in line for log in runs.values() for line in log)
    }
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout='constrained')
    for axes, (title, key) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items()
    ):
        for number, (label, log) in enumerate(runs.items()):
            points = [(line['epoch'] + 1, line[key]) for line in log if key in line]
            axes.plot(
                *zip(*points),
                color=COLOURS[number % len(COLOURS)],
                label=label,
                marker='.' if len(points) == 1 else '',
            )
        if key == 'test_acc1':
            _beside(
                axes,
                [point for point in published if point.metric == 'acc1'],
                max(log[-1]['epoch'] + 1 for log in runs.values()),
            )
        axes.set(title=title, xlabel='epochs')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.axes[-2 if len(panels) > 2 else 0].legend(fontsize=7, frameon=False)
    with atomic.writing(Path(path)) as file:
        figure.savefig(file, dpi=110, format='png', metadata={'Software': None})


def panels(
    path: str | Path, rows: list[list[tuple[str, dict[str, dict[str, list[float]]]]]]
) -> None:
    """A PNG of rows of panels: what was varied, label -> choice -> accuracies, shown as their mean and standard deviation.
    Choices that are numbers stand where they belong, on a logarithmic axis where they differ sixteenfold and more; the
    choice '' is a band across the panel."""
    from matplotlib.figure import Figure

    widest = max(map(len, rows))
    figure = Figure(figsize=(max(4.5 * widest, 9), 3.6 * len(rows)), layout='constrained')
    for axes, row in zip(figure.subplots(len(rows), widest, squeeze=False), rows):
        for panel in axes[len(row) :]:
            panel.set_visible(False)
        for panel, (title, series) in zip(axes, row):
            _panel(panel, title, series)
    with atomic.writing(Path(path)) as file:
        figure.savefig(file, dpi=110, format='png', metadata={'Software': None})


def _panel(axes, title: str, series: dict[str, dict[str, list[float]]]) -> None:
    choices = list(dict.fromkeys(choice for cells in series.values() for choice in cells if choice))
    numbers = all(choice.replace('.', '', 1).isdigit() for choice in choices)
    places = {choice: float(choice) if numbers else number for number, choice in enumerate(choices)}
    for number, (label, cells) in enumerate(series.items()):
        colour, means = (
            COLOURS[number % len(COLOURS)],
            [np.mean(values) for values in cells.values()],
        )
        deviations = [np.std(values, ddof=1) if len(values) > 1 else 0 for values in cells.values()]
        if list(cells) == ['']:
            axes.axhspan(
                means[0] - deviations[0],
                means[0] + deviations[0],
                color=colour,
                alpha=0.3,
                label=label,
            )
        else:
            axes.errorbar(
                [places[choice] for choice in cells],
                means,
                deviations if any(deviations) else None,
                capsize=3,
                marker='.',
                color=colour,
                label=label,
                linestyle='-' if numbers else '',
            )
    if numbers and max(places.values()) >= 16 * min(places.values()) > 0:
        axes.set_xscale('log')
    spread = any(len(values) > 1 for cells in series.values() for values in cells.values())
    axes.set(
        xlabel=textwrap.fill(title, 45),
        ylabel='accuracy, %' + ' (bars: standard deviation)' * spread,
    )
    axes.set_xticks(
        list(places.values()),
        [textwrap.fill(choice, 13) for choice in choices],
        minor=False,
        fontsize=7,
    )
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, frameon=False)
    axes.spines[['top', 'right']].set_visible(False)


def _beside(axes, points: list[recipes.Figure], last: int) -> None:
    for number, point in enumerate(points):
        axes.errorbar(
            [last * (1 + 0.02 * number)],
            [point.value],
            yerr=[point.spread or 0],
            fmt='DsovP^'[number % 6],
            color='black',
            capsize=3,
            markersize=5,
            markerfacecolor='none',
            label=f'{point.by}: {point.value}',
        )
