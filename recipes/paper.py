"""The paper's ablations, partial fine-tuning, transfer and robustness.

arXiv:2111.06377, version 3: tables 1, 6, 13 and figures 5, 7, 9. The results are in ablations.py.
An ablation is a pre-training of ViT-L, which ablation_finetune and ablation_linprobe judge.
"""

from recipes import ablations, cost
from recipes.official import FINETUNE, LINPROBE, PAPER, PIXELS, vit
from recipes.recipe import Figure, Recipe

EPOCHS = 800
BLOCKS = 24  # of ViT-L
WHERE = {ablations.MASK_RATIO: 'figure 5', ablations.LENGTH: 'figure 7'}  # the others: table 1
OUR_DEVICES = 'the paper has TPUs; the devices are our choice'
JUDGED = 'ablation_finetune and ablation_linprobe make the two figures, with its CHECKPOINT'
OPEN = {
    'pca': ('the paper does not say which images its basis is of; here it is of 2000',),
    'fixed_crop': ('the paper does not say of which size; here it is 224 of 256 pixels',),
    'color_jitter': ('the paper does not say how strong; 0.4 is our choice',),
}
BEST_EPOCHS = (
    'the authors took the best of 50, 100 and 200 epochs for each number of blocks; fewer blocks '
    'need more'
)
UNPUBLISHED = (
    'the authors tuned rate and epochs for each data set and published neither; these are '
    "table 9's, for ImageNet"
)
DEPARTURE = 'the paper lists no random erasing; the official program has it, within the noise'
# Table 9: epochs, base rate, layer decay, drop path
TABLE_9 = {
    'base': (100, '1e-3', 0.75, 0.1),
    'large': (50, '1e-3', 0.75, 0.1),
    'huge': (50, '1e-3', 0.75, 0.2),
}
# As a table-6 row of ablations.TRANSFER begins -> part of a recipe's name, classes
TRANSFER = {
    'iNaturalist 2017': ('inat2017', 5089),
    'iNaturalist 2018': ('inat2018', 8142),
    'iNaturalist 2019': ('inat2019', 1010),
    'Places205': ('places205', 205),
    'Places365': ('places365', 365),
}
SIZES = ('base', 'large', 'huge')  # the first columns of ablations.TRANSFER
VARIANTS = {  # their metrics
    'ImageNet-C': 'mCE',
    'ImageNet-A': 'acc1 on ImageNet-A',
    'ImageNet-R': 'acc1 on ImageNet-R',
    'ImageNet-Sketch': 'acc1 on ImageNet-Sketch',
}
BATCH_4096 = {'devices': 64, 'batch_size': 64, 'accum_iter': 1}
BATCH_1024 = {'devices': 32, 'batch_size': 32, 'accum_iter': 1}


def pretrain(choice: ablations.Choice, what: str, result: tuple[float, float]) -> Recipe:
    """The pre-training of one choice, with its accuracy after fine-tuning and of a probe."""
    epochs = round(EPOCHS * choice.length)
    flags = f'{PIXELS.format(epochs)} {choice.flags}'
    where = WHERE.get(what, 'table 1')
    unknown = OPEN.get(choice.name, ())
    return Recipe(
        name=f'ablation_{choice.name}',
        program='main_pretrain.py',
        model='mae_vit_large_patch16',
        flags=flags.strip(),
        figures=judged(result),
        source=f'{PAPER}, {where}: {what}',
        notes=(JUDGED, *unknown, OUR_DEVICES),
        **BATCH_4096,
    )


def judged(result: tuple[float, float]) -> tuple[Figure, Figure]:
    """The two figures of an ablation."""
    tuned, probed = result
    first = Figure(tuned, 'paper', 'acc1 fine-tuned')
    second = Figure(probed, 'paper', 'acc1 linear probe')
    return first, second


def finetune(size: str, flags: str = '', **rest) -> Recipe:
    """A fine-tuning by table 9; `flags` are added, `rest` are more fields of the recipe."""
    usual = FINETUNE.format(*TABLE_9[size])
    words = f'{usual} {flags}'.strip()
    shared = BATCH_1024 | {'program': 'main_finetune.py', 'departures': (DEPARTURE,)}
    return Recipe(model=vit(size), flags=words, **shared, **rest)


