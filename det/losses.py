"""The losses of GFL (arXiv:2006.04388) and of boxes, in float32; equal to mmdetection's (2.20).

Shapes: A anchors, K classes, P positive anchors, B bins of a distance (from 0 to B - 1 strides).
Boxes are x1 y1 x2 y2, [P, 4].
"""

import paddle
from paddle.nn import functional as F

EPSILON = 1e-6  # the least area that divides, as in mmdetection


def quality_focal(logits: paddle.Tensor, quality: paddle.Tensor) -> paddle.Tensor:
    """Quality focal loss with beta 2 of each anchor and class, [A, K].

    quality [A, K]: the overlap of the predicted box with its object at the object's class, else 0.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction='none')
    error = quality - F.sigmoid(logits)
    return cross_entropy * error.square()


def distribution_focal(logits: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Cross-entropy of the two bins beside each distance, weighted by nearness: [P, 4].

    logits [P, 4, B]; distances [P, 4] below B - 1.
    """
    # The bins to the left and right, and how near they are
    left = distances.floor()
    share_of_right = distances - left
    share_of_left = 1 - share_of_right
    left = left.astype('int64')
    bins = paddle.stack([left, left + 1], axis=-1)  # [P, 4, 2]
    shares = paddle.stack([share_of_left, share_of_right], axis=-1)

    logs = F.log_softmax(logits, axis=-1)  # [P, 4, B]
    of_bins = paddle.take_along_axis(logs, bins, axis=-1)  # [P, 4, 2]
    return -(of_bins * shares).sum(axis=-1)


def expected_distances(logits: paddle.Tensor) -> paddle.Tensor:
    """The mean of each distribution over bins: [P, 4, B] -> [P, 4], in strides."""
    bins = paddle.arange(logits.shape[-1], dtype='float32')
    shares = F.softmax(logits, axis=-1)
    return (shares * bins).sum(axis=-1)


def boxes_at(points: paddle.Tensor, distances: paddle.Tensor) -> paddle.Tensor:
    """Boxes around points [P, 2] (x, y), from distances [P, 4] to the left, top, right, bottom."""
    upper_left = points - distances[:, :2]
    lower_right = points + distances[:, 2:]
    return paddle.concat([upper_left, lower_right], axis=1)


def distances_to(points: paddle.Tensor, boxes: paddle.Tensor) -> paddle.Tensor:
    """Distances [P, 4] from points [P, 2] to the left, top, right and bottom of boxes."""
    to_upper_left = points - boxes[:, :2]
    to_lower_right = boxes[:, 2:] - points
    return paddle.concat([to_upper_left, to_lower_right], axis=1)


def _area(upper_left: paddle.Tensor, lower_right: paddle.Tensor) -> paddle.Tensor:
    """Areas [P] of the boxes between two corners [P, 2]; 0 where these are in the wrong order."""
    sides = F.relu(lower_right - upper_left)
    width, height = sides.unbind(axis=1)
    return width * height


def _overlap(first: paddle.Tensor, second: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Intersection over union of boxes in pairs, and the area of each union: [P] both."""
    upper_left = paddle.maximum(first[:, :2], second[:, :2])
    lower_right = paddle.minimum(first[:, 2:], second[:, 2:])
    shared = _area(upper_left, lower_right)
    both = _area(first[:, :2], first[:, 2:]) + _area(second[:, :2], second[:, 2:])
    union = (both - shared).clip(min=EPSILON)
    return shared / union, union


def ious(first: paddle.Tensor, second: paddle.Tensor) -> paddle.Tensor:
    """Intersection over union of boxes in pairs, [P]."""
    overlap, _ = _overlap(first, second)
    return overlap


def giou(predicted: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
    """1 - generalized intersection over union (arXiv:1902.09630) of boxes in pairs, [P]."""
    overlap, union = _overlap(predicted, target)
    upper_left = paddle.minimum(predicted[:, :2], target[:, :2])
    lower_right = paddle.maximum(predicted[:, 2:], target[:, 2:])
    enclosing = _area(upper_left, lower_right).clip(min=EPSILON)
    empty = (enclosing - union) / enclosing
    return 1 - overlap + empty
