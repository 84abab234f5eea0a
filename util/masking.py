"""Which patches are removed. One polarity everywhere: True (1) = removed.

A mask reaches the model as noise: the patches with the smallest noise are kept. So a 0/1 mask is noise as well.
"""
import numpy as np

from util.errors import InputError


def kept(patches: int, mask_ratio: float) -> int:
    """How many of `patches` the encoder sees; rounded down, as upstream."""
    return int(patches * (1 - mask_ratio))


def check(patches: int, mask_ratio: float) -> None:
    """InputError where a ratio leaves nothing to see, or nothing to learn from."""
    visible = kept(patches, mask_ratio)
    if not 0 < visible < patches:
        raise InputError(f'--mask_ratio {mask_ratio} keeps {visible} of {patches} patches; at least one must be '
                         'kept and one removed')


def random(patches: int, rng: np.random.Generator) -> np.ndarray:
    """Noise for the uniformly random masks of MAE. float32 [patches] in [0, 1)."""
    return rng.random(patches, dtype='float32')
