"""Does pre-training pay? Three questions on scanned digits, in some 40 minutes of two cores.

    python demo/reproduce.py --out demo/output/reproduce
    python demo/reproduce.py --out demo/output/reproduce --full 2

fine-tuning against training from scratch over the number of labels; a linear classifier on the features of the autoencoder
against one on those of an untrained encoder; pre-training with a quarter to nine tenths of the patches removed. Each seed
draws its own labels, masks and weights. Every cell is a run of main_pretrain.py, main_finetune.py or main_linprobe.py in a
folder of its own below --out, with its log.txt; what is complete there is not run again, so an interrupted reproduction goes
on. The end is results.json, results.md and results.png. With --full, more of the paper's questions, which take hours:
decoder depth, normalised pixels, kinds of masks, length of pre-training, partial fine-tuning, and Swins; results_full.png
has them above the paper's.
"""

import itertools
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

from recipes import paper, small
from reports import plots
from util import cli, log, program, provenance
from util import record as records
from util.errors import InputError
from util.weights import sha256

ROOT = Path(__file__).parent.parent


def command(cell: small.Cell, out: Path) -> list[str]:
    """The program and its flags."""
    start = (
        ['--finetune', str(out / cell.after / f'checkpoint-{epochs_of(out / cell.after) - 1}.pd')]
        if cell.after
        else []
    )
    epochs = [] if '--epochs' in cell.flags else ['--epochs', str(cell.epochs)]
    return [
        cell.program,
        *small.INPUT,
        *cell.flags,
        *epochs,
        *start,
        '--output_dir',
        str(out / cell.name),
    ]


def epochs_of(folder: Path) -> int:
    """How many epochs the log in a folder has."""
    log = folder / 'log.txt'
    return len(log.read_text().splitlines()) if log.exists() else 0


def is_complete(cell: small.Cell, out: Path) -> bool:
    """Whether its log has all epochs, by the command that it would be run with now."""
    kept = out / cell.name / 'command.txt'
    return (
        epochs_of(out / cell.name) == cell.epochs
        and kept.exists()
        and kept.read_text() == shlex.join(command(cell, out))
    )


def execute(cell: small.Cell, out: Path) -> None:
    """Run a cell; what it prints goes into its folder. InputError where it fails."""
    began = time.perf_counter()
    shutil.rmtree(out / cell.name, ignore_errors=True)
    (out / cell.name).mkdir(parents=True)
    (out / cell.name / 'command.txt').write_text(shlex.join(command(cell, out)))
    with open(out / cell.name / 'console.txt', 'w') as console:
        code = subprocess.run(
            [sys.executable, *command(cell, out)],
            stdout=console,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={'PYTHONWARNINGS': 'ignore', **os.environ, 'MAE_NUM_THREADS': '1'},
        ).returncode
    if code:
        raise InputError(
            f'{cell.name} ended with exit code {code}; its last words are in {out / cell.name / "console.txt"}'
        )
    with tqdm.external_write_mode():
        log.info(f'{cell.name}: {time.perf_counter() - began:.0f} s')


def execute_all(cells: list[small.Cell], out: Path, jobs: int) -> None:
    """Run those that are not complete, and what begins from them: the pre-trainings, which come first, then the others."""
    left = {}
    for cell in cells:
        if cell.after in left or not is_complete(cell, out):
            left[cell.name] = cell
    with tqdm(
        total=len(cells), initial=len(cells) - len(left), unit='run', smoothing=0, disable=None
    ) as bar:
        for _, stage in itertools.groupby(
            left.values(), lambda cell: cell.program == 'main_pretrain.py'
        ):
            with ThreadPoolExecutor(jobs) as pool:
                for _ in pool.map(lambda cell: execute(cell, out), stage):
                    bar.update()


def draw_labels(data: Path, seed: int) -> None:
    """For each count a list with as many labelled digits, the same number of each class where it divides, and a list of all
    validation images. Smaller sets are parts of larger ones."""
    rng = np.random.default_rng(seed)
    shuffled = [
        [files[i] for i in rng.permutation(len(files))]
        for files in (
            sorted(folder.glob('*.png')) for folder in sorted((data / 'digits/train').iterdir())
        )
    ]
    by_turns = [
        files[i] for i in range(max(map(len, shuffled))) for files in shuffled if i < len(files)
    ]
    for count in small.LABELS:
        folder = data / f'labels_{count}_{seed}'
        folder.mkdir(exist_ok=True)
        for split, files in (
            ('train', by_turns[:count]),
            ('val', sorted((data / 'digits/val').glob('*/*.png'))),
        ):
            (folder / f'{split}.txt').write_text(
                ''.join(f'{file.resolve()} {file.parent.name}\n' for file in files)
            )


