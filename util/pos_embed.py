"""Positions: fixed two-dimensional sine-cosine tables (facebookresearch/mae util/pos_embed.py @ efb2a80), and relative ones
(BEiT, arXiv:2106.08254)."""

import math

import numpy as np
import paddle


def sincos_1d(dim: int, positions: np.ndarray) -> np.ndarray:
    """float64 [len(positions), dim]: all sines, then all cosines, of position / 10000^(k / (dim/2))."""
    frequencies = 10000.0 ** -(np.arange(dim // 2) / (dim / 2))
    angles = np.outer(positions, frequencies)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(dim: int, grid: tuple[int, int], cls_token: bool = True) -> np.ndarray:
    """float32 [(1 +) rows * columns, dim]. The first half of the channels encodes the column, the second the row.

    grid: (rows, columns), tokens in row-major order, coordinates counted from 0. With `cls_token` a row of zeros
    comes first. dim must be a multiple of 4, otherwise ValueError.
    """
    if dim % 4:
        raise ValueError(f'a 2-D sine-cosine table needs a width that 4 divides, got {dim}')
    rows, columns = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    table = np.concatenate([sincos_1d(dim // 2, columns), sincos_1d(dim // 2, rows)], axis=1)
    if cls_token:
        table = np.concatenate([np.zeros([1, dim]), table])
    return table.astype('float32')


def grid_of(patches: int, sides: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """(rows, columns) of so many patches of an image with these sides (height, width), or of a square one; None where
    there is no such grid."""
    for height, width in filter(None, (sides, (1, 1))):
        rows = round(math.sqrt(patches * height / width))
        columns = round(math.sqrt(patches * width / height))
        if rows * columns == patches:
            return rows, columns
    return None


def interpolate(
    table: np.ndarray,
    grid: tuple[int, int],
    cls_token: bool = True,
    source: tuple[int, int] | None = None,
) -> np.ndarray:
    """A table [1, (1 +) rows * columns, D] for another grid: bicubic over the patches; the official rule.

    source: rows and columns in `table`, by default those of a square. The class token's row, where there is one, is kept.
    """
    first, patches = table[:, : int(cls_token)], table[:, int(cls_token) :]
    source = source or grid_of(patches.shape[1])
    if source == tuple(grid):
        return table
    patches = paddle.to_tensor(patches.reshape(1, *source, -1).transpose(0, 3, 1, 2))
    patches = paddle.nn.functional.interpolate(
        patches, size=list(grid), mode='bicubic', align_corners=False
    )
    return np.concatenate([first, patches.flatten(2).transpose([0, 2, 1]).numpy()], axis=1)


def relative_positions(rows: int, columns: int) -> np.ndarray:
    """int64 [L, L]: for each pair of tokens (from, to) the row of the table for their distance.

    Rows count distances between patches, -(rows - 1) to rows - 1 down, then as many across; the last three are for
    distances from the class token to a patch, from a patch to it, and from it to itself.
    """
    down, across = np.divmod(np.arange(rows * columns), columns)
    distance = (
        (down[:, None] - down + rows - 1) * (2 * columns - 1)
        + across[:, None]
        - across
        + columns
        - 1
    )
    patches = (2 * rows - 1) * (2 * columns - 1)
    index = np.pad(distance, [(1, 0), (1, 0)])
    index[0], index[:, 0], index[0, 0] = patches, patches + 1, patches + 2
    return index
