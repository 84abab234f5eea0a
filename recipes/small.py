"""The runs of demo/reproduce.py, which need no GPU."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from recipes import ablations
from recipes.ablations import Choice
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
            '66 runs of the three programs, three seeds of each, which take 14 minutes a seed, '
            'two at a time on two cores',
            '--full: 53 runs and some 35 minutes more a seed, and 14 of Swins in an hour',
        ),
    )
]


SWIN = 'Swin'
SWIN_ENCODER = 'swin_nano_32'
UM_MAE = '--model mae_swin_nano_32 --mask_regular'
SIMMIM = '--model simmim_swin_nano_32'
USUAL = Choice('0.75')  # the pre-training that the other figures of demo/reproduce.py start from


def of_the_paper(what: str) -> dict[str, Choice]:
    """The choices of one of the paper's ablations, where they are the same at this scale."""
    own = ablations.CHOICES[what]
    return {choice: own.get(choice, USUAL) for choice in ablations.ABLATIONS[what]}


# What is varied -> choice. The names are those of ablations.ABLATIONS, where the paper has them. A
# decoder here is 64 wide, with heads of 32, and a patch has 16 pixels: 4 coefficients of a PCA are
# a quarter of them, 96 an eighth in the paper. A pyramid cannot run on the visible patches of a
# random mask alone, so a Swin with random masks follows SimMIM, whose encoder sees mask tokens in
# place of the removed patches.
ABLATIONS = {
    ablations.DEPTH: {
        '1': Choice('depth_1', '--decoder_depth 1'),
        '2': USUAL,
        '4': Choice('depth_4', '--decoder_depth 4'),
    },
    ablations.WIDTH: {
        '32': Choice('width_32', '--decoder_dim 32'),
        '64': USUAL,
        '128': Choice('width_128', '--decoder_dim 128'),
    },
    ablations.TOKENS: of_the_paper(ablations.TOKENS),
    ablations.TARGET: {
        'pixels': USUAL,
        'normalised pixels': ablations.CHOICES[ablations.TARGET]['normalised pixels'],
        'PCA': Choice('pca', '--pca_target 4'),
    },
    ablations.AUGMENTATION: of_the_paper(ablations.AUGMENTATION),
    ablations.MASK: {
        **of_the_paper(ablations.MASK),
        'uniform, 75 %': Choice('uniform_75', '--mask_regular'),
    },
    ablations.LENGTH: {
        '0.25': Choice('length_0.25', length=0.25),
        '1': USUAL,
        '4': Choice('length_4', length=4),
    },
    SWIN: {
        'UM-MAE': Choice('swin_um', UM_MAE, encoder=SWIN_ENCODER),
        'and secondary masks': Choice(
            'swin_um_secondary', f'{UM_MAE} --vis_mask_ratio 0.25', encoder=SWIN_ENCODER
        ),
        'SimMIM, random masks': Choice('swin_simmim', SIMMIM, encoder=SWIN_ENCODER),
        'SimMIM, uniform masks': Choice(
            'swin_simmim_uniform', f'{SIMMIM} --mask_regular', encoder=SWIN_ENCODER
        ),
        'no pre-training': Choice('swin_none', None, encoder=SWIN_ENCODER),
    },
}

# The shares of the patches that are removed, and the usual one
RATIOS = (0.25, 0.5, 0.75, 0.9)
RATIO = 0.75
# number of labels in total -> epochs of fine-tuning; the last number is all labels
LABELS = {10: 100, 50: 60, 100: 30, 300: 20, 1442: 8}
LONGER = 3  # times as many epochs from scratch, as in the paper: 300 against 100
FEW = 100  # labels for comparing mask ratios and ablations
ALL = 1442  # labels for partial fine-tuning
BLOCKS = 4  # of vit_nano_patch4
TUNED_BLOCKS = (0, 0.5, 1, 2, 3)  # of partial fine-tuning; half a block is its MLP

INPUT = shlex.split(
    '--input_size 32 --in_chans 1 --hflip 0 --num_workers 0 '
    "--log_dir '' --device cpu --print_freq 1000"
)
PRETRAIN = '--model mae_vit_nano_patch4 --batch_size 128 --blr 4e-3'
CLASSIFIER = '--model vit_nano_patch4 --nb_classes 10 --scale .6 1'
FINETUNE = CLASSIFIER + ' --aa none --reprob 0 --save_every 1000'
FINETUNE_RATES = '--lr 3e-3 --layer_decay .65'
SCRATCH_RATES = '--lr 2e-3 --layer_decay 1'
PROBE = (
    CLASSIFIER
    + ' --batch_size 128 --epochs 10 --warmup_epochs 1 --lr 10 --global_pool --save_every 1000'
)


@dataclass(frozen=True)
class Cell:
    """One training.

    name: also its folder's name. after: the pre-training that it starts from, if any.
    """

    name: str
    program: str
    epochs: int
    flags: tuple[str, ...]
    after: str = ''


