"""Other code bases' runs of MAE: mmselfsup and mmpretrain, and the earlier Paddle ports."""

from recipes.official import FINETUNE, TUNING, evaluate, finetune, linprobe, pretrain, vit
from recipes.recipe import Figure, Recipe

MMSELFSUP = 'open-mmlab/mmselfsup @ db861f3 configs/selfsup/mae'
MMPRETRAIN = 'open-mmlab/mmpretrain @ ee7f2e8 configs/mae'
MAE_PADDLE = 'flytocc/mae-paddle @ be10566'
PASSL = 'PaddlePaddle/PASSL @ 5c7359b tasks/ssl/mae'

# how mmselfsup (there) differs from the programs here
PRETRAINING = (
    'the warm-up begins at 1e-4 of the rate there, here at 0; mask and class tokens have no weight '
    'decay there',
)
FINETUNING = (
    'full precision there; erased rectangles are of one colour a channel there; the warm-up begins '
    'at 1e-4 of the rate there, here at 0',
)
FINETUNING_LARGE = (
    *FINETUNING,
    "drop path 0.1 in mmselfsup's file, 0.2 in its comment, in mmpretrain's file and here",
)
PROBING = ('LARS has an epsilon of 1e-8 there; random crops are resampled bilinearly there',)

# mmselfsup's model zoo: size and epochs -> accuracy of the linear probe (None: not published), of
# fine-tuning, and other sources' figures for the latter
ZOO = {
    ('base', 300): (60.8, 82.8, (Figure(83.1, 'mmpretrain and an older README'),)),
    ('base', 400): (
        62.5,
        83.3,
        (Figure(83.1, 'mmselfsup 0.x'), Figure(82.4, 'third party, issue 30: 82.3 to 82.5')),
    ),
    ('base', 800): (65.1, 83.3, ()),
    ('base', 1600): (67.1, 83.5, ()),
    ('large', 400): (70.7, 85.2, ()),
    ('large', 800): (73.7, 85.4, ()),
    ('large', 1600): (75.5, 85.7, ()),
    ('huge', 1600): (None, 86.9, ()),
}
ZOO_PRETRAIN = {
    'devices': 8,
    'batch_size': 512,
    'accum_iter': 1,
    'source': MMSELFSUP,
    'departures': PRETRAINING,
}
ZOO_FINETUNE = {
    'devices': 8,
    'batch_size': 128,
    'accum_iter': 1,
    'source': MMSELFSUP,
}
ZOO_LINPROBE = {
    'epochs': 90,
    'devices': 8,
    'batch_size': 2048,
    'accum_iter': 1,
    'source': MMSELFSUP,
    'departures': PROBING,
}

# mae-paddle, fine-tuned from epochs before the end of one pre-training: epochs -> accuracy
EARLY = {800: 82.44, 1000: 82.87, 1100: 82.93, 1200: 83.12, 1300: 83.29, 1400: 83.45}
EARLY_FINETUNE = {
    'devices': 4,
    'batch_size': 128,
    'accum_iter': 2,
    'hours': 48,
    'hardware': 'V100',
    'source': MAE_PADDLE,
}


def zoo() -> list[Recipe]:
    """For each row of ZOO a pre-training, a fine-tuning and, where published, a linear probe."""
    made = []
    for (size, epochs), (probed, tuned, others) in ZOO.items():
        run = f'vit_{size}_{epochs}e'
        start = f'mmselfsup_pretrain_{run}'
        made.append(pretrain(name=start, size=size, epochs=epochs, **ZOO_PRETRAIN))

        figures = (Figure(tuned, 'mmselfsup'), *others)
        departures = FINETUNING_LARGE if size == 'large' else FINETUNING
        tuning = finetune(
            name=f'mmselfsup_finetune_{run}',
            size=size,
            checkpoint=start,
            figures=figures,
            departures=departures,
            **ZOO_FINETUNE,
        )
        made.append(tuning)

        if probed is not None:
            probe = linprobe(
                name=f'mmselfsup_linprobe_{run}',
                size=size,
                checkpoint=start,
                figures=(Figure(probed, 'mmselfsup'),),
                **ZOO_LINPROBE,
            )
            made.append(probe)
    return made


