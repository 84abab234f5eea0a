"""The sizes of the models, and how to tell a model from its weights.

`tensors` are weights under our names: a dict of arrays or tensors.
"""

import math
from dataclasses import dataclass

from util import pos_embed, sizes
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

    def heads_of_decoder(self, width: int) -> int:
        """The heads of a decoder of another width: each is as wide as in the usual decoder."""
        width_of_head = self.decoder_width // self.decoder_heads
        heads, left_over = divmod(width, width_of_head)
        if left_over or not heads:
            raise InputError(
                f'--decoder_dim {width} is no multiple of {width_of_head}, the width of a head'
            )
        return heads


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

    It is known by width and depth; of names for several patch sides, by the patch side, too. A
    patch side that no name has is one that --patch_size asked for.
    """
    patch, width, depth, _ = _measures(tensors)
    found = [name for name, size in SIZES.items() if (size.width, size.depth) == (width, depth)]
    for name in found:
        if SIZES[name].patch == patch:
            return name
    return found[0] if found else None


def size_of(tensors: dict) -> Size | None:
    """The size of a vision transformer's weights; None if it is not in SIZES, or for pyramids."""
    if 'patch_embed.proj.weight' not in tensors:
        return None
    return SIZES.get(name_of(tensors))


def said_by(tensors: dict, sides: tuple[int, int] | None = None) -> dict:
    """The flags that follow from the shapes of weights, for images of (height, width) `sides`.

    Always `in_chans`; `model`, the encoder's name, if it is a known one; `patch_size` of a vision
    transformer; `input_size`, if `sides` are given, the weights depend on it or the name contains
    it. A position table that does not fit `sides` is taken for a square's.
    """
    flags = {'in_chans': _measures(tensors)[3]}
    if 'cls_token' in tensors:
        return flags | _vit_flags(tensors, sides)
    return flags | _pyramid_flags(tensors, sides)


def _vit_flags(tensors: dict, sides: tuple[int, int] | None) -> dict:
    patch, _, _, _ = _measures(tensors)
    positions = tensors['pos_embed'].shape[1] - 1  # without the class token's
    flags = {'input_size': _image_of(positions, patch, sides), 'patch_size': patch}
    name = name_of(tensors)
    if name:
        flags['model'] = f'vit_{name}'
    return flags


def _pyramid_flags(tensors: dict, sides: tuple[int, int] | None) -> dict:
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
    if sides:
        flags['input_size'] = sizes.plain(sides)

    # A table of positions decides: of a PVT's patches, or of the units that a decoder predicts
    if 'pos_embed' in tensors:
        patches = tensors['pos_embed'].shape[1]
        flags['input_size'] = _image_of(patches, patch, sides)
    elif 'decoder_pos_embed' in tensors:
        pixels = tensors['decoder_pred.weight'].shape[1] // channels  # of a unit
        units = tensors['decoder_pos_embed'].shape[1]
        flags['input_size'] = _image_of(units, math.isqrt(pixels), sides)
    return flags


def _image_of(patches: int, patch: int, sides: tuple[int, int] | None) -> int | list[int]:
    """The size of the image that is cut into a number of patches, as a flag has it."""
    side = math.isqrt(patches)
    rows, columns = pos_embed.grid_of(patches, sides) or (side, side)
    return sizes.plain((rows * patch, columns * patch))


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
    width, depth = decoder_of(tensors)
    if (width, depth) == (size.decoder_width, size.decoder_depth):
        return f'mae_{encoder}'
    return f'mae_{encoder}_dec{width}d{depth}b'


def decoder_of(tensors: dict) -> tuple[int, int]:
    """Width and number of blocks of the decoder in the weights of a masked autoencoder."""
    depth = 0
    for name in tensors:
        if name.startswith('decoder_blocks.') and name.endswith('norm1.weight'):
            depth += 1
    return len(tensors['decoder_norm.bias']), depth


def vit_options(tensors: dict) -> dict:
    """Arguments of models_mae.MaskedAutoencoderViT that the weights of one show."""
    width, depth = decoder_of(tensors)
    options = {'decoder_embed_dim': width, 'decoder_depth': depth}
    if 'encoder_mask_token' in tensors:
        options['encoder_mask_tokens'] = True
    if 'pca_basis' in tensors:
        options['pca_target'] = tensors['pca_basis'].shape[1]
    return options


def _measures(tensors: dict) -> tuple[int, int, int, int]:
    """Patch side, width of the first block, number of blocks, channels."""
    width, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
    depth = sum(name.startswith('blocks.') and name.endswith('.norm1.weight') for name in tensors)
    return patch, width, depth, channels


def check_positions(
    tensors: dict, path: str, sides: tuple[int, int] | None, grid: tuple[int, int] | None = None
) -> None:
    """InputError if nothing tells the grid of a file's position table, or if it is not `grid`.

    sides: (height, width) of images by the file's flags; without them a table is a square's.
    grid: rows and columns of the model's patches, which must be the file's. It also explains a
    table of the right length that is no square's.
    """
    if 'pos_embed' not in tensors:
        return
    length = tensors['pos_embed'].shape[1]
    patches = length - 1 if 'cls_token' in tensors else length
    found = pos_embed.grid_of(patches, sides)
    if found is None and grid and patches == grid[0] * grid[1]:
        return
    if found is None:
        raise InputError(
            f'{path}: pos_embed has {length} positions, of which {patches} are for patches. That '
            'is no square number, and the file gives no sides; give them by --input_size H W'
        )
    if grid and found != tuple(grid):
        patch, _, _, _ = _measures(tensors)
        size = sizes.words([side * patch for side in found])
        raise InputError(
            f'{path}: pos_embed is for {sizes.shown(found)} patches, and the model has '
            f'{sizes.shown(grid)}; give --input_size {size}'
        )


def check_asked(path: str, known: dict, asked: dict) -> None:
    """Add to `known` what was asked for; InputError where it contradicts what is known already."""
    for name, value in asked.items():
        if value is None or known.setdefault(name, value) == value:
            continue
        own = known[name]
        if name == 'input_size':
            own, value = sizes.words(own), sizes.words(value)
        raise InputError(f'{path} has {name} {own}, but {name} {value} was asked for')


def check_patches(own: dict, tensors: dict, path: str) -> None:
    """Raise InputError if the encoder in a file has another patch size than the model's."""
    found = _patch_size(tensors)
    wanted = _patch_size(own)
    if found and wanted and found != wanted:
        raise InputError(
            f'{path} has patches of {found} x {found} pixels, and the model of '
            f'{wanted} x {wanted}; their weights cannot be resized. Choose another --model, or '
            f'give --patch_size {found} for a ViT'
        )


def _patch_size(tensors: dict) -> int | None:
    """The patch side by the weight of the patch projection; None if there is none."""
    for name in ('patch_embed.proj.weight', 'backbone.patch_embed.proj.weight'):
        if name in tensors:
            return tensors[name].shape[-1]
    return None
