"""Names and shapes of weights, in this project and in the code bases that files come from.

All of it is data, read in both directions. A stem is a name without `.weight` or `.bias`; `{}`
stands for the number of a block. Weights with two dimensions belong to Linear layers: [in, out] in
Paddle, [out, in] in PyTorch.
"""

import re
from dataclasses import dataclass

# Kinds of models
ENCODER = 'an encoder'
AUTOENCODER = 'a masked autoencoder'
PROBE = 'a linear probe'
POOLED = 'a classifier by global pooling'
CLASS_TOKEN = 'a classifier by class token'
SEGMENTOR = 'a segmentor (UPerNet)'
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
    """The kind of model that weights under our names belong to, ENCODER to SEGMENTOR."""
    if 'decode_head.conv_seg.weight' in tensors:
        return SEGMENTOR
    if 'head.1.weight' in tensors:
        return PROBE
    if 'head.weight' in tensors:
        pooled = 'fc_norm.weight' in tensors or family(tensors) != VIT
        return POOLED if pooled else CLASS_TOKEN
    return AUTOENCODER if 'mask_token' in tensors else ENCODER


# Shapes in Paddle's layout: D width, H hidden, C channels, P patch side, T tokens, K classes,
# O = P*P*C; E and F are D and H of the decoder; N heads and R relative positions; Q, U and A are
# channels of a segmentor. In pyramids D, H and N differ by stage: B is D of the stage before, D1 is
# D of the first, and outside the blocks D is that of the last. M is the width of the coordinate
# MLP; S counts the units that masks remove, of 4 x 4 tokens each.


def _with_bias(stem: str, shape: str) -> dict[str, str]:
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[-1]}


def _conv(stem: str, shape: str) -> dict[str, str]:
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[0]}


def _batch_norm(stem: str, width: str) -> dict[str, str]:
    return {f'{stem}.{part}': width for part in ('weight', 'bias', '_mean', '_variance')}


def _normed(stem: str, shape: str) -> dict[str, str]:
    """A convolution without bias and the batch normalisation behind it."""
    channels = shape.split()[0]
    return {f'{stem}.conv.weight': shape, **_batch_norm(f'{stem}.bn', channels)}


def _block(stack: str, width: str, hidden: str, attention: dict[str, int]) -> dict[str, str]:
    """A transformer block. attention: name of an input projection -> its outputs, in widths."""
    layers = {'norm1': width}
    for projection, times in attention.items():
        layers[f'attn.{projection}'] = f'{width} {times}{width}'
    layers['attn.proj'] = f'{width} {width}'
    layers['norm2'] = width
    layers['mlp.fc1'] = f'{width} {hidden}'
    layers['mlp.fc2'] = f'{hidden} {width}'

    shapes = {}
    for layer, shape in layers.items():
        shapes |= _with_bias(f'{stack}.{{}}.{layer}', shape)
    return shapes


_VIT = {
    'cls_token': '1 1 D',
    'pos_embed': '1 T D',
    **_conv('patch_embed.proj', 'D C P P'),
    **_block('blocks', 'D', 'H', {'qkv': 3}),
}
_SWIN = {
    **_conv('patch_embed.proj', 'D1 C P P'),
    **_with_bias('patch_embed.norm', 'D1'),
    **_block('blocks', 'D', 'H', {'qkv': 3}),
    **_conv('blocks.{}.attn.posmlp.0', 'M 2 1 1'),
    **_conv('blocks.{}.attn.posmlp.2', 'N M 1 1'),
    **_with_bias('blocks.{}.downsample.norm', 'B'),
    **_conv('blocks.{}.downsample.proj', 'D B 2 2'),
}
_PVT = {
    'pos_embed': '1 16S D1',
    **_conv('patch_embed.proj', 'D1 C P P'),
    **_block('blocks', 'D', 'H', {'q': 1, 'kv': 2}),
    **_conv('blocks.{}.attn.sr', 'D D 1 1'),
    **_with_bias('blocks.{}.attn.norm', 'D'),
    **_conv('blocks.{}.downsample.proj', 'D B 2 2'),
}
_ENCODERS = {VIT: _VIT, SWIN: _SWIN, PVT: _PVT}
_DECODER = {
    'mask_token': '1 1 E',
    'decoder_pos_embed': '1 T E',
    **_with_bias('decoder_embed', 'D E'),
    **_block('decoder_blocks', 'E', 'F', {'qkv': 3}),
    **_with_bias('decoder_norm', 'E'),
    **_with_bias('decoder_pred', 'E O'),
}
_UM_DECODER = {
    **_DECODER,
    'decoder_pos_embed': '1 S E',
    **_with_bias('decoder_embed', 'D 4E'),
}
_SIMMIM = {'mask_token': '1 1 D1', **_with_bias('decoder_pred', 'D 4O')}
_SECONDARY = {'vis_mask_token': '1 1 D1'}  # UM-MAE's masking of visible patches
_HEAD = _with_bias('head', 'D K')
_PROBE = {'head.0._mean': 'D', 'head.0._variance': 'D', **_with_bias('head.1', 'D K')}
# A model has one of these two; a segmentor has neither
_NORM = _with_bias('norm', 'D')
_FC_NORM = _with_bias('fc_norm', 'D')