def early_finetunes() -> list[Recipe]:
    """mae-paddle's fine-tuning from weights before the end of the pre-training."""
    made = []
    for epochs, acc1 in EARLY.items():
        file = f'checkpoint-{epochs}.pd'
        departure = (
            f'the weights after {epochs} epochs there; {file} here, which is written after '
            f'{epochs + 1}'
        )
        tuning = finetune(
            name=f'mae_paddle_finetune_vit_base_{epochs}e',
            size='base',
            checkpoint=f'{file} of mae_paddle_pretrain_vit_base',
            figures=(Figure(acc1, 'mae-paddle'),),
            departures=(departure,),
            **EARLY_FINETUNE,
        )
        made.append(tuning)
    return made


RECIPES = [
    *zoo(),
    Recipe(
        name='mmpretrain_finetune_vit_huge_448',
        program='main_finetune.py',
        model=vit('huge'),
        devices=32,
        batch_size=8,
        accum_iter=4,
        flags='--input_size 448 ' + FINETUNE.format(*TUNING['huge']),
        checkpoint='mmselfsup_pretrain_vit_huge_1600e',
        figures=(Figure(87.3, 'mmselfsup and mmpretrain'), Figure(87.8, 'paper')),
        source=MMPRETRAIN,
        departures=(
            'the metafile says batch 256 and the name 32 x 8, the file 128 images a GPU, the '
            'schedule 1024 at this rate; 1024 here',
            'evaluated at 512 cropped to 448 there, at 448 uncropped here and officially',
            *FINETUNING,
        ),
    ),
    pretrain(
        name='mae_paddle_pretrain_vit_base',
        size='base',
        epochs=1600,
        devices=8,
        batch_size=256,
        accum_iter=2,
        source=MAE_PADDLE,
        notes=('30 GB a GPU',),
    ),
    *early_finetunes(),
    finetune(
        name='mae_paddle_finetune_vit_base_1600e',
        size='base',
        devices=8,
        batch_size=128,
        accum_iter=1,
        checkpoint='checkpoint-1599.pd of mae_paddle_pretrain_vit_base',
        figures=(Figure(83.48, 'mae-paddle'),),
        source=MAE_PADDLE,
        notes=('22 GB a GPU',),
    ),
    linprobe(
        name='mae_paddle_linprobe_vit_base',
        size='base',
        epochs=90,
        devices=8,
        batch_size=1024,
        accum_iter=2,
        checkpoint='mae_paddle_pretrain_vit_base',
        source=MAE_PADDLE,
        departures=("Paddle's own LARS there, which without weight decay is plain momentum",),
    ),
    pretrain(
        name='passl_pretrain_vit_base',
        size='base',
        epochs=1600,
        devices=32,
        batch_size=128,
        accum_iter=1,
        hours=56,
        hardware='A100-40G',
        source=PASSL,
    ),
    finetune(
        name='passl_finetune_vit_base',
        size='base',
        devices=32,
        batch_size=32,
        accum_iter=1,
        checkpoint='passl_pretrain_vit_base',
        file='mae_pretrain_vit_base_1599ep.pd',
        figures=(Figure(83.34, 'PASSL'), Figure(83.36, 'the official code, rerun by PASSL')),
        source=PASSL,
    ),
    linprobe(
        name='passl_linprobe_vit_base',
        size='base',
        epochs=90,
        devices=32,
        batch_size=512,
        accum_iter=1,
        checkpoint='passl_pretrain_vit_base',
        file='mae_pretrain_vit_base_1599ep.pd',
        figures=(Figure(68.08, 'PASSL'), Figure(68.05, 'the official code, rerun by PASSL')),
        source=PASSL,
    ),
    evaluate(
        name='passl_eval_finetuned_vit_base',
        size='base',
        checkpoint='mae_finetuned_vit_base_99ep.pd',
        figures=(Figure(83.34, 'PASSL'),),
        source=PASSL,
    ),
    evaluate(
        name='passl_eval_linprobe_vit_base',
        size='base',
        program='main_linprobe.py',
        checkpoint='mae_linprobed_vit_base_89ep.pd',
        figures=(Figure(68.08, 'PASSL'),),
        source=PASSL,
    ),
    Recipe(
        name='passl_finetune_convmae_base',
        model='convmae_base',
        figures=(Figure(85.0, 'PASSL'), Figure(85.0, 'ConvMAE')),
        source=PASSL,
    ),
    Recipe(
        name='passl_linprobe_convmae_base',
        model='convmae_base',
        figures=(Figure(71.4, 'PASSL'), Figure(70.9, 'ConvMAE')),
        source=PASSL,
    ),
]
