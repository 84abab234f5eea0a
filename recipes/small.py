"""What runs without a GPU."""

from dataclasses import dataclass
from pathlib import Path

from recipes import paper
from recipes.recipe import Recipe

RECIPES = [
    Recipe(
        name='digits',
        program='demo/reproduce.py',
        model='vit_nano_patch4',
        data='scanned digits',
        flags='--out demo/output/reproduce',
        source='arXiv:2111.06377, its questions at a small scale',
        notes=(
            '66 runs of the three programs, three seeds of each, which take 14 minutes a seed, two at a time on two cores',
            '--full: 31 runs and some 20 minutes more a seed, and 14 of Swins in an hour',
        ),
    )
]


@dataclass(frozen=True)
class Choice:
    """What an ablation tries: the name of its folders, what it changes in the usual pre-training, how many times as long
    that is, and the encoder. Without flags (None) there is no pre-training."""

    name: str
    flags: str | None = ''
    length: float = 1
    encoder: str = 'vit_nano_patch4'


def _swin(name: str, flags: str | None) -> Choice:
    return Choice(f'swin_{name}', flags, encoder='swin_nano_32')


SWIN = 'Swin'
USUAL = Choice('0.75')  # the pre-training that the other figures of demo/reproduce.py begin from
# What is varied -> choice. Titles and choices are those of paper.ABLATIONS where the paper has them. Random masks leave a
# pyramid no smaller image to run on, so for a Swin they are SimMIM's, whose encoder sees mask tokens in their place.
ABLATIONS = {
    'decoder depth, in blocks': {
        '1': Choice('depth_1', '--model mae_vit_nano_patch4_dec64d1b'),
        '2': USUAL,
        '4': Choice('depth_4', '--model mae_vit_nano_patch4_dec64d4b'),
    },
    'target': {'pixels': USUAL, 'normalised pixels': Choice('normalised', '--norm_pix_loss')},
    'mask': {
        'random, 75 %': USUAL,
        'block, 50 %': Choice('block_50', '--masking block --mask_ratio 0.5'),
        'block, 75 %': Choice('block_75', '--masking block'),
        'grid, 75 %': Choice('grid_75', '--masking grid'),
        'uniform, 75 %': Choice('uniform_75', '--mask_regular'),
    },
    paper.LENGTH: {
        '0.25': Choice('length_0.25', length=0.25),
        '1': USUAL,
        '4': Choice('length_4', length=4),
    },
    SWIN: {
        'UM-MAE': _swin('um', '--model mae_swin_nano_32 --mask_regular'),
        'and secondary masks': _swin(
            'um_secondary', '--model mae_swin_nano_32 --mask_regular --vis_mask_ratio 0.25'
        ),
        'SimMIM, random masks': _swin('simmim', '--model simmim_swin_nano_32'),
        'SimMIM, uniform masks': _swin(
            'simmim_uniform', '--model simmim_swin_nano_32 --mask_regular'
        ),
        'no pre-training': _swin('none', None),
    },
}

# shares of the patches that are removed; the usual one
RATIOS, RATIO = (0.25, 0.5, 0.75, 0.9), 0.75
# how many in all -> epochs of fine-tuning; the last are all of them
LABELS = {10: 100, 50: 60, 100: 30, 300: 20, 1442: 8}
LONGER = 3  # times as many epochs from scratch, as in the paper: 300 against 100
FEW, ALL = 100, 1442  # labels for comparing mask ratios and ablations; for partial fine-tuning
INPUT = [
    '--input_size',
    '32',
    '--in_chans',
    '1',
    '--hflip',
    '0',
    '--num_workers',
    '0',
    '--log_dir',
    '',
    '--device',
    'cpu',
    '--print_freq',
    '1000',
]
PRETRAIN = ['--model', 'mae_vit_nano_patch4', '--batch_size', '128', '--blr', '4e-3']
CLASSIFIER = ['--model', 'vit_nano_patch4', '--nb_classes', '10', '--scale', '.6', '1']
BLOCKS = 4  # of that model
FINETUNE = [*CLASSIFIER, '--aa', 'none', '--reprob', '0', '--save_every', '1000']
PROBE = [
    *CLASSIFIER,
    '--batch_size',
    '128',
    '--epochs',
    '10',
    '--warmup_epochs',
    '1',
    '--lr',
    '10',
    '--global_pool',
    '--save_every',
    '1000',
]


