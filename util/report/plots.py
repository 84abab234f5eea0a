"""Curves of one or several runs over their epochs, with the published results beside them."""
from pathlib import Path

from util import recipes
from util.weights import atomic

PANELS = {'training loss': 'train_loss', 'accuracy, %': 'test_acc1', 'rate': 'train_lr'}
COLOURS = ['#1f6fb4', '#d1495b', '#3c8d5a', '#8d5fa8', '#b8860b', '#4d4d4d']


def curves(path: str | Path, runs: dict[str, list[dict]], published: tuple[recipes.Figure, ...] = ()) -> None:
    """A PNG with a panel for each of PANELS that the runs' logs have.

    runs: label -> the lines of a log.txt. published: accuracies, drawn at the last epoch, with their spread where there is
    one; what is of another metric is left out.
    """
    from matplotlib.figure import Figure  # takes a second, which pages without plots need not wait

    panels = {title: key for title, key in PANELS.items() if any(key in line for log in runs.values() for line in log)}
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout='constrained')
    for axes, (title, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for number, (label, log) in enumerate(runs.items()):
            points = [(line['epoch'] + 1, line[key]) for line in log if key in line]
            axes.plot(*zip(*points), color=COLOURS[number % len(COLOURS)], label=label,
                      marker='.' if len(points) == 1 else '')
        if key == 'test_acc1':
            _beside(axes, [point for point in published if point.metric == 'acc1'],
                    max(log[-1]['epoch'] + 1 for log in runs.values()))
        axes.set(title=title, xlabel='epochs')
        axes.grid(alpha=0.3)
        axes.spines[['top', 'right']].set_visible(False)
    figure.axes[-2 if len(panels) > 2 else 0].legend(fontsize=7, frameon=False)
    with atomic.writing(Path(path)) as file:
        figure.savefig(file, dpi=110, format='png', metadata={'Software': None})


def _beside(axes, points: list[recipes.Figure], last: int) -> None:
    for number, point in enumerate(points):
        axes.errorbar([last * (1 + 0.02 * number)], [point.value], yerr=[point.spread or 0], fmt='DsovP^'[number % 6],
                      color='black', capsize=3, markersize=5, markerfacecolor='none', label=f'{point.by}: {point.value}')
