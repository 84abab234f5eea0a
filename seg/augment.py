"""Random transforms of training images and labels as mmsegmentation draws and rounds them.

All draws come from NumPy's global generator, in mmsegmentation's order, so that the same
np.random.seed gives the same result. PaddleSeg's own flip, Normalize and Padding complete the
recipe; PaddleSeg's transforms also draw from the module `random`.
Between transforms PaddleSeg's images are floats; these transforms read them and give them back as
whole numbers from 0 to 255.
"""

import cv2
import numpy as np
from paddleseg.cvlibs import manager

from seg.transforms import rescaled_size, resize
from util.errors import InputError

LEVELS = np.arange(256, dtype='float32')
TRIES = 10


def in_bytes(image: np.ndarray) -> np.ndarray:
    """The image as uint8 of the same shape: rounded, and 255 for what is above it."""
    if image.dtype == np.uint8:
        return image
    return cv2.convertScaleAbs(image).reshape(image.shape)


def resized_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The label [height, width] at another size; each pixel gets the class of one pixel.

    int64, which OpenCV lacks, becomes int32.
    """
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)


@manager.TRANSFORMS.add_component
class RandomResize:
    """Rescale image and label within two edges times a random factor.

    scale: the edges (long, short) in pixels, whichever is reached first. ratio_range: the factor is
    uniform between these two.
    """

    def __init__(
        self, scale: tuple[int, int] = (2048, 512), ratio_range: tuple[float, float] = (0.5, 2.0)
    ):
        if len(scale) != 2 or min(scale) < 1:
            raise InputError(
                f'RandomResize: scale is two edges in pixels, as [2048, 512], not {scale}'
            )
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise InputError(
                'RandomResize: ratio_range is the smallest and the largest factor, '
                f'as [0.5, 2.0], not {ratio_range}'
            )
        self.long = max(scale)
        self.short = min(scale)
        self.ratio_range = tuple(ratio_range)

    def __call__(self, data: dict) -> dict:
        least, most = self.ratio_range
        ratio = np.random.random() * (most - least) + least

        image = data['img']
        height, width = image.shape[:2]
        long = int(self.long * ratio)
        short = int(self.short * ratio)
        size = rescaled_size(height, width, long, short)

        resized = resize(in_bytes(image), size)
        data['img'] = resized.astype(image.dtype, copy=False)
        for key in data.get('gt_fields', []):
            data[key] = resized_label(data[key], size)
        return data


@manager.TRANSFORMS.add_component
class RandomCropWithCategoryLimit:
    """Cut crop_size (width, height) pixels out of image and label, or less where they are smaller.

    The place is drawn again, ten times at most, while one class has category_max_ratio or more of
    the pixels that have a class; the last place is taken whatever it holds. PaddleSeg's
    RandomPaddingCrop, whose parameters these are, has the same rule but puts the label in the place
    of the image.
    """

    def __init__(
        self,
        crop_size: tuple[int, int] = (512, 512),
        category_max_ratio: float = 0.75,
        ignore_index: int = 255,
    ):
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise InputError(
                'RandomCropWithCategoryLimit: crop_size is width and height in pixels, '
                f'as [512, 512], not {crop_size}'
            )
        if not 0 < category_max_ratio <= 1:
            raise InputError(
                'RandomCropWithCategoryLimit: category_max_ratio is a share up to 1, '
                f'not {category_max_ratio}'
            )
        self.width, self.height = crop_size
        self.limit = category_max_ratio
        self.ignored = ignore_index

    def __call__(self, data: dict) -> dict:
        height, width = data['img'].shape[:2]
        place = self._draw(height, width)
        if self.limit < 1 and 'label' in data:
            for _ in range(TRIES):
                if self.mixed(data['label'][place]):
                    break
                place = self._draw(height, width)

        for key in ['img', *data.get('gt_fields', [])]:
            data[key] = data[key][place]
        return data

    def _draw(self, height: int, width: int) -> tuple[slice, slice]:
        top = np.random.randint(max(height - self.height, 0) + 1)
        left = np.random.randint(max(width - self.width, 0) + 1)
        return slice(top, top + self.height), slice(left, left + self.width)

    def mixed(self, label: np.ndarray) -> bool:
        """Whether no class has too large a share of the pixels that are not ignored."""
        counts = np.bincount(label[label != self.ignored])
        if not len(counts):
            return False
        largest_share = counts.max() / counts.sum()
        return bool(largest_share < self.limit)


@manager.TRANSFORMS.add_component
class PhotoMetricDistortion:
    """Change brightness, contrast, saturation and hue, each with probability 1/2.

    Brightness changes by up to brightness_delta levels, contrast and saturation by a factor, hue by
    up to hue_delta half degrees; contrast comes before or after the colours.

    Images are RGB, as PaddleSeg's Compose gives them. Each step rounds down to whole levels, as
    mmsegmentation does. A table of the 256 levels does it, which is faster and equal to the bit.
    """

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ):
        ranges = {'contrast_range': contrast_range, 'saturation_range': saturation_range}
        for name, pair in ranges.items():
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise InputError(
                    f'PhotoMetricDistortion: {name} is the smallest and the largest factor, '
                    f'as [0.5, 1.5], not {pair}'
                )
        if brightness_delta < 0 or hue_delta < 1:
            raise InputError(
                f'PhotoMetricDistortion: brightness_delta {brightness_delta} must be 0 or more, '
                f'hue_delta {hue_delta} 1 or more'
            )
        self.brightness_delta = brightness_delta
        self.contrast_range = tuple(contrast_range)
        self.saturation_range = tuple(saturation_range)
        self.hue_delta = hue_delta

    def __call__(self, data: dict) -> dict:
        image = data['img']
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                'PhotoMetricDistortion changes hue and saturation; '
                f'an image {list(image.shape)} has none'
            )

        pixels = self._brightness(in_bytes(image))
        contrast_first = np.random.randint(2)
        if contrast_first:
            pixels = self._contrast(pixels)
        pixels = self._saturation(pixels)
        pixels = self._hue(pixels)
        if not contrast_first:
            pixels = self._contrast(pixels)

        data['img'] = pixels.astype(image.dtype, copy=False)
        return data

    def _brightness(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        delta = np.random.uniform(-self.brightness_delta, self.brightness_delta)
        return cv2.LUT(pixels, table(LEVELS + delta))

    def _contrast(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        factor = np.random.uniform(*self.contrast_range)
        return cv2.LUT(pixels, table(LEVELS * factor))

    def _saturation(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        factor = np.random.uniform(*self.saturation_range)
        return through_hsv(pixels, saturation=LEVELS * factor)

    def _hue(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        delta = np.random.randint(-self.hue_delta, self.hue_delta)  # the upper end is excluded
        return through_hsv(pixels, hue=(LEVELS + delta) % 180)


def table(values: np.ndarray) -> np.ndarray:
    """The new value of each level as uint8: cut to 0 and 255, rounded down."""
    return np.clip(values, 0, 255).astype('uint8')


def through_hsv(
    pixels: np.ndarray, hue: np.ndarray = LEVELS, saturation: np.ndarray = LEVELS
) -> np.ndarray:
    """RGB, uint8, from RGB, with a new value for each hue (0 to 179) and each saturation."""
    channels = np.stack([hue, saturation, LEVELS], axis=1)  # [256, 3]
    tables = table(channels)[None]  # [1, 256, 3]
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    changed = cv2.LUT(hsv, tables)
    return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)
