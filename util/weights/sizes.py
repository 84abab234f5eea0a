"""Sizes of the models, by the part that their names share: vit_<name> encodes for mae_vit_<name>."""
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


SIZES = {
    'nano_patch4': Size(4, 96, 4, 3, 64, 2, 2),  # for tests and the tour: 32 x 32 images
    'small_patch16': Size(16, 384, 12, 6, 192, 4, 3),  # of the earlier Paddle port, flytocc/mae-paddle @ be10566
    'base_patch16': Size(16, 768, 12, 12, 512, 8, 16),  # the paper's, arXiv:2111.06377
    'large_patch16': Size(16, 1024, 24, 16, 512, 8, 16),
    'huge_patch14': Size(14, 1280, 32, 16, 512, 8, 16),
}


def name_of(tensors: dict) -> str | None:
    """The size that weights under our names have, by patch side, width and depth; None where it is no known one."""
    width, _, patch, _ = tensors['patch_embed.proj.weight'].shape
    depth = sum(name.startswith('blocks.') and name.endswith('.norm1.weight') for name in tensors)
    return next((name for name, size in SIZES.items() if (size.patch, size.width, size.depth) == (patch, width, depth)),
                None)
