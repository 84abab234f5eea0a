"""The official runs and the paper's.

facebookresearch/mae @ efb2a80, and arXiv:2111.06377 (tables of version 3).
"""

from recipes.recipe import Figure, Recipe

REPOSITORY = 'facebookresearch/mae @ efb2a80'
PAPER = 'arXiv:2111.06377'
PATCHES = {'base': 'patch16', 'large': 'patch16', 'huge': 'patch14'}

PIXELS = '--epochs {} --warmup_epochs 40 --blr 1.5e-4 --weight_decay 0.05'
PRETRAIN = f'--norm_pix_loss {PIXELS}'
FINETUNE = (
    '--epochs {} --blr {} --layer_decay {} --drop_path {} --weight_decay 0.05 --reprob 0.25 '
    '--mixup 0.8 --cutmix 1.0 --dist_eval'
)
# epochs, base rate, layer decay, drop path
TUNING = {
    'base': (100, '5e-4', 0.65, 0.1),
    'large': (50, '1e-3', 0.75, 0.2),
    'huge': (50, '1e-3', 0.75, 0.3),
}
LINPROBE = '--cls_token --epochs {} --blr 0.1 --weight_decay 0 --dist_eval'
SCRATCH = (
    '--epochs {} --warmup_epochs 20 --blr 1e-4 --layer_decay 1 --drop_path {} --weight_decay 0.3 '
    '--reprob 0 --mixup 0.8 --cutmix 1.0 --ema_decay 0.9999 --beta2 0.95 --dist_eval'
)
SCRATCH_NOTES = (
    'table 11 does not mention random erasing, which is off here',
    'the devices are our choice',
)


def vit(size: str) -> str:
    """The name of MAE's ViT of a size: 'base', 'large' or 'huge'."""
    return f'vit_{size}_{PATCHES[size]}'


def pretrain(size: str, epochs: int, **rest) -> Recipe:
    """A pre-training with the official flags; `rest` are more fields of the recipe."""
    flags = PRETRAIN.format(epochs)
    return Recipe(program='main_pretrain.py', model=f'mae_{vit(size)}', flags=flags, **rest)


def finetune(size: str, **rest) -> Recipe:
    """A fine-tuning with the official flags; `rest` are more fields of the recipe."""
    flags = FINETUNE.format(*TUNING[size])
    return Recipe(program='main_finetune.py', model=vit(size), flags=flags, **rest)


def linprobe(size: str, epochs: int, batch_size: int, **rest) -> Recipe:
    """A linear probe with the official flags; `rest` are more fields of the recipe."""
    note = (
        f'features are normalised over the {batch_size} images of one device, which their number '
        'changes'
    )
    return Recipe(
        program='main_linprobe.py',
        model=vit(size),
        batch_size=batch_size,
        flags=LINPROBE.format(epochs),
        notes=(note,),
        **rest,
    )


def scratch(size: str, epochs: int, drop_path: float, **rest) -> Recipe:
    """A training from random weights as in table 11; `rest` are more fields of the recipe."""
    flags = SCRATCH.format(epochs, drop_path)
    return Recipe(
        program='main_finetune.py', model=vit(size), flags=flags, notes=SCRATCH_NOTES, **rest
    )


def evaluate(name: str, size: str, program: str = 'main_finetune.py', **rest) -> Recipe:
    """An evaluation with the official flags; `rest` are more fields of the recipe."""
    return Recipe(
        name=name, program=program, model=vit(size), batch_size=16, flags='--eval', **rest
    )


