"""Does pre-training pay? Three of the paper's questions on scanned digits, within an hour on a laptop.

    python demo/reproduce.py --out demo/output/reproduce

fine-tuning against training from scratch over the number of labels; a linear classifier on the features of the autoencoder
against one on those of an untrained encoder; pre-training with a quarter to nine tenths of the patches removed. Each seed
draws its own labels, masks and weights. Every cell is a run of main_pretrain.py, main_finetune.py or main_linprobe.py in a
folder of its own below --out, with its log.txt; what is complete there is not run again, so an interrupted reproduction goes
on. The end is results.json, results.md and results.png.
"""
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util import cli, report, run
from util.errors import InputError
from util.report import training

ROOT = Path(__file__).parent.parent
RATIOS, USUAL = (0.25, 0.5, 0.75, 0.9), 0.75
LABELS = {10: 100, 50: 60, 100: 30, 300: 20, 1442: 8}  # how many in all -> epochs of fine-tuning; the last are all of them
LONGER = 3  # times as many epochs from scratch, as in the paper: 300 against 100
FEW = 100  # labels for comparing mask ratios
INPUT = ['--input_size', '32', '--in_chans', '1', '--hflip', '0', '--num_workers', '0', '--log_dir', '', '--device', 'cpu',
         '--print_freq', '1000']
PRETRAIN = ['--model', 'mae_vit_nano_patch4', '--batch_size', '128', '--blr', '4e-3']
CLASSIFIER = ['--model', 'vit_nano_patch4', '--nb_classes', '10', '--scale', '.6', '1']
FINETUNE = [*CLASSIFIER, '--aa', 'none', '--reprob', '0', '--save_every', '1000']
PROBE = [*CLASSIFIER, '--batch_size', '128', '--epochs', '10', '--warmup_epochs', '1', '--lr', '10', '--global_pool',
         '--save_every', '1000']


@dataclass(frozen=True)
class Cell:
    """One training: its folder's name, program, epochs, flags; `after` is the pre-training that it begins from."""
    name: str
    program: str
    epochs: int
    flags: tuple[str, ...]
    after: str = ''


