"""What the page's first tab shows: a mask, what the model makes of it, and how far that is off."""

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import own_mask
from score_photographs import error, mean_visible, nearest
from show_reconstruction import MASK_RATIO, Painter
from visualize import numbers

from util import masking, panels
from util.errors import InputError

# What fills the removed patches -> how; the errors of these are shown beside the model's
WAYS = {'mean of the visible pixels': mean_visible, 'nearest visible pixel': nearest}


@dataclass
class Mask:
    """How a mask is chosen: drawn from a seed, or by a person.

    visible: numbers of the patches as --visible takes them; None for a drawn mask.
    """

    mask_ratio: float = MASK_RATIO
    kind: str = masking.KINDS[0]
    seed: int = 1
    visible: str | None = None

    def noise(self, painter: Painter) -> tuple[float, np.ndarray]:
        """The mask ratio and the noise [L] of a picture, as demo/visualize.py has them."""
        if self.visible is not None:
            patches = own_mask.from_numbers(parsed(self.visible), painter.model.grid)
            noise, mask_ratio = own_mask.for_model(patches, painter.model)
            return mask_ratio, noise
        draw = painter.masks(self.mask_ratio, self.kind)
        return self.mask_ratio, draw(np.random.default_rng(self.seed))

    def flags(self) -> str:
        """The flags of demo/visualize.py that choose the same mask."""
        if self.visible is not None:
            return f'--visible {",".join(map(str, parsed(self.visible)))}'
        return f'--mask_ratio {self.mask_ratio:g} --masking {self.kind} --seed {self.seed}'


@dataclass
class Reconstruction:
    """A reconstruction of one picture; visible: the numbers of its visible patches."""

    sheet: panels.Sheet
    visible: list[int]
    errors: dict[str, float]


def parsed(text: str) -> list[int]:
    """The numbers of patches in a text such as 0,5,9; InputError where it is none."""
    try:
        return numbers(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(str(error)) from None


def reconstruction(painter: Painter, file: Path, mask: Mask, normalised: bool) -> Reconstruction:
    """What the model makes of a picture.

    normalised: read its predictions as pixels that are normalised by patch.
    """
    model = painter.model
    if normalised and model.pca_target:
        raise InputError('This model predicts coefficients of a PCA, not normalised pixels.')
    model.norm_pix_loss = normalised
    mask_ratio, noise = mask.noise(painter)
    images, shown, masks = painter.paint(painter.read(file), mask_ratio, noise)
    of_patches = masks[0, 0, :: model.patch_size, :: model.patch_size]  # [rows, columns]
    visible = np.flatnonzero(of_patches == 0).tolist()
    errors = errors_of(images, shown, masks)
    return Reconstruction(painter.sheet(images, shown, masks), visible, errors)


def errors_of(images: np.ndarray, shown: np.ndarray, masks: np.ndarray) -> dict[str, float]:
    """The mean squared error over the removed pixels of a picture, of the model and of WAYS.

    All are [1, C, height, width]. Pixels are normalised as in training.
    """
    removed = masks[:, 0] > 0  # [1, height, width]
    guesses = {'model': shown}
    for name, fill in WAYS.items():
        guesses[name] = fill(images[0], removed[0])[None]
    return {name: error(images, guess, removed).item() for name, guess in guesses.items()}


def toggled(visible: list[int], patch: int, painter: Painter) -> list[int]:
    """The visible patches after a click on one: it is hidden, or shown if it was hidden.

    Models of uniform masking see one patch in every 2 x 2: there the shown one takes the place of
    the other.
    """
    chosen = set(visible)
    if 'random' in painter.kinds:
        return sorted(chosen ^ {patch})
    columns = painter.model.grid[1]
    row, column = divmod(patch, columns)
    first = row // 2 * 2 * columns + column // 2 * 2  # of the cell
    cell = {first, first + 1, first + columns, first + columns + 1}
    return sorted(chosen - cell | {patch})


def command(resume: str, file: Path, mask: Mask, pixels: str) -> str:
    """The command that writes the same picture; pixels: a flag that tells it what is predicted."""
    words = ['python', 'demo/visualize.py', '--img_path', file.name, '--resume', resume]
    words += [*mask.flags().split(), *pixels.split(), '--out', 'panels.png']
    return shlex.join(words)
