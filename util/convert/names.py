"""What weights are called and how they are shaped: in this project, and in the code bases that files come from.

All of it is data, read in both directions. A stem is a name without `.weight` or `.bias`, `{}` the number of a block.
Weights of two dimensions are Linear's, [in, out] in Paddle and [out, in] in PyTorch.
"""

import re
from dataclasses import dataclass

ENCODER, AUTOENCODER = 'an encoder', 'a masked autoencoder'
PROBE, POOLED, CLASS_TOKEN = (
    'a linear probe',
    'a classifier by global pooling',
    'a classifier by class token',
)
SEGMENTOR = 'a segmentor (UPerNet)'
VIT, SWIN, PVT = 'a ViT', 'a Swin of UM-MAE', 'a PVT of UM-MAE'


def family(tensors: dict) -> str:
    """What weights under our names encode with, by the attention."""
    parts = {part for name in tensors for part in name.split('.')}
    return SWIN if 'posmlp' in parts else PVT if 'kv' in parts else VIT


def kind(tensors: dict) -> str:
    """What weights under our names are."""
    if 'decode_head.conv_seg.weight' in tensors:
        return SEGMENTOR
    if 'head.1.weight' in tensors:
        return PROBE
    if 'head.weight' in tensors:
        return POOLED if 'fc_norm.weight' in tensors or family(tensors) != VIT else CLASS_TOKEN
    return AUTOENCODER if 'mask_token' in tensors else ENCODER


# Shapes in Paddle's layout: D width, H hidden, C channels, P patch side, T tokens, K classes, O = P*P*C;
# E and F are D and H of the decoder; N heads and R relative positions, Q, U and A channels of a segmentor.
# Pyramids: D, H and N differ by stages, B is D of the stage before and D1 of the first, outside of blocks D is of the last;
# M is the width of the coordinate MLP, S patches as they are removed, each of 4 x 4 tokens.


def _with_bias(stem: str, shape: str) -> dict[str, str]:
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[-1]}


def _conv(stem: str, shape: str) -> dict[str, str]:
    return {f'{stem}.weight': shape, f'{stem}.bias': shape.split()[0]}


def _block(stem: str, width: str, hidden: str, attention: dict[str, int]) -> dict[str, str]:
    """Of `attention`, the names of its input projections, and how many times the width each makes."""
    parts = {
        'norm1': width,
        **{f'attn.{part}': f'{width} {times}{width}' for part, times in attention.items()},
        'attn.proj': f'{width} {width}',
        'norm2': width,
        'mlp.fc1': f'{width} {hidden}',
        'mlp.fc2': f'{hidden} {width}',
    }
    return {
        name: shape
        for part, shape in parts.items()
        for name, shape in _with_bias(f'{stem}.{{}}.{part}', shape).items()
    }


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
_UM_DECODER = _DECODER | {'decoder_pos_embed': '1 S E'} | _with_bias('decoder_embed', 'D 4E')
_SIMMIM = {'mask_token': '1 1 D1', **_with_bias('decoder_pred', 'D 4O')}
_SECONDARY = {'vis_mask_token': '1 1 D1'}  # UM-MAE's, where it masks visible patches too
_HEAD = _with_bias('head', 'D K')
_PROBE = {'head.0._mean': 'D', 'head.0._variance': 'D', **_with_bias('head.1', 'D K')}
# never both, and a segmentor has neither
_NORM, _FC_NORM = _with_bias('norm', 'D'), _with_bias('fc_norm', 'D')


def _batch_norm(stem: str, width: str) -> dict[str, str]:
    return {f'{stem}.{part}': width for part in ('weight', 'bias', '_mean', '_variance')}


def _normed(stem: str, shape: str) -> dict[str, str]:
    return {f'{stem}.conv.weight': shape, **_batch_norm(f'{stem}.bn', shape.split()[0])}


