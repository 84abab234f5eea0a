"""Segmentation on ADE20K: UPerNet on the pre-trained encoder."""

from recipes.recipe import Figure, Recipe

MMSEG = 'open-mmlab/mmsegmentation configs/mae'
CONFIGS = 'seg/configs/upernet_mae/upernet_mae_{}.yml'
PYRAMIDS = 'seg/configs/upernet_um_mae/upernet_um_mae_{}_ade20k_512x512_160k.yml'
CHECKPOINT = 'upernet_mae-base_fp16_8x2_512x512_160k_ade20k_20220426_174752-f92a2975.pth'


def train(
    name: str, encoder: str, config: str, checkpoint: str, figures: tuple, source: str, **more
) -> Recipe:
    return Recipe(
        name=name,
        program='seg/train.py',
        model=f'UPerNet, {encoder}',
        devices=8,
        batch_size=2,
        accum_iter=1,
        flags=f'--config {config} --do_eval --use_vdl --save_dir output --opts '
        'model.backbone.pretrained=CHECKPOINT',
        checkpoint=checkpoint,
        figures=figures,
        source=source,
        data='ADE20K',
        **more,
    )


def vit(size: str, figures: tuple, source: str, **more) -> Recipe:
    return train(
        f'segment_vit_{size}',
        f'vit_{size}_patch16',
        CONFIGS.format(f'{size}_ade20k_512x512_160k'),
        f'pretrain_vit_{size}',
        figures,
        source,
        file=f'mae_pretrain_vit_{size}.pth',
        **more,
    )


def pyramid(name: str) -> Recipe:
    return train(
        f'segment_{name}',
        f'{name}_256',
        PYRAMIDS.format(name),
        f'um_mae_finetune_{name}',
        (),
        'implus/UM-MAE @ cb7776b SEG',
        notes=(
            'begins from the fine-tuned classifier; neither the code nor its README states an mIoU',
        ),
    )


def evaluate(name: str, suffix: str, figures: tuple) -> Recipe:
    config = CONFIGS.format(f'base_ade20k_512x512_160k{suffix}')
    return Recipe(
        name=name,
        program='seg/val.py',
        model='UPerNet, vit_base_patch16',
        figures=figures,
        data='ADE20K',
        flags=f'--config {config} --model_path CHECKPOINT',
        checkpoint=CHECKPOINT,
        source=MMSEG,
    )


RECIPES = [
    vit(
        'base',
        (
            Figure(48.13, 'mmsegmentation', 'mIoU'),
            Figure(48.15, 'implus/mae_segmentation', 'mIoU'),
            Figure(48.1, 'paper', 'mIoU'),
        ),
        MMSEG,
        departures=('full precision here unless --precision fp16; mixed there, at 9.96 GB a V100',),
    ),
    vit(
        'large',
        (Figure(53.6, 'paper', 'mIoU'),),
        'arXiv:2111.06377, table 5',
        departures=(
            '100 epochs there, which are 126k iterations, at a searched rate; 160k at 1e-4 here, as of ViT-B',
            "no code base has a config; drop path and outputs are those of mmsegmentation's BEiT of this size",
        ),
    ),
    pyramid('swin_tiny'),
    pyramid('pvt_small'),
    evaluate('eval_segment_vit_base', '', (Figure(48.13, 'mmsegmentation', 'mIoU'),)),
    evaluate('eval_segment_vit_base_ms', '_ms', (Figure(48.70, 'mmsegmentation', 'mIoU'),)),
]
