"""Records of runs, and the pages made from them.

    python -m reports finetune_vit_base --output_dir output_dir --console console.txt
    python -m reports eval_vit_base --checkpoint mae_finetuned_vit_base.pth --console console.txt
    python -m reports segment_vit_base --checkpoint output/best_model/model.pdparams --console console.txt
    python -m reports
    python -m reports --plot curves.png --logs first/log.txt second/log.txt

With the name of a recipe: a record of that run. Without: the pages of all records, and the front page, are made anew.
"""

from pathlib import Path

import recipes
from reports import front, plots, training
from util import atomic, checkpoint, cli, log, program
from util import record as records
from util.errors import InputError


def main(args):
    if args.plot:
        if not args.logs:
            raise InputError('--plot needs --logs')
        recipe = args.name and recipes.find(args.name)
        plots.curves(
            args.plot,
            {log: training.read_log(log) for log in args.logs},
            recipe.figures if recipe else (),
        )
        return
    if args.name:
        add(args)
    folder = Path(args.reports)
    for path in sorted(folder.glob('*.yaml')):
        write(path.with_suffix('.md'), records.page(records.read(path)))
    write(folder / 'README.md', front.page(folder))


def write(path, page):
    with atomic.writing(path) as file:
        file.write(page.encode())


def add(args):
    """The record of a run, its log and its picture."""
    recipe = recipes.find(args.name)
    prefix = Path(args.reports) / recipe.name
    if recipe.evaluates or recipe.program == 'seg/train.py':
        if not args.checkpoint or not args.console:
            raise InputError(f'{recipe.name}: give --checkpoint and --console')
        make = training.of_evaluation if recipe.evaluates else training.of_segmentation
        record, written = make(recipe, args.console, args.checkpoint, args.licence), args.console
    elif recipe.program in training.PROGRAMS:
        if not args.output_dir:
            raise InputError(f'{recipe.name} is a training: give --output_dir')
        written = Path(args.output_dir) / 'log.txt'
        record = training.of_run(
            recipe, written, args.checkpoint or newest(args.output_dir), args.console, args.licence
        )
    else:
        raise InputError(
            f'{recipe.name}: records are made of main_pretrain.py, main_finetune.py, main_linprobe.py, '
            'seg/train.py and seg/val.py'
        )
    if args.parity:
        record['parity'] = records.read(args.parity).get('parity')
        if not record['parity']:
            raise InputError(
                f'--parity {args.parity} has no ladder; main_parity.py --report makes such a record'
            )
    if recipe.program.startswith('main_') and record['status'] == 'measured':
        record['pictures'] = [f'{prefix.name}.png']
    records.write(str(prefix), record, written)
    for name in record.get('pictures', ()):
        plots.curves(
            prefix.with_name(name), {recipe.name: training.read_log(written)}, recipe.figures
        )
    for warning in record['warnings']:
        log.info(f'warning: {warning}')
    log.info(f'{prefix}.yaml: {record["claim"]}')


def newest(folder):
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
    '--output_dir', default=None, metavar='DIR', help="the run's, with log.txt and checkpoints"
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
    help="record of main_parity.py about the run's weights, whose ladder is taken over",
)
PARSER.add_argument('--licence', default=None, help='of the weights')
PARSER.add_argument('--reports', default='reports', metavar='DIR', help='folder of the records')
PARSER.add_argument(
    '--plot',
    default=None,
    metavar='FILE',
    help='only draw the curves of --logs into a PNG; with NAME, its published points beside them',
)
PARSER.add_argument(
    '--logs', nargs='+', default=None, metavar='FILE', help='log.txt of several runs'
)

if __name__ == '__main__':
    program.run(main, PARSER)
