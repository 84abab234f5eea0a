"""Does pre-training pay? Three questions on scanned digits, in some 40 minutes on two cores.

    python demo/reproduce.py --out demo/output/reproduce
    python demo/reproduce.py --out demo/output/reproduce --full 2

The questions: fine-tuning against training from scratch, for several numbers of labels; a linear
classifier on the autoencoder's features against one on those of an untrained encoder; pre-training
with a quarter to nine tenths of the patches removed. Each seed draws its own labels, masks and
weights.

Every cell is a run of main_pretrain.py, main_finetune.py or main_linprobe.py in a folder of its own
below --out, with its log.txt. A complete cell is not run again, so an interrupted reproduction
resumes. At the end the program writes results.json, results.md and results.png.

--full asks more of the paper's questions, which take hours: decoder depth and width, mask tokens in
the encoder, targets, augmentation, kinds of masks, length of pre-training, partial fine-tuning, and
Swins. results_full.png shows them above the paper's results.
"""

import functools
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from recipes import small
from reports import digits
from util import cli, log, program
from util.errors import InputError

ROOT = Path(__file__).parent.parent


def main(args):
    out = Path(args.out).resolve()
    data = prepare(out, args.seeds)
    full = min(args.full, args.seeds)
    swin = full if args.swin is None else min(args.swin, full)
    cells = small.plan(args.seeds, args.epochs, data, full, swin)

    begun = any(digits.epochs_of(out / cell.name) for cell in cells)
    began = time.perf_counter()
    execute_all(cells, out, args.jobs)

    results = digits.collect(out, args.seeds, full, swin)
    table = digits.table(results)
    (out / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    (out / 'results.md').write_text(table)
    for ending, draw_picture in digits.drawings(results).items():
        draw_picture(results, out / f'results{ending}')
    picture = out / 'results.png'
    minutes = (time.perf_counter() - began) / 60
    log.info(f'{table}\n{len(cells)} runs; {minutes:.0f} minutes. {picture}')

    if args.report:
        flags = f'--seeds {args.seeds} --epochs {args.epochs} --jobs {args.jobs}'
        if full:
            flags += f' --full {full} --swin {swin}'
        measured = None if begun else minutes  # of a resumed reproduction, only the rest was timed
        digits.record(args.report, out, results, flags, measured)


def prepare(out: Path, seeds: int) -> Path:
    """The folder of the data below --out: the digits, and each seed's lists of labels."""
    data = out / 'data'
    program.make_folder('--out', str(data))
    if not (data / 'digits').exists():
        make_digits = str(ROOT / 'demo/make_digits.py')
        subprocess.run([sys.executable, make_digits, '--out', str(data / 'digits')], check=True)
    for seed in range(seeds):
        draw_labels(data, seed)
    return data


def draw_labels(data: Path, seed: int) -> None:
    """Write lists of labelled training images, one for each of small.LABELS.

    Each class gets the same number of labels where it divides. Smaller sets are parts of larger
    ones. Beside each list stands one of all validation images.
    """
    rng = np.random.default_rng(seed)
    shuffled = []
    for folder in sorted((data / 'digits/train').iterdir()):
        files = sorted(folder.glob('*.png'))
        order = rng.permutation(len(files))
        shuffled.append([files[i] for i in order])

    # one of each class in turn
    by_turns = []
    for turn in range(max(map(len, shuffled))):
        by_turns += [files[turn] for files in shuffled if turn < len(files)]

    validation = sorted((data / 'digits/val').glob('*/*.png'))
    for count in small.LABELS:
        folder = data / f'labels_{count}_{seed}'
        folder.mkdir(exist_ok=True)
        write_list(folder / 'train.txt', by_turns[:count])
        write_list(folder / 'val.txt', validation)


def write_list(path: Path, files: list[Path]) -> None:
    """Write a list of images, a line each: path and class, the name of the image's folder."""
    lines = [f'{file.resolve()} {file.parent.name}\n' for file in files]
    path.write_text(''.join(lines))


def command(cell: small.Cell, out: Path) -> list[str]:
    """The program of a cell and its flags."""
    words = [cell.program, *small.INPUT, *cell.flags]
    if '--epochs' not in cell.flags:
        words += ['--epochs', str(cell.epochs)]
    if cell.after:
        start = out / cell.after
        last_epoch = digits.epochs_of(start) - 1
        words += ['--finetune', str(start / f'checkpoint-{last_epoch}.pd')]
    return [*words, '--output_dir', str(out / cell.name)]


def is_complete(cell: small.Cell, out: Path) -> bool:
    """Whether the cell's log has all epochs, and was written by the command of today."""
    folder = out / cell.name
    kept = folder / 'command.txt'
    if digits.epochs_of(folder) != cell.epochs or not kept.exists():
        return False
    return kept.read_text() == shlex.join(command(cell, out))


def execute(cell: small.Cell, out: Path) -> None:
    """Run a cell, with its output in console.txt. Raises InputError where it fails."""
    began = time.perf_counter()
    folder = out / cell.name
    words = command(cell, out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / 'command.txt').write_text(shlex.join(words))

    console = folder / 'console.txt'
    environ = {'PYTHONWARNINGS': 'ignore', **os.environ, 'MAE_NUM_THREADS': '1'}
    with open(console, 'w') as file:
        finished = subprocess.run(
            [sys.executable, *words], stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environ
        )
    if finished.returncode:
        raise InputError(
            f'{cell.name} ended with exit code {finished.returncode}; its output is in {console}'
        )
    seconds = time.perf_counter() - began
    with tqdm.external_write_mode():
        log.info(f'{cell.name}: {seconds:.0f} s')


def execute_all(cells: list[small.Cell], out: Path, jobs: int) -> None:
    """Run the cells that are not complete, and those that start from them, `jobs` at a time."""
    left = {}
    for cell in cells:
        if cell.after in left or not is_complete(cell, out):
            left[cell.name] = cell

    # the others start from pre-trainings
    pretrainings = [cell for cell in left.values() if cell.program == 'main_pretrain.py']
    others = [cell for cell in left.values() if cell.program != 'main_pretrain.py']
    complete = len(cells) - len(left)
    run = functools.partial(execute, out=out)
    with tqdm(total=len(cells), initial=complete, unit='run', smoothing=0, disable=None) as bar:
        for stage in (pretrainings, others):
            with ThreadPoolExecutor(jobs) as pool:
                for _ in pool.map(run, stage):
                    bar.update()


PARSER = cli.parser(__doc__)
PARSER.add_argument(
    '--out',
    default='demo/output/reproduce',
    metavar='DIR',
    help='folder of all runs and the results',
)
PARSER.add_argument('--seeds', type=cli.number(int, 1), default=3, help='runs of each cell')
PARSER.add_argument('--epochs', type=cli.number(int, 1), default=40, help='epochs of pre-training')
PARSER.add_argument(
    '--full',
    nargs='?',
    type=cli.number(int, 1),
    default=0,
    const=math.inf,
    metavar='SEEDS',
    help='also run the ablations, for this number of seeds (without a number: for all)',
)
PARSER.add_argument(
    '--swin',
    type=cli.number(int, 1),
    default=None,
    metavar='SEEDS',
    help='number of the seeds of --full that also run the Swins, which take twice as long as the '
    'rest of --full (default: all)',
)
PARSER.add_argument(
    '--jobs',
    type=cli.number(int, 1),
    default=os.cpu_count() or 1,
    help='runs at a time, each on one thread',
)
PARSER.add_argument(
    '--report',
    default=None,
    metavar='PREFIX',
    help='also write the record PREFIX.yaml with its page, log and pictures (reports/digits)',
)

if __name__ == '__main__':
    program.run(main, PARSER)
