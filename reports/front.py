"""reports/README.md: every claim with its status, made from the recipes and the records."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import recipes
from recipes import ablations, cost, detect, official, paper, ports, segment, um_mae
from util import record as records

# A family of runs -> the module of its recipes, and the beginnings of their names
FAMILIES = {
    'The official runs and the paper': (official, ('',)),
    "The paper's ablations": (paper, ('ablation_',)),
    'Robustness to other images': (paper, ('robustness_',)),
    'Transfer to iNaturalist and Places': (paper, ('transfer_',)),
    'mmselfsup and mmpretrain': (ports, ('mmselfsup_', 'mmpretrain_')),
    'mae-paddle, an earlier port': (ports, ('mae_paddle_',)),
    'PASSL': (ports, ('passl_',)),
    'UM-MAE': (um_mae, ('um_mae_',)),
    'SimMIM': (um_mae, ('simmim_',)),
    'Segmentation on ADE20K': (segment, ('',)),
    'Detection on COCO': (detect, ('',)),
}
# The runs that tell most for their price come first: evaluations of an hour, then days of training
FIRST = (
    'eval_vit_base',
    'eval_vit_large',
    'eval_vit_huge',
    'eval_segment_vit_base',
    'linprobe_vit_base',
    'finetune_vit_base',
    'finetune_vit_large',
    'um_mae_pretrain_pvt_small',
    'um_mae_pretrain_swin_tiny',
    'pretrain_vit_base',
    'pretrain_vit_large',
)
# Steps of Paddle's reproduction guide -> the rungs of a ladder that cover them
STEPS = {
    'forward': ('blocks', 'features', 'prediction', 'logits'),
    'loss': ('loss',),
    'backward': ('gradients',),
    'training': ('losses of the steps', 'weights after the steps'),
    'evaluation': ('metric', 'sliding window'),
}

HEAD = """# Reports

This page lists the published results, and says which of them were measured with this code and
which are only quoted. `python -m reports` makes it from [the recipes](../recipes) and the
records in this folder; do not edit it by hand. [index.html](index.html) has the same in one page
for a browser, with all records, curves and a table to sort; it opens from a clone, without a
server. Speed is in [speed.md](speed.md).

| status | meaning | published results | others |
|---|---|---|---|
"""
NOTHING = """No result on ImageNet, ADE20K or COCO was measured here. The records under "others" are
comparisons with the original code on random weights, and two small trainings.
"""

CLAIMS = """## Claims

The first figure of each run is the one to expect. Hours are summed over all devices. They are
published, or estimated (~) from multiply-adds at the speed of published runs on V100s, which
includes data loading. A run that starts from the weights of another run also needs that run's
hours, unless those weights were published. A line stands for a family of runs; click on it for the
runs.
"""

ALIGNMENT = """## Alignment with the originals

The columns are the steps of Paddle's reproduction guide. A cell is the largest difference of any
tensor, relative to the largest entry of that tensor. For training, it is relative to the
distance that the tensor moved. Both sides have the same random weights (from
tests/originals/references/make_files.py) and the same input, and compute in float32 on a CPU.
Each record names its weights and input, and says what was not compared.

- ViTs are compared by main_parity.py. The segmentor (with mmsegmentation) and UM-MAE are
  compared by tests/originals. UM-MAE has no package of the original, so its reference is NumPy
  with timm's blocks. Its loss and prediction are from pre-training, its gradients from a
  classifier.
- A star means the length of the difference, relative to the length of the tensor. There, some of
  the many ReLU inputs are so close to 0 that rounding decides their sign.
- Data and metrics need no weights. tests/originals shows that crop, resize, flip and
  normalisation equal torchvision's, the augmentations timm's, and mIoU mmsegmentation's.
  main_parity.py --data_path compares accuracies.
"""

SUITES = """## On GPUs

What `bash tests/run.sh --gpu` found on machines with GPUs. A page says which cases failed, and has
memory and images a second of the official recipes.
"""

SMALL = """## Small scale, without GPUs

