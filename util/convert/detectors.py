"""Names and shapes of detectors' weights: UM-MAE's GFL and the Mask R-CNN of MAE and ViTDet.

The names are those of implus/UM-MAE DET/ with mmdetection 2.20, of projects/ViTDet of mmdetection
3.3, and of projects/ViTDet of detectron2.
"""

import re

import numpy as np

from util import pos_embed
from util.convert import names, tables
from util.convert.tables import Scheme, prefixed
from util.errors import InputError

POSITIONS = 'backbone.pos_embed'
PATCH = 16  # for which detectron2 calls the maps of a pyramid simfp_2 to simfp_5

# Letters are those of names.py, for the encoder. Words: `maps` are channels of the backbone's maps,
# `out` those of the neck's, `towers` those of GFL's head; `bins` of a distance; `down` and `across`
# relative positions of a block, `d` width of a head; `hidden` width of the box head; `scores`
# classes and the background.
_TAPS = {
    **tables.with_bias('up1.0', 'D1'),
    **tables.with_bias('up1.1', 'D1 maps'),
    **tables.with_bias('up2.0', 'D2'),
    **tables.with_bias('up2.1', 'D2 maps'),
    **tables.with_bias('up3.0', 'D3'),
    **tables.with_bias('up3.1', 'D3 maps'),
    **tables.with_bias('up4.0', 'D4'),
    **tables.with_bias('up4.1', 'D4 maps'),
}
_RELATIVE = {
    'blocks.{}.attn.rel_pos_h': 'down{} d',
    'blocks.{}.attn.rel_pos_w': 'across{} d',
}
_VIT = {name: shape for name, shape in names.ENCODERS[names.VIT].items() if name != 'cls_token'}
ENCODERS = {
    names.VIT: _VIT | _RELATIVE,
    names.SWIN: names.ENCODERS[names.SWIN] | _TAPS,
    names.PVT: names.ENCODERS[names.PVT] | _TAPS,
}

# Parts of a detector: the shapes of layers, and of convolutions that have a normalisation
_FPN = {
    'layers': {},
    'convs': {'neck.lateral_convs.{}': 'out maps 1 1', 'neck.fpn_convs.{}': 'out out 3 3'},
}
# MAE's pyramid over four maps of a ViT
_TAPS_FPN = {
    'layers': {
        **tables.transposed_conv('neck.upsample_4x.0', 'D D 2 2'),
        **tables.batch_norm('neck.upsample_4x.1', 'D'),
        **tables.transposed_conv('neck.upsample_4x.3', 'D D 2 2'),
        **tables.transposed_conv('neck.upsample_2x.0', 'D D 2 2'),
    },
    'convs': {'neck.lateral_convs.{}': 'out D 1 1', 'neck.fpn_convs.{}': 'out out 3 3'},
}
# ViTDet's pyramid over the last map of a ViT
_SIMPLE_PYRAMID = {
    'layers': {
        **tables.transposed_conv('neck.fpn1.0', 'D 2quarter 2 2'),
        **tables.with_bias('neck.fpn1.1', '2quarter'),
        **tables.transposed_conv('neck.fpn1.3', '2quarter quarter 2 2'),
        **tables.transposed_conv('neck.fpn2.0', 'D 2quarter 2 2'),
    },
    'convs': {
        'neck.lateral_convs.0': 'out quarter 1 1',
        'neck.lateral_convs.1': 'out 2quarter 1 1',
        'neck.lateral_convs.2': 'out D 1 1',
        'neck.lateral_convs.3': 'out D 1 1',
        'neck.fpn_convs.0': 'out out 3 3',
        'neck.fpn_convs.1': 'out out 3 3',
        'neck.fpn_convs.2': 'out out 3 3',
        'neck.fpn_convs.3': 'out out 3 3',
    },
}
_GFL_HEAD = {
    'layers': {
        **tables.conv('bbox_head.gfl_cls', 'K towers 3 3'),
        **tables.conv('bbox_head.gfl_reg', '4bins towers 3 3'),
        'bbox_head.scales.{}.scale': '',
    },
    'convs': {
        'bbox_head.cls_convs.{}': 'towers inputs{} 3 3',
        'bbox_head.reg_convs.{}': 'towers inputs{} 3 3',
    },
}
# Mask R-CNN's heads: of the proposals, boxes and masks
_ROI_HEADS = {
    'layers': {
        **tables.conv('rpn_head.rpn_conv.{}.conv', 'out out 3 3'),
        **tables.conv('rpn_head.rpn_cls', 'anchors out 1 1'),
        **tables.conv('rpn_head.rpn_reg', '4anchors out 1 1'),
        **tables.with_bias('roi_head.bbox_head.shared_fcs.0', '49out hidden'),
        **tables.with_bias('roi_head.bbox_head.fc_cls', 'hidden scores'),
        **tables.with_bias('roi_head.bbox_head.fc_reg', 'hidden 4K'),
        **tables.transposed_conv('roi_head.mask_head.upsample', 'out out 2 2'),
        **tables.conv('roi_head.mask_head.conv_logits', 'K out 1 1'),
    },
    'convs': {
        'roi_head.bbox_head.shared_convs.{}': 'out out 3 3',
        'roi_head.mask_head.convs.{}': 'out out 3 3',
    },
}


