"""Names and shapes of weights, in this project and in the code bases that files come from.

All of it is data, read in both directions. A stem is a name without `.weight` or `.bias`; `{}`
stands for the number of a block. Weights with two dimensions belong to Linear layers: [in, out] in
Paddle, [out, in] in PyTorch.
"""

import re

from util.convert import tables
from util.convert.tables import Scheme

# Kinds of models
ENCODER = 'an encoder'
AUTOENCODER = 'a masked autoencoder'
PROBE = 'a linear probe'
POOLED = 'a classifier by global pooling'
CLASS_TOKEN = 'a classifier by class token'
SEGMENTOR = 'a segmentor (UPerNet)'
GFL = 'a detector (GFL)'
MASK_RCNN = 'a detector (Mask R-CNN)'
CLASSIFIERS = (PROBE, POOLED, CLASS_TOKEN)
DETECTORS = (GFL, MASK_RCNN)
# Families of encoders
VIT = 'a ViT'
SWIN = 'a Swin of UM-MAE'
PVT = 'a PVT of UM-MAE'


def family(tensors: dict) -> str:
    """The family of the encoder that weights under our names belong to: VIT, SWIN or PVT."""
    parts = {part for name in tensors for part in name.split('.')}
    # the attention tells them apart
    if 'posmlp' in parts:
        return SWIN
    return PVT if 'kv' in parts else VIT


def kind(tensors: dict) -> str:
    """The kind of model that weights under our names belong to, ENCODER to MASK_RCNN."""
    if any(name.startswith('bbox_head.') for name in tensors):
        return GFL
    if any(name.startswith('roi_head.') for name in tensors):
        return MASK_RCNN
    if 'decode_head.conv_seg.weight' in tensors:
        return SEGMENTOR
    if 'head.1.weight' in tensors:
        return PROBE
    if 'head.weight' in tensors:
        pooled = 'fc_norm.weight' in tensors or family(tensors) != VIT
        return POOLED if pooled else CLASS_TOKEN
    masked = 'mask_token' in tensors or 'encoder_mask_token' in tensors
    return AUTOENCODER if masked else ENCODER


# Shapes in Paddle's layout: D width, H hidden, C channels, P patch side, T tokens, K classes,
# O = P*P*C; E and F are D and H of the decoder; N heads and R relative positions; Q, U and A are
# channels of a segmentor. In pyramids D, H and N differ by stage: B is D of the stage before, D1 is
# D of the first, and outside the blocks D is that of the last. M is the width of the coordinate
# MLP; S counts the units that masks remove, of 4 x 4 tokens each.
_VIT = {
    'cls_token': '1 1 D',
    'pos_embed': '1 T D',
    **tables.conv('patch_embed.proj', 'D C P P'),
    **tables.block('blocks', 'D', 'H', {'qkv': 3}),
}
_SWIN = {
    **tables.conv('patch_embed.proj', 'D1 C P P'),
    **tables.with_bias('patch_embed.norm', 'D1'),
    **tables.block('blocks', 'D', 'H', {'qkv': 3}),
    **tables.conv('blocks.{}.attn.posmlp.0', 'M 2 1 1'),
    **tables.conv('blocks.{}.attn.posmlp.2', 'N M 1 1'),
    **tables.with_bias('blocks.{}.downsample.norm', 'B'),
    **tables.conv('blocks.{}.downsample.proj', 'D B 2 2'),
}
_PVT = {
    'pos_embed': '1 16S D1',
    **tables.conv('patch_embed.proj', 'D1 C P P'),
    **tables.block('blocks', 'D', 'H', {'q': 1, 'kv': 2}),
    **tables.conv('blocks.{}.attn.sr', 'D D 1 1'),
    **tables.with_bias('blocks.{}.attn.norm', 'D'),
    **tables.conv('blocks.{}.downsample.proj', 'D B 2 2'),
}
ENCODERS = {VIT: _VIT, SWIN: _SWIN, PVT: _PVT}
_DECODER = {
    'mask_token': '1 1 E',
    'decoder_pos_embed': '1 T E',
    **tables.with_bias('decoder_embed', 'D E'),
    **tables.block('decoder_blocks', 'E', 'F', {'qkv': 3}),
    **tables.with_bias('decoder_norm', 'E'),
    **tables.with_bias('decoder_pred', 'E O'),
}
_UM_DECODER = {
    **_DECODER,
    'decoder_pos_embed': '1 S E',
    **tables.with_bias('decoder_embed', 'D 4E'),
}
_SIMMIM = {'mask_token': '1 1 D1', **tables.with_bias('decoder_pred', 'D 4O')}
_SECONDARY = {'vis_mask_token': '1 1 D1'}  # UM-MAE's masking of visible patches
_IN_ENCODER = {'encoder_mask_token': '1 1 D'}  # in the place of `mask_token`
_PCA = {'pca_mean': 'X', 'pca_basis': 'X O'}  # of the pixels of a patch, X of them
_HEAD = tables.with_bias('head', 'D K')
_PROBE = {'head.0._mean': 'D', 'head.0._variance': 'D', **tables.with_bias('head.1', 'D K')}
# A model has one of these two; a segmentor has neither
_NORM = tables.with_bias('norm', 'D')
_FC_NORM = tables.with_bias('fc_norm', 'D')