RECIPES = [
    pretrain(
        name='pretrain_vit_base',
        size='base',
        epochs=1600,
        devices=64,
        batch_size=64,
        accum_iter=1,
        source=f'{REPOSITORY} PRETRAIN.md; 1600 epochs: {PAPER}, table 3',
    ),
    pretrain(
        name='pretrain_vit_large',
        size='large',
        epochs=1600,
        devices=64,
        batch_size=64,
        accum_iter=1,
        source=f'{REPOSITORY} PRETRAIN.md; 1600 epochs: {PAPER}, table 3',
        notes=('31 hours on 128 TPU-v3 cores in the paper (section 4.2)',),
    ),
    pretrain(
        name='pretrain_vit_huge',
        size='huge',
        epochs=1600,
        devices=64,
        batch_size=64,
        accum_iter=1,
        source=f'{REPOSITORY} PRETRAIN.md; 1600 epochs: {PAPER}, table 3',
        notes=('34.5 hours for 800 epochs on 128 TPU-v3 cores in the paper (table 2)',),
    ),
    pretrain(
        name='pretrain_vit_large_800e',
        size='large',
        epochs=800,
        devices=64,
        batch_size=64,
        accum_iter=1,
        hours=42,
        hardware='V100',
        source=f'{REPOSITORY} PRETRAIN.md',
    ),
    finetune(
        name='finetune_vit_base',
        size='base',
        devices=32,
        batch_size=32,
        accum_iter=1,
        checkpoint='pretrain_vit_base',
        file='mae_pretrain_vit_base.pth',
        figures=(
            Figure(83.57, 'official rerun', spread=0.08, seeds=4),
            Figure(83.6, 'paper'),
            Figure(83.664, 'official weights'),
            Figure(83.3, 'third party, issue 30'),
        ),
        hours=7.18,
        hardware='V100',
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    finetune(
        name='finetune_vit_large',
        size='large',
        devices=32,
        batch_size=32,
        accum_iter=1,
        checkpoint='pretrain_vit_large',
        file='mae_pretrain_vit_large.pth',
        figures=(
            Figure(85.87, 'official rerun', spread=0.07, seeds=4),
            Figure(85.9, 'paper'),
            Figure(85.952, 'official weights'),
        ),
        hours=8.87,
        hardware='V100',
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    finetune(
        name='finetune_vit_huge',
        size='huge',
        devices=64,
        batch_size=16,
        accum_iter=1,
        checkpoint='pretrain_vit_huge',
        file='mae_pretrain_vit_huge.pth',
        figures=(Figure(86.9, 'paper'), Figure(86.928, 'official weights')),
        hours=13.15,
        hardware='V100',
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    finetune(
        name='finetune_vit_large_800e',
        size='large',
        devices=32,
        batch_size=32,
        accum_iter=1,
        checkpoint='pretrain_vit_large_800e',
        figures=(
            Figure(85.5, 'official rerun'),
            Figure(85.4, 'paper, table 1'),
            Figure(85.2, 'third party, issue 105'),
        ),
        hours=8.87,
        hardware='V100',
        source=f'{REPOSITORY} PRETRAIN.md',
    ),
    linprobe(
        name='linprobe_vit_base',
        size='base',
        epochs=90,
        devices=32,
        batch_size=512,
        accum_iter=1,
        checkpoint='pretrain_vit_base',
        file='mae_pretrain_vit_base.pth',
        figures=(Figure(67.8, 'official rerun'), Figure(68.0, 'paper')),
        hours=2.33,
        hardware='V100',
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    linprobe(
        name='linprobe_vit_large',
        size='large',
        epochs=50,
        devices=32,
        batch_size=512,
        accum_iter=1,
        checkpoint='pretrain_vit_large',
        file='mae_pretrain_vit_large.pth',
        figures=(Figure(76.0, 'official rerun'), Figure(75.8, 'paper')),
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    linprobe(
        name='linprobe_vit_huge',
        size='huge',
        epochs=50,
        devices=32,
        batch_size=512,
        accum_iter=1,
        checkpoint='pretrain_vit_huge',
        file='mae_pretrain_vit_huge.pth',
        figures=(Figure(77.2, 'official rerun'), Figure(76.6, 'paper')),
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    evaluate(
        name='eval_vit_base',
        size='base',
        checkpoint='mae_finetuned_vit_base.pth',
        figures=(
            Figure(83.664, 'official weights'),
            Figure(96.530, 'official weights', 'acc5'),
            Figure(0.731, 'official weights', 'loss'),
            Figure(83.746, 'third party, issue 90'),
        ),
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    evaluate(
        name='eval_vit_large',
        size='large',
        checkpoint='mae_finetuned_vit_large.pth',
        figures=(
            Figure(85.952, 'official weights'),
            Figure(97.570, 'official weights', 'acc5'),
            Figure(0.646, 'official weights', 'loss'),
            Figure(85.954, 'third party, issue 90'),
        ),
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    evaluate(
        name='eval_vit_huge',
        size='huge',
        checkpoint='mae_finetuned_vit_huge.pth',
        figures=(
            Figure(86.928, 'official weights'),
            Figure(98.088, 'official weights', 'acc5'),
            Figure(0.584, 'official weights', 'loss'),
            Figure(86.880, 'third party, issue 90'),
            Figure(86.926, 'third party, issue 40'),
        ),
        source=f'{REPOSITORY} FINETUNE.md',
    ),
    scratch(
        name='scratch_vit_base',
        size='base',
        epochs=300,
        drop_path=0.1,
        devices=64,
        batch_size=64,
        accum_iter=1,
        figures=(Figure(82.3, 'paper'), Figure(82.1, 'paper, without averaged weights')),
        source=f'{PAPER}, tables 3 and 11',
    ),
    scratch(
        name='scratch_vit_large',
        size='large',
        epochs=200,
        drop_path=0.2,
        devices=64,
        batch_size=64,
        accum_iter=1,
        figures=(Figure(82.6, 'paper'), Figure(81.5, 'paper, without averaged weights')),
        source=f'{PAPER}, tables 3 and 11',
    ),
    scratch(
        name='scratch_vit_huge',
        size='huge',
        epochs=200,
        drop_path=0.2,
        devices=64,
        batch_size=64,
        accum_iter=1,
        figures=(Figure(83.1, 'paper'), Figure(80.9, 'paper, without averaged weights')),
        source=f'{PAPER}, tables 3 and 11',
    ),
    Recipe(
        name='paper_finetune_vit_huge_448',
        model='vit_huge_patch14',
        figures=(Figure(87.8, 'paper'),),
        source=f'{PAPER}, table 3',
        notes=('neither the settings nor the weights were published',),
    ),
]
