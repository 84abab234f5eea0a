"""Does pre-training pay? Three of the paper's questions on scanned digits, within an hour on a laptop.

    python demo/reproduce.py --out demo/output/reproduce
    python demo/reproduce.py --out demo/output/reproduce --full 2

fine-tuning against training from scratch over the number of labels; a linear classifier on the features of the autoencoder
against one on those of an untrained encoder; pre-training with a quarter to nine tenths of the patches removed. Each seed
draws its own labels, masks and weights. Every cell is a run of main_pretrain.py, main_finetune.py or main_linprobe.py in a
folder of its own below --out, with its log.txt; what is complete there is not run again, so an interrupted reproduction goes
on. The end is results.json, results.md and results.png. With --full, some hours more for all seeds or as many as it says:
decoder depth, normalised pixels, kinds of masks, length of pre-training, partial fine-tuning, and Swins; results_full.png
has them above the paper's.
"""
import json
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from util import cli, provenance, report, run
from util.errors import InputError
from util.recipes import paper, small
from util.report import plots

ROOT = Path(__file__).parent.parent
RATIOS, USUAL = (0.25, 0.5, 0.75, 0.9), 0.75
LABELS = {10: 100, 50: 60, 100: 30, 300: 20, 1442: 8}  # how many in all -> epochs of fine-tuning; the last are all of them
LONGER = 3  # times as many epochs from scratch, as in the paper: 300 against 100
FEW, ALL = 100, 1442  # labels for comparing mask ratios and ablations; for partial fine-tuning
INPUT = ['--input_size', '32', '--in_chans', '1', '--hflip', '0', '--num_workers', '0', '--log_dir', '', '--device', 'cpu',
         '--print_freq', '1000']
PRETRAIN = ['--model', 'mae_vit_nano_patch4', '--batch_size', '128', '--blr', '4e-3']
CLASSIFIER = ['--model', 'vit_nano_patch4', '--nb_classes', '10', '--scale', '.6', '1']
BLOCKS = 4  # of that model
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


def plan(seeds: int, pretrain_epochs: int, data: Path, full: int = 0) -> list[Cell]:
    """All cells, pre-trainings first. data: where the digits and, in labels_<count>_<seed>, lists of labelled ones are.
    full: of how many seeds the ablations as well."""
    cells = []
    for seed in range(seeds):
        for ratio in RATIOS:
            start = f'pretrain_{ratio}_{seed}'
            cells += [pretrain(start, pretrain_epochs, seed, data, '--mask_ratio', str(ratio)),
                      probe(f'probe_{ratio}_{seed}', seed, data, start)]
            cells += [finetune(f'tune_{ratio}_{count}_{seed}', count, seed, data, start)
                      for count in LABELS if ratio == USUAL or count == FEW]
        cells.append(probe(f'probe_untrained_{seed}', seed, data))
        cells += [finetune(f'scratch_{count}_{seed}', count, seed, data) for count in LABELS]
        cells += ablations(pretrain_epochs, seed, data) if seed < full else []
    return sorted(cells, key=is_pretraining, reverse=True)


def ablations(pretrain_epochs: int, seed: int, data: Path) -> list[Cell]:
    """The cells of a seed that only --full has."""
    cells = [finetune(f'partial_{blocks}_{seed}', ALL, seed, data, f'pretrain_{USUAL}_{seed}', '--freeze_blocks',
                      str(BLOCKS - blocks)) for blocks in range(BLOCKS)]
    for choice in (choice for choices in small.ABLATIONS.values() for choice in choices.values() if choice != small.USUAL):
        start, encoder = f'pretrain_{choice.name}_{seed}', ('--model', choice.encoder)
        if choice.flags is None:
            start = ''
        else:
            epochs = max(1, round(choice.length * pretrain_epochs))
            cells.append(pretrain(start, epochs, seed, data, *choice.flags.split()))
        cells += [finetune(f'tune_{choice.name}_{FEW}_{seed}', FEW, seed, data, start, *encoder),
                  probe(f'probe_{choice.name}_{seed}', seed, data, start, *encoder)]
    return cells