_SEGMENTOR = {
    **tables.prefixed('backbone.', _VIT),
    'backbone.blocks.{}.gamma_1': 'D',
    'backbone.blocks.{}.gamma_2': 'D',
    'backbone.position_bias.{}.table': 'R N',
    **tables.conv('neck.upsample_4x.0', 'D D 2 2'),
    **tables.batch_norm('neck.upsample_4x.1', 'D'),
    **tables.conv('neck.upsample_4x.3', 'D D 2 2'),
    **tables.conv('neck.upsample_2x.0', 'D D 2 2'),
    **tables.normed('decode_head.psp_modules.0.1', 'Q D 1 1'),
    **tables.normed('decode_head.psp_modules.1.1', 'Q D 1 1'),
    **tables.normed('decode_head.psp_modules.2.1', 'Q D 1 1'),
    **tables.normed('decode_head.psp_modules.3.1', 'Q D 1 1'),
    **tables.normed('decode_head.bottleneck', 'Q U 3 3'),
    **tables.normed('decode_head.lateral_convs.0', 'Q D 1 1'),
    **tables.normed('decode_head.lateral_convs.1', 'Q D 1 1'),
    **tables.normed('decode_head.lateral_convs.2', 'Q D 1 1'),
    **tables.normed('decode_head.fpn_convs.0', 'Q Q 3 3'),
    **tables.normed('decode_head.fpn_convs.1', 'Q Q 3 3'),
    **tables.normed('decode_head.fpn_convs.2', 'Q Q 3 3'),
    **tables.normed('decode_head.fpn_bottleneck', 'Q 4Q 3 3'),
    **tables.conv('decode_head.conv_seg', 'K Q 1 1'),
    **tables.normed('auxiliary_head.convs.0', 'A D 3 3'),
    **tables.conv('auxiliary_head.conv_seg', 'K A 1 1'),
}


# What a model has beside its encoder and that encoder's normalisation
_HEADS = {ENCODER: {}, POOLED: _HEAD, CLASS_TOKEN: _HEAD, PROBE: _PROBE}


def layout(tensors: dict) -> dict[str, str]:
    """The shapes of all tensors that a model with weights like these has, by our names."""
    what = kind(tensors)
    encoder = family(tensors)
    if what == SEGMENTOR:
        return tables.numbered(_SEGMENTOR, tensors)

    head = _decoder(encoder, tensors) if what == AUTOENCODER else _HEADS[what]
    pyramid_classifier = encoder != VIT and what in (POOLED, PROBE)
    pooled = 'fc_norm.weight' in tensors or pyramid_classifier
    norm = _FC_NORM if pooled else _NORM
    return tables.numbered(ENCODERS[encoder] | head | norm, tensors)


