"""UM-MAE, its SimMIM baselines, and the official SimMIM.

UM-MAE: arXiv:2205.10063; implus/UM-MAE @ cb7776b, README and Makefile. The official SimMIM:
microsoft/SimMIM @ d3e29bc; its settings differ from the baselines', and no program here runs them.
"""

from recipes.recipe import Figure, Recipe

UM_MAE = 'implus/UM-MAE @ cb7776b'
SIMMIM = 'microsoft/SimMIM @ d3e29bc'

# the flags of targets, sizes and masks; uniform masks are followed by secondary ones
VIT = '--norm_pix_loss'
PYRAMID = '--norm_pix_loss --input_size 256 --token_size 16'
UNIFORM = ' --mask_regular --vis_mask_ratio 0.25'
BASELINE = '--input_size 256 --token_size 16'
PRETRAIN = '--epochs {} --warmup_epochs {} --blr 1.5e-4 --weight_decay 0.05'
FINETUNE = (
    '--epochs 100 --blr 5e-4 --layer_decay {} --drop_path {} --weight_decay 0.05 --reprob 0.25 '
    '--mixup 0.8 --cutmix 1.0 --dist_eval'
)

# the official SimMIM: encoder, epochs and sizes of both trainings -> SimMIM's accuracy, and
# mmpretrain's where it has one
OFFICIAL = {
    'swin_base_100e_192_192': (82.8, 82.7),
    'swin_base_100e_192_224': (83.5, 83.5),
    'swin_base_800e_192_224': (84.0, 83.8),
    'swin_large_800e_192_224': (85.4, 84.8),
    'swinv2_huge_800e_192_224': (85.7,),
    'swinv2_huge_800e_192_512': (87.1,),
    'vit_base_800e_224_224': (83.8,),
}


def pretrain(name: str, flags: str, epochs: int = 200, warmup: int = 10, **rest) -> Recipe:
    """A pre-training on 8 GPUs; `flags` come before the common ones, `rest` are more fields."""
    schedule = PRETRAIN.format(epochs, warmup)
    return Recipe(
        name=f'um_mae_pretrain_{name}',
        program='main_pretrain.py',
        devices=8,
        flags=f'{flags} {schedule}',
        hardware='GPUs not named',
        source=f'{UM_MAE} Makefile',
        **rest,
    )


def finetune(
    name: str,
    acc1: float,
    layer_decay: float,
    drop_path: float = 0.1,
    flags: str = '',
    others: tuple[Figure, ...] = (),
    **rest,
) -> Recipe:
    """The fine-tuning of the pre-training of that name; `rest` are more fields.

    flags: those before the common ones. acc1, others: UM-MAE's accuracy, and other figures.
    """
    tuning = FINETUNE.format(layer_decay, drop_path)
    return Recipe(
        name=f'um_mae_finetune_{name}',
        program='main_finetune.py',
        devices=8,
        flags=f'{flags} {tuning}'.lstrip(),
        checkpoint=f'um_mae_pretrain_{name}',
        figures=(Figure(acc1, 'UM-MAE'), *others),
        source=f'{UM_MAE} README and Makefile',
        **rest,
    )


def simmim(name: str, accuracies: tuple[float, ...]) -> Recipe:
    """A row of OFFICIAL."""
    family, size, *_ = name.split('_')
    figures = tuple(map(Figure, accuracies, ('SimMIM', 'mmpretrain')))
    return Recipe(name=f'simmim_{name}', model=f'{family}_{size}', figures=figures, source=SIMMIM)


RECIPES = [
    pretrain(
        name='vit_base_random',
        model='mae_vit_base_patch16_dec512d2b',
        batch_size=128,
        accum_iter=4,
        flags=VIT,
    ),
    finetune(
        name='vit_base_random',
        model='vit_base_patch16',
        batch_size=64,
        accum_iter=2,
        layer_decay=0.8,
        acc1=82.88,
    ),
    pretrain(
        name='vit_base',
        model='mae_vit_base_patch16_dec512d2b',
        batch_size=128,
        accum_iter=4,
        flags=VIT + ' --token_size 14' + UNIFORM,
    ),
    finetune(
        name='vit_base',
        model='vit_base_patch16',
        batch_size=64,
        accum_iter=2,
        layer_decay=0.8,
        acc1=82.88,
    ),
    pretrain(
        name='swin_tiny',
        model='mae_swin_tiny_256',
        batch_size=128,
        accum_iter=4,
        flags=PYRAMID + UNIFORM,
        hours=25.0,
    ),
    finetune(
        name='swin_tiny',
        model='swin_tiny_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        acc1=82.04,
    ),
    pretrain(
        name='pvt_small',
        model='mae_pvt_small_256',
        batch_size=128,
        accum_iter=4,
        flags=PYRAMID + UNIFORM,
        hours=21.3,
    ),
    finetune(
        name='pvt_small',
        model='pvt_small_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        acc1=79.31,
    ),
    pretrain(
        name='swin_large',
        model='mae_swin_large_256',
        batch_size=64,
        accum_iter=8,
        flags=PYRAMID + UNIFORM,
        epochs=800,
        warmup=40,
    ),
    finetune(
        name='swin_large',
        model='swin_large_256',
        batch_size=32,
        accum_iter=4,
        flags='--input_size 256',
        layer_decay=0.7,
        drop_path=0.2,
        acc1=85.2,
        others=(Figure(85.3, 'UM-MAE until 2022-12-03'),),
    ),
    pretrain(
        name='swin_tiny_simmim',
        model='simmim_swin_tiny_256',
        batch_size=64,
        accum_iter=8,
        flags=BASELINE,
        hours=49.3,
    ),
    finetune(
        name='swin_tiny_simmim',
        model='swin_tiny_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        acc1=82.20,
    ),
    pretrain(
        name='pvt_small_simmim',
        model='simmim_pvt_small_256',
        batch_size=128,
        accum_iter=4,
        flags=BASELINE,
        hours=38.0,
    ),
    finetune(
        name='pvt_small_simmim',
        model='pvt_small_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        acc1=79.28,
    ),
    *(simmim(name, accuracies) for name, accuracies in OFFICIAL.items()),
    Recipe(
        name='um_mae_htc_swin_large',
        model='swin_large',
        data='COCO',
        source=f'{UM_MAE} README',
        figures=(Figure(57.4, 'UM-MAE', 'box AP'), Figure(49.8, 'UM-MAE', 'mask AP')),
        notes=('its detector, HTC++, has no config in that repository',),
    ),
]
