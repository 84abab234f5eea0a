"""Published runs, and the commands that repeat them here.

    python -m recipes
    python -m recipes finetune_vit_base --devices 8 --batch_size 128

Without a name, all recipes are listed with the accuracy and time to expect. With a name, the
program prints the facts about the run, and the command that keeps its effective batch on your
devices. DATA stands for your data, CHECKPOINT for the weights that the lines above it name.
"""

import recipes
from recipes import cost
from recipes.recipe import Recipe
from util import cli, program

COLUMNS = ['name', 'model', 'epochs', 'batch', 'to expect', 'device-hours']


def main(args):
    text = describe(args) if args.name else listing()
    print(text)


def listing() -> str:
    """The table of all recipes, with columns of equal width."""
    rows = [COLUMNS, *map(row, recipes.RECIPES.values())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for cells in rows:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths)]
        lines.append('  '.join(padded).rstrip())
    return '\n'.join(lines)


def row(recipe: Recipe) -> list[str]:
    """A recipe's cells in the table, one for each of COLUMNS."""
    epochs = recipe.flag('--epochs')
    batch = str(recipe.effective_batch or '')
    expected = str(recipe.figures[0]) if recipe.figures else ''
    hours = cost.hours(recipe) if recipe.program else 'taken over'
    return [recipe.name, recipe.model, epochs, batch, expected, hours]


def describe(args) -> str:
    """A recipe as comments of a shell, followed by its command."""
    recipe = recipes.find(args.name)
    lines = facts(recipe)
    if recipe.program is None:
        lines.append('taken over: nothing here runs it')
        return comments(lines)

    if recipe.checkpoint:
        published = f', or the published {recipe.file}' if recipe.file else ''
        lines.append(f'CHECKPOINT: {recipe.checkpoint}{published}')
    words = recipes.command(recipe, args.devices, args.batch_size, args.per_machine)
    if '--nnodes' in words:
        machines = int(words[words.index('--nnodes') + 1])
        lines.append(f'on every machine, with --rank 0 to {machines - 1}:')
    return comments(lines) + '\n' + recipes.wrapped(words)


def facts(recipe: Recipe) -> list[str]:
    """One line for each known fact: source, time, figures, departures, notes."""
    lines = [f'{recipe.name}: {recipe.model}, {recipe.data}', f'source: {recipe.source}']
    lines += times(recipe)
    lines += [f'published: {figure}' for figure in recipe.figures]
    if recipe.figures and recipe.program:
        expected = recipe.figures[0]
        low, high = recipe.band(expected)
        lines.append(f'in order: {low:.2f} to {high:.2f} {expected.metric}')
    lines += [f'departure: {text}' for text in recipe.departures]
    lines += [f'note: {text}' for text in recipe.notes]
    return lines


def times(recipe: Recipe) -> list[str]:
    """The line with the published time, else with an estimate; none where neither is known."""
    if recipe.hours is not None:
        devices = f'{recipe.devices} {recipe.hardware}'
        return [f'published time: {recipe.hours:g} hours on {devices}']
    estimate = cost.hours(recipe)
    return [f'estimated time on all devices together: {estimate}'] if estimate else []


def comments(lines: list[str]) -> str:
    """The lines as comments of a shell."""
    return '\n'.join(f'# {line}' for line in lines)


PARSER = cli.parser(__doc__)
PARSER.prog = 'python -m recipes'
PARSER.add_argument(
    'name', nargs='?', default=None, metavar='NAME', help='a recipe; without it all are listed'
)
PARSER.add_argument(
    '--devices',
    type=cli.number(int, 1),
    default=None,
    help='number of GPUs in total (default: as published)',
)
PARSER.add_argument(
    '--batch_size',
    type=cli.number(int, 1),
    default=None,
    help='images per device and iteration (default: as published); --accum_iter makes up for it',
)
PARSER.add_argument('--per_machine', type=cli.number(int, 1), default=8, help='GPUs in one machine')

if __name__ == '__main__':
    program.run(main, PARSER)