_SEGMENTOR = {
    **{f'backbone.{name}': shape for name, shape in _VIT.items()},
    'backbone.blocks.{}.gamma_1': 'D',
    'backbone.blocks.{}.gamma_2': 'D',
    'backbone.position_bias.{}.table': 'R N',
    **_conv('neck.upsample_4x.0', 'D D 2 2'),
    **_batch_norm('neck.upsample_4x.1', 'D'),
    **_conv('neck.upsample_4x.3', 'D D 2 2'),
    **_conv('neck.upsample_2x.0', 'D D 2 2'),
    **{
        name: shape
        for i in range(4)
        for name, shape in _normed(f'decode_head.psp_modules.{i}.1', 'Q D 1 1').items()
    },
    **_normed('decode_head.bottleneck', 'Q U 3 3'),
    **{
        name: shape
        for i in range(3)
        for name, shape in _normed(f'decode_head.lateral_convs.{i}', 'Q D 1 1').items()
    },
    **{
        name: shape
        for i in range(3)
        for name, shape in _normed(f'decode_head.fpn_convs.{i}', 'Q Q 3 3').items()
    },
    **_normed('decode_head.fpn_bottleneck', 'Q 4Q 3 3'),
    **_conv('decode_head.conv_seg', 'K Q 1 1'),
    **_normed('auxiliary_head.convs.0', 'A D 3 3'),
    **_conv('auxiliary_head.conv_seg', 'K A 1 1'),
}


def layout(tensors: dict) -> dict[str, str]:
    """Shapes of all tensors that weights like these, under our names, must have."""
    what, encoder = kind(tensors), family(tensors)
    if what == SEGMENTOR:
        return _numbered(_SEGMENTOR, tensors)
    shapes = {ENCODER: {}, POOLED: _HEAD, CLASS_TOKEN: _HEAD, PROBE: _PROBE, AUTOENCODER: _DECODER}[
        what
    ]
    if what == AUTOENCODER and encoder != VIT:
        shapes = (
            _UM_DECODER if any(name.startswith('decoder_embed.') for name in tensors) else _SIMMIM
        )
    if what == AUTOENCODER and shapes is not _SIMMIM and 'vis_mask_token' in tensors:
        shapes = shapes | _SECONDARY
    pooled = 'fc_norm.weight' in tensors or (encoder != VIT and what in (POOLED, PROBE))
    return _numbered(_ENCODERS[encoder] | shapes | (_FC_NORM if pooled else _NORM), tensors)


def _numbered(shapes: dict[str, str], tensors: dict) -> dict[str, str]:
    """With the numbers of the blocks that there are instead of {}, and of their stages behind letters."""
    merges = {
        int(name.split('.')[1])
        for name in tensors
        if name.startswith('blocks.') and '.downsample.' in name
    }
    whole = {}
    for name, shape in shapes.items():
        stack, numbered, part = name.partition('{}')
        if not numbered:
            whole[name] = _in_stage(shape, len(merges) + 1)
            continue
        numbers = [
            int(own.removeprefix(stack).partition('.')[0])
            for own in tensors
            if own.startswith(stack)
        ]
        for i in range(max(numbers, default=-1) + 1):
            if i in merges or not part.startswith('.downsample.'):
                whole[f'{stack}{i}{part}'] = _in_stage(
                    shape, 1 + sum(merge <= i for merge in merges)
                )
    return whole


def _in_stage(shape: str, stage: int) -> str:
    return re.sub(r'([DHN])(?!\d)', rf'\g<1>{stage}', shape.replace('B', f'D{stage - 1}'))


@dataclass(frozen=True)
class Scheme:
    """Names of a code base: our stem -> its stem, or the three of query, key and value."""

    label: str
    stems: dict[str, str | tuple[str, str, str]]


def _blocks(ours: str, theirs: str, parts: dict) -> dict:
    def named(part):
        return tuple(map(named, part)) if isinstance(part, tuple) else f'{theirs}.{{}}.{part}'

    return {f'{ours}.{{}}.{part}': named(name) for part, name in parts.items()}


def _stems(*layouts: dict[str, str]) -> dict[str, str]:
    """Our stems -> PyTorch's."""
    ours = [
        name.removesuffix('.weight')
        for shapes in layouts
        for name in shapes
        if not name.endswith('.bias')
    ]
    return {
        stem: stem.replace('._mean', '.running_mean').replace('._variance', '.running_var')
        for stem in ours
    }


TORCH = Scheme(
    'PyTorch, official or timm names',
    _stems(*_ENCODERS.values(), _DECODER, _SECONDARY, _HEAD, _PROBE, _NORM, _FC_NORM),
)
PADDLE = Scheme('Paddle', {stem: stem for stem in [*TORCH.stems, *_stems(_SEGMENTOR)]})

