"""Segmentation on ADE20K: UPerNet on the pre-trained encoder."""
from util.recipes.recipe import Figure, Recipe

MMSEG = 'open-mmlab/mmsegmentation configs/mae'
CONFIGS = 'seg/configs/upernet_mae/upernet_mae_{}.yml'
CHECKPOINT = 'upernet_mae-base_fp16_8x2_512x512_160k_ade20k_20220426_174752-f92a2975.pth'


def train(size: str, figures: tuple, source: str, **more) -> Recipe:
    config = CONFIGS.format(f'{size}_ade20k_512x512_160k')
    return Recipe(name=f'segment_vit_{size}', program='seg/train.py', model=f'UPerNet, vit_{size}_patch16', devices=8,
                  batch_size=2, accum_iter=1, flags=f'--config {config} --do_eval --use_vdl --save_dir output --opts '
                  'model.backbone.pretrained=CHECKPOINT', checkpoint=f'pretrain_vit_{size}',
                  file=f'mae_pretrain_vit_{size}.pth', figures=figures, source=source,
                  data='ADE20K', **more)


def evaluate(name: str, suffix: str, figures: tuple) -> Recipe:
    config = CONFIGS.format(f'base_ade20k_512x512_160k{suffix}')
    return Recipe(name=name, program='seg/val.py', model='UPerNet, vit_base_patch16', figures=figures, data='ADE20K',
                  flags=f'--config {config} --model_path CHECKPOINT', checkpoint=CHECKPOINT, source=MMSEG)


RECIPES = [
    train('base', (Figure(48.13, 'mmsegmentation', 'mIoU'), Figure(48.15, 'implus/mae_segmentation', 'mIoU'),
                   Figure(48.1, 'paper', 'mIoU')), MMSEG,
          departures=('full precision here unless --precision fp16; mixed there, at 9.96 GB a V100',)),
    train('large', (Figure(53.6, 'paper', 'mIoU'),), 'arXiv:2111.06377, table 5',
          departures=('100 epochs there, which are 126k iterations, at a searched rate; 160k at 1e-4 here, as of ViT-B',
                      "no code base has a config; drop path and outputs are those of mmsegmentation's BEiT of this size")),
    evaluate('eval_segment_vit_base', '', (Figure(48.13, 'mmsegmentation', 'mIoU'),)),
    evaluate('eval_segment_vit_base_ms', '_ms', (Figure(48.70, 'mmsegmentation', 'mIoU'),)),
]
