"""Transforms of images and labels that PaddleSeg lacks, as mmsegmentation has them."""

import cv2
import numpy as np
from paddleseg.cvlibs import manager

from util.errors import InputError


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
