"""Sizes of the models, and which of them weights under our names have."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Patch side; width, depth and heads of the encoder, then of the decoder."""

    patch: int
    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int


# Vision transformers, by the part that their names share: vit_<name> encodes for mae_vit_<name>
SIZES = {
    'nano_patch4': Size(4, 96, 4, 3, 64, 2, 2),  # for tests and the tour: 32 x 32 images
    # of the earlier Paddle port, flytocc/mae-paddle @ be10566
    'small_patch16': Size(16, 384, 12, 6, 192, 4, 3),
    'base_patch16': Size(16, 768, 12, 12, 512, 8, 16),  # the paper's, arXiv:2111.06377
    'large_patch16': Size(16, 1024, 24, 16, 512, 8, 16),
    'huge_patch14': Size(14, 1280, 32, 16, 512, 8, 16),
}
# Pyramids, by the encoder's name, which ends in the side of its images; what their constructors are given. The nano ones
# are for tests and the tour: a patch a pixel, so that masks go by units of 4 x 4
PYRAMIDS = {
    'swin_nano_32': {
        'patch_size': 1,
        'embed_dim': 16,
        'depths': (2, 1, 2, 1),
        'num_heads': (1, 2, 4, 8),
        'posmlp_dim': 16,
    },
    'swin_tiny_256': {
        'patch_size': 4,
        'embed_dim': 96,
        'depths': (2, 2, 6, 2),
        'num_heads': (3, 6, 12, 24),
        'posmlp_dim': 32,
    },
    'swin_large_256': {
        'patch_size': 4,
        'embed_dim': 192,
        'depths': (2, 2, 18, 2),
        'num_heads': (6, 12, 24, 48),
        'posmlp_dim': 64,
    },
    'pvt_nano_32': {
        'patch_size': 1,
        'embed_dims': (16, 32, 64, 128),
        'depths': (1, 1, 2, 1),
        'num_heads': (1, 2, 4, 8),
        'mlp_ratios': (4, 4, 4, 4),
    },
    'pvt_small_256': {
        'patch_size': 4,
        'embed_dims': (64, 128, 320, 512),
        'depths': (3, 4, 6, 3),
        'num_heads': (1, 2, 5, 8),
        'mlp_ratios': (8, 8, 4, 4),
    },
}


def name_of(tensors: dict) -> str | None:
    """The size that a vision transformer's weights under our names have, by patch side, width and depth; None where it is
    no known one."""
    patch, width, depth, _ = _measures(tensors)
    return next(
        (
            name
            for name, size in SIZES.items()
            if (size.patch, size.width, size.depth) == (patch, width, depth)
        ),
        None,
    )


def size_of(tensors: dict) -> Size | None:
    """The size that weights under our names have; None for a vision transformer of no known size, and for other models."""
    return SIZES.get(name_of(tensors)) if 'patch_embed.proj.weight' in tensors else None


def said_by(tensors: dict) -> dict:
    """What weights under our names say of their model, as flags: `in_chans`; `model`, the encoder's name, where it is a
    known one; `input_size`, where the weights depend on it or the name says it. Images are taken to be square."""
    patch, width, depth, channels = _measures(tensors)
    said = {'in_chans': channels}
    if 'cls_token' in tensors:
        side = math.isqrt(tensors['pos_embed'].shape[1] - 1) * patch
        return (
            said
            | {'input_size': side}
            | ({'model': f'vit_{name}'} if (name := name_of(tensors)) else {})
        )
    family = 'pvt' if 'pos_embed' in tensors else 'swin'
    for name, size in PYRAMIDS.items():
        if name.startswith(family) and (patch, width, depth) == (
            size['patch_size'],
            size.get('embed_dim') or size['embed_dims'][0],
            sum(size['depths']),
        ):
            said |= {'model': name, 'input_size': int(name.rpartition('_')[2])}
    if 'pos_embed' in tensors:
        said['input_size'] = math.isqrt(tensors['pos_embed'].shape[1]) * patch
    elif 'decoder_pos_embed' in tensors:
        unit = math.isqrt(tensors['decoder_pred.weight'].shape[1] // channels)
        said['input_size'] = math.isqrt(tensors['decoder_pos_embed'].shape[1]) * unit
    return said


def image_sides(flags: dict) -> tuple[int, int] | None:
    """(height, width) of the images that a file's flags say, in the ways of timm and others; None where they do not."""
    for name in ('input_size', 'img_size', 'image_size'):
        value = flags.get(name)
        sides = [value, value] if isinstance(value, int) else value
        if isinstance(sides, (list, tuple)) and len(sides) in (2, 3):
            height, width = sides[-2:]  # timm's input_size has the channels first
            if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
                return height, width
    return None


def autoencoder_of(tensors: dict) -> str | None:
    """The name of the masked autoencoder that weights under our names are of; None where it is no known one."""
    encoder = said_by(tensors).get('model')
    if encoder is None or encoder.startswith('vit_'):
        size = encoder and SIZES[encoder.removeprefix('vit_')]
        depth = sum(
            name.endswith('norm1.weight') for name in tensors if name.startswith('decoder_blocks.')
        )
        usual = size and depth == size.decoder_depth
        return size and f'mae_{encoder}' + ('' if usual else f'_dec{size.decoder_width}d{depth}b')
    if 'decoder_embed.weight' not in tensors:
        return f'simmim_{encoder}'
    wide = len(tensors.get('blocks.0.attn.posmlp.0.bias', [])) == 64
    return f'mae_{encoder}' + '_dec512d2b' * (encoder == 'swin_large_256' and not wide)


def _measures(tensors: dict) -> tuple[int, int, int, int]:
    """Patch side, width of the first block, number of blocks, channels."""
    width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
    depth = sum(name.startswith('blocks.') and name.endswith('.norm1.weight') for name in tensors)
    return patch, width, depth, channels
