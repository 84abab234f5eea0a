"""Transforms of images and labels that PaddleSeg lacks, as mmsegmentation has them."""

import cv2
import numpy as np
from paddleseg.cvlibs import manager

from util.errors import InputError


def rescaled_size(height: int, width: int, long: float, short: float) -> tuple[int, int]:
    """Largest (height, width) of the same shape whose edges are within `long` and `short`, as mmcv rounds it; at least one
    pixel."""
    scale = min(long / max(height, width), short / min(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[height, width, C] -> [*size, C], bilinear."""
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, -1)  # OpenCV drops a single channel


@manager.TRANSFORMS.add_component
class ResizeKeepRatio:
    """Rescale an image within two edges, (long, short) pixels, whichever is reached first; labels stay as they are,
    because predictions are brought back to the original size.

    As mmcv, it resizes whole numbers; PaddleSeg's images are floats. With the size before, it notes the picture itself and
    the edges in `trans_info`, so that several scales (seg.infer) are made from it and not from a resized one.
    """

    def __init__(self, scale: tuple[int, int] = (2048, 512)):
        if len(scale) != 2 or min(scale) < 1:
            raise InputError(
                f'ResizeKeepRatio: scale is two edges in pixels, as [2048, 512], not {scale}'
            )
        self.long, self.short = max(scale), min(scale)

    def __call__(self, data: dict) -> dict:
        image = data['img']
        if image.dtype != np.uint8 and (image == image.astype('uint8')).all():
            image = image.astype('uint8')
        data['trans_info'].append(('resize', image.shape[:2], image, (self.long, self.short)))
        data['img'] = resize(image, rescaled_size(*image.shape[:2], self.long, self.short)).astype(
            'float32'
        )
        return data
