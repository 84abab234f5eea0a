"""UM-MAE (arXiv:2205.10063; implus/UM-MAE @ cb7776b, README and Makefile), its SimMIM baselines, and the official SimMIM
(microsoft/SimMIM @ d3e29bc), whose recipes differ from the baselines' and which is not built here."""

from recipes.recipe import Figure, Recipe

UM_MAE = 'implus/UM-MAE @ cb7776b'
SIMMIM = 'microsoft/SimMIM @ d3e29bc'
PRETRAIN = '{} --epochs {} --warmup_epochs {} --blr 1.5e-4 --weight_decay 0.05'
VIT, PYRAMID = '--norm_pix_loss', '--norm_pix_loss --input_size 256 --token_size 16'
UNIFORM = ' --mask_regular --vis_mask_ratio 0.25'
BASELINE = '--input_size 256 --token_size 16'
FINETUNE = (
    '{}--epochs 100 --blr 5e-4 --layer_decay {} --drop_path {} --weight_decay 0.05 --reprob 0.25 --mixup 0.8 '
    '--cutmix 1.0 --dist_eval'
)

# name: model, images a GPU, accumulation, flags, epochs, warm-up, hours
PRETRAINED = {
    'vit_base_random': ('mae_vit_base_patch16_dec512d2b', 128, 4, VIT, 200, 10, None),
    'vit_base': (
        'mae_vit_base_patch16_dec512d2b',
        128,
        4,
        VIT + ' --token_size 14' + UNIFORM,
        200,
        10,
        None,
    ),
    'swin_tiny': ('mae_swin_tiny_256', 128, 4, PYRAMID + UNIFORM, 200, 10, 25.0),
    'pvt_small': ('mae_pvt_small_256', 128, 4, PYRAMID + UNIFORM, 200, 10, 21.3),
    'swin_large': ('mae_swin_large_256', 64, 8, PYRAMID + UNIFORM, 800, 40, None),
    'swin_tiny_simmim': ('simmim_swin_tiny_256', 64, 8, BASELINE, 200, 10, 49.3),
    'pvt_small_simmim': ('simmim_pvt_small_256', 128, 4, BASELINE, 200, 10, 38.0),
}
# the same names: model, images a GPU, accumulation, flags, layer decay, drop path, accuracies
FINETUNED = {
    'vit_base_random': ('vit_base_patch16', 64, 2, '', 0.8, 0.1, (82.88,)),
    'vit_base': ('vit_base_patch16', 64, 2, '', 0.8, 0.1, (82.88,)),
    'swin_tiny': ('swin_tiny_256', 64, 2, '--input_size 256 ', 0.85, 0.1, (82.04,)),
    'pvt_small': ('pvt_small_256', 64, 2, '--input_size 256 ', 0.85, 0.1, (79.31,)),
    'swin_large': ('swin_large_256', 32, 4, '--input_size 256 ', 0.7, 0.2, (85.2, 85.3)),
    'swin_tiny_simmim': ('swin_tiny_256', 64, 2, '--input_size 256 ', 0.85, 0.1, (82.20,)),
    'pvt_small_simmim': ('pvt_small_256', 64, 2, '--input_size 256 ', 0.85, 0.1, (79.28,)),
}


def pretrained(name: str) -> Recipe:
    model, batch_size, accum_iter, flags, epochs, warmup, hours = PRETRAINED[name]
    return Recipe(
        name=f'um_mae_pretrain_{name}',
        program='main_pretrain.py',
        model=model,
        devices=8,
        batch_size=batch_size,
        accum_iter=accum_iter,
        flags=PRETRAIN.format(flags, epochs, warmup),
        hours=hours,
        hardware='GPUs not named',
        source=f'{UM_MAE} Makefile',
    )


def finetuned(name: str) -> Recipe:
    model, batch_size, accum_iter, flags, layer_decay, drop_path, accuracies = FINETUNED[name]
    who = ('UM-MAE', 'UM-MAE until 2022-12-03')
    return Recipe(
        name=f'um_mae_finetune_{name}',
        program='main_finetune.py',
        model=model,
        devices=8,
        batch_size=batch_size,
        accum_iter=accum_iter,
        flags=FINETUNE.format(flags, layer_decay, drop_path),
        checkpoint=f'um_mae_pretrain_{name}',
        figures=tuple(map(Figure, accuracies, who)),
        source=f'{UM_MAE} README and Makefile',
    )


# backbone, epochs and size of pre-training, size of fine-tuning: accuracy of SimMIM, of mmpretrain
OFFICIAL = {
    'swin_base_100e_192_192': (82.8, 82.7),
    'swin_base_100e_192_224': (83.5, 83.5),
    'swin_base_800e_192_224': (84.0, 83.8),
    'swin_large_800e_192_224': (85.4, 84.8),
    'swinv2_huge_800e_192_224': (85.7,),
    'swinv2_huge_800e_192_512': (87.1,),
    'vit_base_800e_224_224': (83.8,),
}

RECIPES = [
    *(make(name) for name in PRETRAINED for make in (pretrained, finetuned)),
    *(
        Recipe(
            name=f'simmim_{name}',
            model=name.split('_')[0] + '_' + name.split('_')[1],
            source=SIMMIM,
            figures=tuple(map(Figure, accuracies, ('SimMIM', 'mmpretrain'))),
        )
        for name, accuracies in OFFICIAL.items()
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
