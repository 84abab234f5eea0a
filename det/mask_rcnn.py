"""Mask R-CNN (arXiv:1703.06870) over a masked autoencoder's ViT: `MAEMaskRCNN`.

MAE's table 4 (arXiv:2111.06377) and ViTDet (arXiv:2203.16527) differ in the neck and the
normalisation. Training gives losses; detection runs three networks, whose results are decoded in
NumPy between them, so that each network can be exported as it is.
Shapes: N images, R boxes, K classes; boxes are x1 y1 x2 y2 in pixels.
"""

import math
from collections.abc import Callable

import numpy as np
import paddle
from paddle import nn
from ppdet.core.workspace import create, register

from det import boxes as geometry
from det.detections import Detections
from det.paste import paste
from det.roi import WEIGHTS
from det.targets import decode, has_area
from util.errors import InputError


class Trunk(nn.Layer):
    """The maps of the pyramid but the last; logits [N, L] and deltas [N, L, 4] of all anchors."""

    def __init__(self, model: nn.Layer):
        super().__init__()
        self.backbone, self.neck, self.rpn_head = model.backbone, model.neck, model.rpn_head

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        maps = self.neck(self.backbone(images))
        logits, deltas = self.rpn_head(maps)
        return [*maps[:-1], *logits, *deltas]


class Boxes(nn.Layer):
    """Class probabilities [R, K + 1] and deltas [R, K, 4] of the boxes of one image.

    Inputs: the maps, arrays of boxes and counts of each level (Pooler.split).
    """

    def __init__(self, roi_head: nn.Layer):
        super().__init__()
        self.pooler, self.bbox_head = roi_head.pooler, roi_head.bbox_head

    def forward(self, *inputs: paddle.Tensor) -> list[paddle.Tensor]:
        features = self.pooler.pool(*_by_kind(inputs), side=self.bbox_head.side)
        scores, deltas = self.bbox_head(features)
        return [nn.functional.softmax(scores, axis=-1), deltas]


class Masks(nn.Layer):
    """Probabilities [R, 28, 28] that the pixels of boxes of one image belong to the object.

    Inputs: as for `Boxes`, then the rows of MaskHead.of_classes.
    """

    def __init__(self, roi_head: nn.Layer):
        super().__init__()
        self.pooler, self.mask_head = roi_head.pooler, roi_head.mask_head

    def forward(self, *inputs: paddle.Tensor) -> list[paddle.Tensor]:
        *inputs, rows = inputs
        features = self.pooler.pool(*_by_kind(inputs), side=self.mask_head.side)
        logits = self.mask_head.of_classes(features, rows)
        return [nn.functional.sigmoid(logits)]


def _by_kind(inputs: list[paddle.Tensor]) -> list[list[paddle.Tensor]]:
    """Maps, boxes and counts, which arrive as one list."""
    levels = len(inputs) // 3
    maps = inputs[:levels]
    boxes = inputs[levels : 2 * levels]
    counts = inputs[2 * levels :]
    return [maps, boxes, counts]