def _decoder(encoder: str, tensors: dict) -> dict[str, str]:
    """The shapes of a masked autoencoder's tensors outside its encoder."""
    if encoder == VIT:
        decoder = dict(_DECODER)
        if 'encoder_mask_token' in tensors:
            del decoder['mask_token']
            decoder |= _IN_ENCODER
        if 'pca_basis' in tensors:
            decoder |= _PCA
    elif any(name.startswith('decoder_embed.') for name in tensors):
        decoder = _UM_DECODER
    else:
        return _SIMMIM
    return decoder | _SECONDARY if 'vis_mask_token' in tensors else decoder


_LAYOUTS = (*ENCODERS.values(), _DECODER, _SECONDARY, _HEAD, _PROBE, _NORM, _FC_NORM)
TORCH = Scheme('PyTorch, official or timm names', tables.stems(*_LAYOUTS))
_OWN_STEMS = [*TORCH.stems, *tables.stems(_SEGMENTOR, _IN_ENCODER, _PCA)]
PADDLE = Scheme('Paddle', {stem: stem for stem in _OWN_STEMS})

# A block of Hugging Face's, as transformers up to version 4 names it and as files keep it
_SPLIT = {
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.proj': 'attention.output.dense',
    'attn.qkv': (
        'attention.attention.query',
        'attention.attention.key',
        'attention.attention.value',
    ),
    'mlp.fc1': 'intermediate.dense',
    'mlp.fc2': 'output.dense',
}
_SPLIT_SINCE_5 = {
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.proj': 'attention.o_proj',
    'attn.qkv': ('attention.q_proj', 'attention.k_proj', 'attention.v_proj'),
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
}
_HUGGING_FACE = {
    'cls_token': 'vit.embeddings.cls_token',
    'pos_embed': 'vit.embeddings.position_embeddings',
    'patch_embed.proj': 'vit.embeddings.patch_embeddings.projection',
    'norm': 'vit.layernorm',
    'head': 'classifier',
    'mask_token': 'decoder.mask_token',
    'decoder_pos_embed': 'decoder.decoder_pos_embed',
    'decoder_embed': 'decoder.decoder_embed',
    'decoder_norm': 'decoder.decoder_norm',
    'decoder_pred': 'decoder.decoder_pred',
    **tables.blocks('blocks', 'vit.encoder.layer', _SPLIT),
    **tables.blocks('decoder_blocks', 'decoder.decoder_layers', _SPLIT),
}
_HUGGING_FACE_SAVED_BY_5 = {
    **_HUGGING_FACE,
    **tables.blocks('decoder_blocks', 'decoder.decoder_encoder.layer', _SPLIT),
}
_HUGGING_FACE_IN_MEMORY = {
    **_HUGGING_FACE,
    **tables.blocks('blocks', 'vit.layers', _SPLIT_SINCE_5),
    **tables.blocks('decoder_blocks', 'decoder.decoder_layers', _SPLIT_SINCE_5),
}
HUGGING_FACE = Scheme('Hugging Face', _HUGGING_FACE)
HUGGING_FACE_SAVED_BY_5 = Scheme('Hugging Face, as transformers 5 saves', _HUGGING_FACE_SAVED_BY_5)
HUGGING_FACE_IN_MEMORY = Scheme(
    'Hugging Face, as transformers 5 has it in memory', _HUGGING_FACE_IN_MEMORY
)