_SPLIT = {
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.proj': 'attention.output.dense',
    'attn.qkv': tuple(f'attention.attention.{part}' for part in ('query', 'key', 'value')),
    'mlp.fc1': 'intermediate.dense',
    'mlp.fc2': 'output.dense',
}
_SPLIT_SINCE_5 = _SPLIT | {
    'attn.proj': 'attention.o_proj',
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
    'attn.qkv': tuple(f'attention.{part}_proj' for part in 'qkv'),
}
HUGGING_FACE = Scheme(
    'Hugging Face',
    {
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
    },
)
HUGGING_FACE_SAVED_BY_5 = Scheme(
    'Hugging Face, as transformers 5 saves',
    HUGGING_FACE.stems | _blocks('decoder_blocks', 'decoder.decoder_encoder.layer', _SPLIT),
)
HUGGING_FACE_IN_MEMORY = Scheme(
    'Hugging Face, as transformers 5 has it in memory',
    HUGGING_FACE.stems
    | _blocks('blocks', 'vit.layers', _SPLIT_SINCE_5)
    | _blocks('decoder_blocks', 'decoder.decoder_layers', _SPLIT_SINCE_5),
)

_FFN = {
    'norm1': 'ln1',
    'norm2': 'ln2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'mlp.fc1': 'ffn.layers.0.0',
    'mlp.fc2': 'ffn.layers.1',
}
MMPRETRAIN = Scheme(
    'OpenMMLab',
    {
        'cls_token': 'backbone.cls_token',
        'pos_embed': 'backbone.pos_embed',
        'patch_embed.proj': 'backbone.patch_embed.projection',
        'norm': 'backbone.ln1',
        'fc_norm': 'backbone.ln2',
        'head': 'head.fc',
        'mask_token': 'neck.mask_token',
        'decoder_pos_embed': 'neck.decoder_pos_embed',
        'decoder_embed': 'neck.decoder_embed',
        'decoder_norm': 'neck.ln1',
        'decoder_pred': 'neck.decoder_pred',
        **_blocks('blocks', 'backbone.layers', _FFN),
        **_blocks('decoder_blocks', 'neck.decoder_blocks', _FFN),
    },
)
MMSEGMENTATION = Scheme(
    'OpenMMLab, as mmsegmentation converts', MMPRETRAIN.stems | {'norm': 'backbone.norm'}
)
MMPRETRAIN_CLASS_TOKEN = Scheme('OpenMMLab', MMPRETRAIN.stems | {'head': 'head.layers.head'})
MMPRETRAIN_PROBE = Scheme(
    'OpenMMLab',
    {stem: name for stem, name in MMPRETRAIN.stems.items() if stem != 'head'}
    | {
        'head.1': 'head.layers.head',
        'head.0._mean': 'neck.bn.running_mean',
        'head.0._variance': 'neck.bn.running_var',
    },
)
MMSEGMENTOR = Scheme(
    'OpenMMLab, UPerNet of mmsegmentation',
    _stems(_SEGMENTOR)
    | {
        f'backbone.{ours}': theirs
        for ours, theirs in MMPRETRAIN.stems.items()
        if theirs.startswith('backbone.')
    }
    | {
        'backbone.position_bias.{}.table': 'backbone.layers.{}.attn.relative_position_bias_table',
        **{f'backbone.blocks.{{}}.gamma_{i}': f'backbone.layers.{{}}.gamma_{i}' for i in (1, 2)},
    },
)

# Where several fit a file equally well, the first is meant
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

# What belongs to no model here: pattern of the name -> why it can be left out
DROPPED = {
    r'num_batches_tracked$': 'a count that nothing uses',
    r'relative_position_index$': 'numbers that follow from the size',
    r'^data_preprocessor\.': 'mean and deviation of pixels, which are flags here',
    r'^(vit\.)?pooler\.': 'a pooling layer that MAE does not have',
}
# What only files of PyTorch hold: last part of the name -> why it is made for them
MADE = {
    'num_batches_tracked': 'PyTorch keeps this count, though nothing uses it',
    'relative_position_index': 'PyTorch keeps what follows from the size',
}
# What can be left out as long as it is this number everywhere: earlier Paddle ports' BatchNorm keeps an affine part that
# they switched off
IDENTITY = {'head.0.weight': 1, 'head.0.bias': 0}
# Beginnings that wrappers put before every name, in any order and number: DataParallel's and torch.compile's
WRAPPERS = ('module.', '_orig_mod.')
WRAPPED = rf'^({"|".join(map(re.escape, WRAPPERS))})+'
# Of a Hugging Face encoder on its own, whose names have no `vit.` before them
HUGGING_FACE_BARE = (
    r'embeddings\.|encoder\.layer\.|layernorm\.|layers\.\d+\.(layernorm_|attention\.|mlp\.)'
)