@register
class MAEMaskRCNN(nn.Layer):
    """Losses of a batch in training; detections by `detect`, through the networks of `stages`.

    score_threshold, nms, kept: a detection's least probability, the largest overlap with a better
    one of its class, and the number that is kept of a picture.
    """

    __category__ = 'architecture'

    def __init__(
        self,
        backbone: nn.Layer = 'MAEViT',
        neck: nn.Layer = 'SimpleFeaturePyramid',
        rpn_head: nn.Layer = 'MAERPNHead',
        roi_head: nn.Layer = 'MAERoIHead',
        score_threshold: float = 0.05,
        nms: float = 0.5,
        kept: int = 100,
    ):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn_head = rpn_head
        self.roi_head = roi_head
        self.score_threshold = score_threshold
        self.nms = nms
        self.kept = kept

    @classmethod
    def from_config(cls, cfg: dict) -> dict:
        """The parts, made from the config."""
        backbone = create(cfg['backbone'])
        neck = create(cfg['neck'], input_shape=backbone.out_shape)
        shapes = {'input_shape': neck.out_shape}
        return {
            'backbone': backbone,
            'neck': neck,
            'rpn_head': create(cfg['rpn_head'], **shapes),
            'roi_head': create(cfg['roi_head'], **shapes),
        }

    def forward(self, batch: dict) -> dict[str, paddle.Tensor]:
        if 'gt_segm' not in batch:
            raise InputError(
                'Mask R-CNN learns from masks, but the samples have none; '
                'set TrainDataset.with_masks to true'
            )
        maps = self.neck(self.backbone(batch))
        logits, deltas = self.rpn_head(maps)
        grids = [tuple(x.shape[2:]) for x in maps]
        anchors = self.rpn_head.anchors(grids)
        of_proposals = self.rpn_head.losses(logits, deltas, anchors, batch)

        shapes = np.asarray(batch['im_shape'])
        proposals = self.rpn_head.proposals(logits, deltas, anchors, shapes)
        of_boxes = self.roi_head.losses(maps[:-1], proposals, batch)
        return of_proposals | of_boxes

    def stages(self) -> dict[str, nn.Layer]:
        """The networks of detection, in their order."""
        return {
            'trunk': Trunk(self),
            'boxes': Boxes(self.roi_head),
            'masks': Masks(self.roi_head),
        }

    def stage_inputs(self, height: int, width: int) -> dict[str, dict[str, list | dict]]:
        """The inputs of each stage for images of this size, as util.exported.save takes them."""
        maps, boxes, counts = {}, {}, {}
        levels = list(zip(self.neck.out_shape, self.grids(height, width)))[:-1]
        for level, (shape, grid) in enumerate(levels):
            maps[f'map_{level}'] = [1, shape.channels, *grid]
            boxes[f'boxes_{level}'] = [None, 4]
            counts[f'count_{level}'] = {'shape': [1], 'dtype': 'int32', 'known': [2]}
        classes = np.zeros(2 * len(levels), 'int64')  # of two boxes of each level
        known = self.roi_head.mask_head.rows(classes).tolist()
        rows = {'shape': [None], 'dtype': 'int64', 'known': known}
        pooled = maps | boxes | counts
        return {
            'trunk': {'images': [None, 3, height, width]},
            'boxes': pooled,
            'masks': pooled | {'rows': rows},
        }

    def detect(
        self, run: Callable[..., list[np.ndarray]], images: np.ndarray, batch: dict
    ) -> list[Detections]:
        """The detections in images [N, C, height, width], in pixels of the original pictures.

        run: (name of a stage, arrays) -> arrays. batch: im_shape, scale_factor, origin_shape.
        """
        outputs = run('trunk', images)
        grids = self.grids(*images.shape[2:])
        anchors = self.rpn_head.anchors(grids)
        levels = len(grids)

        found = []
        for image in range(len(images)):
            own = [output[image : image + 1] for output in outputs]
            maps = own[: levels - 1]
            predicted = [array[0] for array in own[levels - 1 :]]
            logits, deltas = predicted[:levels], predicted[levels:]
            shapes = {name: array[image] for name, array in batch.items()}
            proposals = self.rpn_head.propose(logits, deltas, anchors, shapes['im_shape'])
            found.append(self._detect_among(proposals, run, maps, shapes))
        return found

    def grids(self, height: int, width: int) -> list[tuple[int, int]]:
        """(rows, columns) of each map of the pyramid, for images of this size."""
        sizes = []
        for shape in self.neck.out_shape:
            rows = math.ceil(height / shape.stride)
            columns = math.ceil(width / shape.stride)
            sizes.append((rows, columns))
        return sizes

    def _detect_among(
        self, proposals: np.ndarray, run: Callable, maps: list[np.ndarray], image: dict
    ) -> Detections:
        """The detections among an image's proposals [n, 4]."""
        pooler = self.roi_head.pooler
        parts, counts, places = pooler.split([proposals])
        scores, deltas = run('boxes', *maps, *parts, *counts)
        scores, deltas = scores[places], deltas[places]
        boxes, scores, classes = self.decode(proposals, scores, deltas, image['im_shape'])

        # Masks of the boxes that are left
        parts, counts, places = pooler.split([boxes])
        total = sum(len(part) for part in parts)
        class_of = np.zeros(total, 'int64')
        class_of[places] = classes
        rows = self.roi_head.mask_head.rows(class_of)
        (masks,) = run('masks', *maps, *parts, *counts, rows)
        masks = masks[places]

        # In the original picture
        height, width = (int(side) for side in image['origin_shape'])
        boxes = geometry.rescale(boxes, image['scale_factor'])
        boxes = geometry.clip(boxes, (height, width))
        real = has_area(boxes)
        pasted = paste(masks[real], boxes[real], (height, width))
        return Detections(boxes[real], scores[real], classes[real], pasted)

    def decode(
        self, proposals: np.ndarray, scores: np.ndarray, deltas: np.ndarray, shape: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n, 4], scores [n] and classes [n] that are left of proposals [R, 4], best first.

        scores [R, K + 1], deltas [R, K, 4]; shape: height and width of the image.
        """
        rows, classes = np.nonzero(scores[:, :-1] > self.score_threshold)
        boxes = decode(proposals[rows], deltas[rows, classes], WEIGHTS)
        boxes = geometry.clip(boxes, shape)
        scores = scores[rows, classes]
        kept = geometry.suppress(boxes, scores, classes, threshold=self.nms, most=self.kept)
        return boxes[kept], scores[kept], classes[kept]