def collect(
    out: Path, seeds: int, full: int = 0, swin: int = 0
) -> dict[str, dict[str, list[float]]]:
    """Accuracies after the last epoch, one a seed: figure -> what was varied -> values. full, swin: seeds of those."""

    def accuracies(name, seeds=seeds):
        logs = [out / f'{name}_{seed}' / 'log.txt' for seed in range(seeds)]
        return [json.loads(log.read_text().splitlines()[-1])['test_acc1'] for log in logs]

    results = {
        'fine-tuned from the autoencoder': {
            str(count): accuracies(f'tune_{small.RATIO}_{count}') for count in small.LABELS
        },
        'from scratch, three times as long': {
            str(count): accuracies(f'scratch_{count}') for count in small.LABELS
        },
        f'fine-tuned with {small.FEW} labels, by mask ratio': {
            str(ratio): accuracies(f'tune_{ratio}_{small.FEW}') for ratio in small.RATIOS
        },
        'linear probe, by mask ratio': {
            str(ratio): accuracies(f'probe_{ratio}') for ratio in small.RATIOS
        },
        'linear probe': {
            'autoencoder': accuracies(f'probe_{small.RATIO}'),
            'untrained': accuracies('probe_untrained'),
        },
    }
    for what, choices in small.ABLATIONS.items() if full else ():
        tuned, probed = names_of(what)
        count = swin if what == small.SWIN else full
        results[tuned] = {
            choice: accuracies(f'tune_{cell.name}_{small.FEW}', count)
            for choice, cell in choices.items()
        }
        results[probed] = {
            choice: accuracies(f'probe_{cell.name}', count) for choice, cell in choices.items()
        }
    if full:
        names = [
            *(f'partial_{blocks}' for blocks in range(small.BLOCKS)),
            f'tune_{small.RATIO}_{small.ALL}',
        ]
        results[PARTIAL] = {
            str(blocks): accuracies(name, full) for blocks, name in enumerate(names)
        }
    return results


PARTIAL = f'blocks that are fine-tuned, {small.ALL} labels'


def names_of(what: str) -> tuple[str, str]:
    """What the two figures of an ablation are called."""
    return f'{what}: fine-tuned with {small.FEW} labels', f'{what}: linear probe'


def spread(values: list[float]) -> str:
    """Mean and standard deviation (of a sample, n - 1)."""
    return f'{np.mean(values):.1f}' + (
        f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else ''
    )


def table(results: dict) -> str:
    """A line a figure, in Markdown."""
    lines = [
        f'- {figure}: '
        + ', '.join(f'{varied}: {spread(values)}' for varied, values in cells.items())
        for figure, cells in results.items()
    ]
    return (
        '\n'.join(
            [
                'Accuracy on 355 held-out digits, %, mean and standard deviation over the seeds.',
                '',
                *lines,
            ]
        )
        + '\n'
    )


def draw(results: dict, path: Path) -> None:
    """Accuracy over labels and over mask ratios, the latter beside the paper's."""
    labels, from_scratch, tuned, probed, probes = list(results)[:5]
    untrained = {'': results[probes]['untrained']}
    plots.panels(
        path,
        [
            [
                ('labels', {name: results[name] for name in (labels, from_scratch)}),
                (
                    paper.MASK_RATIO,
                    {
                        tuned: results[tuned],
                        probed: results[probed],
                        'linear probe, untrained encoder': untrained,
                    },
                ),
                theirs(paper.MASK_RATIO),
            ]
        ],
    )


def theirs(what: str) -> tuple[str, dict]:
    """The paper's panel of what was varied."""
    return f'{what}: the paper, ViT-L on ImageNet', {
        label: {choice: [figures[i]] for choice, figures in paper.ABLATIONS[what].items()}
        for i, label in enumerate(('fine-tuned', 'linear probe'))
    }


def draw_full(results: dict, path: Path) -> None:
    """The ablations, and the paper's below them where it has them."""
    ours = [
        (what, {name.removeprefix(f'{what}: '): results[name] for name in names_of(what)})
        for what in small.ABLATIONS
    ]
    partial = {
        'fine-tuned': {
            f'{blocks:g}': [value] for blocks, value in paper.PARTIAL.items() if blocks != 0.5
        }
    }
    shared = [what for what in small.ABLATIONS if what in paper.ABLATIONS]
    plots.panels(
        path,
        [
            [
                *(panel for panel in ours if panel[0] in shared),
                (PARTIAL, {'fine-tuned': results[PARTIAL]}),
            ],
            [*map(theirs, shared), ('blocks that are fine-tuned: the paper, of 24', partial)],
            [panel for panel in ours if panel[0] not in shared],
        ],
    )