_SEGMENTOR = {
    **{f'backbone.{name}': shape for name, shape in _VIT.items()},
    'backbone.blocks.{}.gamma_1': 'D',
    'backbone.blocks.{}.gamma_2': 'D',
    'backbone.position_bias.{}.table': 'R N',
    **_conv('neck.upsample_4x.0', 'D D 2 2'),
    **_batch_norm('neck.upsample_4x.1', 'D'),
    **_conv('neck.upsample_4x.3', 'D D 2 2'),
    **_conv('neck.upsample_2x.0', 'D D 2 2'),
    **_normed('decode_head.psp_modules.0.1', 'Q D 1 1'),
    **_normed('decode_head.psp_modules.1.1', 'Q D 1 1'),
    **_normed('decode_head.psp_modules.2.1', 'Q D 1 1'),
    **_normed('decode_head.psp_modules.3.1', 'Q D 1 1'),
    **_normed('decode_head.bottleneck', 'Q U 3 3'),
    **_normed('decode_head.lateral_convs.0', 'Q D 1 1'),
    **_normed('decode_head.lateral_convs.1', 'Q D 1 1'),
    **_normed('decode_head.lateral_convs.2', 'Q D 1 1'),
    **_normed('decode_head.fpn_convs.0', 'Q Q 3 3'),
    **_normed('decode_head.fpn_convs.1', 'Q Q 3 3'),
    **_normed('decode_head.fpn_convs.2', 'Q Q 3 3'),
    **_normed('decode_head.fpn_bottleneck', 'Q 4Q 3 3'),
    **_conv('decode_head.conv_seg', 'K Q 1 1'),
    **_normed('auxiliary_head.convs.0', 'A D 3 3'),
    **_conv('auxiliary_head.conv_seg', 'K A 1 1'),
}


# What a model has beside its encoder and that encoder's normalisation
_HEADS = {ENCODER: {}, POOLED: _HEAD, CLASS_TOKEN: _HEAD, PROBE: _PROBE}


def layout(tensors: dict) -> dict[str, str]:
    """The shapes of all tensors that a model with weights like these has, by our names."""
    what = kind(tensors)
    encoder = family(tensors)
    if what == SEGMENTOR:
        return _numbered(_SEGMENTOR, tensors)

    head = _decoder(encoder, tensors) if what == AUTOENCODER else _HEADS[what]
    pyramid_classifier = encoder != VIT and what in (POOLED, PROBE)
    pooled = 'fc_norm.weight' in tensors or pyramid_classifier
    norm = _FC_NORM if pooled else _NORM
    return _numbered(_ENCODERS[encoder] | head | norm, tensors)


def _decoder(encoder: str, tensors: dict) -> dict[str, str]:
    """The shapes of a masked autoencoder's tensors outside its encoder."""
    if encoder == VIT:
        decoder = _DECODER
    elif any(name.startswith('decoder_embed.') for name in tensors):
        decoder = _UM_DECODER
    else:
        return _SIMMIM
    return decoder | _SECONDARY if 'vis_mask_token' in tensors else decoder


