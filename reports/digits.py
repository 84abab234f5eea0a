"""The results of demo/reproduce.py: accuracies from its logs, their table, pictures and record."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recipes import ablations, small
from reports import plots
from util import provenance
from util import record as records
from util.weights import sha256

# A figure's name -> the choice that was varied -> one accuracy for each seed
Results = dict[str, dict[str, list[float]]]
# The title of a panel, and its curves: label -> choice -> accuracies
Panel = tuple[str, Results]

FINETUNED = 'fine-tuned from the autoencoder'
FROM_SCRATCH = 'from scratch, three times as long'
FINETUNED_BY_RATIO = f'fine-tuned with {small.FEW} labels, by mask ratio'
PROBED_BY_RATIO = 'linear probe, by mask ratio'
PROBED = 'linear probe'
PARTIAL = f'blocks that are fine-tuned, {small.ALL} labels'

IN_A_ROW = 4  # panels
TABLE_HEAD = 'Accuracy on 355 held-out digits, %, mean and standard deviation over the seeds.'
CLAIM = {
    'claim': 'Small scale: pre-training, labels and mask ratio on scanned digits',
    'status': 'measured',
    'model': 'vit_nano_patch4',
}


def epochs_of(folder: Path) -> int:
    """The number of epochs in the folder's log, 0 where there is none."""
    log = folder / 'log.txt'
    return len(log.read_text().splitlines()) if log.exists() else 0


def accuracies(out: Path, name: str, seeds: int) -> list[float]:
    """The accuracy after the last epoch of a cell, one for each seed."""
    values = []
    for seed in range(seeds):
        log = out / f'{name}_{seed}' / 'log.txt'
        last_epoch = json.loads(log.read_text().splitlines()[-1])
        values.append(last_epoch['test_acc1'])
    return values


def collect(out: Path, seeds: int, full: int = 0, swin: int = 0) -> Results:
    """All accuracies of a reproduction.

    full, swin: number of seeds of the ablations, and of the comparison of Swins.
    """
    results = _questions(out, seeds)
    if full:
        results |= _ablations(out, full, swin)
        results[PARTIAL] = _partial(out, full)
    return results


def _questions(out: Path, seeds: int) -> Results:
    """The figures of the three questions that every reproduction asks."""
    names = (FINETUNED, FROM_SCRATCH, FINETUNED_BY_RATIO, PROBED_BY_RATIO)
    results = {name: {} for name in names}
    for count in small.LABELS:
        choice = str(count)
        results[FINETUNED][choice] = accuracies(out, f'tune_{small.RATIO}_{count}', seeds)
        results[FROM_SCRATCH][choice] = accuracies(out, f'scratch_{count}', seeds)
    for ratio in small.RATIOS:
        choice = str(ratio)
        results[FINETUNED_BY_RATIO][choice] = accuracies(out, f'tune_{ratio}_{small.FEW}', seeds)
        results[PROBED_BY_RATIO][choice] = accuracies(out, f'probe_{ratio}', seeds)
    results[PROBED] = {
        'autoencoder': accuracies(out, f'probe_{small.RATIO}', seeds),
        'untrained': accuracies(out, 'probe_untrained', seeds),
    }
    return results


def _ablations(out: Path, full: int, swin: int) -> Results:
    """Two figures for each ablation: fine-tuning and linear probe."""
    results = {}
    for what, choices in small.ABLATIONS.items():
        tuned, probed = names_of(what)
        seeds = swin if what == small.SWIN else full
        results[tuned] = {}
        results[probed] = {}
        for choice, cell in choices.items():
            results[tuned][choice] = accuracies(out, f'tune_{cell.name}_{small.FEW}', seeds)
            results[probed][choice] = accuracies(out, f'probe_{cell.name}', seeds)
    return results


def _partial(out: Path, seeds: int) -> dict[str, list[float]]:
    """The number of fine-tuned blocks -> accuracies; all blocks are the usual fine-tuning."""
    choices = {}
    for blocks in small.TUNED_BLOCKS:
        choices[str(blocks)] = accuracies(out, f'partial_{blocks}', seeds)
    usual = f'tune_{small.RATIO}_{small.ALL}'
    choices[str(small.BLOCKS)] = accuracies(out, usual, seeds)
    return choices


def names_of(what: str) -> tuple[str, str]:
    """The names of an ablation's two figures."""
    return f'{what}: fine-tuned with {small.FEW} labels', f'{what}: linear probe'


def spread(values: list[float]) -> str:
    """Mean and standard deviation (of a sample, n - 1) as text."""
    mean = f'{np.mean(values):.1f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {np.std(values, ddof=1):.1f}'


def in_a_line(cells: dict[str, list[float]]) -> str:
    """A figure's choices, each with mean and standard deviation."""
    return ', '.join(f'{choice}: {spread(values)}' for choice, values in cells.items())


