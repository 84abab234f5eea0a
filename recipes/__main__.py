"""Published runs and their commands here.

    python -m recipes
    python -m recipes finetune_vit_base --devices 8 --batch_size 128

Without a name: all of them, with the accuracy and time to expect. With one: what is known about it, and the command that
keeps its effective batch on your devices. DATA stands for your data, CHECKPOINT for the weights that are named above it.
"""

import recipes
from recipes import cost
from util import cli, program

COLUMNS = ['name', 'model', 'epochs', 'batch', 'to expect', 'device-hours']


def main(args):
    print(describe(args) if args.name else listing())


def listing() -> str:
    rows = [COLUMNS, *map(row, recipes.RECIPES.values())]
    widths = [max(len(line[column]) for line in rows) for column in range(len(COLUMNS))]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in rows
    )


def row(recipe) -> list[str]:
    return [
        recipe.name,
        recipe.model,
        recipe.flag('--epochs'),
        str(recipe.effective_batch or ''),
        str(recipe.figures[0]) if recipe.figures else '',
        cost.hours(recipe) if recipe.program else 'taken over',
    ]


def describe(args) -> str:
    recipe = recipes.find(args.name)
    lines = [f'{recipe.name}: {recipe.model}, {recipe.data}', f'source: {recipe.source}']
    if recipe.hours is not None:
        lines.append(
            f'published time: {recipe.hours:g} hours on {recipe.devices} {recipe.hardware}'
        )
    elif estimate := cost.hours(recipe):
        lines.append(f'estimated time on all devices together: {estimate}')
    lines += [f'published: {figure}' for figure in recipe.figures]
    if recipe.figures and recipe.program:
        low, high = recipe.band(recipe.figures[0])
        lines.append(f'in order: {low:.2f} to {high:.2f} {recipe.figures[0].metric}')
    lines += [f'departure: {text}' for text in recipe.departures] + [
        f'note: {text}' for text in recipe.notes
    ]
    if recipe.program is None:
        return '\n'.join(f'# {line}' for line in [*lines, 'taken over: nothing here runs it'])
    if recipe.checkpoint:
        lines.append(
            f'CHECKPOINT: {recipe.checkpoint}'
            + (f', or the published {recipe.file}' if recipe.file else '')
        )
    words = recipes.command(recipe, args.devices, args.batch_size, args.per_machine)
    if '--nnodes' in words:
        lines.append(
            f'on every machine, with --rank 0 to {int(words[words.index("--nnodes") + 1]) - 1}:'
        )
    return '\n'.join(f'# {line}' for line in lines) + '\n' + recipes.wrapped(words)


PARSER = cli.parser(__doc__)
PARSER.prog = 'python -m recipes'
PARSER.add_argument(
    'name', nargs='?', default=None, metavar='NAME', help='a recipe; without it all are listed'
)
PARSER.add_argument(
    '--devices', type=cli.number(int, 1), default=None, help='GPUs in all (default: as published)'
)
PARSER.add_argument(
    '--batch_size',
    type=cli.number(int, 1),
    default=None,
    help='images a device and iteration (default: as published); --accum_iter makes up for it',
)
PARSER.add_argument('--per_machine', type=cli.number(int, 1), default=8, help='GPUs in one machine')

if __name__ == '__main__':
    program.run(main, PARSER)