`python demo/reproduce.py --report reports/digits` asks three questions on 1442 scanned digits,
with three seeds each. Does fine-tuning beat training from scratch, for several numbers of
labels? Does the linear probe beat an untrained encoder? Which mask ratio is best? It takes about
42 minutes on two cores (one seed was timed: 14 minutes). The answers show whether pre-training
works in this code; they say nothing about ImageNet. `--full` adds more of the paper's ablations:
decoder depth and width, mask tokens in the encoder, targets, augmentation, kinds of masks, length
of pre-training, partial fine-tuning, and a Swin trained with UM-MAE and with SimMIM.
"""

GPUS = """## With GPUs: from not-run to measured

The runs that tell most for their price come first. `python -m recipes NAME --devices N` prints
the command for your machines, and names the weights that it starts from.
"""

ADD = """## How to add a record

1. `python -m recipes NAME --devices N` prints the command. Run it and keep its output:
   `... 2>&1 | tee console.txt`.
2. `python -m reports NAME --output_dir output_dir --console console.txt` reads log.txt and the
   newest checkpoint there. It writes `reports/NAME.yaml` (the record), `.md` (its page),
   `.log.txt`, `.png` (the curves, with the published points beside them) and this page.
   Segmentation, and the evaluation of somebody else's weights, write no log.txt. Use
   `--checkpoint FILE --console console.txt` for them; the record of an evaluation gets the
   status `ported-eval`.
3. Read the warnings: an effective batch or a flag that differs from the recipe's, epochs that
   are missing in the log, an accuracy outside the band around the published one. They stay in
   the record. Write your interpretation of the figures into a list `reading` in the record, and
   differences from the original into a list `deviations`. Then `python -m reports` updates the
   pages.
4. Commit the four files. The weights stay with you; the record holds their SHA-256.

A record with the status `measured` or `ported-eval` needs the hash of the weights and a log (or,
where nothing was trained, a parity ladder). A log that was changed afterwards is refused. This
draws several runs into one picture:
`python -m reports --plot curves.png --logs first/log.txt second/log.txt`.
"""

CONTRADICTIONS = """## Contradictions in the published numbers

- The official files of ViT-B and ViT-L reach 83.664 and 85.952. These equal the best of the four
  official reruns (83.66 and 85.95). Expect their means instead, 83.57 and 85.87. The published
  deviations, 0.08 and 0.07, are those of the four runs themselves; as estimates for further runs
  they are 0.09 and 0.08.
- The paper's fine-tuning settings (table 9: base rate 1e-3, layer decay 0.75) are not the ones
  that gave its best figures (table 3). The official document has others (ViT-B: 5e-4, 0.65),
  which are used here.
- Nobody published settings for the paper's ViT-H at 448 pixels (87.8). mmpretrain's statements
  of its batch disagree: 256 in the metafile and the name, 128 per GPU in the file, a schedule
  for 1024. It reached 87.3.
- mmselfsup has two figures for ViT-B after 300 epochs: 82.8 now; 83.1 in an earlier version and
  in mmpretrain. It has 83.3 for 400 epochs as well as for 800. Its older branch has 83.1 for
  400, a pull request 82.93, and a third party 82.3 to 82.5.
- Linear probes by one recipe for ViT-B range from 67.1 (mmselfsup) to 68.08 (PASSL). For ViT-H
  the repository has 77.2 and the paper 76.6.
- ViT-L after 800 epochs, normalised pixels, fine-tuned: 85.4 in the paper, 85.5 in the
  repository, 85.2 by a third party.
- UM-MAE: random and uniform masks give ViT-B the same 82.88. Swin-L had 85.3 until 2022-12-03
  and has 85.2 since. The Makefile fine-tunes it from the folder of a 200-epoch run, but the
  published run has 800 epochs. UM-MAE compares it with SimMIM's Swin-L, which has 85.4 in its
  own repository and 84.8 in mmpretrain. UM-MAE claims to be twice as fast as SimMIM; by its own
  hours the factor is 1.97 for Swin-T and 1.78 for PVT-S.