def table(results: Results) -> str:
    """A line for each figure, in Markdown."""
    lines = [f'- {figure}: {in_a_line(cells)}\n' for figure, cells in results.items()]
    return f'{TABLE_HEAD}\n\n' + ''.join(lines)


def draw(results: Results, path: Path) -> None:
    """Accuracy over the number of labels and over mask ratios, the latter beside the paper's."""
    by_labels = {name: results[name] for name in (FINETUNED, FROM_SCRATCH)}
    by_ratio = {name: results[name] for name in (FINETUNED_BY_RATIO, PROBED_BY_RATIO)}
    # no mask ratio belongs to it: a band across the panel
    by_ratio['linear probe, untrained encoder'] = {'': results[PROBED]['untrained']}
    row = [('labels', by_labels), (ablations.MASK_RATIO, by_ratio), theirs(ablations.MASK_RATIO)]
    plots.panels(path, [row])


def draw_full(results: Results, path: Path) -> None:
    """Rows of ablations, and below each the paper's, where it has them.

    A record from before an ablation was added lacks its figures; that panel is left out.
    """
    measured = [what for what in small.ABLATIONS if names_of(what)[0] in results]
    shared = [what for what in measured if what in ablations.ABLATIONS]
    others = [what for what in measured if what not in ablations.ABLATIONS]
    our_blocks = (PARTIAL, {'fine-tuned': results[PARTIAL]})
    curve = {f'{blocks:g}': [value] for blocks, value in ablations.PARTIAL.items()}
    their_blocks = ('blocks that are fine-tuned: the paper, of 24', {'fine-tuned': curve})

    above = [ours(results, what) for what in shared] + [our_blocks]
    below = [theirs(what) for what in shared] + [their_blocks]
    rows = []
    for first in range(0, len(above), IN_A_ROW):
        rows.append(above[first : first + IN_A_ROW])
        rows.append(below[first : first + IN_A_ROW])
    rows.append([ours(results, what) for what in others])
    plots.panels(path, rows)


def ours(results: Results, what: str) -> Panel:
    """Our panel of an ablation."""
    curves = {}
    for name in names_of(what):
        label = name.removeprefix(f'{what}: ')
        curves[label] = results[name]
    return what, curves


def theirs(what: str) -> Panel:
    """The paper's panel of an ablation."""
    curves = {'fine-tuned': {}, 'linear probe': {}}
    for choice, (tuned, probed) in ablations.ABLATIONS[what].items():
        curves['fine-tuned'][choice] = [tuned]
        curves['linear probe'][choice] = [probed]
    return f'{what}: the paper, ViT-L on ImageNet', curves


def drawings(results: Results) -> dict[str, Callable]:
    """The ending of a picture's file name -> the function(results, path) that draws it."""
    by_ending = {'.png': draw}
    if PARTIAL in results:
        by_ending['_full.png'] = draw_full
    return by_ending


def published(full: bool) -> list[str]:
    """The paper's results on the same questions, a line each."""
    asked = [ablations.MASK_RATIO]
    if full:
        asked += [what for what in small.ABLATIONS if what in ablations.ABLATIONS]
    origin = 'taken over from the paper (ViT-L on ImageNet, fine-tuned / linear probe)'
    return [f'{what}, {origin}: {ablations.choices(what)}' for what in asked]


def record(prefix: str, out: Path, results: Results, flags: str, minutes: float | None) -> None:
    """Write the record of a reproduction, with its page and pictures.

    Its log are the accuracies of every run, its weights those of the first autoencoder. flags: of
    demo/reproduce.py. minutes: None where the runs were made in several sessions.
    """
    name = Path(prefix).name
    log = out / 'results.json'
    start = out / f'pretrain_{small.RATIO}_0'
    weights = start / f'checkpoint-{epochs_of(start) - 1}.pd'
    pictures = drawings(results)
    if minutes is None:
        duration = 'not recorded: the runs are of several sittings'
    else:
        duration = round(minutes)

    contents = {**CLAIM, 'run': f'python demo/reproduce.py {flags}'}
    contents['result'] = {figure: in_a_line(cells) for figure, cells in results.items()}
    contents['published'] = published(PARTIAL in results)
    contents['pictures'] = [f'{name}{ending}' for ending in pictures]
    contents['environment'] = provenance.environment()
    contents['figures'] = {'minutes': duration}
    contents['log'] = {'file': f'{name}.log.json', 'sha256': sha256(log)}
    contents['weights'] = {
        'file': weights.name,
        'sha256': sha256(weights),
        'licence': 'none, made by this run',
    }
    records.write(prefix, contents, log)
    for ending, draw_picture in pictures.items():
        draw_picture(results, Path(f'{prefix}{ending}'))
