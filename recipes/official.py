"""The official runs and the paper's: facebookresearch/mae @ efb2a80, arXiv:2111.06377 (tables of version 3)."""

from recipes.recipe import Figure, Recipe

REPOSITORY = 'facebookresearch/mae @ efb2a80'
PAPER = 'arXiv:2111.06377'
PATCHES = {'base': 'patch16', 'large': 'patch16', 'huge': 'patch14'}
PRETRAIN = '--norm_pix_loss --epochs {} --warmup_epochs 40 --blr 1.5e-4 --weight_decay 0.05'
FINETUNE = (
    '--epochs {} --blr {} --layer_decay {} --drop_path {} --weight_decay 0.05 --reprob 0.25 --mixup 0.8 '
    '--cutmix 1.0 --dist_eval'
)
LINPROBE = '--cls_token --epochs {} --blr 0.1 --weight_decay 0 --dist_eval'
SCRATCH = (
    '--epochs {} --warmup_epochs 20 --blr 1e-4 --layer_decay 1 --drop_path {} --weight_decay 0.3 --reprob 0 '
    '--mixup 0.8 --cutmix 1.0 --ema_decay 0.9999 --beta2 0.95 --dist_eval'
)


def vit(size: str) -> str:
    return f'vit_{size}_{PATCHES[size]}'


def pretrain(
    name: str, size: str, epochs: int, devices: int, batch_size: int, source: str, **more
) -> Recipe:
    """With an effective batch of 4096, as all of MAE's."""
    return Recipe(
        name=name,
        program='main_pretrain.py',
        model=f'mae_{vit(size)}',
        devices=devices,
        batch_size=batch_size,
        accum_iter=4096 // (devices * batch_size),
        flags=PRETRAIN.format(epochs),
        source=source,
        **more,
    )


# size: epochs, base rate, layer decay, drop path
TUNING = {
    'base': (100, '5e-4', 0.65, 0.1),
    'large': (50, '1e-3', 0.75, 0.2),
    'huge': (50, '1e-3', 0.75, 0.3),
}


def finetune(
    name: str,
    size: str,
    checkpoint: str,
    figures: tuple,
    devices: int,
    batch_size: int,
    source: str,
    **more,
) -> Recipe:
    """With an effective batch of 1024."""
    return Recipe(
        name=name,
        program='main_finetune.py',
        model=vit(size),
        devices=devices,
        batch_size=batch_size,
        accum_iter=1024 // (devices * batch_size),
        flags=FINETUNE.format(*TUNING[size]),
        checkpoint=checkpoint,
        figures=figures,
        source=source,
        **more,
    )


def linprobe(
    name: str,
    size: str,
    epochs: int,
    checkpoint: str,
    figures: tuple,
    devices: int,
    batch_size: int,
    source: str,
    **more,
) -> Recipe:
    """With an effective batch of 16384."""
    return Recipe(
        name=name,
        program='main_linprobe.py',
        model=vit(size),
        devices=devices,
        batch_size=batch_size,
        accum_iter=16384 // (devices * batch_size),
        flags=LINPROBE.format(epochs),
        checkpoint=checkpoint,
        figures=figures,
        source=source,
        **more,
        notes=(
            f'features are normalised over the {batch_size} images of one device, which their number changes',
        ),
    )


def scratch(size: str, epochs: int, drop_path: float, averaged: float, plain: float) -> Recipe:
    return Recipe(
        name=f'scratch_vit_{size}',
        program='main_finetune.py',
        model=vit(size),
        devices=64,
        batch_size=64,
        accum_iter=1,
        flags=SCRATCH.format(epochs, drop_path),
        source=f'{PAPER}, tables 3 and 11',
        figures=(Figure(averaged, 'paper'), Figure(plain, 'paper, without averaged weights')),
        notes=(
            'table 11 does not mention random erasing, which is off here',
            'the devices are our choice',
        ),
    )


def evaluate(size: str, acc1: float, acc5: float, loss: float, others: tuple = ()) -> Recipe:
    return Recipe(
        name=f'eval_vit_{size}',
        program='main_finetune.py',
        model=vit(size),
        batch_size=16,
        flags='--eval',
        checkpoint=f'mae_finetuned_vit_{size}.pth',
        source=f'{REPOSITORY} FINETUNE.md',
        figures=(
            Figure(acc1, 'official weights'),
            Figure(acc5, 'official weights', 'acc5'),
            Figure(loss, 'official weights', 'loss'),
            *others,
        ),
    )