- The paper trains UPerNet for 100 epochs, which are 126 thousand iterations at batch 16.
  mmsegmentation's 48.13, usually quoted beside the paper's 48.1, took 160 thousand.
- mmpretrain's FLOPs are multiply-adds, half the number of operations, and for MAE those of the
  dense encoder. Masked pre-training of ViT-B takes 9.8 G an image, not 17.6 G, and more than
  half of that is the decoder.
"""

PAPER = """## Quoted from the paper

The tables of transfer and robustness in one; the ablations are among the runs above.
"""

HEADER = ('run', 'to expect', 'status', 'here', 'device-hours')


@dataclass
class Found:
    """The records in a folder, by name.

    done: recipe -> (name of its record, record). ladders: comparisons with the originals. suites:
    acceptance suites of machines with GPUs. small: the others, trainings without GPUs.
    """

    done: dict[str, tuple[str, dict]]
    ladders: dict[str, dict]
    suites: dict[str, dict]
    small: dict[str, dict]

    @property
    def all(self) -> dict[str, dict]:
        """Every record: first the runs by recipes, then suites, small trainings, ladders."""
        of_recipes = dict(self.done.values())
        return of_recipes | self.suites | self.small | self.ladders


def find(folder: str | Path) -> Found:
    """The records in a folder; InputError says what is wrong with one."""
    found = Found({}, {}, {}, {})
    for path in sorted(Path(folder).glob('*.yaml')):
        name = path.stem
        record = records.read(path)
        if 'recipe' in record:
            found.done[record['recipe']] = (name, record)
        elif record.get('parity'):
            found.ladders[name] = record
        elif record.get('cases'):
            found.suites[name] = record
        else:
            found.small[name] = record
    return found


def page(folder: str | Path) -> str:
    """The front page of a folder of records."""
    found = find(folder)
    lines = _statuses(found)
    lines += _suites(found.suites)
    lines += _alignment(found.ladders)
    lines += _small(found.small)
    lines += _claims(found.done)
    lines += _first(found.done)
    lines += [ADD, *_paper(), CONTRADICTIONS]
    return '\n'.join(lines)


def families() -> dict[str, list[recipes.Recipe]]:
    """The recipes of each of FAMILIES."""
    by_title = {}
    for title, (module, prefixes) in FAMILIES.items():
        by_title[title] = [run for run in module.RECIPES if run.name.startswith(prefixes)]
    return by_title


def count(found: Found) -> dict[str, tuple[int, int]]:
    """The number of published results and of other records with each status."""
    runs = itertools.chain(*families().values())
    published = [status(run, found.done) for run in runs if run.figures]
    others = [*found.ladders.values(), *found.suites.values(), *found.small.values()]
    others = [record['status'] for record in others]
    return {name: (published.count(name), others.count(name)) for name in records.STATUSES}


def _statuses(found: Found) -> list[str]:
    """The table that counts published results and other records by their status."""
    rows = []
    for name, (published, others) in count(found).items():
        meaning = records.STATUSES[name]
        rows.append(f'| {name} | {meaning} | {published} | {others or ""} |')
    lines = [HEAD + '\n'.join(rows), '']
    if not found.done:
        lines.append(NOTHING)
    return lines


def status(recipe: recipes.Recipe, done: dict) -> str:
    """The status of a run: its record's, or why it has none."""
    if recipe.name in done:
        _, record = done[recipe.name]
        return record['status']
    return 'not-run' if recipe.program else 'taken-over'


def _claims(done: dict) -> list[str]:
    """The runs that have a record, and a folded table of the others of each family."""
    lines = [CLAIMS]
    measured = [recipe for runs in families().values() for recipe in runs if recipe.name in done]
    if measured:
        rows = [row(recipe, done) for recipe in measured]
        lines += [*records.table([HEADER, *rows]), '']
    for title, runs in families().items():
        others = [recipe for recipe in runs if recipe.name not in done]
        if others:
            lines += _folded(title, others, done)
    return lines