def plan(seeds: int, pretrain_epochs: int, data: Path, full: int = 0, swin: int = 0) -> list[Cell]:
    """All cells, pre-trainings first.

    data: the folder with digits/ and, in labels_<count>_<seed>/, lists of labelled digits.
    full: number of seeds that also run the ablations. swin: number that also compare Swins.
    """
    cells = []
    for seed in range(seeds):
        cells += questions(pretrain_epochs, seed, data)
        if seed < full:
            cells += partial_tuning(seed, data)
        for varied, choices in ABLATIONS.items():
            wanted = swin if varied == SWIN else full
            if seed < wanted:
                cells += ablation(choices, pretrain_epochs, seed, data)
    return sorted(cells, key=lambda cell: cell.program != 'main_pretrain.py')


def questions(pretrain_epochs: int, seed: int, data: Path) -> list[Cell]:
    """One seed's cells of the three questions: mask ratio, number of labels, pre-training."""
    cells = []
    for ratio in RATIOS:
        start = f'pretrain_{ratio}_{seed}'
        cells.append(pretrain(start, pretrain_epochs, seed, data, flags=f'--mask_ratio {ratio}'))
        cells.append(probe(f'probe_{ratio}_{seed}', seed, data, after=start))
        counts = LABELS if ratio == RATIO else [FEW]
        for count in counts:
            name = f'tune_{ratio}_{count}_{seed}'
            cells.append(finetune(name, count, seed, data, after=start))

    cells.append(probe(f'probe_untrained_{seed}', seed, data))
    for count in LABELS:
        name = f'scratch_{count}_{seed}'
        cells.append(finetune(name, count, seed, data))
    return cells


def partial_tuning(seed: int, data: Path) -> list[Cell]:
    """One seed's cells of partial fine-tuning: TUNED_BLOCKS of the 4 blocks are trained."""
    start = f'pretrain_{RATIO}_{seed}'
    cells = []
    for blocks in TUNED_BLOCKS:
        name = f'partial_{blocks}_{seed}'
        frozen = f'--freeze_blocks {BLOCKS - blocks}'
        cells.append(finetune(name, ALL, seed, data, after=start, flags=frozen))
    return cells


def ablation(choices: dict[str, Choice], pretrain_epochs: int, seed: int, data: Path) -> list[Cell]:
    """One seed's cells of one ablation."""
    cells = []
    for choice in choices.values():
        if choice == USUAL:
            continue
        start = ''
        if choice.flags is not None:
            start = f'pretrain_{choice.name}_{seed}'
            epochs = max(1, round(choice.length * pretrain_epochs))
            cells.append(pretrain(start, epochs, seed, data, flags=choice.flags))

        encoder = f'--model {choice.encoder}'
        tuned = f'tune_{choice.name}_{FEW}_{seed}'
        probed = f'probe_{choice.name}_{seed}'
        cells.append(finetune(tuned, FEW, seed, data, after=start, flags=encoder))
        cells.append(probe(probed, seed, data, after=start, flags=encoder))
    return cells


def pretrain(name: str, epochs: int, seed: int, data: Path, flags: str = '') -> Cell:
    """A pre-training on all digits; the last flags win."""
    warmup = max(1, epochs // 10)
    usual = (
        f'{PRETRAIN} --mask_ratio {RATIO} --warmup_epochs {warmup} --save_every 1000 --seed {seed}'
    )
    words = _words(usual, data / 'digits', flags)
    return Cell(name, 'main_pretrain.py', epochs, words)


def probe(name: str, seed: int, data: Path, after: str = '', flags: str = '') -> Cell:
    """A linear probe on all digits; of random weights where it starts from no pre-training."""
    words = _words(f'{PROBE} --seed {seed}', data / 'digits', flags)
    return Cell(name, 'main_linprobe.py', 10, words, after)


def finetune(
    name: str, count: int, seed: int, data: Path, after: str = '', flags: str = ''
) -> Cell:
    """A fine-tuning with `count` labels, or a training from scratch where `after` is empty.

    Training from scratch takes longer, and has the rate that suits it better.
    """
    epochs = LABELS[count]
    rates = FINETUNE_RATES
    if not after:
        epochs *= LONGER
        rates = SCRATCH_RATES
    batch_size = min(20, count)
    warmup = max(1, epochs // 10)
    usual = (
        f'{FINETUNE} {rates} --batch_size {batch_size} --epochs {epochs} '
        f'--warmup_epochs {warmup} --seed {seed}'
    )
    words = _words(usual, data / f'labels_{count}_{seed}', flags)
    return Cell(name, 'main_finetune.py', epochs, words, after)


def _words(usual: str, data_path: Path, flags: str) -> tuple[str, ...]:
    """The flags as words; those that come last replace earlier ones."""
    return (*usual.split(), '--data_path', str(data_path), *flags.split())