# A block of OpenMMLab's
_FFN = {
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
_MMPRETRAIN_ENCODER = {
    'cls_token': 'backbone.cls_token',
    'pos_embed': 'backbone.pos_embed',
    'patch_embed.proj': 'backbone.patch_embed.projection',
    'norm': 'backbone.ln1',
    'fc_norm': 'backbone.ln2',
    **tables.blocks('blocks', 'backbone.layers', _FFN),
}
_MMPRETRAIN_DECODER = {
    'mask_token': 'neck.mask_token',
    'decoder_pos_embed': 'neck.decoder_pos_embed',
    'decoder_embed': 'neck.decoder_embed',
    'decoder_norm': 'neck.ln1',
    'decoder_pred': 'neck.decoder_pred',
    **tables.blocks('decoder_blocks', 'neck.decoder_blocks', _FFN),
}
_MMPRETRAIN = {**_MMPRETRAIN_ENCODER, 'head': 'head.fc', **_MMPRETRAIN_DECODER}
_MMPRETRAIN_PROBE = {
    **_MMPRETRAIN_ENCODER,
    **_MMPRETRAIN_DECODER,
    'head.1': 'head.layers.head',
    'head.0._mean': 'neck.bn.running_mean',
    'head.0._variance': 'neck.bn.running_var',
}
_MMSEGMENTOR = {
    **tables.stems(_SEGMENTOR),
    **{f'backbone.{ours}': theirs for ours, theirs in _MMPRETRAIN_ENCODER.items()},
    'backbone.position_bias.{}.table': 'backbone.layers.{}.attn.relative_position_bias_table',
    'backbone.blocks.{}.gamma_1': 'backbone.layers.{}.gamma_1',
    'backbone.blocks.{}.gamma_2': 'backbone.layers.{}.gamma_2',
}
MMPRETRAIN = Scheme('OpenMMLab', _MMPRETRAIN)
MMPRETRAIN_CLASS_TOKEN = Scheme('OpenMMLab', {**_MMPRETRAIN, 'head': 'head.layers.head'})
MMPRETRAIN_PROBE = Scheme('OpenMMLab', _MMPRETRAIN_PROBE)
MMSEGMENTATION = Scheme(
    'OpenMMLab, as mmsegmentation converts', {**_MMPRETRAIN, 'norm': 'backbone.norm'}
)
MMSEGMENTOR = Scheme('OpenMMLab, UPerNet of mmsegmentation', _MMSEGMENTOR)

# Of several that fit a file equally well, the first is taken
SCHEMES = (
    PADDLE,
    TORCH,
    HUGGING_FACE,
    HUGGING_FACE_SAVED_BY_5,
    HUGGING_FACE_IN_MEMORY,
    MMPRETRAIN,
    MMPRETRAIN_CLASS_TOKEN,
    MMPRETRAIN_PROBE,
    MMSEGMENTATION,
    MMSEGMENTOR,
)

# Tensors that no model here has: pattern of the name -> why they can be left out
DROPPED = {
    r'num_batches_tracked$': 'a count that nothing uses',
    r'relative_position_index$': 'numbers that follow from the size',
    r'^data_preprocessor\.': 'mean and deviation of pixels, which are flags here',
    r'^pixel_(mean|std)$': 'mean and deviation of pixels, which are flags here',
    r'^(vit\.)?pooler\.': 'a pooling layer that MAE does not have',
    r'^bbox_head\.integral\.project$': 'the numbers from 0 to the largest distance',
    r'\banchor_generator\.cell_anchors\.': 'numbers that follow from the config',
}
# Tensors that only files of PyTorch have: last part of the name -> why they are written
MADE = {
    'num_batches_tracked': 'PyTorch keeps this count, though nothing uses it',
    'relative_position_index': 'PyTorch keeps this table, though it follows from the size',
    'project': 'mmdetection keeps these numbers, though they follow from the shapes',
}
# Tensors that can be left out where every entry is this number: earlier Paddle ports keep the
# affine part of a BatchNorm although they switched it off
IDENTITY = {'head.0.weight': 1, 'head.0.bias': 0}
# Prefixes of DataParallel and torch.compile, in any order and number
WRAPPERS = ('module.', '_orig_mod.')
WRAPPED = rf'^({"|".join(map(re.escape, WRAPPERS))})+'
# Names in a Hugging Face encoder that was saved alone, without `vit.` before them
HUGGING_FACE_BARE = (
    r'embeddings\.|encoder\.layer\.|layernorm\.|layers\.\d+\.(layernorm_|attention\.|mlp\.)'
)
