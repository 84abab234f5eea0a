"""Picture to model input: the augmentation of all training, and the official evaluation transform."""

import numpy as np
from PIL import Image

from util.augment import policies
from util.augment.color import ColorJitter
from util.augment.crop import CropAndFlip, Normalize, resized_crop
from util.augment.erasing import RandomErasing
from util.augment.resize import resized_part
from util.errors import InputError

MOST_PIXELS = 2**24  # of a resized picture; of one that would have more, only the middle is made,
MOST_CROPS = (
    16  # if it would also be so many times as large as that. Both ways are equal to the bit.
)


class Train:
    """Crop and flip, policy or colour jitter, normalise, erase; the order in which timm 1.0.22 does it.

    aa: timm's string, or 'none'. Arrays of other than 1 or 3 channels can be cropped, flipped and erased only.
    """

    def __init__(
        self,
        crop_and_flip: CropAndFlip,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        aa: str = 'none',
        color_jitter: float | None = None,
        erasing: RandomErasing | None = None,
    ):
        self.crop_and_flip, self.normalize, self.erasing = (
            crop_and_flip,
            Normalize(mean, std),
            erasing,
        )
        has_policy = aa not in ('', 'none', 'None')
        self.policy = policies.create(aa, mean) if has_policy else None
        # a policy changes colours by itself, except timm's "3a"
        self.jitter = (
            ColorJitter(color_jitter) if color_jitter and (not has_policy or '3a' in aa) else None
        )
        if len(mean) not in (1, 3) and (self.policy or self.jitter):
            raise InputError(
                f'--aa and --color_jitter work on pictures, not on {len(mean)} channels; use --aa none'
            )

    def __call__(self, picture: Image.Image | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """float32 [C, size, size]."""
        picture = self.crop_and_flip(picture, rng)
        for change in (self.policy, self.jitter):
            picture = change(picture, rng) if change else picture
        image = self.normalize(picture)
        return self.erasing(image, rng) if self.erasing else image


class Evaluate:
    """The shorter side resized (bicubic), the middle cut out, normalised: float32 [C, size, size].

    Up to 224 pixels the shorter side becomes size / 0.875 first (256 for 224), above exactly `size`.
    """

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
        self.size, self.normalize = size, Normalize(mean, std)
        self.short = int(size / (224 / 256)) if size <= 224 else size

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
        # torchvision truncates the longer side and rounds the crop's corner
        short, long = self.short, int(self.short * max(width, height) / min(width, height))
        w, h = (short, long) if width <= height else (long, short)
        left, top = round((w - self.size) / 2), round((h - self.size) / 2)
        if w * h > max(MOST_PIXELS, MOST_CROPS * self.size**2):
            box = left, top, left + self.size, top + self.size
            return self.normalize(resized_part(picture, (h, w), box))
        picture = resized_crop(picture, (0, 0, width, height), (h, w))
        if isinstance(picture, np.ndarray):
            return self.normalize(picture[top : top + self.size, left : left + self.size])
        return self.normalize(picture.crop((left, top, left + self.size, top + self.size)))