def partial(blocks: float) -> Recipe:
    """The fine-tuning of ViT-L's last blocks alone; half a block is its MLP."""
    accuracy = ablations.PARTIAL[blocks]
    frozen = BLOCKS - blocks
    return finetune(
        'large',
        f'--freeze_blocks {frozen:g}',
        name=f'ablation_partial_{blocks:g}',
        checkpoint='ablation_base',
        figures=(Figure(accuracy, 'paper'),),
        source=f'{PAPER}, figure 9 and appendix A.1',
        notes=(BEST_EPOCHS, OUR_DEVICES),
    )


def transfer(data: str, size: str) -> Recipe:
    """The fine-tuning of a size of ViT on another data set of images with classes."""
    name, classes = TRANSFER[data]
    *usual, larger = _values(data)
    accuracy = usual[SIZES.index(size)]
    notes = [UNPUBLISHED]
    if size == 'huge':
        notes.append(f'{larger} at 448 pixels, without settings')
    start = f'pretrain_vit_{size}'
    return finetune(
        size,
        f'--nb_classes {classes}',
        name=f'transfer_{name}_vit_{size}',
        data=data,
        checkpoint=start,
        file=f'mae_{start}.pth',
        figures=(Figure(accuracy, 'paper'),),
        source=f'{PAPER}, table 6 and appendix A.5',
        notes=(*notes, OUR_DEVICES),
    )


def robustness(size: str) -> Recipe:
    """The evaluation of the official classifier of a size on variants of ImageNet."""
    column = SIZES.index(size)
    figures = []
    for name, metric in VARIANTS.items():
        value = _values(name)[column]
        figures.append(Figure(value, 'paper', metric))
    return Recipe(
        name=f'robustness_vit_{size}',
        program='main_finetune.py',
        model=vit(size),
        flags='--eval --robustness',
        batch_size=128,
        data=cost.VARIANTS,
        checkpoint=f'mae_finetuned_vit_{size}.pth',
        figures=tuple(figures),
        source=f'{PAPER}, table 13 and appendix A.6',
        notes=('DATA: the folders of the four data sets, one after the other',),
    )


def _values(name: str) -> tuple:
    """The row of ablations.TRANSFER that begins with a name."""
    rows = [values for _, what, values in ablations.TRANSFER if what.startswith(f'{name},')]
    return rows[0]


def _pretrainings() -> list[Recipe]:
    """The usual pre-training, and every choice of every ablation."""
    usual = ablations.ABLATIONS[ablations.MASK]['random, 75 %']
    found = [pretrain(ablations.Choice('base'), 'the usual settings', usual)]
    for what, choices in ablations.CHOICES.items():
        for choice in choices:
            result = ablations.ABLATIONS[what][choice]
            found.append(pretrain(choices[choice], what, result))
    return found


RECIPES = [
    *_pretrainings(),
    Recipe(
        name='ablation_dvae',
        model='mae_vit_large_patch16',
        figures=judged(ablations.ABLATIONS[ablations.TARGET]['dVAE tokens']),
        source=f'{PAPER}, table 1: target',
        notes=('the tokens are those of a dVAE of other authors, which has no port here',),
    ),
    finetune(
        'large',
        name='ablation_finetune',
        checkpoint='ablation_base',
        figures=(Figure(ablations.PARTIAL[BLOCKS], 'paper'),),
        source=f'{PAPER}, tables 1 and 9',
        notes=('for any other ablation, take its CHECKPOINT', OUR_DEVICES),
    ),
    Recipe(
        name='ablation_linprobe',
        program='main_linprobe.py',
        model='vit_large_patch16',
        flags=LINPROBE.format(50),
        devices=32,
        batch_size=512,
        accum_iter=1,
        checkpoint='ablation_base',
        figures=(Figure(ablations.PARTIAL[0], 'paper'),),
        source=f'{PAPER}, tables 1 and 10',
        notes=('for any other ablation, take its CHECKPOINT', OUR_DEVICES),
    ),
    *(partial(blocks) for blocks in ablations.PARTIAL if 0 < blocks < BLOCKS),
    *(robustness(size) for size in SIZES),
    *(transfer(data, size) for data in TRANSFER for size in SIZES),
]
