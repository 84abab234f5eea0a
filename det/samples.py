"""Geometric changes of a sample: its picture, boxes and masks together, as in mmdetection.

A sample is a dict as det.dataset reads it, with `im_shape` [2], the height and width of the picture
without padding, and `scale_factor` [2], how much they were enlarged. Without boxes, for inference,
only the picture changes.
"""

import cv2
import numpy as np

THINNEST = 0.01  # pixels: what is left of a box after a crop must be wider and higher

Sample = dict
Edges = tuple[int, int]  # of a picture, in pixels


def rescaled_size(height: int, width: int, edges: Edges) -> Edges:
    """The largest (height, width) of the same shape within two edges, rounded as mmcv does.

    edges: the longer one limits the longer side, the shorter one the shorter side.
    """
    long = max(edges) / max(height, width)
    short = min(edges) / min(height, width)
    scale = min(long, short)
    new_height = int(height * scale + 0.5)
    new_width = int(width * scale + 0.5)
    return max(new_height, 1), max(new_width, 1)


def resize(sample: Sample, edges: Edges) -> Sample:
    """The sample with its picture resized within two edges, keeping its shape; bilinear."""
    image = sample['image']
    height, width = image.shape[:2]
    new_height, new_width = rescaled_size(height, width, edges)
    resized = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    factors = np.array([new_height / height, new_width / width], 'float32')

    changed = sample | {
        'image': resized,
        'im_shape': np.array([new_height, new_width], 'float32'),
        'scale_factor': sample['scale_factor'] * factors,
    }
    if 'gt_bbox' in sample:
        by_side = np.tile(factors[::-1], 2)  # x, y, x, y
        boxes = sample['gt_bbox'] * by_side
        changed['gt_bbox'] = clipped(boxes, new_height, new_width)
    if 'gt_segm' in sample:
        changed['gt_segm'] = sample['gt_segm'].resized(new_height, new_width)
    return changed


def clipped(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The boxes [n, 4], x1, y1, x2, y2, cut at the edges of a picture."""
    limits = np.array([width, height, width, height], boxes.dtype)
    return np.clip(boxes, 0, limits)


def crop(sample: Sample, top: int, left: int, size: Edges, tight: bool = False) -> Sample | None:
    """The part of a sample from row `top` and column `left` on; None if it has no box any more.

    size: (height, width) of the part. Boxes are cut at its edges, and dropped if at most THINNEST
    pixels are left. tight: boxes become those around the masks that are left.
    """
    height, width = size
    image = sample['image'][top : top + height, left : left + width]
    changed = sample | {'image': image, 'im_shape': np.array(size, 'float32')}
    if 'gt_bbox' not in sample:
        return changed

    offset = np.array([left, top, left, top], 'float32')
    boxes = clipped(sample['gt_bbox'] - offset, height, width)
    if 'gt_segm' in sample:
        parts = sample['gt_segm'].cropped(top, left, height, width)
        changed['gt_segm'] = parts
        if tight:
            boxes = parts.boxes()
    changed['gt_bbox'] = boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    return chosen(changed, (sides > THINNEST).all(axis=1))


def chosen(sample: Sample, keep: np.ndarray) -> Sample | None:
    """The sample with some of its objects, `keep` is bool [n]; None if it loses all of them.

    A picture that had no object before is kept.
    """
    if len(keep) and not keep.any():
        return None
    changed = sample | {name: sample[name][keep] for name in ('gt_bbox', 'gt_class')}
    if 'gt_segm' in sample:
        changed['gt_segm'] = sample['gt_segm'].kept(keep)
    return changed


def finished(sample: Sample) -> Sample | None:
    """The sample with image float32 [3, height, width] and masks uint8 [n, height, width].

    Objects whose mask has no pixel left are dropped, as in detectron2; None if none remain.
    """
    if 'gt_segm' in sample:
        bitmaps = sample['gt_segm'].bitmaps()
        has_pixels = bitmaps.any(axis=(1, 2))
        sample = chosen(sample, has_pixels)
        if sample is None:
            return None
        sample['gt_segm'] = bitmaps[has_pixels]
    image = np.moveaxis(sample['image'], 2, 0)
    return sample | {'image': np.ascontiguousarray(image, 'float32')}