RECIPES = [
    pretrain(
        'pretrain_vit_base',
        'base',
        1600,
        64,
        64,
        f'{REPOSITORY} PRETRAIN.md; 1600 epochs: {PAPER}, table 3',
    ),
    pretrain(
        'pretrain_vit_large',
        'large',
        1600,
        64,
        64,
        f'{REPOSITORY} PRETRAIN.md; 1600 epochs: {PAPER}, table 3',
        notes=('31 hours on 128 TPU-v3 cores in the paper (section 4.2)',),
    ),
    pretrain(
        'pretrain_vit_huge',
        'huge',
        1600,
        64,
        64,
        f'{REPOSITORY} PRETRAIN.md; 1600 epochs: {PAPER}, table 3',
        notes=('34.5 hours for 800 epochs on 128 TPU-v3 cores in the paper (table 2)',),
    ),
    pretrain(
        'pretrain_vit_large_800e',
        'large',
        800,
        64,
        64,
        f'{REPOSITORY} PRETRAIN.md',
        hours=42,
        hardware='V100',
    ),
    finetune(
        'finetune_vit_base',
        'base',
        'pretrain_vit_base',
        (
            Figure(83.57, 'official rerun', spread=0.08, seeds=4),
            Figure(83.6, 'paper'),
            Figure(83.664, 'official weights'),
            Figure(83.3, 'third party, issue 30'),
        ),
        32,
        32,
        f'{REPOSITORY} FINETUNE.md',
        hours=7.18,
        hardware='V100',
        file='mae_pretrain_vit_base.pth',
    ),
    finetune(
        'finetune_vit_large',
        'large',
        'pretrain_vit_large',
        (
            Figure(85.87, 'official rerun', spread=0.07, seeds=4),
            Figure(85.9, 'paper'),
            Figure(85.952, 'official weights'),
        ),
        32,
        32,
        f'{REPOSITORY} FINETUNE.md',
        hours=8.87,
        hardware='V100',
        file='mae_pretrain_vit_large.pth',
    ),
    finetune(
        'finetune_vit_huge',
        'huge',
        'pretrain_vit_huge',
        (Figure(86.9, 'paper'), Figure(86.928, 'official weights')),
        64,
        16,
        f'{REPOSITORY} FINETUNE.md',
        hours=13.15,
        hardware='V100',
        file='mae_pretrain_vit_huge.pth',
    ),
    finetune(
        'finetune_vit_large_800e',
        'large',
        'pretrain_vit_large_800e',
        (
            Figure(85.5, 'official rerun'),
            Figure(85.4, 'paper, table 1'),
            Figure(85.2, 'third party, issue 105'),
        ),
        32,
        32,
        f'{REPOSITORY} PRETRAIN.md',
        hours=8.87,
        hardware='V100',
    ),
    linprobe(
        'linprobe_vit_base',
        'base',
        90,
        'pretrain_vit_base',
        (Figure(67.8, 'official rerun'), Figure(68.0, 'paper')),
        32,
        512,
        f'{REPOSITORY} FINETUNE.md',
        hours=2.33,
        hardware='V100',
        file='mae_pretrain_vit_base.pth',
    ),
    linprobe(
        'linprobe_vit_large',
        'large',
        50,
        'pretrain_vit_large',
        (Figure(76.0, 'official rerun'), Figure(75.8, 'paper')),
        32,
        512,
        f'{REPOSITORY} FINETUNE.md',
        file='mae_pretrain_vit_large.pth',
    ),
    linprobe(
        'linprobe_vit_huge',
        'huge',
        50,
        'pretrain_vit_huge',
        (Figure(77.2, 'official rerun'), Figure(76.6, 'paper')),
        32,
        512,
        f'{REPOSITORY} FINETUNE.md',
        file='mae_pretrain_vit_huge.pth',
    ),
    evaluate('base', 83.664, 96.530, 0.731, (Figure(83.746, 'third party, issue 90'),)),
    evaluate('large', 85.952, 97.570, 0.646, (Figure(85.954, 'third party, issue 90'),)),
    evaluate(
        'huge',
        86.928,
        98.088,
        0.584,
        (Figure(86.880, 'third party, issue 90'), Figure(86.926, 'third party, issue 40')),
    ),
    scratch('base', 300, 0.1, 82.3, 82.1),
    scratch('large', 200, 0.2, 82.6, 81.5),
    scratch('huge', 200, 0.2, 83.1, 80.9),
    Recipe(
        name='paper_finetune_vit_huge_448',
        model='vit_huge_patch14',
        source=f'{PAPER}, table 3',
        figures=(Figure(87.8, 'paper'),),
        notes=('neither the settings nor the weights were published',),
    ),
]