def _numbered(shapes: dict[str, str], tensors: dict) -> dict[str, str]:
    """The same shapes with the numbers of blocks for {} and those of stages behind letters."""
    # blocks that begin with a downsampling open a new stage
    merges = set()
    for name in tensors:
        if name.startswith('blocks.') and '.downsample.' in name:
            merges.add(int(name.split('.')[1]))

    whole = {}
    for name, shape in shapes.items():
        stack, numbered, part = name.partition('{}')
        if not numbered:
            whole[name] = _in_stage(shape, len(merges) + 1)
            continue
        for i in range(_depth(stack, tensors)):
            if i in merges or not part.startswith('.downsample.'):
                stage = 1 + sum(merge <= i for merge in merges)
                whole[f'{stack}{i}{part}'] = _in_stage(shape, stage)
    return whole


def _depth(stack: str, tensors: dict) -> int:
    """The number of blocks in a stack; `stack` is the beginning of their names."""
    numbers = []
    for name in tensors:
        if name.startswith(stack):
            number = name.removeprefix(stack).partition('.')[0]
            numbers.append(int(number))
    return max(numbers, default=-1) + 1


def _in_stage(shape: str, stage: int) -> str:
    """A shape in which D, H and N are those of a stage; B becomes D of the stage before."""
    shape = shape.replace('B', f'D{stage - 1}')
    return re.sub(r'([DHN])(?!\d)', rf'\g<1>{stage}', shape)


@dataclass(frozen=True)
class Scheme:
    """Names of a code base: our stem -> its stem, or its three for query, key and value."""

    label: str
    stems: dict[str, str | tuple[str, str, str]]


def _blocks(ours: str, theirs: str, parts: dict) -> dict:
    """Stems of a stack of blocks, from those of a block's parts."""
    stems = {}
    for part, names in parts.items():
        if isinstance(names, str):
            stems[f'{ours}.{{}}.{part}'] = f'{theirs}.{{}}.{names}'
        else:  # query, key and value
            stems[f'{ours}.{{}}.{part}'] = tuple(f'{theirs}.{{}}.{name}' for name in names)
    return stems


def _stems(*layouts: dict[str, str]) -> dict[str, str]:
    """Our stem -> PyTorch's, which differ for the statistics of a batch normalisation alone."""
    stems = {}
    for shapes in layouts:
        for name in shapes:
            if not name.endswith('.bias'):
                stem = name.removesuffix('.weight')
                theirs = stem.replace('._mean', '.running_mean')
                stems[stem] = theirs.replace('._variance', '.running_var')
    return stems


_LAYOUTS = (*_ENCODERS.values(), _DECODER, _SECONDARY, _HEAD, _PROBE, _NORM, _FC_NORM)
TORCH = Scheme('PyTorch, official or timm names', _stems(*_LAYOUTS))
_OWN_STEMS = [*TORCH.stems, *_stems(_SEGMENTOR)]
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
    **_blocks('blocks', 'vit.encoder.layer', _SPLIT),
    **_blocks('decoder_blocks', 'decoder.decoder_layers', _SPLIT),
}
_HUGGING_FACE_SAVED_BY_5 = {
    **_HUGGING_FACE,
    **_blocks('decoder_blocks', 'decoder.decoder_encoder.layer', _SPLIT),
}
_HUGGING_FACE_IN_MEMORY = {
    **_HUGGING_FACE,
    **_blocks('blocks', 'vit.layers', _SPLIT_SINCE_5),
    **_blocks('decoder_blocks', 'decoder.decoder_layers', _SPLIT_SINCE_5),
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
    **_blocks('blocks', 'backbone.layers', _FFN),
}
_MMPRETRAIN_DECODER = {
    'mask_token': 'neck.mask_token',
    'decoder_pos_embed': 'neck.decoder_pos_embed',
    'decoder_embed': 'neck.decoder_embed',
    'decoder_norm': 'neck.ln1',
    'decoder_pred': 'neck.decoder_pred',
    **_blocks('decoder_blocks', 'neck.decoder_blocks', _FFN),
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
    **_stems(_SEGMENTOR),
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
    r'^(vit\.)?pooler\.': 'a pooling layer that MAE does not have',
}
# Tensors that only files of PyTorch have: last part of the name -> why they are written
MADE = {
    'num_batches_tracked': 'PyTorch keeps this count, though nothing uses it',
    'relative_position_index': 'PyTorch keeps this table, though it follows from the size',
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
