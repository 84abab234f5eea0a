"""The GFL detector (arXiv:2006.04388) of UM-MAE: architecture `MAEGFL`, head `MAEGFLHead`.

Names of the parameters, losses and decoding are mmdetection's (2.20). At each place of each map the
head predicts a score for each class, which estimates the overlap of its box as well, and a
distribution over `reg_max` + 1 whole strides for the distance to each side of that box.
Shapes: N images, K classes, B = reg_max + 1 bins, A places (anchors) of all maps, P of them
positive; maps are [N, channels, rows, columns].
"""

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from ppdet.core.workspace import create, register
from ppdet.modeling.shape_spec import ShapeSpec

from det import atss, losses
from det.detections import Detections
from det.gfl_decoder import GFLDecoder
from det.layers import ConvModule
from util import dist
from util.errors import InputError

PRIOR = 0.01  # score of each class at first
BELOW_LAST = 0.1  # a distance that is to be learnt ends this far below the last bin


class Scale(nn.Layer):
    """A learnt factor, 1 at first."""

    def __init__(self):
        super().__init__()
        self.scale = self.create_parameter([], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x * self.scale


@register
class MAEGFLHead(nn.Layer):
    """Scores and distances for the maps of a pyramid, by two towers of convolutions.

    All maps share the towers, which have group normalisation; each map has its own factor of the
    distances. strides: of the maps. reg_max: the largest distance, in strides. topk: see
    atss.assign. loss_bbox_weight, loss_dfl_weight: of these losses in the sum.
    """

    __shared__: ClassVar[list[str]] = ['num_classes']  # a key of the config of its own

    def __init__(
        self,
        num_classes: int = 80,
        in_channels: int = 256,
        feat_channels: int = 256,
        stacked_convs: int = 4,
        strides: tuple[int, ...] = (8, 16, 32, 64, 128),
        reg_max: int = 16,
        topk: int = 9,
        loss_bbox_weight: float = 2.0,
        loss_dfl_weight: float = 0.25,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.strides = list(strides)
        self.reg_max = reg_max
        self.topk = topk
        self.loss_bbox_weight = loss_bbox_weight
        self.loss_dfl_weight = loss_dfl_weight

        normal = nn.initializer.Normal(std=0.01)
        widths = [in_channels] + [feat_channels] * stacked_convs

        def tower() -> nn.LayerList:
            convs = nn.LayerList()
            for width in widths[:-1]:
                conv = ConvModule(width, feat_channels, 3, norm='GN', relu=True, weights=normal)
                convs.append(conv)
            return convs

        def last(channels: int, bias: float) -> nn.Conv2D:
            constant = nn.initializer.Constant(bias)
            return nn.Conv2D(
                widths[-1], channels, 3, padding=1, weight_attr=normal, bias_attr=constant
            )

        self.cls_convs = tower()
        self.reg_convs = tower()
        self.gfl_cls = last(num_classes, -math.log((1 - PRIOR) / PRIOR))
        self.gfl_reg = last(4 * (reg_max + 1), 0.0)
        self.scales = nn.LayerList(Scale() for _ in strides)

    @classmethod
    def from_config(cls, cfg: dict, input_shape: list[ShapeSpec]) -> dict:
        """Arguments that follow from the neck's maps."""
        return {
            'in_channels': input_shape[0].channels,
            'strides': [shape.stride for shape in input_shape],
        }

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """The scores (logits, [N, K, ..]) of all maps, then the bins (logits, [N, 4 B, ..])."""
        scores, bins = [], []
        for x, scale in zip(maps, self.scales):
            by_class, by_side = x, x
            for conv in self.cls_convs:
                by_class = conv(by_class)
            for conv in self.reg_convs:
                by_side = conv(by_side)
            scores.append(self.gfl_cls(by_class))
            bins.append(scale(self.gfl_reg(by_side)))
        return scores + bins

    def grids(self, maps: list) -> list[atss.Grid]:
        """The anchors of the maps that `forward` gives."""
        levels = zip(maps, self.strides)  # the scores come first
        return [atss.Grid(*x.shape[2:], stride) for x, stride in levels]

    def loss(self, maps: list[paddle.Tensor], batch: dict) -> dict[str, paddle.Tensor]:
        """The losses of the maps that `forward` gives, by name; their sum is optimized.

        batch: `image`, and for each image `gt_bbox` [n, 4] and `gt_class` [n]; `pad_shape` [N, 2]
        if the images were padded to several sizes before they became a batch.
        """
        targets = self.targets(self.grids(maps), batch)
        levels = len(self.strides)
        with paddle.amp.auto_cast(False):
            scores = _by_anchor(maps[:levels])  # [N A, K]
            bins = _by_anchor(maps[levels:])  # [N A, 4 B]
            return self._losses(scores, bins, targets)

    def targets(self, grids: list[atss.Grid], batch: dict) -> atss.Targets:
        """What the anchors should show; InputError for a class beyond num_classes."""
        objects = [np.asarray(array, 'float32').reshape(-1, 4) for array in batch['gt_bbox']]
        classes = [np.asarray(array, 'int64').reshape(-1) for array in batch['gt_class']]
        for labels in classes:
            unknown = (labels < 0) | (labels >= self.num_classes)
            if unknown.any():
                raise InputError(
                    f'an object has class {labels[unknown][0]}, counted from 0, but num_classes '
                    f'is {self.num_classes}'
                )
        whole = tuple(batch['image'].shape[2:])
        shapes = [whole] * len(objects)
        if 'pad_shape' in batch:
            shapes = np.asarray(batch['pad_shape']).tolist()
        return atss.targets(grids, shapes, objects, classes, self.topk)

    def _losses(
        self, scores: paddle.Tensor, bins: paddle.Tensor, targets: atss.Targets
    ) -> dict[str, paddle.Tensor]:
        """The losses of scores [N A, K] and bins [N A, 4 B], both logits."""
        quality = paddle.zeros_like(scores)
        weight_sum = paddle.zeros([])
        loss_bbox = loss_dfl = 0 * bins.sum()
        if len(targets.positive):
            positive = paddle.to_tensor(targets.positive)
            of_positive = paddle.gather(scores.detach(), positive)  # [P, K]
            weights = F.sigmoid(of_positive).max(axis=1)  # [P]
            weight_sum = weights.sum()

            bins = paddle.gather(bins, positive).reshape([-1, 4, self.reg_max + 1])
            overlaps, of_boxes, of_bins = self._box_losses(bins, targets)
            loss_bbox = (of_boxes * weights).sum()
            loss_dfl = (of_bins.mean(axis=1) * weights).sum()
            quality = self._quality(scores, overlaps, targets)

        of_scores = losses.quality_focal(scores, quality)  # [N A, K]
        if not targets.valid.all():
            valid = paddle.to_tensor(targets.valid.astype('float32'))
            of_scores = of_scores * valid.unsqueeze(-1)

        # Means over the ranks, which are not read: that would wait for the device
        total = paddle.full([], targets.total, 'float64')
        means = paddle.stack([total, weight_sum.astype('float64')])
        total, weight_sum = dist.mean_tensor(means).unbind()
        weight_sum = weight_sum.clip(min=1.0)
        return {
            'loss_cls': of_scores.sum() / _float32(total),
            'loss_bbox': loss_bbox * _float32(self.loss_bbox_weight / weight_sum),
            'loss_dfl': loss_dfl * _float32(self.loss_dfl_weight / weight_sum),
        }

    def _box_losses(
        self, bins: paddle.Tensor, targets: atss.Targets
    ) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Overlaps of predicted boxes and objects [P], box losses [P], bin losses [P, 4].

        bins [P, 4, B]. All lengths are in strides.
        """
        strides = targets.strides[:, None]
        points = paddle.to_tensor(targets.centers / strides)
        wanted = paddle.to_tensor(targets.boxes / strides)
        predicted = losses.boxes_at(points, losses.expected_distances(bins))
        overlaps = losses.ious(predicted.detach(), wanted)
        of_boxes = losses.giou(predicted, wanted)

        distances = losses.distances_to(points, wanted)
        distances = distances.clip(0, self.reg_max - BELOW_LAST)
        return overlaps, of_boxes, losses.distribution_focal(bins, distances)

    def _quality(
        self, scores: paddle.Tensor, overlaps: paddle.Tensor, targets: atss.Targets
    ) -> paddle.Tensor:
        """What the scores should be [N A, K]: the overlaps [P] at the objects' classes, else 0."""
        places = targets.positive * self.num_classes + targets.classes
        flat = paddle.zeros([scores.size])
        flat = paddle.scatter(flat, paddle.to_tensor(places), overlaps)
        return flat.reshape(scores.shape)


def _float32(x: paddle.Tensor) -> paddle.Tensor:
    return x.astype('float32')


def _by_anchor(maps: list[paddle.Tensor]) -> paddle.Tensor:
    """Maps [N, C, ..] of all levels as float32 [N A, C]."""
    levels = []
    for x in maps:
        flat = x.astype('float32').flatten(2)  # [N, C, anchors of the level]
        levels.append(flat.transpose([0, 2, 1]))
    return paddle.concat(levels, axis=1).flatten(0, 1)


@register
class MAEGFL(nn.Layer):
    """The losses of a batch, by name.

    batch: see MAEGFLHead.loss.
    score_threshold, nms_threshold, nms_top_k, keep_top_k: see GFLDecoder.
    """

    __category__ = 'architecture'

    def __init__(
        self,
        backbone: nn.Layer,
        neck: nn.Layer,
        bbox_head: nn.Layer,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.6,
        nms_top_k: int = 1000,
        keep_top_k: int = 100,
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bbox_head = bbox_head
        backbone.leave_out(neck.start_level)
        self.decoder = GFLDecoder(
            strides=bbox_head.strides,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            nms_top_k=nms_top_k,
            keep_top_k=keep_top_k,
        )

    @classmethod
    def from_config(cls, cfg: dict) -> dict:
        """The parts that a config names."""
        backbone = create(cfg['backbone'])
        neck = create(cfg['neck'], input_shape=backbone.out_shape)
        bbox_head = create(cfg['bbox_head'], input_shape=neck.out_shape)
        return {'backbone': backbone, 'neck': neck, 'bbox_head': bbox_head}

    def forward(self, batch: dict) -> dict[str, paddle.Tensor]:
        maps = self.bbox_head(self.neck(self.backbone(batch['image'])))
        return self.bbox_head.loss(maps, batch)

    def stages(self) -> dict[str, nn.Layer]:
        """The networks that can be exported, by name: images to a list of maps."""
        return {'maps': nn.Sequential(self.backbone, self.neck, self.bbox_head)}

    def stage_inputs(self, height: int, width: int) -> dict[str, dict[str, list[int | None]]]:
        """The inputs of each stage for images of this size: name -> shape, None for any number."""
        channels = self.backbone.patch_embed.in_chans
        return {'maps': {'images': [None, channels, height, width]}}

    def detect(
        self, run: Callable[..., list[np.ndarray]], images: np.ndarray, batch: dict
    ) -> list[Detections]:
        """The objects in images [N, C, height, width].

        run: (name of a stage, its inputs) -> its outputs, of this model or an exported one.
        batch: `im_shape` and `scale_factor` [N, 2].
        """
        maps = run('maps', images)
        return self.decoder(maps, batch)
