"""Which patches are removed. One polarity everywhere: True (1) = removed.

A mask reaches the model as noise: the patches with the smallest noise are kept. So a 0/1 mask
works as noise.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from util.errors import InputError

Count = Callable[[int, float], int]  # (patches, mask ratio) -> visible patches
KINDS = ('random', 'block', 'grid', 'uniform')
# The kinds that keep one of every 2 x 2 patches, and their flags
CELLS = {'grid': '--masking grid', 'uniform': '--mask_regular'}
# Rectangles of block-wise masks, as in BEiT
SMALLEST = 16 / 196  # area, as a share of all patches
SLIMMEST = 0.3  # short side over long side


def num_visible(patches: int, mask_ratio: float) -> int:
    """The number of patches that the encoder sees, rounded down as upstream."""
    return int(patches * (1 - mask_ratio))


def num_visible_um(patches: int, mask_ratio: float) -> int:
    """As UM-MAE counts for its SimMIM: the removed patches are rounded down instead."""
    return patches - int(patches * mask_ratio)


def check(patches: int, mask_ratio: float, count: Count = num_visible) -> None:
    """Raise InputError if a mask ratio keeps none of the patches, or all."""
    visible = count(patches, mask_ratio)
    if not 0 < visible < patches:
        raise InputError(
            f'--mask_ratio {mask_ratio} keeps {visible} of {patches} patches; at least one must be '
            'kept and one removed'
        )


def kind_of(flags: dict) -> str:
    """The one of KINDS that the flags of a pre-training ask for; InputError if they ask for two.

    Flags in old files may not record it; then masks were random.
    """
    asked = flags.get('masking', 'random')
    if flags.get('mask_regular') and asked != 'random':
        raise InputError(
            f'--masking {asked} and --mask_regular are two kinds of masks; leave one out'
        )
    return 'uniform' if flags.get('mask_regular') else asked


def sampler(
    grid: tuple[int, int], mask_ratio: float, kind: str, count: Count = num_visible
) -> Callable[[np.random.Generator], np.ndarray]:
    """A function that draws the mask of an image, as noise [rows * columns], from a generator.

    kind: one of KINDS. count: the model's way of rounding, num_visible or num_visible_um.
    InputError if the kind does not work with the ratio or the grid.
    """
    rows, columns = grid
    patches = rows * columns
    check(patches, mask_ratio, count)
    if kind in CELLS:
        _check_cells(grid, mask_ratio, CELLS[kind])
    if kind == 'random':
        return functools.partial(random, patches)
    if kind == 'block':
        removed = patches - count(patches, mask_ratio)
        return functools.partial(block, grid, removed)
    draw = {'uniform': uniform, 'grid': regular}[kind]
    return functools.partial(draw, grid)


def _check_cells(grid: tuple[int, int], mask_ratio: float, flag: str) -> None:
    """Raise InputError if a mask cannot keep one of every 2 x 2 patches."""
    rows, columns = grid
    if mask_ratio != 0.75:
        raise InputError(
            f'--mask_ratio {mask_ratio}: {flag} removes three of every 2 x 2 patches: use 0.75'
        )
    if rows % 2 or columns % 2:
        raise InputError(
            f'{flag} needs an even number of patches per side, and there are {rows} x {columns}'
        )


def random(patches: int, rng: np.random.Generator) -> np.ndarray:
    """Noise for the uniformly random masks of MAE: float32 [patches] in [0, 1)."""
    return rng.random(patches, dtype='float32')


def uniform(grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A uniform mask, which keeps one of every 2 x 2 patches (arXiv:2205.10063, sec. 3.2).

    float32 [rows * columns], 1 = removed. The choices are drawn without replacement from a pool
    twice as large as needed, with equally many of each of the four. So their numbers in an image
    are similar.
    """
    rows, columns = grid[0] // 2, grid[1] // 2  # of cells
    cells = rows * columns
    pool = np.repeat(np.arange(4), math.ceil(cells / 2))
    kept = rng.permutation(pool)[:cells]
    return _keep(kept.reshape(rows, columns))


def regular(grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A grid-wise mask, which keeps the same one of every 2 x 2 patches (arXiv:2111.06377, fig. 6).

    float32 [rows * columns], 1 = removed. The one it keeps is drawn for each image; the paper does
    not specify.
    """
    rows, columns = grid[0] // 2, grid[1] // 2  # of cells
    kept = np.full((rows, columns), rng.integers(4))
    return _keep(kept)


def _keep(kept: np.ndarray) -> np.ndarray:
    """The mask that keeps one patch of each 2 x 2 cell; kept [rows, columns] is its number, 0 to 3.

    float32 [4 * rows * columns], 1 = removed.
    """
    numbers = np.arange(4).reshape(2, 2)  # of the patches in a cell
    mask = kept[..., None, None] != numbers  # [rows, columns, 2, 2]
    mask = mask.transpose(0, 2, 1, 3)  # [rows, 2, columns, 2]
    return mask.reshape(-1).astype('float32')


def block(grid: tuple[int, int], removed: int, rng: np.random.Generator) -> np.ndarray:
    """A block-wise mask of rectangles that remove `removed` patches: float32 [rows * columns].

    1 = removed. MAE needs equally many in every image, so the last rectangle removes only as many
    patches as are left to remove, from its top. Source: arXiv:2106.08254, algorithm 1.
    """
    rows, columns = grid
    mask = np.zeros(grid, 'float32')
    smallest = SMALLEST * mask.size
    left_to_remove = removed
    while left_to_remove > 0:
        # Draw the area of a rectangle, in patches, and its aspect ratio
        area = rng.uniform(smallest, max(smallest, left_to_remove))
        log_aspect = rng.uniform(np.log(SLIMMEST), -np.log(SLIMMEST))
        aspect = np.exp(log_aspect)

        # Draw a place where its sides fit
        height = _rounded((area * aspect) ** 0.5, rows)
        width = _rounded((area / aspect) ** 0.5, columns)
        top = rng.integers(rows - height + 1)
        left = rng.integers(columns - width + 1)

        # Remove its patches that are still there
        rectangle = mask[top : top + height, left : left + width]
        kept = np.argwhere(rectangle == 0)[:left_to_remove]
        rectangle[tuple(kept.T)] = 1
        left_to_remove = removed - int(mask.sum())
    return mask.reshape(-1)


def _rounded(length: float, most: int) -> int:
    """A length as a whole number of patches, from 1 to `most`."""
    return int(np.clip(round(length), 1, most))
