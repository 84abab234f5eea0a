"""From a picture to the model's input: the augmentation of training, the transform of evaluation.

Pictures are PIL's, 0..255, or arrays float32 [height, width, C], 0..1.
"""

import numpy as np
from PIL import Image

from util import sizes
from util.augment import policies
from util.augment.color import ColorJitter
from util.augment.crop import CropAndFlip, Normalize, resized_crop
from util.augment.erasing import RandomErasing
from util.augment.resize import resized_part
from util.errors import InputError

# A resized picture that would have more pixels than both MOST_PIXELS and MOST_CROPS crops is not
# made: only its middle is computed, with a result that is equal bit for bit.
MOST_PIXELS = 2**24
MOST_CROPS = 16
NO_POLICY = ('', 'none', 'None')  # values of --aa


class Train:
    """Crop and flip, policy or colour jitter, normalise, erase, in the order of timm 1.0.22.

    aa: timm's string, or 'none'. Images of other than 1 or 3 channels can only be cropped, flipped,
    normalised and erased. The result is float32 [C, height, width].
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
        self.crop_and_flip = crop_and_flip
        self.normalize = Normalize(mean, std)
        self.erasing = erasing
        self.policy = None
        self.jitter = None
        if aa not in NO_POLICY:
            self.policy = policies.create(aa, mean)
        # a policy changes colours by itself, except timm's "3a"
        if color_jitter and (not self.policy or '3a' in aa):
            self.jitter = ColorJitter(color_jitter)
        if len(mean) not in (1, 3) and (self.policy or self.jitter):
            raise InputError(
                f'--aa and --color_jitter need 1 or 3 channels, not {len(mean)}; use --aa none'
            )

    def __call__(self, picture: Image.Image | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        picture = self.crop_and_flip(picture, rng)
        if self.policy:
            picture = self.policy(picture, rng)
        if self.jitter:
            picture = self.jitter(picture, rng)
        image = self.normalize(picture)
        if self.erasing:
            image = self.erasing(image, rng)
        return image


def crop_share(size: sizes.Size) -> float:
    """The part of the resized picture's sides that an evaluation keeps, for images of this size."""
    return 0.875 if min(sizes.pair(size)) <= 224 else 1.0


class Evaluate:
    """Resize (bicubic), cut out the middle, normalise: float32 [C, height, width].

    size: a side, or (height, width). The picture keeps its aspect ratio, and just covers `resize`.
    That is size / 0.875 (256 for 224) where the shorter side of `size` is up to 224, else `size`.
    """

    def __init__(self, size: sizes.Size, mean: tuple[float, ...], std: tuple[float, ...]):
        self.size = sizes.pair(size)
        self.normalize = Normalize(mean, std)
        share = crop_share(self.size)
        self.resize = tuple(int(side / share) for side in self.size)

    def __call__(self, picture: Image.Image | np.ndarray) -> np.ndarray:
        width, height = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
        # torchvision truncates the longer side and rounds the crop's corner
        h, w = self.resize
        if width * h <= height * w:
            h = int(w * height / width)
        else:
            w = int(h * width / height)
        rows, columns = self.size
        left = round((w - columns) / 2)
        top = round((h - rows) / 2)
        right = left + columns
        bottom = top + rows

        if w * h > max(MOST_PIXELS, MOST_CROPS * rows * columns):
            part = resized_part(picture, (h, w), (left, top, right, bottom))
            return self.normalize(part)
        picture = resized_crop(picture, (0, 0, width, height), (h, w))
        if isinstance(picture, np.ndarray):
            part = picture[top:bottom, left:right]
        else:
            part = picture.crop((left, top, right, bottom))
        return self.normalize(part)