def _folded(title: str, runs: list[recipes.Recipe], done: dict) -> list[str]:
    """One line that unfolds to a table of the runs."""
    statuses = [status(recipe, done) for recipe in runs]
    counts = [f'{statuses.count(name)} {name}' for name in records.STATUSES if name in statuses]
    rows = [row(recipe, done) for recipe in runs]
    return [
        '<details>',
        f'<summary>{title}: {", ".join(counts)}</summary>',
        '',
        *records.table([HEADER, *rows]),
        '',
        '</details>',
        '',
    ]


def row(recipe: recipes.Recipe, done: dict) -> list[str]:
    """A recipe under HEADER, in Markdown."""
    run = recipe.name
    if recipe.name in done:
        name, _ = done[recipe.name]
        run = f'[{recipe.name}]({name}.md)'
    expected = '; '.join(str(figure) for figure in recipe.figures)
    return [run, expected, status(recipe, done), measured_here(recipe, done), cost.hours(recipe)]


def measured_here(recipe: recipes.Recipe, done: dict) -> str:
    """The result of a run here, and the number of its warnings."""
    if recipe.name not in done:
        return ''
    _, record = done[recipe.name]
    metric = recipe.figures[0].metric if recipe.figures else None
    value = record['result'].get(metric)
    here = '' if value is None else f'{value:.2f}'
    if record.get('warnings'):
        here += f', {len(record["warnings"])} warnings'
    return here


def _alignment(found: dict) -> list[str]:
    """The steps of Paddle's reproduction guide, from the records with a ladder."""
    rows = [('record', 'status', *STEPS)]
    for name, record in found.items():
        rungs = {rung['name']: rung for rung in record.get('parity', [])}
        cells = []
        for names in STEPS.values():
            covered = [rungs[step] for step in names if step in rungs]
            cells.append(_worst(covered))
        title = name.removeprefix('parity_')
        rows.append((f'[{title}]({name}.md)', record['status'], *cells))
    return [ALIGNMENT, *records.table(rows), '']


def _suites(found: dict) -> list[str]:
    """The acceptance suites of machines with GPUs; nothing where there are none."""
    if not found:
        return []
    lines = [SUITES]
    for name, record in found.items():
        lines.append(f'- [{record["claim"]}]({name}.md)')
    return [*lines, '']


def _small(found: dict) -> list[str]:
    lines = [SMALL]
    for name, record in found.items():
        lines += [f'[{record["claim"]}]({name}.md), {record["status"]}:', '']
        for figure, value in record.get('result', {}).items():
            lines.append(f'- {figure}: {value}')
        lines += ['', *records.shown(record)]
        if record.get('reading'):
            lines += ['How we read it:', '']
            lines += [f'- {entry}' for entry in record['reading']]
            lines.append('')
    return lines


def _worst(rungs: list[dict]) -> str:
    """The largest relative difference; a star where it is of lengths, FAILED where a rung did."""
    if not rungs:
        return ''
    largest = max(rung['relative'] for rung in rungs)
    text = f'{largest:.1e}' if largest else '0'
    if any('length of the difference' in rung.get('note', '') for rung in rungs):
        text += '\\*'
    if not all(rung['passed'] for rung in rungs):
        text += ' FAILED'
    return text


def _first(done: dict) -> list[str]:
    """The runs of FIRST that have no record, with the figure that each would confirm."""
    rows = [('run', 'device-hours', 'settles')]
    for name in FIRST:
        if name not in done:
            recipe = recipes.find(name)
            rows.append((f'`{name}`', cost.hours(recipe), _settles(recipe)))
    return [GPUS, *records.table(rows), '']


def _settles(recipe: recipes.Recipe) -> str:
    """The figure of a run, or of the first run that starts from its weights."""
    if recipe.figures:
        return str(recipe.figures[0])
    for other in recipes.ALL:
        if other.checkpoint == recipe.name and other.figures:
            return f'{other.figures[0]}, after {other.name}'
    return ''


def _paper() -> list[str]:
    rows = [('table', 'result', *ablations.COLUMNS)]
    for table, what, values in ablations.TRANSFER:
        cells = ['' if value is None else str(value) for value in values]
        rows.append((table, what, *cells))
    return [PAPER, *records.table(rows), '']
