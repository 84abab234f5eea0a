"""Random transforms of training images and labels as mmsegmentation draws and rounds them.

All draws come from NumPy's global generator, in mmsegmentation's order: the same np.random.seed gives the same result.
(PaddleSeg's own transforms, of which the flip, Normalize and Padding complete the recipe, draw from the module random too.)
In between PaddleSeg's images are floats, which here are taken and given back as whole numbers from 0 to 255.
"""

import cv2
import numpy as np
from paddleseg.cvlibs import manager

from seg.transforms import rescaled_size, resize
from util.errors import InputError

LEVELS = np.arange(256, dtype='float32')
TRIES = 10


def in_bytes(image: np.ndarray) -> np.ndarray:
    """uint8 of the same shape: rounded, and 255 above it."""
    return image if image.dtype == np.uint8 else cv2.convertScaleAbs(image).reshape(image.shape)


def resized_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[height, width] -> `size`; every pixel gets the class of one pixel. int64, which OpenCV lacks, becomes int32."""
    return cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)


@manager.TRANSFORMS.add_component
class RandomResize:
    """Rescale image and label within two edges, scale (long, short) pixels times a factor evenly drawn from ratio_range,
    whichever edge is reached first."""

    def __init__(
        self, scale: tuple[int, int] = (2048, 512), ratio_range: tuple[float, float] = (0.5, 2.0)
    ):
        if len(scale) != 2 or min(scale) < 1:
            raise InputError(
                f'RandomResize: scale is two edges in pixels, as [2048, 512], not {scale}'
            )
        if len(ratio_range) != 2 or not 0 < ratio_range[0] <= ratio_range[1]:
            raise InputError(
                f'RandomResize: ratio_range is the smallest and the largest factor, as [0.5, 2.0], not '
                f'{ratio_range}'
            )
        self.long, self.short, self.ratio_range = max(scale), min(scale), tuple(ratio_range)

    def __call__(self, data: dict) -> dict:
        least, most = self.ratio_range
        ratio = np.random.random() * (most - least) + least
        image = data['img']
        size = rescaled_size(*image.shape[:2], int(self.long * ratio), int(self.short * ratio))
        data['img'] = resize(in_bytes(image), size).astype(image.dtype, copy=False)
        for key in data.get('gt_fields', []):
            data[key] = resized_label(data[key], size)
        return data


@manager.TRANSFORMS.add_component
class RandomCropWithCategoryLimit:
    """Cut crop_size (width, height) pixels out of image and label, or what there is of them.

    A place is drawn again, ten times at most, where one class has category_max_ratio or more of the pixels that have a
    class; the last place is taken as it comes. PaddleSeg's RandomPaddingCrop, whose parameters these are, has the same rule
    but puts the label in the place of the image.
    """

    def __init__(
        self,
        crop_size: tuple[int, int] = (512, 512),
        category_max_ratio: float = 0.75,
        ignore_index: int = 255,
    ):
        if len(crop_size) != 2 or min(crop_size) < 1:
            raise InputError(
                f'RandomCropWithCategoryLimit: crop_size is width and height in pixels, as [512, 512], not '
                f'{crop_size}'
            )
        if not 0 < category_max_ratio <= 1:
            raise InputError(
                f'RandomCropWithCategoryLimit: category_max_ratio is a share up to 1, not {category_max_ratio}'
            )
        (self.width, self.height), self.limit, self.ignored = (
            crop_size,
            category_max_ratio,
            ignore_index,
        )

    def __call__(self, data: dict) -> dict:
        place = self._draw(*data['img'].shape[:2])
        if self.limit < 1 and 'label' in data:
            for _ in range(TRIES):
                if self.mixed(data['label'][place]):
                    break
                place = self._draw(*data['img'].shape[:2])
        for key in ['img', *data.get('gt_fields', [])]:
            data[key] = data[key][place]
        return data

    def _draw(self, height: int, width: int) -> tuple[slice, slice]:
        top, left = (
            np.random.randint(max(whole - part, 0) + 1)
            for whole, part in ((height, self.height), (width, self.width))
        )
        return slice(top, top + self.height), slice(left, left + self.width)

    def mixed(self, label: np.ndarray) -> bool:
        """Whether no class has too large a share of the pixels that count."""
        counts = np.bincount(label[label != self.ignored])
        return len(counts) > 0 and bool(counts.max() / counts.sum() < self.limit)


@manager.TRANSFORMS.add_component
class PhotoMetricDistortion:
    """Change, each with probability 1/2, the brightness by up to brightness_delta levels, the contrast by a factor, the
    saturation by a factor and the hue by hue_delta half degrees; the contrast before or after the colours.

    Images are RGB, as PaddleSeg's Compose hands them on. Each step rounds down to whole levels, as mmsegmentation does, and
    is done by a table of the 256 levels, which is bit-equal to computing and faster.
    """

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ):
        for name, pair in (
            ('contrast_range', contrast_range),
            ('saturation_range', saturation_range),
        ):
            if len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise InputError(
                    f'PhotoMetricDistortion: {name} is the smallest and the largest factor, as [0.5, 1.5], not '
                    f'{pair}'
                )
        if brightness_delta < 0 or hue_delta < 1:
            raise InputError(
                f'PhotoMetricDistortion: brightness_delta {brightness_delta} must be 0 or more, hue_delta '
                f'{hue_delta} 1 or more'
            )
        self.brightness_delta, self.hue_delta = brightness_delta, hue_delta
        self.contrast_range, self.saturation_range = tuple(contrast_range), tuple(saturation_range)

    def __call__(self, data: dict) -> dict:
        image = data['img']
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(
                f'PhotoMetricDistortion changes hue and saturation; an image {list(image.shape)} has none'
            )
        pixels = self._brightness(in_bytes(image))
        contrast_first = np.random.randint(2)
        if contrast_first:
            pixels = self._contrast(pixels)
        pixels = self._hue(self._saturation(pixels))
        if not contrast_first:
            pixels = self._contrast(pixels)
        data['img'] = pixels.astype(image.dtype, copy=False)
        return data

    def _brightness(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        return cv2.LUT(
            pixels, table(LEVELS + np.random.uniform(-self.brightness_delta, self.brightness_delta))
        )

    def _contrast(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        return cv2.LUT(pixels, table(LEVELS * np.random.uniform(*self.contrast_range)))

    def _saturation(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        return through_hsv(pixels, saturation=LEVELS * np.random.uniform(*self.saturation_range))

    def _hue(self, pixels: np.ndarray) -> np.ndarray:
        if not np.random.randint(2):
            return pixels
        # end excluded
        return through_hsv(
            pixels, hue=(LEVELS + np.random.randint(-self.hue_delta, self.hue_delta)) % 180
        )


def table(values: np.ndarray) -> np.ndarray:
    """What becomes of each level: cut to 0 and 255, rounded down."""
    return np.clip(values, 0, 255).astype('uint8')


def through_hsv(
    pixels: np.ndarray, hue: np.ndarray = LEVELS, saturation: np.ndarray = LEVELS
) -> np.ndarray:
    """RGB to RGB, uint8, with what becomes of each hue (0 to 179) and saturation."""
    tables = table(np.stack([hue, saturation, LEVELS], axis=1))[None]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), tables), cv2.COLOR_HSV2RGB)