def plan(seeds: int, pretrain_epochs: int, data: Path) -> list[Cell]:
    """All cells, pre-trainings first. data: where the digits and, in labels_<count>_<seed>, lists of labelled ones are."""
    first, second = [], []
    for seed in range(seeds):
        for ratio in RATIOS:
            start = f'pretrain_{ratio}_{seed}'
            first.append(Cell(start, 'main_pretrain.py', pretrain_epochs, (
                *PRETRAIN, '--mask_ratio', str(ratio), '--warmup_epochs', str(max(1, pretrain_epochs // 10)), '--save_every',
                '1000', '--seed', str(seed), '--data_path', str(data / 'digits'))))
            second.append(Cell(f'probe_{ratio}_{seed}', 'main_linprobe.py', 10, (
                *PROBE, '--seed', str(seed), '--data_path', str(data / 'digits')), start))
            second += [finetune(f'tune_{ratio}_{count}_{seed}', count, seed, data, start)
                       for count in LABELS if ratio == USUAL or count == FEW]
        second.append(Cell(f'probe_untrained_{seed}', 'main_linprobe.py', 10, (
            *PROBE, '--seed', str(seed), '--data_path', str(data / 'digits'))))
        second += [finetune(f'scratch_{count}_{seed}', count, seed, data) for count in LABELS]
    return first + second


def finetune(name: str, count: int, seed: int, data: Path, after: str = '') -> Cell:
    """From pre-trained weights with decaying rates, or from scratch for longer, with the rate that suits that better."""
    epochs = LABELS[count] * (1 if after else LONGER)
    rates = ('--lr', '3e-3', '--layer_decay', '.65') if after else ('--lr', '2e-3', '--layer_decay', '1')
    return Cell(name, 'main_finetune.py', epochs, (
        *FINETUNE, *rates, '--batch_size', str(min(20, count)), '--epochs', str(epochs), '--warmup_epochs',
        str(max(1, epochs // 10)), '--seed', str(seed), '--data_path', str(data / f'labels_{count}_{seed}')), after)


def is_pretraining(cell: Cell) -> bool:
    return cell.program == 'main_pretrain.py'


def command(cell: Cell, out: Path) -> list[str]:
    """The program and its flags."""
    start = ['--finetune', str(out / cell.after / f'checkpoint-{epochs_of(out / cell.after) - 1}.pd')] if cell.after else []
    epochs = [] if '--epochs' in cell.flags else ['--epochs', str(cell.epochs)]
    return [str(ROOT / cell.program), *INPUT, *cell.flags, *epochs, *start, '--output_dir', str(out / cell.name)]


def epochs_of(folder: Path) -> int:
    """How many epochs the log in a folder has."""
    log = folder / 'log.txt'
    return len(log.read_text().splitlines()) if log.exists() else 0


def execute(cell: Cell, out: Path) -> None:
    """Run a cell that is not complete; what it prints goes into its folder. InputError where it fails."""
    if epochs_of(out / cell.name) == cell.epochs:
        return
    began = time.perf_counter()
    (out / cell.name).mkdir(parents=True, exist_ok=True)
    with open(out / cell.name / 'console.txt', 'w') as console:
        code = subprocess.run([sys.executable, *command(cell, out)], stdout=console, stderr=subprocess.STDOUT, cwd=ROOT,
                              env={'PYTHONWARNINGS': 'ignore', **os.environ, 'MAE_NUM_THREADS': '1'}).returncode
    if code:
        raise InputError(f'{cell.name} ended with exit code {code}; its last words are in {out / cell.name / "console.txt"}')
    run.say(f'{cell.name}: {time.perf_counter() - began:.0f} s')


def draw_labels(data: Path, seed: int) -> None:
    """For each count a list with as many labelled digits, the same number of each class where it divides, and a list of all
    validation images. Smaller sets are parts of larger ones."""
    rng = np.random.default_rng(seed)
    shuffled = [[files[i] for i in rng.permutation(len(files))] for files in (
        sorted(folder.glob('*.png')) for folder in sorted((data / 'digits/train').iterdir()))]
    by_turns = [files[i] for i in range(max(map(len, shuffled))) for files in shuffled if i < len(files)]
    for count in LABELS:
        folder = data / f'labels_{count}_{seed}'
        folder.mkdir(exist_ok=True)
        for split, files in (('train', by_turns[:count]), ('val', sorted((data / 'digits/val').glob('*/*.png')))):
            (folder / f'{split}.txt').write_text(''.join(f'{file.resolve()} {file.parent.name}\n' for file in files))


def collect(out: Path, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Accuracies after the last epoch, one a seed: figure -> what was varied -> values."""
    def accuracies(name):
        logs = [out / f'{name}_{seed}' / 'log.txt' for seed in range(seeds)]
        return [json.loads(log.read_text().splitlines()[-1])['test_acc1'] for log in logs]
    return {
        'fine-tuned from the autoencoder': {str(count): accuracies(f'tune_{USUAL}_{count}') for count in LABELS},
        'from scratch, three times as long': {str(count): accuracies(f'scratch_{count}') for count in LABELS},
        f'fine-tuned with {FEW} labels, by mask ratio': {str(ratio): accuracies(f'tune_{ratio}_{FEW}') for ratio in RATIOS},
        'linear probe, by mask ratio': {str(ratio): accuracies(f'probe_{ratio}') for ratio in RATIOS},
        'linear probe': {'autoencoder': accuracies(f'probe_{USUAL}'), 'untrained': accuracies('probe_untrained')}}


def spread(values: list[float]) -> str:
    """Mean and standard deviation (of a sample, n - 1)."""
    return f'{np.mean(values):.1f}' + (f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else '')


def table(results: dict) -> str:
    """A line a figure, in Markdown."""
    lines = [f'- {figure}: ' + ', '.join(f'{varied}: {spread(values)}' for varied, values in cells.items())
             for figure, cells in results.items()]
    return '\n'.join(['Accuracy on 355 held-out digits, %, mean and standard deviation over the seeds.', '', *lines]) + '\n'


def draw(results: dict, path: Path) -> None:
    """Accuracy over labels and over mask ratios."""
    from matplotlib.figure import Figure
    labels, from_scratch, tuned, probed, probes = results
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    for axes, names, title, ticks in zip(figure.subplots(1, 2), ((labels, from_scratch), (tuned, probed)),
                                         ('labels', 'share of the patches removed'), (LABELS, RATIOS)):
        for name in names:
            values = list(results[name].values())
            axes.errorbar(list(ticks), [np.mean(cell) for cell in values], capsize=3, marker='.', label=name, yerr=[
                np.std(cell, ddof=1) if len(cell) > 1 else 0 for cell in values])
        axes.set(xlabel=title, ylabel='accuracy, %', xscale='log' if ticks is LABELS else 'linear')
        axes.set_xticks(list(ticks), list(map(str, ticks)), minor=False)
        axes.grid(alpha=0.3)
    axes.axhline(np.mean(results[probes]['untrained']), linestyle=':', color='grey', label='linear probe, untrained encoder')
    for axes in figure.axes:
        axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=110, metadata={'Software': None})


def record(prefix: str, out: Path, results: dict, flags: str, minutes: float) -> None:
    """The record of a whole reproduction; its log are the results of every run, its weights the first autoencoder."""
    start = out / f'pretrain_{USUAL}_0'
    weights = start / f'checkpoint-{epochs_of(start) - 1}.pd'
    log = out / 'results.json'
    report.write(prefix, {
        'claim': 'Small scale: pre-training, labels and mask ratio on scanned digits', 'status': 'measured',
        'model': 'vit_nano_patch4', 'run': f'python demo/reproduce.py {flags}',
        'result': {figure: ', '.join(f'{varied}: {spread(values)}' for varied, values in cells.items())
                   for figure, cells in results.items()},
        'settings': {'commit': training.commit()}, 'environment': report.environment(),
        'figures': {'minutes': round(minutes)},
        'log': {'file': f'{Path(prefix).name}.log.json', 'sha256': report.sha256(log)},
        'weights': {'file': weights.name, 'sha256': report.sha256(weights), 'licence': 'none, made by this run'}}, log)
    draw(results, Path(f'{prefix}.png'))


def main(args):
    out = Path(args.out).resolve()
    data = out / 'data'
    run.make_folder('--out', str(data))
    if not (data / 'digits').exists():
        subprocess.run([sys.executable, str(ROOT / 'demo/make_digits.py'), '--out', str(data / 'digits')], check=True)
    for seed in range(args.seeds):
        draw_labels(data, seed)
    cells = plan(args.seeds, args.epochs, data)
    began = time.perf_counter()
    for stage in (True, False):  # what others begin from, then these
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda cell: execute(cell, out), [cell for cell in cells if is_pretraining(cell) == stage]))
    results = collect(out, args.seeds)
    (out / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    (out / 'results.md').write_text(table(results))
    draw(results, out / 'results.png')
    minutes = (time.perf_counter() - began) / 60
    run.say(f'{table(results)}\n{len(cells)} runs; {minutes:.0f} minutes. {out / "results.png"}')
    if args.report:
        record(args.report, out, results, f'--seeds {args.seeds} --epochs {args.epochs} --jobs {args.jobs}', minutes)


PARSER = cli.parser(__doc__)
PARSER.add_argument('--out', default='demo/output/reproduce', metavar='DIR', help='folder of all runs and the results')
PARSER.add_argument('--seeds', type=cli.number(int, 1), default=3, help='runs of each cell')
PARSER.add_argument('--epochs', type=cli.number(int, 1), default=40, help='of pre-training')
PARSER.add_argument('--jobs', type=cli.number(int, 1), default=os.cpu_count() or 1, help='runs at a time, of a thread '
                    'each')
PARSER.add_argument('--report', default=None, metavar='PREFIX', help='also write the record PREFIX.yaml, its page, log '
                    'and picture, such as reports/digits')

if __name__ == '__main__':
    run.program(main, PARSER)
