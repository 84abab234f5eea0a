"""The region proposal network of Mask R-CNN (arXiv:1506.01497), as in detectron2.

Parameter names are mmdetection's. Departure from mmdetection: an anchor that is the best of one
box, but overlaps another box more, is positive for that other one, as in detectron2.
Shapes: N images, A anchors a place, L anchors of all levels; boxes are x1 y1 x2 y2 in pixels.
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.vision import ops
from ppdet.core.workspace import register
from ppdet.modeling.bbox_utils import bbox_overlaps, delta2bbox
from ppdet.modeling.shape_spec import ShapeSpec

from det import boxes as geometry
from det.layers import ConvModule
from det.targets import decode, encode, generators, has_area, sample

WEIGHTS = (1.0, 1.0, 1.0, 1.0)  # of deltas


def anchors_of(
    grid: tuple[int, int], stride: float, side: float, ratios: tuple[float, ...]
) -> np.ndarray:
    """Anchors float32 [rows * columns * A, 4] of one area, centred on corners of a map's cells.

    ratios: height over width of each. The order is that of places, then of ratios.
    """
    ratios = np.asarray(ratios)
    widths = side / np.sqrt(ratios)
    heights = side * np.sqrt(ratios)
    shapes = np.stack([-widths, -heights, widths, heights], axis=1) / 2  # [A, 4]

    y, x = np.indices(grid) * stride
    corners = np.stack([x, y, x, y], axis=-1)  # [rows, columns, 4]
    anchors = corners[:, :, None] + shapes  # [rows, columns, A, 4]
    return anchors.reshape(-1, 4).astype('float32')


@register
class MAERPNHead(nn.Layer):
    """Scores and deltas of anchors at each place of a pyramid's maps; the loss; the proposals.

    anchor_scale: side of an anchor in strides. positive, negative: an anchor that overlaps a box by
    at least (less than) this is positive (negative); the best anchor of each box is positive too.
    batch_size: anchors that the loss samples from an image. Proposals: the best `before_nms` of
    each level, without those that overlap a better one by more than `nms`; of all, `after_nms`.
    """

    def __init__(
        self,
        in_channels: int = 256,
        strides: list[float] = (4, 8, 16, 32, 64),
        anchor_scale: float = 8,
        aspect_ratios: list[float] = (0.5, 1.0, 2.0),
        num_convs: int = 2,
        positive: float = 0.7,
        negative: float = 0.3,
        batch_size: int = 256,
        positive_fraction: float = 0.5,
        nms: float = 0.7,
        before_nms: list[int] = (2000, 1000),
        after_nms: list[int] = (1000, 1000),
    ):
        super().__init__()
        self.strides = list(strides)
        self.anchor_scale = anchor_scale
        self.aspect_ratios = tuple(aspect_ratios)
        self.positive = positive
        self.negative = negative
        self.batch_size = batch_size
        self.positive_fraction = positive_fraction
        self.nms = nms
        self.before_nms = tuple(before_nms)  # in training and in detection
        self.after_nms = tuple(after_nms)

        small = nn.initializer.Normal(std=0.01)
        self.rpn_conv = nn.Sequential()
        for index in range(num_convs):
            conv = ConvModule(in_channels, in_channels, 3, relu=True, weights=small)
            self.rpn_conv.add_sublayer(str(index), conv)
        per_place = len(self.aspect_ratios)
        self.rpn_cls = nn.Conv2D(in_channels, per_place, 1, weight_attr=small)
        self.rpn_reg = nn.Conv2D(in_channels, 4 * per_place, 1, weight_attr=small)

    @classmethod
    def from_config(cls, cfg: dict, input_shape: list[ShapeSpec]) -> dict:
        """The arguments that follow from the neck's maps."""
        return {
            'in_channels': input_shape[0].channels,
            'strides': [shape.stride for shape in input_shape],
        }

    def forward(self, maps: list[paddle.Tensor]) -> tuple[list[paddle.Tensor], list[paddle.Tensor]]:
        """Logits [N, rows * columns * A] and deltas [N, rows * columns * A, 4] of each map."""
        logits, deltas = [], []
        for x in maps:
            x = self.rpn_conv(x)
            score = self.rpn_cls(x).transpose([0, 2, 3, 1])  # [N, rows, columns, A]
            delta = self.rpn_reg(x).transpose([0, 2, 3, 1])  # [N, rows, columns, 4 A]
            logits.append(score.flatten(1))
            deltas.append(delta.reshape([0, -1, 4]))
        return logits, deltas

    def anchors(self, grids: list[tuple[int, int]]) -> list[np.ndarray]:
        """The anchors of each level, for the (rows, columns) of its map."""
        result = []
        for grid, stride in zip(grids, self.strides):
            side = self.anchor_scale * stride
            result.append(anchors_of(grid, stride, side, self.aspect_ratios))
        return result

    def losses(
        self,
        logits: list[paddle.Tensor],
        deltas: list[paddle.Tensor],
        anchors: list[np.ndarray],
        batch: dict,
    ) -> dict[str, paddle.Tensor]:
        """Cross entropy of the sampled anchors and the L1 distance of the positive ones' deltas.

        Both are sums over `batch_size` for each image, as in detectron2.
        """
        logits = paddle.concat(logits, axis=1)  # [N, L]
        deltas = paddle.concat(deltas, axis=1)  # [N, L, 4]
        anchors = np.concatenate(anchors)  # [L, 4]
        images, per_image = logits.shape

        positives, negatives, targets = [], [], []
        drawn = generators(batch, 0)
        truth = [np.asarray(boxes, 'float32').reshape(-1, 4) for boxes in batch['gt_bbox']]
        matched = self.match(anchors, truth)
        for image, boxes in enumerate(truth):
            labels, matches = matched[image]
            positive, negative = sample(
                np.flatnonzero(labels == 1),
                np.flatnonzero(labels == 0),
                self.batch_size,
                self.positive_fraction,
                drawn[image],
            )
            positives.append(positive + image * per_image)
            negatives.append(negative + image * per_image)
            targets.append(encode(anchors[positive], boxes[matches[positive]], WEIGHTS))

        # The losses of the sampled anchors of all images
        positives = np.concatenate(positives)
        chosen = np.concatenate([positives, *negatives])
        is_positive = np.arange(len(chosen)) < len(positives)
        scores = paddle.gather(logits.flatten(), paddle.to_tensor(chosen))
        moved = paddle.gather(deltas.flatten(0, 1), paddle.to_tensor(positives))
        targets = paddle.to_tensor(np.concatenate(targets))
        apart = moved.astype('float32') - targets
        cross_entropy = F.binary_cross_entropy_with_logits(
            scores.astype('float32'), paddle.to_tensor(is_positive, 'float32'), reduction='sum'
        )
        total = self.batch_size * images
        return {'loss_rpn_cls': cross_entropy / total, 'loss_rpn_bbox': apart.abs().sum() / total}

    @paddle.no_grad()
    def match(self, anchors: np.ndarray, truth: list[np.ndarray]) -> np.ndarray:
        """For each image and anchor 1 (positive), 0 (negative) or -1 (ignored), and its box.

        int64 [N, 2, L]; truth: the boxes [n, 4] of each image. The device is read once.
        """
        anchors = paddle.to_tensor(anchors)
        return paddle.stack([self._match(anchors, boxes) for boxes in truth]).numpy()

    def _match(self, anchors: paddle.Tensor, boxes: np.ndarray) -> paddle.Tensor:
        """The labels of the anchors of an image, and the numbers of their boxes: [2, L]."""
        if not len(boxes):
            return paddle.zeros([2, len(anchors)], 'int64')
        overlaps = bbox_overlaps(paddle.to_tensor(boxes), anchors)  # [boxes, L]
        highest = overlaps.max(axis=0)
        of_box = overlaps.max(axis=1, keepdim=True)
        is_best = paddle.logical_and(overlaps == of_box, of_box > 0)  # [boxes, L]
        is_positive = paddle.logical_or(highest >= self.positive, is_best.any(axis=0))

        # 1 where positive, else 0 where negative, else -1
        labels = (highest < self.negative).astype('int64') - 1
        labels = paddle.where(is_positive, paddle.ones_like(labels), labels)
        return paddle.stack([labels, overlaps.argmax(axis=0)])

    @paddle.no_grad()
    def proposals(
        self,
        logits: list[paddle.Tensor],
        deltas: list[paddle.Tensor],
        anchors: list[np.ndarray],
        shapes: np.ndarray,
    ) -> list[np.ndarray]:
        """The proposed boxes [n, 4] of each image, in training; shapes [N, 2]: height, width.

        The device is read once. But it has waited before: how many boxes are left by `nonzero` and
        `nms` depends on their values, as in PaddleDetection, detectron2 and mmdetection.
        """
        anchors = [paddle.to_tensor(array) for array in anchors]
        found, counts = [], []
        for image, shape in enumerate(shapes.tolist()):
            of_levels = []
            for logit, delta, anchor in zip(logits, deltas, anchors):
                of_levels.append(self._best(logit[image], delta[image], anchor, shape))
            found += of_levels
            counts.append(sum(map(len, of_levels)))

        result = []
        ends = np.cumsum(counts)
        for boxes in np.split(paddle.concat(found).numpy(), ends[:-1]):
            order = np.argsort(-boxes[:, 4], kind='stable')
            result.append(boxes[order[: self.after_nms[0]], :4])
        return result

    def _best(
        self, logits: paddle.Tensor, deltas: paddle.Tensor, anchors: paddle.Tensor, shape: list
    ) -> paddle.Tensor:
        """The boxes of a level and their logits, [n, 5], in training, after suppression."""
        most = min(self.before_nms[0], len(logits))
        scores, best = paddle.topk(logits.astype('float32'), most)
        deltas = paddle.gather(deltas.astype('float32'), best)
        boxes = delta2bbox(deltas, paddle.gather(anchors, best))[:, 0]  # [n, 4]
        boxes = _clipped(boxes, shape)

        has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        valid = paddle.nonzero(has_area).flatten()
        boxes, scores = paddle.gather(boxes, valid), paddle.gather(scores, valid)
        kept = ops.nms(boxes, self.nms, scores)
        return paddle.gather(paddle.concat([boxes, scores.unsqueeze(1)], axis=1), kept)

    def propose(
        self,
        logits: list[np.ndarray],
        deltas: list[np.ndarray],
        anchors: list[np.ndarray],
        shape: tuple[float, float],
    ) -> np.ndarray:
        """The proposed boxes [n, 4] of one image, in detection: logits [L], deltas [L, 4]."""
        before, after = self.before_nms[1], self.after_nms[1]
        boxes, scores, levels = [], [], []
        for level, (logit, delta, anchor) in enumerate(zip(logits, deltas, anchors)):
            best = np.argsort(-logit, kind='stable')[:before]
            box = decode(anchor[best], delta[best], WEIGHTS)
            box = geometry.clip(box, shape)
            valid = has_area(box)
            boxes.append(box[valid])
            scores.append(logit[best][valid])
            levels.append(np.full(valid.sum(), level))

        # Suppression within each level, then the best of all
        boxes = np.concatenate(boxes)
        scores = np.concatenate(scores)
        levels = np.concatenate(levels)
        kept = geometry.suppress(boxes, scores, levels, threshold=self.nms, most=after)
        return boxes[kept]


def _clipped(boxes: paddle.Tensor, shape: list[float]) -> paddle.Tensor:
    """Boxes [n, 4] within (height, width)."""
    height, width = shape
    x1, y1, x2, y2 = boxes.unbind(1)
    sides = [x1.clip(0, width), y1.clip(0, height), x2.clip(0, width), y2.clip(0, height)]
    return paddle.stack(sides, axis=1)
