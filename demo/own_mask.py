"""Masks that a person chooses: by the numbers of the visible patches, or as a picture."""

from pathlib import Path

import numpy as np

from models_mae import Reconstruction
from util.data import pictures
from util.errors import InputError

HALF = 127.5  # the grey level between removed and visible


def from_numbers(numbers: list[int], grid: tuple[int, int]) -> np.ndarray:
    """Which patches are visible, bool [rows * columns], by their numbers: row by row, from 0."""
    for number in numbers:
        check_patch('--visible', number, grid)
    visible = np.zeros(grid[0] * grid[1], bool)
    visible[numbers] = True
    return visible


def check_patch(flag: str, number: int, grid: tuple[int, int]) -> None:
    """InputError if the model has no patch of this number, which the flag has given."""
    rows, columns = grid
    last = rows * columns - 1
    if number > last:
        raise InputError(
            f'{flag} {number}: the model has the patches 0 to {last}, {columns} in each of '
            f'{rows} rows'
        )


def from_picture(path: Path, grid: tuple[int, int]) -> np.ndarray:
    """Which patches are visible, bool [rows * columns], by a picture: white ones, or nearly.

    The picture has a whole number of pixels for each patch; the mean grey level of these decides.
    """
    if not path.is_file():
        raise InputError(f'--mask_file {path}: no such file')
    levels = np.asarray(pictures.read_as_seen(path, 1), 'float32')  # [height, width]
    rows, columns = grid
    height, width = levels.shape
    if height % rows or width % columns:
        raise InputError(
            f'--mask_file {path} has {width} x {height} pixels (width x height); needed is a '
            f'multiple of {columns} x {rows}, the patches of the model'
        )
    patches = levels.reshape(rows, height // rows, columns, width // columns)
    means = patches.mean((1, 3)).flatten()
    return means > HALF


def for_model(visible: np.ndarray, model: Reconstruction) -> tuple[np.ndarray, float]:
    """The noise [L] and the mask ratio with which a model keeps exactly these patches.

    InputError where none or all are visible, or where the model cannot keep these.
    """
    patches = len(visible)
    count = int(visible.sum())
    if not 0 < count < patches:
        raise InputError(
            f'the mask shows {count} of {patches} patches; at least one must be visible and one '
            'removed'
        )
    if hasattr(model, 'uniform_masking'):
        _check_cells(visible, model.grid)

    # The model rounds a ratio to a number of patches; take one that it rounds to this number
    for part in (0, 0.5, -0.5):
        ratio = 1 - (count + part) / patches
        if model.num_visible(patches, ratio) == count:
            break
    noise = 1 - visible.astype('float32')
    return noise, ratio


def _check_cells(visible: np.ndarray, grid: tuple[int, int]) -> None:
    """InputError unless one of every 2 x 2 patches is visible."""
    rows, columns = grid
    cells = visible.reshape(rows // 2, 2, columns // 2, 2)
    counts = cells.sum((1, 3))  # [rows / 2, columns / 2]
    wrong = np.argwhere(counts != 1)
    if len(wrong):
        row, column = wrong[0]
        found = counts[row, column]
        raise InputError(
            'this model was trained by uniform masking and needs one visible patch in every 2 x 2; '
            f'the mask shows {found} in rows {2 * row} and {2 * row + 1}, '
            f'columns {2 * column} and {2 * column + 1}'
        )
