"""The sizes of the models, and how to tell a model from its weights.

`tensors` are weights under our names: a dict of arrays or tensors.
"""

import math
from dataclasses import dataclass

from util import pos_embed
from util.errors import InputError


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


# Vision transformers, by the common part of their names: vit_<name> is the encoder of
# mae_vit_<name>. Nano is for tests and the tour: patches of 4 for images of 32 x 32, of 8 for
# detection. Small is of the earlier Paddle port (flytocc/mae-paddle @ be10566), the others are the
# paper's (arXiv:2111.06377)
SIZES = {
    # patch, width, depth, heads
    'nano_patch4': Size(4, 96, 4, 3, decoder_width=64, decoder_depth=2, decoder_heads=2),
    'nano_patch8': Size(8, 96, 4, 3, decoder_width=64, decoder_depth=2, decoder_heads=2),
    'small_patch16': Size(16, 384, 12, 6, decoder_width=192, decoder_depth=4, decoder_heads=3),
    'base_patch16': Size(16, 768, 12, 12, decoder_width=512, decoder_depth=8, decoder_heads=16),
    'large_patch16': Size(16, 1024, 24, 16, decoder_width=512, decoder_depth=8, decoder_heads=16),
    'huge_patch14': Size(14, 1280, 32, 16, decoder_width=512, decoder_depth=8, decoder_heads=16),
}
# The arguments of pyramids, by the encoder's name, which ends in the side of its images. Nano is
# for tests and the tour. For images of 32 x 32 a patch is a pixel, so masks remove units of 4 x 4
# pixels; swin_nano_64 is for detection
PYRAMIDS = {
    'swin_nano_32': {
        'patch_size': 1,
        'embed_dim': 16,
        'depths': (2, 1, 2, 1),
        'num_heads': (1, 2, 4, 8),
        'posmlp_dim': 16,
    },
    'swin_nano_64': {
        'patch_size': 2,
        'embed_dim': 16,
        'depths': (1, 1, 2, 1),
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
    """The name in SIZES of a vision transformer's weights; None if their size is not there.

    It is known by patch side, width and depth.
    """
    patch, width, depth, _ = _measures(tensors)
    for name, size in SIZES.items():
        if (size.patch, size.width, size.depth) == (patch, width, depth):
            return name
    return None


def size_of(tensors: dict) -> Size | None:
    """The size of a vision transformer's weights; None if it is not in SIZES, or for pyramids."""
    if 'patch_embed.proj.weight' not in tensors:
        return None
    return SIZES.get(name_of(tensors))


def said_by(tensors: dict) -> dict:
    """The flags that follow from the shapes of weights. Images are taken to be square.

    Always `in_chans`; `model`, the encoder's name, if it is a known one; `input_size`, if the
    weights depend on it or the name contains it.
    """
    flags = {'in_chans': _measures(tensors)[3]}
    if 'cls_token' in tensors:
        return flags | _vit_flags(tensors)
    return flags | _pyramid_flags(tensors)


def _vit_flags(tensors: dict) -> dict:
    patch, _, _, _ = _measures(tensors)
    positions = tensors['pos_embed'].shape[1] - 1  # without the class token's
    flags = {'input_size': math.isqrt(positions) * patch}
    name = name_of(tensors)
    if name:
        flags['model'] = f'vit_{name}'
    return flags


def _pyramid_flags(tensors: dict) -> dict:
    patch, width, depth, channels = _measures(tensors)
    flags = {}

    # The encoder, and the side of images that its name ends in
    family = 'pvt' if 'pos_embed' in tensors else 'swin'
    for name, size in PYRAMIDS.items():
        first_width = size.get('embed_dim') or size['embed_dims'][0]
        measures = (size['patch_size'], first_width, sum(size['depths']))
        if name.startswith(family) and measures == (patch, width, depth):
            flags['model'] = name
            flags['input_size'] = int(name.rpartition('_')[2])

    # A table of positions decides: of a PVT's patches, or of the units that a decoder predicts
    if 'pos_embed' in tensors:
        flags['input_size'] = math.isqrt(tensors['pos_embed'].shape[1]) * patch
    elif 'decoder_pos_embed' in tensors:
        pixels = tensors['decoder_pred.weight'].shape[1] // channels  # of a unit
        units = tensors['decoder_pos_embed'].shape[1]
        flags['input_size'] = math.isqrt(units) * math.isqrt(pixels)
    return flags


def image_sides(flags: dict) -> tuple[int, int] | None:
    """(height, width) of images by a file's flags, ours, timm's and others'; None if absent."""
    for name in ('input_size', 'img_size', 'image_size'):
        value = flags.get(name)
        sides = [value, value] if isinstance(value, int) else value
        if not isinstance(sides, (list, tuple)) or len(sides) not in (2, 3):
            continue
        height, width = sides[-2:]  # timm's input_size has the channels first
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return height, width
    return None


def autoencoder_of(tensors: dict) -> str | None:
    """The name of the masked autoencoder that weights belong to; None if it is not a known one."""
    encoder = said_by(tensors).get('model')
    if encoder is None:
        return None
    if encoder.startswith('vit_'):
        return _mae_vit(encoder, tensors)
    if 'decoder_embed.weight' not in tensors:
        return f'simmim_{encoder}'

    # Of swin_large_256 there are two, which differ in the width of the coordinate MLP
    posmlp_dim = len(tensors.get('blocks.0.attn.posmlp.0.bias', []))
    if encoder == 'swin_large_256' and posmlp_dim != 64:
        return 'mae_swin_large_256_dec512d2b'
    return f'mae_{encoder}'


def _mae_vit(encoder: str, tensors: dict) -> str:
    """The name of a masked autoencoder, with its decoder unless that is the usual one."""
    size = SIZES[encoder.removeprefix('vit_')]
    depth = 0
    for name in tensors:
        if name.startswith('decoder_blocks.') and name.endswith('norm1.weight'):
            depth += 1
    if depth == size.decoder_depth:
        return f'mae_{encoder}'
    return f'mae_{encoder}_dec{size.decoder_width}d{depth}b'


def _measures(tensors: dict) -> tuple[int, int, int, int]:
    """Patch side, width of the first block, number of blocks, channels."""
    width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
    depth = sum(name.startswith('blocks.') and name.endswith('.norm1.weight') for name in tensors)
    return patch, width, depth, channels


def check_square(tensors: dict, flags: dict, path: str) -> None:
    """InputError if a file's position table is not one for square images.

    The flags of the file may tell other sides; without them a table is taken for a square's.
    """
    if 'pos_embed' not in tensors:
        return
    length = tensors['pos_embed'].shape[1]
    patches = length - 1 if 'cls_token' in tensors else length
    side = math.isqrt(patches)
    grid = pos_embed.grid_of(patches, image_sides(flags))
    if grid == (side, side):
        return
    if grid is None:
        found = (
            f'of which {patches} are for patches. That is no square number, '
            'and the file gives no sides'
        )
    else:
        found = f'for {grid[0]} x {grid[1]} patches by the image sides in the file'
    raise InputError(
        f'{path}: pos_embed has {length} positions, {found}; '
        f'the model takes square images and has {side} x {side} patches'
    )