def _shapes(part: dict[str, dict[str, str]], norm: str) -> dict[str, str]:
    """The shapes of all tensors of a part, with this normalisation (see tables.normed)."""
    shapes = dict(part['layers'])
    for stem, shape in part['convs'].items():
        shapes |= tables.normed(stem, shape, norm)
    return shapes


def layout(tensors: dict) -> dict[str, str]:
    """The shapes of all tensors that a detector with weights like these has, by our names."""
    if names.kind(tensors) == names.GFL:
        neck, heads = _FPN, _GFL_HEAD
        head_norm = 'gn'
    else:
        neck = _SIMPLE_PYRAMID if 'neck.fpn2.0.weight' in tensors else _TAPS_FPN
        heads = _ROI_HEADS
        head_norm = _norm_in('roi_head.', tensors)
    neck_norm = _norm_in('neck.lateral_convs.', tensors)
    others = _shapes(neck, neck_norm) | _shapes(heads, head_norm)

    prefix = 'backbone.'
    own = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    encoder = tables.numbered(ENCODERS[names.family(tensors)], own)
    return prefixed(prefix, encoder) | tables.numbered(others, tensors)


def _norm_in(stack: str, tensors: dict) -> str:
    """The normalisation of the convolutions whose names begin with `stack`; '' for none."""
    parts = set()
    for name in tensors:
        if name.startswith(stack):
            parts.update(name.split('.'))
    found = [norm for norm in ('bn', 'gn', 'ln') if norm in parts]
    return found[0] if found else ''


_BACKBONES = [prefixed('backbone.', encoder) for encoder in ENCODERS.values()]
_PARTS = (_FPN, _TAPS_FPN, _SIMPLE_PYRAMID, _GFL_HEAD, _ROI_HEADS)
_OTHERS = [_shapes(part, norm) for part in _PARTS for norm in ('', 'bn', 'gn', 'ln')]
_TORCH = tables.stems(*_BACKBONES, *_OTHERS)
PADDLE = Scheme(names.PADDLE.label, {stem: stem for stem in _TORCH})
MMDETECTION = Scheme('OpenMMLab, mmdetection', _TORCH)

