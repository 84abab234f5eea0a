"""Detection on COCO: UM-MAE's GFL, and Mask R-CNN on the MAE's ViT.

Box and mask AP are COCO's, on val2017. GFL over UM-MAE's encoders has no published figure: neither
its code nor its README states one, and its paper could not be read here. The settings of the MAE
paper's Mask R-CNN are quoted from memory; `unverified` marks what no file or text confirmed.
"""

from recipes.recipe import Figure, Recipe

UM_MAE = 'implus/UM-MAE @ cb7776b DET'
PAPER = 'arXiv:2111.06377, table 4'
ISSUE = 'facebookresearch/mae issue 43'
VITDET = 'facebookresearch/detectron2 projects/ViTDet README'
GFL = 'det/configs/gfl_um_mae/gfl_um_mae_{}_25e_coco.yml'
MASK_RCNN = 'det/configs/mask_rcnn_mae/mask_rcnn_{}_100e_coco.yml'
UNVERIFIED = (
    'unverified: the settings of table 4 were not read in the paper or in code; no official '
    'config of that run is known'
)
# detectron2's ViTDet -> box AP, mask AP; nothing here runs the cascades, nor ViT-H
TAKEN_OVER = {
    'mask_rcnn_vit_huge': (56.7, 50.2),
    'cascade_mask_rcnn_vit_base': (54.0, 46.7),
    'cascade_mask_rcnn_vit_large': (57.6, 50.0),
    'cascade_mask_rcnn_vit_huge': (58.7, 51.0),
}


def figures(box: float, mask: float, by: str) -> tuple[Figure, Figure]:
    """A published pair of box AP and mask AP."""
    return Figure(box, by, 'box AP'), Figure(mask, by, 'mask AP')


def gfl(encoder: str, backbone: str, model: str) -> Recipe:
    """UM-MAE's GFL on one of its encoders, which starts from the fine-tuned classifier."""
    config = GFL.format(encoder)
    return Recipe(
        name=f'detect_gfl_{encoder}',
        program='det/train.py',
        model=f'GFL, {model}',
        data='COCO',
        devices=8,
        batch_size=2,
        accum_iter=1,
        flags=f'-c {config} --eval -o {backbone}.pretrained=CHECKPOINT',
        checkpoint=f'um_mae_finetune_{encoder}',
        source=UM_MAE,
        departures=('full precision here unless --amp; mixed there',),
        notes=('no AP of it is published in the code or its README; unverified',),
    )


def mask_rcnn(name: str, config: str, size: str, epochs: int = 100, **rest) -> Recipe:
    """Mask R-CNN on a ViT with 64 images in a step; `rest` are more fields of the recipe."""
    words = ['MAEViT.pretrained=CHECKPOINT']
    if epochs != 100:
        words.append(f'epoch={epochs}')
    return Recipe(
        name=name,
        program='det/train.py',
        model=f'Mask R-CNN, vit_{size}_patch16',
        data='COCO',
        devices=64,
        batch_size=1,
        accum_iter=1,
        flags=f'-c {MASK_RCNN.format(config)} --eval -o {" ".join(words)}',
        checkpoint=f'pretrain_vit_{size}',
        file=f'mae_pretrain_vit_{size}.pth',
        **rest,
    )


def taken_over(name: str, box: float, mask: float) -> Recipe:
    """A row of TAKEN_OVER."""
    detector, _, size = name.partition('_vit_')
    kind = 'Cascade Mask R-CNN' if detector.startswith('cascade') else 'Mask R-CNN'
    return Recipe(
        name=f'vitdet_{name}',
        model=f'{kind}, vit_{size}',
        data='COCO',
        source=VITDET,
        figures=figures(box, mask, 'ViTDet'),
    )


RECIPES = [
    gfl('swin_tiny', 'MAESwin', 'swin_tiny_256'),
    gfl('pvt_small', 'MAEPVT', 'pvt_small_256'),
    mask_rcnn(
        name='detect_mask_rcnn_vit_base',
        config='mae_base',
        size='base',
        figures=figures(50.3, 44.9, 'paper'),
        source=PAPER,
        notes=(UNVERIFIED,),
    ),
    mask_rcnn(
        name='detect_mask_rcnn_vit_large',
        config='mae_large',
        size='large',
        figures=figures(53.3, 47.2, 'paper'),
        source=PAPER,
        notes=(UNVERIFIED,),
    ),
    mask_rcnn(
        name='detect_mask_rcnn_vit_base_25e',
        config='mae_base',
        size='base',
        epochs=25,
        figures=figures(48.1, 43.2, 'the authors'),
        source=ISSUE,
        notes=(UNVERIFIED,),
    ),
    mask_rcnn(
        name='detect_mask_rcnn_vit_base_50e',
        config='mae_base',
        size='base',
        epochs=50,
        figures=figures(50.1, 44.6, 'the authors'),
        source=ISSUE,
        notes=(UNVERIFIED,),
    ),
    mask_rcnn(
        name='detect_vitdet_vit_base',
        config='vitdet_base',
        size='base',
        figures=figures(51.6, 45.9, 'ViTDet'),
        source=VITDET,
    ),
    mask_rcnn(
        name='detect_vitdet_vit_large',
        config='vitdet_large',
        size='large',
        figures=figures(55.5, 49.2, 'ViTDet'),
        source=VITDET,
    ),
    *(taken_over(name, *pair) for name, pair in TAKEN_OVER.items()),
]
