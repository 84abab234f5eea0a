"""Which patches are removed. One polarity everywhere: True (1) = removed.

A mask reaches the model as noise: the patches with the smallest noise are kept. So a 0/1 mask is noise as well.
"""

import functools
from collections.abc import Callable

import numpy as np

from util.errors import InputError

KINDS = ('random', 'block', 'grid', 'uniform')
# those that keep one of every 2 x 2 patches
CELLS = {'grid': '--masking grid', 'uniform': '--mask_regular'}
# rectangles of BEiT: of all patches, at least; height over width, or the reverse
SMALLEST, SLIMMEST = 16 / 196, 0.3


def num_visible(patches: int, mask_ratio: float) -> int:
    """How many of `patches` the encoder sees; rounded down, as upstream."""
    return int(patches * (1 - mask_ratio))


def check(patches: int, mask_ratio: float) -> None:
    """InputError where a ratio leaves nothing to see, or nothing to learn from."""
    visible = num_visible(patches, mask_ratio)
    if not 0 < visible < patches:
        raise InputError(
            f'--mask_ratio {mask_ratio} keeps {visible} of {patches} patches; at least one must be '
            'kept and one removed'
        )


def kind_of(flags: dict) -> str:
    """Which of KINDS the flags of a pre-training ask for; the random ones where they, being old, do not say.
    InputError where they ask for two."""
    asked = flags.get('masking', 'random')
    if flags.get('mask_regular') and asked != 'random':
        raise InputError(
            f'--masking {asked} and --mask_regular are two kinds of masks; leave one out'
        )
    return 'uniform' if flags.get('mask_regular') else asked


def sampler(
    grid: tuple[int, int], mask_ratio: float, kind: str
) -> Callable[[np.random.Generator], np.ndarray]:
    """What draws the masks of images, as noise, of one of KINDS. InputError where the ratio or the grid forbids it."""
    patches = grid[0] * grid[1]
    check(patches, mask_ratio)
    if kind in CELLS:
        if mask_ratio != 0.75:
            raise InputError(
                f'--mask_ratio {mask_ratio}: {CELLS[kind]} keeps one of every 2 x 2 patches, which is 0.75'
            )
        if any(side % 2 for side in grid):
            raise InputError(
                f'{CELLS[kind]} needs an even number of patches a side, and there are {grid[0]} x {grid[1]}'
            )
    return {
        'random': functools.partial(random, patches),
        'uniform': functools.partial(uniform, grid),
        'grid': functools.partial(regular, grid),
        'block': functools.partial(block, grid, patches - num_visible(patches, mask_ratio)),
    }[kind]


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
    return _cells(rng.permutation(pool)[: rows * columns].reshape(rows, columns))


def regular(grid: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """The grid-wise mask of the paper's figure 6: the same one of every 2 x 2 patches is kept. float32 [rows * columns],
    1 = removed. Which of the four is drawn for each image; the paper does not say."""
    return _cells(np.full((grid[0] // 2, grid[1] // 2), rng.integers(4)))


def _cells(kept: np.ndarray) -> np.ndarray:
    """float32 [4 * cells], 0 for the patch numbered kept [rows, columns] of each 2 x 2, 1 for all others."""
    cells = kept[..., None, None] != np.arange(4).reshape(2, 2)  # [rows, columns, 2, 2]
    return cells.transpose(0, 2, 1, 3).reshape(-1).astype('float32')


def block(grid: tuple[int, int], removed: int, rng: np.random.Generator) -> np.ndarray:
    """A block-wise mask (arXiv:2106.08254, algorithm 1): rectangles, until `removed` patches are. float32 [rows * columns],
    1 = removed.

    Every image loses equally many, as MAE needs it: of the last rectangle, only as many patches as are due, from the top.
    """
    mask = np.zeros(grid, 'float32')
    while (due := removed - int(mask.sum())) > 0:
        smallest = SMALLEST * mask.size
        area = rng.uniform(smallest, max(smallest, due))
        aspect = np.exp(rng.uniform(np.log(SLIMMEST), -np.log(SLIMMEST)))
        sides = [
            int(np.clip(round(length), 1, most))
            for length, most in zip(((area * aspect) ** 0.5, (area / aspect) ** 0.5), grid)
        ]
        top, left = (rng.integers(most - side + 1) for side, most in zip(sides, grid))
        rectangle = mask[top : top + sides[0], left : left + sides[1]]
        rectangle[tuple(np.argwhere(rectangle == 0)[:due].T)] = 1
    return mask.reshape(-1)
