"""Make records of runs, and the pages of all records.

    python -m reports finetune_vit_base --output_dir output_dir --console console.txt
    python -m reports eval_vit_base --checkpoint mae_finetuned_vit_base.pth --console console.txt
    python -m reports segment_vit_base --checkpoint best_model/model.pdparams --console console.txt
    python -m reports
    python -m reports --plot curves.png --logs first/log.txt second/log.txt

With the name of a recipe it makes a record of that run first. It always updates the pages of all
records, the front page and index.html, a page of everything for a browser, unless --plot asks for a
picture only.
"""

from pathlib import Path

import recipes
from reports import browser, front, plots, training
from util import atomic, checkpoint, cli, log, program
from util import record as records
from util.errors import InputError


def main(args):
    if args.plot:
        plot(args)
        return
    if args.name:
        add(args)
    folder = Path(args.reports)
    for path in sorted(folder.glob('*.yaml')):
        write(path.with_suffix('.md'), records.page(records.read(path)))
    write(folder / 'README.md', front.page(folder))
    write(folder / 'index.html', browser.page(folder))


def plot(args):
    """Draw the curves of --logs, with the published results of the recipe if one is named."""
    if not args.logs:
        raise InputError('--plot needs --logs')
    published = recipes.find(args.name).figures if args.name else ()
    runs = {path: training.read_log(path) for path in args.logs}
    plots.curves(args.plot, runs, published)


def write(path, page):
    """Write a page, whole or not at all."""
    with atomic.writing(path) as file:
        file.write(page.encode())


def add(args):
    """Write the record of a run, its page, a copy of its log, and a picture of its curves."""
    recipe = recipes.find(args.name)
    prefix = Path(args.reports) / recipe.name
    record, written = make(recipe, args)
    if args.parity:
        record['parity'] = ladder(args.parity)
    has_curves = recipe.program.startswith('main_') and record['status'] == 'measured'
    if has_curves:
        record['pictures'] = [f'{prefix.name}.png']

    records.write(str(prefix), record, written)
    if has_curves:
        runs = {recipe.name: training.read_log(written)}
        plots.curves(prefix.with_name(f'{prefix.name}.png'), runs, recipe.figures)
    for warning in record['warnings']:
        log.info(f'warning: {warning}')
    log.info(f'{prefix}.yaml: {record["claim"]}')


def make(recipe, args):
    """The record of a run, and the file that is its log."""
    if recipe.evaluates or recipe.program == 'seg/train.py':
        if not args.checkpoint or not args.console:
            raise InputError(f'{recipe.name}: give --checkpoint and --console')
        of = training.of_evaluation if recipe.evaluates else training.of_segmentation
        return of(recipe, args.console, args.checkpoint, args.licence), args.console

    if recipe.program not in training.PROGRAMS:
        raise InputError(
            f'{recipe.name}: records are made of main_pretrain.py, main_finetune.py, '
            'main_linprobe.py, seg/train.py and seg/val.py'
        )
    if not args.output_dir:
        raise InputError(f'{recipe.name} is a training: give --output_dir')
    written = Path(args.output_dir) / 'log.txt'
    weights = args.checkpoint or newest(args.output_dir)
    return training.of_run(recipe, written, weights, args.console, args.licence), written


def ladder(file):
    """The parity ladder of a record that main_parity.py wrote; InputError if it has none."""
    rungs = records.read(file).get('parity')
    if not rungs:
        raise InputError(
            f'--parity {file} has no ladder; main_parity.py --report makes such a record'
        )
    return rungs


def newest(folder):
    """The latest checkpoint in a folder; InputError if there is none."""
    found = checkpoint.ordered(Path(folder))
    if not found:
        raise InputError(f'--output_dir {folder} holds no checkpoint-*.pd; give --checkpoint')
    return found[-1]


PARSER = cli.parser(__doc__)
PARSER.prog = 'python -m reports'
PARSER.add_argument(
    'name', nargs='?', default=None, metavar='NAME', help='a recipe; `python -m recipes` lists them'
)
PARSER.add_argument(
    '--output_dir', default=None, metavar='DIR', help='of the run, with log.txt and checkpoints'
)
PARSER.add_argument(
    '--checkpoint',
    default=None,
    metavar='FILE',
    help='weights (default: the newest in --output_dir)',
)
PARSER.add_argument(
    '--console',
    default=None,
    metavar='FILE',
    help='what the program printed: rate and memory, or the accuracy of an evaluation',
)
PARSER.add_argument(
    '--parity',
    default=None,
    metavar='FILE',
    help="record of main_parity.py on the run's weights; its ladder is copied",
)
PARSER.add_argument('--licence', default=None, help='of the weights')
PARSER.add_argument('--reports', default='reports', metavar='DIR', help='folder of the records')
PARSER.add_argument(
    '--plot',
    default=None,
    metavar='FILE',
    help='only draw the curves of --logs into a PNG; with NAME, add its published points',
)
PARSER.add_argument(
    '--logs', nargs='+', default=None, metavar='FILE', help='log.txt of several runs'
)

if __name__ == '__main__':
    program.run(main, PARSER)
