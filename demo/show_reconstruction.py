"""What a masked autoencoder makes of pictures that it sees in part."""

from pathlib import Path

import numpy as np
import paddle

from engine_pretrain import reconstruct
from models_mae import Reconstruction
from util import masking, panels
from util.augment import crop
from util.data import pictures
from util.errors import InputError

MASK_RATIO = 0.75


class Painter:
    """A masked autoencoder, with the preparation of its pictures.

    model, trained: as models_zoo.autoencoder_from gives them.
    """

    def __init__(self, model: Reconstruction, trained: dict):
        self.model = model
        self.trained = trained
        self.mean, self.std = crop.statistics(
            model.in_chans, trained.get('mean'), trained.get('std')
        )
        self.center = crop.CenterCrop(model.img_size, crop.Normalize(self.mean, self.std))

    def read(self, file: Path) -> np.ndarray:
        """A picture [C, height, width] as the model sees it."""
        return self.center(pictures.read_as_seen(file, self.model.in_chans))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of masks that the model can see through, of masking.KINDS."""
        by_cells = hasattr(self.model, 'uniform_masking')
        return tuple(masking.CELLS) if by_cells else masking.KINDS

    def masks(self, mask_ratio: float, kind: str | None = None):
        """A function that draws a picture's noise from a generator.

        kind: one of masking.KINDS; None for the one of the model's training.
        """
        if kind is None:
            kind = kind_of_masks(self.trained, mask_ratio)
        elif kind not in self.kinds:
            raise InputError(
                f'--masking {kind}: this model was trained by uniform masking; '
                f'choose {" or ".join(self.kinds)}'
            )
        return masking.sampler(self.model.grid, mask_ratio, kind, self.model.num_visible)

    def paint(
        self, image: np.ndarray, mask_ratio: float, noise: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Image, prediction and mask, [1, C, height, width] each, of an image [C, height, width].

        noise: [L], as one of self.masks draws it. The mask is 1 where pixels were removed.
        """
        image = paddle.to_tensor(image[None])
        noise = paddle.to_tensor(noise[None])
        shown, mask = reconstruct(self.model, image, mask_ratio, noise)
        return image.numpy(), shown.numpy(), mask.numpy()

    def sheet(self, images: np.ndarray, shown: np.ndarray, masks: np.ndarray) -> panels.Sheet:
        """The sheet of these reconstructions, with a note on what was removed and shown."""
        share = masks[:, 0].mean()
        note = f'{share:.0%} of the pixels removed; {note_of(self.model)}'
        return panels.reconstructions(images, shown, masks, self.mean, self.std, note=note)


def note_of(model: Reconstruction) -> str:
    """How the shown pixels follow from the prediction."""
    if model.norm_pix_loss:
        return (
            'pixels: predicted normalised by patch, '
            'put back with the mean and spread of the true patch'
        )
    if model.pca_target:
        return f'pixels: from {model.pca_target} predicted coefficients of a PCA of patches'
    return 'pixels: as predicted'


def kind_of_masks(trained: dict, mask_ratio: float) -> str:
    """The kind of masks that the model was trained with, or random ones for other mask ratios."""
    kind = masking.kind_of(trained)
    # masks made of cells of patches remove three quarters, no other share
    if kind in masking.CELLS and mask_ratio != 0.75:
        return 'random'
    return kind
