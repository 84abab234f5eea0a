"""Which patches are removed. One polarity everywhere: True (1) = removed.

A mask reaches the model as noise: the patches with the smallest noise are kept. So a 0/1 mask is noise as well.
"""
import functools
from collections.abc import Callable

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


def sampler(grid: tuple[int, int], mask_ratio: float, regular: bool) -> Callable[[np.random.Generator], np.ndarray]:
    """What draws the masks of images, as noise: uniformly random ones, or with `regular` the uniform ones of UM-MAE.
    InputError where the ratio or the grid does not allow it."""
    patches = grid[0] * grid[1]
    check(patches, mask_ratio)
    if not regular:
        return functools.partial(random, patches)
    if mask_ratio != 0.75:
        raise InputError(f'--mask_ratio {mask_ratio}: --mask_regular keeps one of every 2 x 2 patches, which is 0.75')
    if any(side % 2 for side in grid):
        raise InputError(f'--mask_regular needs an even number of patches a side, and there are {grid[0]} x {grid[1]}')
    return functools.partial(uniform, grid)


def random(patches: int, rng: np.random.Generator) -> np.ndarray:
    """Noise for the uniformly random masks of MAE. float32 [patches] in [0, 1)."""
    return rng.random(patches, dtype='float32')


def uniform(grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A uniform mask (arXiv:2205.10063, sec. 3.2): one of every 2 x 2 patches is kept. float32 [rows * columns],
    1 = removed.

    Which one is drawn without replacement from a pool that holds each of the four choices equally often, half as many
    in all as there are patches: so an image has nearly as many of each.
    """
    rows, columns = grid[0] // 2, grid[1] // 2
    pool = np.repeat(np.arange(4), -(-rows * columns // 2))
    kept = rng.permutation(pool)[:rows * columns].reshape(rows, columns, 1, 1)
    cells = kept != np.arange(4).reshape(2, 2)  # [rows, columns, 2, 2]
    return cells.transpose(0, 2, 1, 3).reshape(-1).astype('float32')
