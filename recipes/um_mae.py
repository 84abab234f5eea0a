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


def pretrain(flags: str, epochs: int, warmup: int, **rest) -> Recipe:
    """A pre-training on 8 GPUs; `flags` come before the common ones, `rest` are more fields."""
    schedule = PRETRAIN.format(epochs, warmup)
    return Recipe(
        program='main_pretrain.py',
        devices=8,
        flags=f'{flags} {schedule}',
        hardware='GPUs not named',
        source=f'{UM_MAE} Makefile',
        **rest,
    )


def finetune(layer_decay: float, drop_path: float, flags: str = '', **rest) -> Recipe:
    """A fine-tuning on 8 GPUs; `flags` come before the common ones, `rest` are more fields."""
    tuning = FINETUNE.format(layer_decay, drop_path)
    return Recipe(
        program='main_finetune.py',
        devices=8,
        flags=f'{flags} {tuning}'.lstrip(),
        source=f'{UM_MAE} README and Makefile',
        **rest,
    )


RECIPES = [
    pretrain(
        name='um_mae_pretrain_vit_base_random',
        model='mae_vit_base_patch16_dec512d2b',
        batch_size=128,
        accum_iter=4,
        flags=VIT,
        epochs=200,
        warmup=10,
    ),
    finetune(
        name='um_mae_finetune_vit_base_random',
        model='vit_base_patch16',
        batch_size=64,
        accum_iter=2,
        layer_decay=0.8,
        drop_path=0.1,
        checkpoint='um_mae_pretrain_vit_base_random',
        figures=(Figure(82.88, 'UM-MAE'),),
    ),
    pretrain(
        name='um_mae_pretrain_vit_base',
        model='mae_vit_base_patch16_dec512d2b',
        batch_size=128,
        accum_iter=4,
        flags=VIT + ' --token_size 14' + UNIFORM,
        epochs=200,
        warmup=10,
    ),
    finetune(
        name='um_mae_finetune_vit_base',
        model='vit_base_patch16',
        batch_size=64,
        accum_iter=2,
        layer_decay=0.8,
        drop_path=0.1,
        checkpoint='um_mae_pretrain_vit_base',
        figures=(Figure(82.88, 'UM-MAE'),),
    ),
    pretrain(
        name='um_mae_pretrain_swin_tiny',
        model='mae_swin_tiny_256',
        batch_size=128,
        accum_iter=4,
        flags=PYRAMID + UNIFORM,
        epochs=200,
        warmup=10,
        hours=25.0,
    ),
    finetune(
        name='um_mae_finetune_swin_tiny',
        model='swin_tiny_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        drop_path=0.1,
        checkpoint='um_mae_pretrain_swin_tiny',
        figures=(Figure(82.04, 'UM-MAE'),),
    ),
    pretrain(
        name='um_mae_pretrain_pvt_small',
        model='mae_pvt_small_256',
        batch_size=128,
        accum_iter=4,
        flags=PYRAMID + UNIFORM,
        epochs=200,
        warmup=10,
        hours=21.3,
    ),
    finetune(
        name='um_mae_finetune_pvt_small',
        model='pvt_small_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        drop_path=0.1,
        checkpoint='um_mae_pretrain_pvt_small',
        figures=(Figure(79.31, 'UM-MAE'),),
    ),
    pretrain(
        name='um_mae_pretrain_swin_large',
        model='mae_swin_large_256',
        batch_size=64,
        accum_iter=8,
        flags=PYRAMID + UNIFORM,
        epochs=800,
        warmup=40,
    ),
    finetune(
        name='um_mae_finetune_swin_large',
        model='swin_large_256',
        batch_size=32,
        accum_iter=4,
        flags='--input_size 256',
        layer_decay=0.7,
        drop_path=0.2,
        checkpoint='um_mae_pretrain_swin_large',
        figures=(Figure(85.2, 'UM-MAE'), Figure(85.3, 'UM-MAE until 2022-12-03')),
    ),
    pretrain(
        name='um_mae_pretrain_swin_tiny_simmim',
        model='simmim_swin_tiny_256',
        batch_size=64,
        accum_iter=8,
        flags=BASELINE,
        epochs=200,
        warmup=10,
        hours=49.3,
    ),
    finetune(
        name='um_mae_finetune_swin_tiny_simmim',
        model='swin_tiny_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        drop_path=0.1,
        checkpoint='um_mae_pretrain_swin_tiny_simmim',
        figures=(Figure(82.20, 'UM-MAE'),),
    ),
    pretrain(
        name='um_mae_pretrain_pvt_small_simmim',
        model='simmim_pvt_small_256',
        batch_size=128,
        accum_iter=4,
        flags=BASELINE,
        epochs=200,
        warmup=10,
        hours=38.0,
    ),
    finetune(
        name='um_mae_finetune_pvt_small_simmim',
        model='pvt_small_256',
        batch_size=64,
        accum_iter=2,
        flags='--input_size 256',
        layer_decay=0.85,
        drop_path=0.1,
        checkpoint='um_mae_pretrain_pvt_small_simmim',
        figures=(Figure(79.28, 'UM-MAE'),),
    ),
    Recipe(
        name='simmim_swin_base_100e_192_192',
        model='swin_base',
        figures=(Figure(82.8, 'SimMIM'), Figure(82.7, 'mmpretrain')),
        source=SIMMIM,
    ),
    Recipe(
        name='simmim_swin_base_100e_192_224',
        model='swin_base',
        figures=(Figure(83.5, 'SimMIM'), Figure(83.5, 'mmpretrain')),
        source=SIMMIM,
    ),
    Recipe(
        name='simmim_swin_base_800e_192_224',
        model='swin_base',
        figures=(Figure(84.0, 'SimMIM'), Figure(83.8, 'mmpretrain')),
        source=SIMMIM,
    ),
    Recipe(
        name='simmim_swin_large_800e_192_224',
        model='swin_large',
        figures=(Figure(85.4, 'SimMIM'), Figure(84.8, 'mmpretrain')),
        source=SIMMIM,
    ),
    Recipe(
        name='simmim_swinv2_huge_800e_192_224',
        model='swinv2_huge',
        figures=(Figure(85.7, 'SimMIM'),),
        source=SIMMIM,
    ),
    Recipe(
        name='simmim_swinv2_huge_800e_192_512',
        model='swinv2_huge',
        figures=(Figure(87.1, 'SimMIM'),),
        source=SIMMIM,
    ),
    Recipe(
        name='simmim_vit_base_800e_224_224',
        model='vit_base',
        figures=(Figure(83.8, 'SimMIM'),),
        source=SIMMIM,
    ),
    Recipe(
        name='um_mae_htc_swin_large',
        model='swin_large',
        data='COCO',
        source=f'{UM_MAE} README',
        figures=(Figure(57.4, 'UM-MAE', 'box AP'), Figure(49.8, 'UM-MAE', 'mask AP')),
        notes=('its detector, HTC++, has no config in that repository',),
    ),
]