def pretrain(name: str, epochs: int, seed: int, data: Path, *flags: str) -> Cell:
    return Cell(name, 'main_pretrain.py', epochs, (
        *PRETRAIN, '--mask_ratio', str(USUAL), '--warmup_epochs', str(max(1, epochs // 10)), '--save_every', '1000',
        '--seed', str(seed), '--data_path', str(data / 'digits'), *flags))


def probe(name: str, seed: int, data: Path, after: str = '', *flags: str) -> Cell:
    return Cell(name, 'main_linprobe.py', 10, (
        *PROBE, '--seed', str(seed), '--data_path', str(data / 'digits'), *flags), after)


def finetune(name: str, count: int, seed: int, data: Path, after: str = '', *flags: str) -> Cell:
    """From pre-trained weights with decaying rates, or from scratch for longer, with the rate that suits that better."""
    epochs = LABELS[count] * (1 if after else LONGER)
    rates = ('--lr', '3e-3', '--layer_decay', '.65') if after else ('--lr', '2e-3', '--layer_decay', '1')
    return Cell(name, 'main_finetune.py', epochs, (
        *FINETUNE, *rates, '--batch_size', str(min(20, count)), '--epochs', str(epochs), '--warmup_epochs',
        str(max(1, epochs // 10)), '--seed', str(seed), '--data_path', str(data / f'labels_{count}_{seed}'), *flags), after)


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
    """Run a cell; what it prints goes into its folder. InputError where it fails."""
    began = time.perf_counter()
    (out / cell.name).mkdir(parents=True, exist_ok=True)
    with open(out / cell.name / 'console.txt', 'w') as console:
        code = subprocess.run([sys.executable, *command(cell, out)], stdout=console, stderr=subprocess.STDOUT, cwd=ROOT,
                              env={'PYTHONWARNINGS': 'ignore', **os.environ, 'MAE_NUM_THREADS': '1'}).returncode
    if code:
        raise InputError(f'{cell.name} ended with exit code {code}; its last words are in {out / cell.name / "console.txt"}')
    with tqdm.external_write_mode():
        run.say(f'{cell.name}: {time.perf_counter() - began:.0f} s')


def execute_all(cells: list[Cell], out: Path, jobs: int) -> None:
    """Run those that are not complete: the pre-trainings, then what begins from them."""
    left = [cell for cell in cells if epochs_of(out / cell.name) != cell.epochs]
    with tqdm(total=len(cells), initial=len(cells) - len(left), unit='run', smoothing=0, disable=None) as bar:
        for stage in (True, False):
            with ThreadPoolExecutor(jobs) as pool:
                for _ in pool.map(lambda cell: execute(cell, out), [cell for cell in left if is_pretraining(cell) == stage]):
                    bar.update()


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


def collect(out: Path, seeds: int, full: int = 0) -> dict[str, dict[str, list[float]]]:
    """Accuracies after the last epoch, one a seed: figure -> what was varied -> values. full: seeds of the ablations."""
    def accuracies(name, seeds=seeds):
        logs = [out / f'{name}_{seed}' / 'log.txt' for seed in range(seeds)]
        return [json.loads(log.read_text().splitlines()[-1])['test_acc1'] for log in logs]
    results = {
        'fine-tuned from the autoencoder': {str(count): accuracies(f'tune_{USUAL}_{count}') for count in LABELS},
        'from scratch, three times as long': {str(count): accuracies(f'scratch_{count}') for count in LABELS},
        f'fine-tuned with {FEW} labels, by mask ratio': {str(ratio): accuracies(f'tune_{ratio}_{FEW}') for ratio in RATIOS},
        'linear probe, by mask ratio': {str(ratio): accuracies(f'probe_{ratio}') for ratio in RATIOS},
        'linear probe': {'autoencoder': accuracies(f'probe_{USUAL}'), 'untrained': accuracies('probe_untrained')}}
    for what, choices in small.ABLATIONS.items() if full else ():
        tuned, probed = ablation(what)
        results[tuned] = {choice: accuracies(f'tune_{cell.name}_{FEW}', full) for choice, cell in choices.items()}
        results[probed] = {choice: accuracies(f'probe_{cell.name}', full) for choice, cell in choices.items()}
    if full:
        names = [*(f'partial_{blocks}' for blocks in range(BLOCKS)), f'tune_{USUAL}_{ALL}']
        results[PARTIAL] = {str(blocks): accuracies(name, full) for blocks, name in enumerate(names)}
    return results


PARTIAL = f'blocks that are fine-tuned, {ALL} labels'


def ablation(what: str) -> tuple[str, str]:
    """What the two figures of an ablation are called."""
    return f'{what}: fine-tuned with {FEW} labels', f'{what}: linear probe'


def spread(values: list[float]) -> str:
    """Mean and standard deviation (of a sample, n - 1)."""
    return f'{np.mean(values):.1f}' + (f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else '')


def table(results: dict) -> str:
    """A line a figure, in Markdown."""
    lines = [f'- {figure}: ' + ', '.join(f'{varied}: {spread(values)}' for varied, values in cells.items())
             for figure, cells in results.items()]
    return '\n'.join(['Accuracy on 355 held-out digits, %, mean and standard deviation over the seeds.', '', *lines]) + '\n'


def draw(results: dict, path: Path) -> None:
    """Accuracy over labels and over mask ratios, the latter beside the paper's."""
    labels, from_scratch, tuned, probed, probes = list(results)[:5]
    untrained = dict.fromkeys(results[probed], results[probes]['untrained'])
    plots.panels(path, [[
        ('labels', {name: results[name] for name in (labels, from_scratch)}),
        (paper.MASK_RATIO, {tuned: results[tuned], probed: results[probed], 'linear probe, untrained encoder': untrained}),
        theirs(paper.MASK_RATIO)]])


def theirs(what: str) -> tuple[str, dict]:
    """The paper's panel of what was varied."""
    return f'{what}: the paper, ViT-L on ImageNet', {
        label: {choice: [figures[i]] for choice, figures in paper.ABLATIONS[what].items()}
        for i, label in enumerate(('fine-tuned', 'linear probe'))}


def draw_full(results: dict, path: Path) -> None:
    """The ablations, and the paper's below them where it has them."""
    ours = [(what, {name.removeprefix(f'{what}: '): results[name] for name in ablation(what)}) for what in small.ABLATIONS]
    partial = {'fine-tuned': {f'{blocks:g}': [value] for blocks, value in paper.PARTIAL.items() if blocks != 0.5}}
    shared = [what for what in small.ABLATIONS if what in paper.ABLATIONS]
    plots.panels(path, [
        [*(panel for panel in ours if panel[0] in shared), (PARTIAL, {'fine-tuned': results[PARTIAL]})],
        [*map(theirs, shared), ('blocks that are fine-tuned: the paper, of 24', partial)],
        [panel for panel in ours if panel[0] not in shared]])


def drawings(results: dict) -> dict:
    """The end of a file's name -> what draws it(results, path)."""
    return {'.png': draw} | ({'_full.png': draw_full} if PARTIAL in results else {})


def published(full: bool) -> list[str]:
    """What the paper has for the same questions."""
    return [f'{what}, taken over from the paper (ViT-L on ImageNet, fine-tuned / linear probe): {paper.choices(what)}'
            for what in (paper.MASK_RATIO, *(small.ABLATIONS if full else ())) if what in paper.ABLATIONS]


def record(prefix: str, out: Path, results: dict, flags: str, minutes: float | None) -> None:
    """The record of a whole reproduction; its log are the results of every run, its weights the first autoencoder."""
    start = out / f'pretrain_{USUAL}_0'
    weights = start / f'checkpoint-{epochs_of(start) - 1}.pd'
    log, pictures = out / 'results.json', drawings(results)
    report.write(prefix, {
        'claim': 'Small scale: pre-training, labels and mask ratio on scanned digits', 'status': 'measured',
        'model': 'vit_nano_patch4', 'run': f'python demo/reproduce.py {flags}',
        'result': {figure: ', '.join(f'{varied}: {spread(values)}' for varied, values in cells.items())
                   for figure, cells in results.items()},
        'published': published(PARTIAL in results), 'pictures': [f'{Path(prefix).name}{ending}' for ending in pictures],
        'settings': {'commit': provenance.commit()}, 'environment': provenance.environment(),
        'figures': {'minutes': 'not recorded: the runs are of several sittings' if minutes is None else round(minutes)},
        'log': {'file': f'{Path(prefix).name}.log.json', 'sha256': report.sha256(log)},
        'weights': {'file': weights.name, 'sha256': report.sha256(weights), 'licence': 'none, made by this run'}}, log)
    for ending, drawn in pictures.items():
        drawn(results, Path(f'{prefix}{ending}'))


def main(args):
    out = Path(args.out).resolve()
    data = out / 'data'
    run.make_folder('--out', str(data))
    if not (data / 'digits').exists():
        subprocess.run([sys.executable, str(ROOT / 'demo/make_digits.py'), '--out', str(data / 'digits')], check=True)
    for seed in range(args.seeds):
        draw_labels(data, seed)
    full = min(args.full, args.seeds)
    cells = plan(args.seeds, args.epochs, data, full)
    begun, began = any(epochs_of(out / cell.name) for cell in cells), time.perf_counter()
    execute_all(cells, out, args.jobs)
    results = collect(out, args.seeds, full)
    (out / 'results.json').write_text(json.dumps(results, indent=1) + '\n')
    (out / 'results.md').write_text(table(results))
    for ending, drawn in drawings(results).items():
        drawn(results, out / f'results{ending}')
    minutes = (time.perf_counter() - began) / 60
    run.say(f'{table(results)}\n{len(cells)} runs; {minutes:.0f} minutes. {out / "results.png"}')
    if args.report:
        flags = f'--seeds {args.seeds} --epochs {args.epochs} --jobs {args.jobs}' + f' --full {full}' * bool(full)
        record(args.report, out, results, flags, None if begun else minutes)


PARSER = cli.parser(__doc__)
PARSER.add_argument('--out', default='demo/output/reproduce', metavar='DIR', help='folder of all runs and the results')
PARSER.add_argument('--seeds', type=cli.number(int, 1), default=3, help='runs of each cell')
PARSER.add_argument('--epochs', type=cli.number(int, 1), default=40, help='of pre-training')
PARSER.add_argument('--full', nargs='?', type=cli.number(int, 1), default=0, const=math.inf, metavar='SEEDS',
                    help='the ablations as well, some hours a seed; of so many seeds (of all)')
PARSER.add_argument('--jobs', type=cli.number(int, 1), default=os.cpu_count() or 1, help='runs at a time, of a thread '
                    'each')
PARSER.add_argument('--report', default=None, metavar='PREFIX', help='also write the record PREFIX.yaml, its page, log '
                    'and picture, such as reports/digits')

if __name__ == '__main__':
    run.program(main, PARSER)