_VITDET_BACKBONE = tables.stems(prefixed('backbone.', ENCODERS[names.VIT]))
_VITDET_HEADS = tables.stems(_shapes(_SIMPLE_PYRAMID, 'ln'), _shapes(_ROI_HEADS, 'ln'))
# mmcv names a normalisation norm_layer where its class, such as ViTDet's LN2d, tells no other name
_MMDETECTION_VITDET = {
    stem: re.sub(r'\.ln$', '.norm_layer', stem) for stem in _VITDET_BACKBONE | _VITDET_HEADS
}
# detectron2's names of layers, and of convolutions with a normalisation (`.norm`)
_LAYERS_IN_DETECTRON2 = {
    'neck.fpn1.0': 'backbone.simfp_2.0',
    'neck.fpn1.1': 'backbone.simfp_2.1',
    'neck.fpn1.3': 'backbone.simfp_2.3',
    'neck.fpn2.0': 'backbone.simfp_3.0',
    'rpn_head.rpn_conv.0.conv': 'proposal_generator.rpn_head.conv.conv0',
    'rpn_head.rpn_conv.1.conv': 'proposal_generator.rpn_head.conv.conv1',
    'rpn_head.rpn_cls': 'proposal_generator.rpn_head.objectness_logits',
    'rpn_head.rpn_reg': 'proposal_generator.rpn_head.anchor_deltas',
    'roi_head.bbox_head.shared_fcs.0': 'roi_heads.box_head.fc1',
    'roi_head.bbox_head.fc_cls': 'roi_heads.box_predictor.cls_score',
    'roi_head.bbox_head.fc_reg': 'roi_heads.box_predictor.bbox_pred',
    'roi_head.mask_head.upsample': 'roi_heads.mask_head.deconv',
    'roi_head.mask_head.conv_logits': 'roi_heads.mask_head.predictor',
}
_CONVS_IN_DETECTRON2 = {
    'neck.lateral_convs.0': 'backbone.simfp_2.4',
    'neck.fpn_convs.0': 'backbone.simfp_2.5',
    'neck.lateral_convs.1': 'backbone.simfp_3.1',
    'neck.fpn_convs.1': 'backbone.simfp_3.2',
    'neck.lateral_convs.2': 'backbone.simfp_4.0',
    'neck.fpn_convs.2': 'backbone.simfp_4.1',
    'neck.lateral_convs.3': 'backbone.simfp_5.1',
    'neck.fpn_convs.3': 'backbone.simfp_5.2',
    'roi_head.bbox_head.shared_convs.0': 'roi_heads.box_head.conv1',
    'roi_head.bbox_head.shared_convs.1': 'roi_heads.box_head.conv2',
    'roi_head.bbox_head.shared_convs.2': 'roi_heads.box_head.conv3',
    'roi_head.bbox_head.shared_convs.3': 'roi_heads.box_head.conv4',
    'roi_head.mask_head.convs.0': 'roi_heads.mask_head.mask_fcn1',
    'roi_head.mask_head.convs.1': 'roi_heads.mask_head.mask_fcn2',
    'roi_head.mask_head.convs.2': 'roi_heads.mask_head.mask_fcn3',
    'roi_head.mask_head.convs.3': 'roi_heads.mask_head.mask_fcn4',
}
_DETECTRON2 = {
    **{stem: stem.replace('backbone', 'backbone.net') for stem in _VITDET_BACKBONE},
    **_LAYERS_IN_DETECTRON2,
    **{f'{ours}.conv': theirs for ours, theirs in _CONVS_IN_DETECTRON2.items()},
    **{f'{ours}.ln': f'{theirs}.norm' for ours, theirs in _CONVS_IN_DETECTRON2.items()},
}

MMDETECTION_VITDET = Scheme(
    'OpenMMLab, ViTDet of mmdetection', _MMDETECTION_VITDET, class_position=True
)
DETECTRON2 = Scheme("detectron2, ViTDet's Mask R-CNN", _DETECTRON2, class_position=True)
SCHEMES = (PADDLE, MMDETECTION, MMDETECTION_VITDET, DETECTRON2)


def scheme_for(to: str, model: dict) -> Scheme:
    """The names in mmdetection ('mmdet') or detectron2 of a detector; InputError without any."""
    if names.kind(model) == names.GFL:
        return MMDETECTION
    reason = _unlike_vitdet(model)
    patch = model['backbone.patch_embed.proj.weight'].shape[-1]
    if to == 'detectron2' and patch != PATCH:
        reason = f'its names are for patches of {PATCH} x {PATCH} pixels, not {patch} x {patch}'
    if reason:
        raise InputError(f'--to {to}: {names.MASK_RCNN} cannot be written, because {reason}')
    return MMDETECTION_VITDET if to == 'mmdet' else DETECTRON2


def _unlike_vitdet(model: dict) -> str:
    """The reason why a Mask R-CNN is not of ViTDet's kind; '' if it is."""
    if 'neck.fpn2.0.weight' not in model:
        return 'it has no pyramid over four maps of a ViT'
    if 'rpn_head.rpn_conv.1.conv.weight' not in model:
        return 'its names are for a region proposal network of two convolutions'
    for stack in ('neck.', 'roi_head.bbox_head.', 'roi_head.mask_head.'):
        if _norm_in(stack, model) not in ('ln', ''):
            return 'its normalisations are over the channels (LN)'
    return ''


def take_class_position(model: dict) -> list:
    """Take the position of a class token out of a backbone's table; [its D numbers] or [].

    ViTDet's table keeps the class token's place from pre-training, though no block sees it.
    """
    table = model.get(POSITIONS)
    if table is None or table.ndim != 3 or not pos_embed.has_class_token(table):
        return []
    model[POSITIONS] = table[:, 1:]
    return table[0, :1].astype('float32').tolist()


def with_class_position(table: np.ndarray, position: list | None) -> np.ndarray:
    """A backbone's table [1, T, D] with the position that `take_class_position` gave before it.

    Without one (None) zeros come first.
    """
    width = table.shape[2]
    if position is None:
        position = np.zeros([1, width])
    try:
        first = np.asarray(position, 'float32').reshape(1, -1, width)
    except (TypeError, ValueError):
        raise InputError(f'class_position is no list of {width} numbers') from None
    return np.concatenate([first, table], axis=1)
