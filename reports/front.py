"""reports/README.md: every claim against its status, made from the recipes and the records."""

from pathlib import Path

import recipes
from recipes import cost, official, paper, ports, segment, um_mae
from util import record as records

GROUPS = {
    'The official runs and the paper': official,
    'Other code bases': ports,
    'UM-MAE and SimMIM': um_mae,
    'Segmentation on ADE20K': segment,
}
# In the order in which they pay: an hour first, then days
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
# Of Paddle's reproduction guide
STEPS = {
    'forward': ('blocks', 'features', 'prediction', 'logits'),
    'loss': ('loss',),
    'backward': ('gradients',),
    'training': ('losses of the steps', 'weights after the steps'),
    'evaluation': ('metric', 'sliding window'),
}

HEAD = """# Reports

What of the published results was measured with this code, and what is only quoted. Made by `python -m reports` from
[the recipes](../recipes) and the records in this folder; not edited by hand. How fast it is stands in
[speed.md](speed.md).

| status | meaning | published results | others |
|---|---|---|---|
"""
NOTHING = """Of ImageNet and ADE20K nothing was measured here. The others are comparisons with the original code on random
weights, and two small trainings.
"""

CLAIMS = """## Claims

The first figure is the one to expect. Hours are of all devices together: published, or estimated (~) from multiply-adds at
the rates that published runs reached on V100s, loading included. A run needs those of the one that it begins from as well,
unless weights of that were published.
"""

ALIGNMENT = """## Alignment with the originals

By the steps of Paddle's reproduction guide: the largest difference of any tensor, relative to its largest entry (training:
to the way that it moved). Same weights (random ones, by tests/originals/references/make_files.py), same input, float32 on a
CPU; each record says which, and what was not compared.
ViTs are compared by main_parity.py, the segmentor (with mmsegmentation) and UM-MAE (with NumPy and timm's blocks, for there
is no package of the original) by tests/originals; of UM-MAE loss and prediction are pre-training's, the gradients a
classifier's. A star: the length of the difference, relative to the tensor's, since of so many ReLUs some stand so near 0
that rounding decides. Data and metrics need no weights: crop, resize, flip and normalisation equal torchvision's, the
augmentations timm's, mIoU mmsegmentation's, by tests/originals; accuracies are compared by main_parity.py --data_path.
"""

SMALL = """## Small scale, without GPUs

`python demo/reproduce.py --report reports/digits` asks three questions on 1442 scanned digits, three seeds each:
fine-tuning against training from scratch over the number of labels, the linear probe against an untrained encoder, and the
paper's mask ratio. It takes some 42 minutes of two cores (one seed was timed: 14) and tells whether the machinery does what
pre-training is for, and nothing about ImageNet. `--full` adds more of the paper's ablations: decoder depth, normalised
pixels, kinds of masks, length of pre-training, partial fine-tuning, and a Swin by UM-MAE and by SimMIM.
"""

GPUS = """## With GPUs: from not-run to measured

What pays first. `python -m recipes NAME --devices N` prints the command for your machines, and names the weights that
it begins from.
"""

ADD = """## How to add a record

1. `python -m recipes NAME --devices N` prints the command. Keep what it says: `... 2>&1 | tee console.txt`.
2. `python -m reports NAME --output_dir output_dir --console console.txt` reads log.txt and the newest checkpoint there.
   It writes `reports/NAME.yaml` (the record), `.md` (its page), `.log.txt`, `.png` (the curves, with the published points
   beside them) and this page. An evaluation of somebody's weights leaves no log.txt, nor does a segmentation:
   `--checkpoint FILE --console console.txt` makes a record, of an evaluation with the status `ported-eval`.
3. Read the warnings: an effective batch or a flag unlike the recipe's, epochs that the log lacks, an accuracy outside the
   band around the published one. They stay in the record. What you make of the figures goes into a list `reading` there,
   what was not as in the original into `deviations`; `python -m reports` makes the pages anew.
4. Commit the four files. The weights stay with you; the record holds their SHA-256.

`measured` and `ported-eval` are refused without the hash of the weights and a log (or, where nothing was trained, a parity
ladder); so is a log that was changed afterwards. Several runs in one picture:
`python -m reports --plot curves.png --logs first/log.txt second/log.txt`.
"""

CONTRADICTIONS = """## What does not add up in the published numbers

- The official files of ViT-B and ViT-L (83.664 and 85.952) equal the best of the four official reruns (83.66 and 85.95), not
  their means (83.57 and 85.87), which are what to expect. The published deviations, 0.08 and 0.07, are those of the four
  runs themselves; as estimates for further runs they are 0.09 and 0.08.
- The paper's fine-tuning settings (table 9: base rate 1e-3, layer decay 0.75) are not those behind its best figures (table
  3); the official document has others (ViT-B: 5e-4, 0.65), which are used here.
- Nobody published settings for the paper's ViT-H at 448 pixels (87.8). mmpretrain's statements of its batch disagree: 256 in
  the metafile and the name, 128 a GPU in the file, a schedule for 1024. It reached 87.3.
- mmselfsup has two figures for ViT-B after 300 epochs, 82.8 now and 83.1 before and in mmpretrain. Its 400 epochs do as well
  as 800 (83.3), while its older branch has 83.1 for 400, a pull request 82.93, and a third party 82.3 to 82.5.
- Linear probes of one ViT-B recipe range from 67.1 (mmselfsup) to 68.08 (PASSL); ViT-H's is 77.2 in the repository and 76.6
  in the paper.
- ViT-L after 800 epochs, normalised pixels, fine-tuned: 85.4 in the paper, 85.5 in the repository, 85.2 by a third party.
- UM-MAE: random and uniform masks give ViT-B the same 82.88. Swin-L was 85.3 until 2022-12-03 and is 85.2 since; the
  Makefile fine-tunes it from the folder of a 200-epoch run, where the published one has 800. SimMIM's Swin-L, with which it
  is compared, has 85.4 in its own repository and 84.8 in mmpretrain. "Twice as fast" as SimMIM is, by UM-MAE's own hours,
  1.97 times for Swin-T and 1.78 times for PVT-S.
- The paper trains UPerNet for 100 epochs, which at batch 16 are 126 thousand iterations; mmsegmentation's 48.13, usually
  quoted beside the paper's 48.1, took 160 thousand.
- mmpretrain's FLOPs are multiply-adds, half the operations, and for MAE those of the dense encoder: masked pre-training of
  ViT-B takes 9.8 G an image, not 17.6 G, and more than half of that is the decoder.
"""