def drawings(results: dict) -> dict:
    """The end of a file's name -> what draws it(results, path)."""
    return {'.png': draw} | ({'_full.png': draw_full} if PARTIAL in results else {})


def published(full: bool) -> list[str]:
    """What the paper has for the same questions."""
    return [
        f'{what}, taken over from the paper (ViT-L on ImageNet, fine-tuned / linear probe): {paper.choices(what)}'
        for what in (paper.MASK_RATIO, *(small.ABLATIONS if full else ()))
        if what in paper.ABLATIONS
    ]


def record(prefix: str, out: Path, results: dict, flags: str, minutes: float | None) -> None:
    """The record of a whole reproduction; its log are the results of every run, its weights the first autoencoder."""
    start = out / f'pretrain_{small.RATIO}_0'
    weights = start / f'checkpoint-{epochs_of(start) - 1}.pd'
    log, pictures = out / 'results.json', drawings(results)
    records.write(
        prefix,
        {
            'claim': 'Small scale: pre-training, labels and mask ratio on scanned digits',
            'status': 'measured',
            'model': 'vit_nano_patch4',
            'run': f'python demo/reproduce.py {flags}',
            'result': {
                figure: ', '.join(f'{varied}: {spread(values)}' for varied, values in cells.items())
                for figure, cells in results.items()
            },
            'published': published(PARTIAL in results),
            'pictures': [f'{Path(prefix).name}{ending}' for ending in pictures],
            'environment': provenance.environment(),
            'figures': {
                'minutes': 'not recorded: the runs are of several sittings'
                if minutes is None
                else round(minutes)
            },
            'log': {'file': f'{Path(prefix).name}.log.json', 'sha256': sha256(log)},
            'weights': {
                'file': weights.name,
                'sha256': sha256(weights),
                'licence': 'none, made by this run',
            },
        },
        log,
    )
    for ending, drawn in pictures.items():
        drawn(results, Path(f'{prefix}{ending}'))


def main(args):
    out = Path(args.out).resolve()
    data = out / 'data'
    program.make_folder('--out', str(data))
    if not (data / 'digits').exists():
        subprocess.run(
            [sys.executable, str(ROOT / 'demo/make_digits.py'), '--out', str(data / 'digits')],
            check=True,
        )
    for seed in range(args.seeds):
        draw_labels(data, seed)
    full = min(args.full, args.seeds)
    swin = full if args.swin is None else min(args.swin, full)
    cells = small.plan(args.seeds, args.epochs, data, full, swin)
    begun, began = any(epochs_of(out / cell.name) for cell in cells), time.perf_counter()
    execute_all(cells, out, args.jobs)
    results = collect(out, args.seeds, full, swin)
    (out / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    (out / 'results.md').write_text(table(results))
    for ending, drawn in drawings(results).items():
        drawn(results, out / f'results{ending}')
    minutes = (time.perf_counter() - began) / 60
    log.info(f'{table(results)}\n{len(cells)} runs; {minutes:.0f} minutes. {out / "results.png"}')
    if args.report:
        flags = f'--seeds {args.seeds} --epochs {args.epochs} --jobs {args.jobs}'
        flags += f' --full {full} --swin {swin}' * bool(full)
        record(args.report, out, results, flags, None if begun else minutes)


PARSER = cli.parser(__doc__)
PARSER.add_argument(
    '--out',
    default='demo/output/reproduce',
    metavar='DIR',
    help='folder of all runs and the results',
)
PARSER.add_argument('--seeds', type=cli.number(int, 1), default=3, help='runs of each cell')
PARSER.add_argument('--epochs', type=cli.number(int, 1), default=40, help='of pre-training')
PARSER.add_argument(
    '--full',
    nargs='?',
    type=cli.number(int, 1),
    default=0,
    const=math.inf,
    metavar='SEEDS',
    help='the ablations as well; of so many seeds (of all)',
)
PARSER.add_argument(
    '--swin',
    type=cli.number(int, 1),
    default=None,
    metavar='SEEDS',
    help='of so many of these seeds also '
    'the Swins, which take twice as long as the rest of --full (of all)',
)
PARSER.add_argument(
    '--jobs',
    type=cli.number(int, 1),
    default=os.cpu_count() or 1,
    help='runs at a time, of a thread each',
)
PARSER.add_argument(
    '--report',
    default=None,
    metavar='PREFIX',
    help='also write the record PREFIX.yaml, its page, log and picture, such as reports/digits',
)

if __name__ == '__main__':
    program.run(main, PARSER)