@dataclass(frozen=True)
class Cell:
    """One training: its folder's name, program, epochs, flags; `after` is the pre-training that it begins from."""

    name: str
    program: str
    epochs: int
    flags: tuple[str, ...]
    after: str = ''


def plan(seeds: int, pretrain_epochs: int, data: Path, full: int = 0, swin: int = 0) -> list[Cell]:
    """All cells, pre-trainings first. data: where the digits and, in labels_<count>_<seed>, lists of labelled ones are.
    full, swin: of how many seeds the ablations as well, and the comparison of Swins."""
    cells = []
    for seed in range(seeds):
        for ratio in RATIOS:
            start = f'pretrain_{ratio}_{seed}'
            cells += [
                pretrain(start, pretrain_epochs, seed, data, '--mask_ratio', str(ratio)),
                probe(f'probe_{ratio}_{seed}', seed, data, start),
            ]
            cells += [
                finetune(f'tune_{ratio}_{count}_{seed}', count, seed, data, start)
                for count in LABELS
                if ratio == RATIO or count == FEW
            ]
        cells.append(probe(f'probe_untrained_{seed}', seed, data))
        cells += [finetune(f'scratch_{count}_{seed}', count, seed, data) for count in LABELS]
        if seed < full:
            cells += [
                finetune(
                    f'partial_{blocks}_{seed}',
                    ALL,
                    seed,
                    data,
                    f'pretrain_{RATIO}_{seed}',
                    '--freeze_blocks',
                    str(BLOCKS - blocks),
                )
                for blocks in range(BLOCKS)
            ]
        for what, choices in ABLATIONS.items():
            if seed < (swin if what == SWIN else full):
                cells += ablation(choices, pretrain_epochs, seed, data)
    return sorted(cells, key=lambda cell: cell.program != 'main_pretrain.py')


def ablation(choices: dict[str, Choice], pretrain_epochs: int, seed: int, data: Path) -> list[Cell]:
    """A seed's cells of what one ablation varies."""
    cells = []
    for choice in choices.values():
        if choice == USUAL:
            continue
        start, encoder = f'pretrain_{choice.name}_{seed}', ('--model', choice.encoder)
        if choice.flags is None:
            start = ''
        else:
            epochs = max(1, round(choice.length * pretrain_epochs))
            cells.append(pretrain(start, epochs, seed, data, *choice.flags.split()))
        cells += [
            finetune(f'tune_{choice.name}_{FEW}_{seed}', FEW, seed, data, start, *encoder),
            probe(f'probe_{choice.name}_{seed}', seed, data, start, *encoder),
        ]
    return cells


def pretrain(name: str, epochs: int, seed: int, data: Path, *flags: str) -> Cell:
    return Cell(
        name,
        'main_pretrain.py',
        epochs,
        (
            *PRETRAIN,
            '--mask_ratio',
            str(RATIO),
            '--warmup_epochs',
            str(max(1, epochs // 10)),
            '--save_every',
            '1000',
            '--seed',
            str(seed),
            '--data_path',
            str(data / 'digits'),
            *flags,
        ),
    )


def probe(name: str, seed: int, data: Path, after: str = '', *flags: str) -> Cell:
    return Cell(
        name,
        'main_linprobe.py',
        10,
        (*PROBE, '--seed', str(seed), '--data_path', str(data / 'digits'), *flags),
        after,
    )


def finetune(name: str, count: int, seed: int, data: Path, after: str = '', *flags: str) -> Cell:
    """From pre-trained weights with decaying rates, or from scratch for longer, with the rate that suits that better."""
    epochs = LABELS[count] * (1 if after else LONGER)
    rates = (
        ('--lr', '3e-3', '--layer_decay', '.65')
        if after
        else ('--lr', '2e-3', '--layer_decay', '1')
    )
    return Cell(
        name,
        'main_finetune.py',
        epochs,
        (
            *FINETUNE,
            *rates,
            '--batch_size',
            str(min(20, count)),
            '--epochs',
            str(epochs),
            '--warmup_epochs',
            str(max(1, epochs // 10)),
            '--seed',
            str(seed),
            '--data_path',
            str(data / f'labels_{count}_{seed}'),
            *flags,
        ),
        after,
    )
