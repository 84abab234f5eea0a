"""Positions of patches: fixed 2-D sine-cosine tables and relative positions.

The tables and their interpolation equal facebookresearch/mae util/pos_embed.py @ efb2a80; relative
positions are those of BEiT (arXiv:2106.08254).
"""

import math

import numpy as np
import paddle


def sincos_1d(dim: int, positions: np.ndarray) -> np.ndarray:
    """Sines, then cosines, of position / 10000^(k / (dim/2)): float64 [len(positions), dim]."""
    exponents = np.arange(dim // 2) / (dim / 2)
    frequencies = 10000.0**-exponents
    angles = np.outer(positions, frequencies)  # [len(positions), dim / 2]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(dim: int, grid: tuple[int, int], cls_token: bool = True) -> np.ndarray:
    """A table of positions on a grid, (rows, columns): float32 [(1 +) rows * columns, dim].

    The first half of the channels encodes the column, the second the row, both counted from 0.
    Tokens are in row-major order. With `cls_token` a row of zeros comes first. ValueError if dim is
    no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f'a 2-D sine-cosine table needs a width that 4 divides, got {dim}')
    rows, columns = grid
    patches = np.arange(rows * columns)
    row, column = np.divmod(patches, columns)  # of each patch
    halves = [sincos_1d(dim // 2, column), sincos_1d(dim // 2, row)]
    table = np.concatenate(halves, axis=1)
    if cls_token:
        table = np.concatenate([np.zeros([1, dim]), table])
    return table.astype('float32')


def grid_of(patches: int, sides: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """(rows, columns) of a number of patches of an image; None if no grid fits.

    sides: the image's (height, width); if it is None or does not fit, the image is taken as square.
    """
    candidates = [(1, 1)]
    if sides:
        candidates.insert(0, sides)
    for height, width in candidates:
        rows = round(math.sqrt(patches * height / width))
        columns = round(math.sqrt(patches * width / height))
        if rows * columns == patches:
            return rows, columns
    return None


def has_class_token(table: np.ndarray, sides: tuple[int, int] | None = None) -> bool:
    """Whether a table [1, T, D] is for a class token and the patches of an image (height, width).

    ViTDet's files have such a table, though no class token. sides: as for grid_of.
    """
    positions = table.shape[1]
    return grid_of(positions, sides) is None and grid_of(positions - 1, sides) is not None


def interpolate(
    table: np.ndarray,
    grid: tuple[int, int],
    cls_token: bool = True,
    source: tuple[int, int] | None = None,
) -> np.ndarray:
    """A table [1, (1 +) rows * columns, D] for another grid, by upstream's bicubic interpolation.

    source: rows and columns of `table`, a square by default. The row of the class token is kept.
    """
    first = int(cls_token)  # of the patches
    patches = table[:, first:]
    source = source or grid_of(patches.shape[1])
    if source == tuple(grid):
        return table

    # Interpolate the table as a map
    patches = patches.reshape(1, *source, -1)  # [1, rows, columns, D]
    patches = paddle.to_tensor(patches.transpose(0, 3, 1, 2))
    patches = paddle.nn.functional.interpolate(
        patches, size=list(grid), mode='bicubic', align_corners=False
    )
    patches = patches.flatten(2).transpose([0, 2, 1])  # [1, L, D]
    return np.concatenate([table[:, :first], patches.numpy()], axis=1)


def relative_positions(rows: int, columns: int) -> np.ndarray:
    """For each pair of tokens (from, to), the row of a table of distances: int64 [1 + L, 1 + L].

    The table has a row for each distance between two patches, (2 rows - 1) (2 columns - 1) of them
    in row-major order, from -(rows - 1) down and -(columns - 1) across. Three more rows are for the
    class token: from it to a patch, from a patch to it, and from it to itself.
    """
    patches = np.arange(rows * columns)
    row, column = np.divmod(patches, columns)  # of each patch

    # Distances, counted from 0
    down = row[:, None] - row + rows - 1  # [L, L], 0 to 2 rows - 2
    across = column[:, None] - column + columns - 1
    distance = down * (2 * columns - 1) + across

    # A row and a column for the class token
    distances = (2 * rows - 1) * (2 * columns - 1)
    index = np.pad(distance, [(1, 0), (1, 0)])  # [1 + L, 1 + L]
    index[0] = distances
    index[:, 0] = distances + 1
    index[0, 0] = distances + 2
    return index
