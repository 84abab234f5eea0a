"""Transforms of images and labels that PaddleSeg lacks, as mmsegmentation has them.

The functions without a class of their own resize thin pictures in PaddleSeg's transforms, where
seg.repairs puts them: they leave at least one pixel, and limit the memory.
"""

import cv2
import numpy as np
from paddleseg.cvlibs import manager
from paddleseg.transforms import functional

from util.errors import InputError

MOST_PIXELS = 2**27  # of a resized picture: 1.5 GB in float32
MOST_ENLARGED = 4  # times its own pixels, for a picture that becomes larger than ...
ALWAYS_ALLOWED = 2**24  # ... this many pixels: 200 MB in float32


def check_enlarged(before: tuple[int, int], after: tuple[int, int], why: str) -> None:
    """InputError where a picture would have far more pixels than before; sizes are (height, width).

    A file of a few bytes can hold a picture of 1 x 20000 pixels, which takes 60 GB when its short
    edge becomes 512 pixels. why: the end of the message.
    """
    height, width = before
    new_height, new_width = after
    limit = min(MOST_PIXELS, max(ALWAYS_ALLOWED, MOST_ENLARGED * height * width))
    if new_height * new_width > limit:
        raise InputError(
            f'a picture of {width} x {height} pixels would become {new_width} x {new_height}, '
            f'more than {limit / 1e6:.0f} million, so that {why}'
        )


def rescaled_size(height: int, width: int, long: float, short: float) -> tuple[int, int]:
    """The largest (height, width) of the same shape whose edges are within `long` and `short`.

    Rounded as mmcv rounds it; at least one pixel.
    """
    scale = min(long / max(height, width), short / min(height, width))
    new_height = int(height * scale + 0.5)
    new_width = int(width * scale + 0.5)
    return max(new_height, 1), max(new_width, 1)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image [height, width, C] at another size, [*size, C], bilinear."""
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, -1)  # OpenCV drops a single channel


@manager.TRANSFORMS.add_component
class ResizeKeepRatio:
    """Rescale an image within two edges, (long, short) pixels, whichever is reached first.

    Labels keep their size, because predictions are brought back to the original size. Whole numbers
    are resized as uint8, as in mmcv, although PaddleSeg's images are floats. `trans_info` receives
    the size before, the picture itself and the edges, so that seg.infer can make several scales
    from the original.
    """

    def __init__(self, scale: tuple[int, int] = (2048, 512)):
        if len(scale) != 2 or min(scale) < 1:
            raise InputError(
                f'ResizeKeepRatio: scale is two edges in pixels, as [2048, 512], not {scale}'
            )
        self.long = max(scale)
        self.short = min(scale)

    def __call__(self, data: dict) -> dict:
        image = data['img']
        if image.dtype != np.uint8:
            whole = image.astype('uint8')
            if (image == whole).all():
                image = whole
        height, width = image.shape[:2]
        edges = (self.long, self.short)
        data['trans_info'].append(('resize', (height, width), image, edges))

        size = rescaled_size(height, width, *edges)
        data['img'] = resize(image, size).astype('float32')
        return data


def resized_by_long(
    im: np.ndarray, long_size: int = 224, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """The image with a long edge of `long_size` pixels, the short one of at least one pixel.

    It has the signature of paddleseg.transforms.functional.resize_long.
    """
    height, width = im.shape[:2]
    scale = float(long_size) / float(max(height, width))
    size = (round(width * scale), round(height * scale))
    return resized(im, size, interpolation)


def resized(
    im: np.ndarray, target_size: int | tuple[int, int] = 608, interp: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """The image at another size, (width, height) or both in one number, at least one pixel.

    It has the signature of paddleseg.transforms.functional.resize.
    """
    if isinstance(target_size, (list, tuple)):
        width, height = target_size
    else:
        width = height = target_size
    return cv2.resize(im, (max(width, 1), max(height, 1)), interpolation=interp)


def resize_by_short(self, data: dict) -> dict:
    """Resize the short edge to short_size pixels, in the place of PaddleSeg's ResizeByShort.

    If the long edge would have more than max_size pixels, the short edge becomes smaller. PaddleSeg
    keeps that smaller edge for all later pictures. InputError for a picture that is so thin that it
    would take gigabytes.
    """
    image = data['img']
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    data['trans_info'].append(('resize', (height, width)))

    new_short = self.short_size
    if new_short / short * long > self.max_size:
        new_short = int((self.max_size / long) * short)
    scale = float(max(new_short, 1)) / float(short)
    new_width = round(width * scale)
    new_height = round(height * scale)
    if new_short < 1:  # too thin for max_size
        new_width = min(new_width, int(self.max_size))
        new_height = min(new_height, int(self.max_size))
    check_enlarged(
        (height, width),
        (new_height, new_width),
        f'ResizeByShort makes its short edge {self.short_size} pixels; crop it, or give '
        'ResizeByShort a max_size',
    )

    size = (new_width, new_height)
    data['img'] = functional.resize(image, size)
    for key in data.get('gt_fields', []):
        data[key] = functional.resize(data[key], size, cv2.INTER_NEAREST)
    return data