HEADER = ('run', 'to expect', 'status', 'here', 'device-hours')


def page(folder: str | Path) -> str:
    """The front page of a folder of records."""
    found = {path.stem: records.read(path) for path in sorted(Path(folder).glob('*.yaml'))}
    done = {
        record['recipe']: (name, record) for name, record in found.items() if 'recipe' in record
    }
    rows = {
        title: [_row(recipe, done) for recipe in module.RECIPES] for title, module in GROUPS.items()
    }
    other = {name: record for name, record in found.items() if 'recipe' not in record}
    ladders = {name: record for name, record in other.items() if record.get('parity')}
    small = {name: record for name, record in other.items() if name not in ladders}
    published = [row[2] for table in rows.values() for row in table if row[1]]
    others = [record['status'] for record in other.values()]
    lines = [
        HEAD
        + '\n'.join(
            f'| {status} | {meaning} | {published.count(status)} | {others.count(status) or ""} |'
            for status, meaning in records.STATUSES.items()
        ),
        '',
        *([] if done else [NOTHING]),
        CLAIMS,
    ]
    for title, table in rows.items():
        lines += [f'### {title}', '', *records.table([HEADER, *table]), '']
    lines += [*_alignment(ladders), *_small(small), *_first(done), ADD, *_paper(), CONTRADICTIONS]
    return '\n'.join(lines)


def _row(recipe: recipes.Recipe, done: dict) -> list[str]:
    expected = '; '.join(map(str, recipe.figures))
    if recipe.name not in done:
        return [
            recipe.name,
            expected,
            'not-run' if recipe.program else 'taken-over',
            '',
            cost.hours(recipe),
        ]
    name, record = done[recipe.name]
    value = record['result'].get(recipe.figures[0].metric) if recipe.figures else None
    here = '' if value is None else f'{value:.2f}'
    return [
        f'[{recipe.name}]({name}.md)',
        expected,
        record['status'],
        here + (f', {len(record["warnings"])} warnings' if record.get('warnings') else ''),
        cost.hours(recipe),
    ]


def _alignment(found: dict) -> list[str]:
    """The steps of Paddle's reproduction guide, by the records with a ladder."""
    rows = [('record', 'status', *STEPS)]
    for name, record in found.items():
        rungs = {rung['name']: rung for rung in record.get('parity', [])}
        cells = [
            _worst([rungs[step] for step in steps if step in rungs]) for steps in STEPS.values()
        ]
        rows.append((f'[{name.removeprefix("parity_")}]({name}.md)', record['status'], *cells))
    return [ALIGNMENT, *records.table(rows), '']


def _small(found: dict) -> list[str]:
    lines = [SMALL]
    for name, record in found.items():
        lines += [f'[{record["claim"]}]({name}.md), {record["status"]}:', '']
        lines += [f'- {figure}: {value}' for figure, value in record.get('result', {}).items()]
        lines += ['', *records.shown(record)]
        if reading := record.get('reading'):
            lines += ['How we read it:', '', *(f'- {entry}' for entry in reading), '']
    return lines


def _worst(rungs: list[dict]) -> str:
    if not rungs:
        return ''
    largest = max(rung['relative'] for rung in rungs)
    star = (
        '\\*' if any('length of the difference' in rung.get('note', '') for rung in rungs) else ''
    )
    return (
        (f'{largest:.1e}' if largest else '0')
        + star
        + ('' if all(rung['passed'] for rung in rungs) else ' FAILED')
    )


def _first(done: dict) -> list[str]:
    rows = [('run', 'device-hours', 'settles')]
    for recipe in map(recipes.find, FIRST):
        if recipe.name not in done:
            then = [
                other for other in recipes.ALL if other.checkpoint == recipe.name and other.figures
            ]
            figures = recipe.figures[:1] or tuple(other.figures[0] for other in then[:1])
            rows.append(
                (
                    f'`{recipe.name}`',
                    cost.hours(recipe),
                    '; '.join(map(str, figures))
                    + (f', after {then[0].name}' if not recipe.figures and then else ''),
                )
            )
    return [GPUS, *records.table(rows), '']


def _paper() -> list[str]:
    def cells(values):
        return ['' if value is None else str(value) for value in values]

    rows = [
        ('table', 'result', *paper.COLUMNS),
        *((table, what, *cells(values)) for table, what, values in paper.TRANSFER),
    ]
    lines = [
        '## Taken over from the paper',
        '',
        *records.table(rows),
        '',
        'ViT-L, 800 epochs, pixels not normalised (table 1, figures 5, 7): fine-tuned / linear probe, accuracy.',
        '',
    ]
    lines += [f'- {what}: {paper.choices(what)}' for what in paper.ABLATIONS]
    partial = ', '.join(f'{blocks:g}: {value}' for blocks, value in paper.PARTIAL.items())
    return [*lines, f'- blocks that are fine-tuned (figure 9): {partial}', '']
