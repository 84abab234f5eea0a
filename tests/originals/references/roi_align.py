"""mmcv's RoIAlign (average, aligned), written out; import it after mmdet_ready and before mmdet."""

import sys

import torch
from torch import nn


def bilinear(image, y, x):
    """Values [channels, n] of an image [channels, rows, columns] at points; 0 beyond its border."""
    _, rows, columns = image.shape
    outside = (y < -1) | (y > rows) | (x < -1) | (x > columns)
    y, x = y.clamp(0, rows - 1), x.clamp(0, columns - 1)
    top, left = y.floor().long(), x.floor().long()
    bottom, right = (top + 1).clamp(max=rows - 1), (left + 1).clamp(max=columns - 1)
    down, across = y - top, x - left
    value = (
        image[:, top, left] * (1 - down) * (1 - across)
        + image[:, top, right] * (1 - down) * across
        + image[:, bottom, left] * down * (1 - across)
        + image[:, bottom, right] * down * across
    )
    return value * ~outside


def pooled(image, box, side):
    """The mean of the samples in each cell of a box: [channels, side, side]."""
    x1, y1, x2, y2 = (box - 0.5).tolist()
    counts = [max(int(-(-(end - start) // side)), 0) for start, end in ((y1, y2), (x1, x2))]
    axes = []
    for start, end, count in ((y1, y2, counts[0]), (x1, x2, counts[1])):
        cell = (end - start) / side
        step = (torch.arange(count) + 0.5) / max(count, 1)
        axes.append((start + (torch.arange(side)[:, None] + step) * cell).flatten())
    y, x = torch.meshgrid(*axes, indexing='ij')
    values = bilinear(image, y.flatten(), x.flatten())
    values = values.reshape(len(image), side, counts[0], side, counts[1])
    return values.sum((2, 4)) / max(counts[0] * counts[1], 1)


def roi_align(
    maps, rois, output_size, spatial_scale=1.0, sampling_ratio=0, pool_mode='avg', aligned=True
):
    """Features [n, channels, side, side] of rois [n, 5] (image, x1, y1, x2, y2)."""
    assert sampling_ratio == 0 and pool_mode == 'avg' and aligned
    side = output_size[0] if isinstance(output_size, tuple) else output_size
    found = [pooled(maps[int(roi[0])], roi[1:] * spatial_scale, side) for roi in rois]
    return (
        torch.stack(found) if found else maps.sum() * maps.new_zeros(0, maps.shape[1], side, side)
    )


class RoIAlign(nn.Module):
    """The layer of the same name."""

    def __init__(self, output_size, spatial_scale=1.0, sampling_ratio=0):
        super().__init__()
        self.output_size = (output_size, output_size)
        self.settings = (self.output_size, spatial_scale, sampling_ratio)

    def forward(self, maps, rois):
        return roi_align(maps, rois, *self.settings)


operators = sys.modules['mmcv.ops']
operators.roi_align, operators.RoIAlign = roi_align, RoIAlign
