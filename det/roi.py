"""The heads of Mask R-CNN that look at boxes (arXiv:1703.06870), as in detectron2's ViTDet.

Parameter names are mmdetection's. Each rank divides its losses by the counts of its own samples, as
detectron2 and mmdetection do; where every image has its full share of samples, two ranks equal one
with the doubled batch.
Shapes: N images, R boxes of all images, K classes (the background is class K), F positive boxes;
boxes are x1 y1 x2 y2 in pixels.
"""

import math
from collections.abc import Iterator

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.vision import ops
from ppdet.core.workspace import register
from ppdet.modeling.shape_spec import ShapeSpec

from det import boxes as geometry
from det.layers import ConvModule, he_normal, xavier_uniform
from det.roi_align import is_narrow, roi_align
from det.targets import encode, generators, sample
from util.errors import InputError

WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of deltas
NOTHING = np.array([[0, 0, 1, 1]], 'float32')  # a box where a level or a batch has none
MASK_SIDE = 28  # of a predicted mask


class Pooler(nn.Layer):
    """RoIAlign over the maps of a pyramid: the larger a box, the smaller its map.

    A box of `canonical_size` pixels a side takes the map of stride 16, one of half that size the
    map of stride 8, as in arXiv:1612.03144.
    """

    def __init__(self, strides: list[float], canonical_size: float):
        super().__init__()
        self.strides = list(strides)
        self.canonical_size = canonical_size

    def split(self, boxes: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The boxes of N images [n, 4] by level, and their counts by level and image.

        Returns an array of boxes for each level, in the order of the images; their counts int32
        [N]; and the place of each box in the concatenation of these arrays. A level without boxes
        gets one that is not asked for, because exported models cannot do without.
        """
        every = np.concatenate(boxes)
        per_image = [len(part) for part in boxes]
        images = np.repeat(np.arange(len(boxes)), per_image)  # the image of each box
        levels = self.levels(every)

        parts, counts = [], []
        places = np.zeros(len(every), 'int64')
        first = 0
        for level in range(len(self.strides)):
            here = np.flatnonzero(levels == level)
            part = every[here] if len(here) else NOTHING
            count = np.bincount(images[here], minlength=len(boxes))
            count[0] += len(part) - len(here)
            parts.append(part.astype('float32'))
            counts.append(count.astype('int32'))
            places[here] = first + np.arange(len(here))
            first += len(part)
        return parts, counts, places

    def levels(self, boxes: np.ndarray) -> np.ndarray:
        """The number of each box's map, from 0."""
        sides = np.sqrt(geometry.areas(boxes))
        octaves = np.log2(sides / self.canonical_size + 1e-8)
        canonical = math.log2(16 / self.strides[0])  # number of the map of stride 16
        levels = np.floor(canonical + octaves)
        return levels.clip(0, len(self.strides) - 1)

    def pool(
        self,
        maps: list[paddle.Tensor],
        boxes: list[paddle.Tensor],
        counts: list[paddle.Tensor],
        side: int,
    ) -> paddle.Tensor:
        """Features [R, channels, side, side] of boxes by level, level after level."""
        pooled = []
        for x, part, count, stride in zip(maps, boxes, counts, self.strides):
            features = ops.roi_align(
                x,
                part,
                count,
                output_size=side,
                spatial_scale=1 / stride,
                sampling_ratio=0,
                aligned=True,
            )
            pooled.append(features)
        return paddle.concat(pooled)

    def forward(
        self, maps: list[paddle.Tensor], boxes: list[np.ndarray], side: int
    ) -> paddle.Tensor:
        """Features [R, channels, side, side] of the boxes of N images, in their own order.

        In float32: Paddle's RoIAlign has no kernel of low precision, and weights have few bits.
        """
        maps = [x if x.dtype == paddle.float32 else x.astype('float32') for x in maps]
        parts, counts, places = self.split(boxes)
        tensors = [paddle.to_tensor(part) for part in parts]
        numbers = [paddle.to_tensor(count) for count in counts]
        features = [self.pool(maps, tensors, numbers, side)]

        # Narrow boxes again, for the sake of their gradients (roi_align.py)
        every = np.concatenate(boxes)
        levels = self.levels(every)
        images = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
        count = sum(len(part) for part in parts)
        for level, image, group in _narrow(every, levels, images, self.strides):
            cells = every[group] / self.strides[level]
            features.append(roi_align(maps[level][image], cells, side))
            places[group] = count + np.arange(len(group))
            count += len(group)
        return paddle.gather(paddle.concat(features), paddle.to_tensor(places))


def _narrow(
    boxes: np.ndarray, levels: np.ndarray, images: np.ndarray, strides: list[float]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(level, image, numbers of the boxes there that are narrower than a cell)."""
    scales = np.asarray(strides, 'float32')[levels.astype('int64')]
    narrow = is_narrow(boxes / scales[:, None])
    for level in range(len(strides)):
        for image in np.unique(images):
            here = narrow & (levels == level) & (images == image)
            if here.any():
                yield level, int(image), np.flatnonzero(here)


class BoxHead(nn.Layer):
    """Class scores [R, K + 1] and deltas [R, K, 4] from features [R, channels, 7, 7]."""

    def __init__(self, in_channels: int, num_classes: int, num_convs: int, width: int, norm: str):
        super().__init__()
        self.num_classes = num_classes
        self.side = 7
        self.shared_convs = _convs(in_channels, num_convs, norm)
        flat = in_channels * self.side**2
        hidden = nn.Linear(flat, width, weight_attr=xavier_uniform(flat))
        self.shared_fcs = nn.LayerList([hidden])
        self.fc_cls = _linear(width, num_classes + 1, std=0.01)
        self.fc_reg = _linear(width, 4 * num_classes, std=0.001)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        x = self.shared_convs(x).flatten(1)
        x = F.relu(self.shared_fcs[0](x))
        return self.fc_cls(x), self.fc_reg(x).reshape([-1, self.num_classes, 4])


def _convs(channels: int, count: int, norm: str | None) -> nn.Sequential:
    """Convolutions with ReLU, one after the other."""
    layers = [ConvModule(channels, channels, 3, norm, relu=True) for _ in range(count)]
    return nn.Sequential(*layers)


def _linear(width: int, outputs: int, std: float) -> nn.Linear:
    return nn.Linear(width, outputs, weight_attr=nn.initializer.Normal(std=std))


class MaskHead(nn.Layer):
    """A mask's logits for each class, [R, K, 28, 28], from features [R, channels, 14, 14]."""

    def __init__(self, in_channels: int, num_classes: int, num_convs: int, norm: str):
        super().__init__()
        self.num_classes = num_classes
        self.side = MASK_SIDE // 2
        self.convs = _convs(in_channels, num_convs, norm)
        self.upsample = nn.Conv2DTranspose(
            in_channels, in_channels, 2, stride=2, weight_attr=he_normal(4 * in_channels)
        )
        small = nn.initializer.Normal(std=0.001)
        self.conv_logits = nn.Conv2D(in_channels, num_classes, 1, weight_attr=small)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = F.relu(self.upsample(self.convs(x)))
        return self.conv_logits(x)

    def of_classes(self, x: paddle.Tensor, rows: paddle.Tensor) -> paddle.Tensor:
        """The logits [R, 28, 28] of one class for each box.

        rows [R]: K times the number of the box, plus the number of its class.
        """
        logits = self(x).flatten(0, 1)  # [R K, 28, 28]
        return paddle.gather(logits, rows)

    def rows(self, classes: np.ndarray) -> np.ndarray:
        """The rows of `of_classes` for the class of each box."""
        return np.arange(len(classes)) * self.num_classes + classes


@register
class MAERoIHead(nn.Layer):
    """The box head and the mask head, their targets and losses.

    overlap: a proposal that overlaps a box by at least this much is positive. batch_size: proposals
    that the losses sample from an image, of which at most `positive_fraction` are positive.
    norm: LN (ViTDet) or BN (MAE's table 4), after each convolution of both heads.
    canonical_size: the side of a box that takes the map of stride 16.
    """

    __shared__ = ('num_classes',)

    def __init__(
        self,
        in_channels: int = 256,
        strides: list[float] = (4, 8, 16, 32),
        num_classes: int = 80,
        overlap: float = 0.5,
        batch_size: int = 512,
        positive_fraction: float = 0.25,
        box_convs: int = 4,
        box_width: int = 1024,
        mask_convs: int = 4,
        norm: str | None = 'LN',
        canonical_size: float = 224,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.overlap = overlap
        self.batch_size = batch_size
        self.positive_fraction = positive_fraction
        self.pooler = Pooler(strides, canonical_size)
        self.bbox_head = BoxHead(in_channels, num_classes, box_convs, width=box_width, norm=norm)
        self.mask_head = MaskHead(in_channels, num_classes, mask_convs, norm)

    @classmethod
    def from_config(cls, cfg: dict, input_shape: list[ShapeSpec]) -> dict:
        """The arguments that follow from the neck's maps."""
        return {
            'in_channels': input_shape[0].channels,
            'strides': [shape.stride for shape in input_shape[:-1]],
        }

    def losses(
        self, maps: list[paddle.Tensor], proposals: list[np.ndarray], batch: dict
    ) -> dict[str, paddle.Tensor]:
        """The losses of the sampled proposals' classes, deltas and masks."""
        drawn = generators(batch, 1)
        sampled = []
        for image, boxes in enumerate(proposals):
            truth = np.asarray(batch['gt_bbox'][image], 'float32').reshape(-1, 4)
            classes = np.asarray(batch['gt_class'][image], 'int64').reshape(-1)
            self._check(classes)
            sampled.append(self.assign(boxes, truth, classes, drawn[image]))

        losses = self._box_losses(maps, sampled)
        losses['loss_mask'] = self._mask_loss(maps, sampled, batch['gt_segm'])
        return losses

    def _check(self, classes: np.ndarray) -> None:
        """Raise InputError for a class that the heads do not have."""
        unknown = (classes < 0) | (classes >= self.num_classes)
        if unknown.any():
            raise InputError(
                f'an object has class {classes[unknown][0]}, counted from 0, but num_classes '
                f'is {self.num_classes}'
            )

    def assign(
        self,
        proposals: np.ndarray,
        truth: np.ndarray,
        classes: np.ndarray,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """The sampled boxes of an image and their targets; the boxes of the truth are candidates.

        boxes [n, 4], the F positive ones first; classes [n]; matches [F]: numbers of their boxes of
        the truth; deltas [F, 4].
        """
        candidates = np.concatenate([proposals, truth])
        overlaps = np.zeros(len(candidates), 'float32')
        matches = np.zeros(len(candidates), 'int64')
        if len(truth):
            pairs = geometry.ious(candidates[:, None], truth[None])  # [candidates, truth]
            overlaps = pairs.max(axis=1)
            matches = pairs.argmax(axis=1)
        positive, negative = sample(
            np.flatnonzero(overlaps >= self.overlap),
            np.flatnonzero(overlaps < self.overlap),
            self.batch_size,
            self.positive_fraction,
            rng,
        )
        matched = matches[positive]
        background = np.full(len(negative), self.num_classes)
        return {
            'boxes': candidates[np.concatenate([positive, negative])],
            'classes': np.concatenate([classes[matched], background]),
            'matches': matched,
            'deltas': encode(candidates[positive], truth[matched], WEIGHTS),
        }

    def _box_losses(
        self, maps: list[paddle.Tensor], sampled: list[dict]
    ) -> dict[str, paddle.Tensor]:
        """Cross entropy of the classes, and L1 distance of the positive boxes' deltas."""
        boxes = [image['boxes'] for image in sampled]
        features = self.pooler(maps, boxes, self.bbox_head.side)
        scores, deltas = self.bbox_head(features)
        classes = np.concatenate([image['classes'] for image in sampled])
        positive = np.flatnonzero(classes < self.num_classes)
        cross_entropy = F.cross_entropy(
            scores.astype('float32'), paddle.to_tensor(classes), reduction='sum'
        )

        # Deltas of the true class of each positive box
        rows = positive * self.num_classes + classes[positive]
        moved = paddle.gather(deltas.flatten(0, 1), paddle.to_tensor(rows))  # [F, 4]
        targets = np.concatenate([image['deltas'] for image in sampled])
        apart = moved.astype('float32') - paddle.to_tensor(targets)
        count = max(len(classes), 1)
        return {'loss_cls': cross_entropy / count, 'loss_bbox': apart.abs().sum() / count}

    def _mask_loss(
        self,
        maps: list[paddle.Tensor],
        sampled: list[dict],
        bitmaps: list[np.ndarray],
    ) -> paddle.Tensor:
        """Binary cross entropy of the masks of the positive boxes, for their true class."""
        boxes, classes, targets = [], [], []
        for image, masks in zip(sampled, bitmaps):
            positive = len(image['matches'])
            boxes.append(image['boxes'][:positive])
            classes.append(image['classes'][:positive])
            targets.append(mask_targets(masks, boxes[-1], image['matches']))
        classes, targets = np.concatenate(classes), paddle.concat(targets)

        # Without a positive box, one whose loss counts for nothing keeps the gradients defined
        weight = 1.0
        if not len(classes):
            boxes[0], classes = NOTHING, np.zeros(1, 'int64')
            targets = paddle.zeros([1, MASK_SIDE, MASK_SIDE])
            weight = 0.0

        features = self.pooler(maps, boxes, self.mask_head.side)
        rows = paddle.to_tensor(self.mask_head.rows(classes))
        logits = self.mask_head.of_classes(features, rows)
        cross_entropy = F.binary_cross_entropy_with_logits(
            logits.astype('float32'), targets, reduction='sum'
        )
        return cross_entropy * weight / (len(classes) * MASK_SIDE**2)


@paddle.no_grad()
def mask_targets(bitmaps: np.ndarray, boxes: np.ndarray, matches: np.ndarray) -> paddle.Tensor:
    """The bitmaps [n, height, width] inside boxes [F, 4]: 0 or 1, float32 [F, 28, 28].

    matches [F]: the number of each box's bitmap.
    """
    if not len(boxes):
        return paddle.zeros([0, MASK_SIDE, MASK_SIDE])
    order = np.argsort(matches, kind='stable')  # RoIAlign wants the boxes of a bitmap together
    used, counts = np.unique(matches, return_counts=True)
    bitmaps = np.asarray(bitmaps)[used]
    maps = paddle.to_tensor(bitmaps[:, None]).astype('float32')  # [used, 1, height, width]
    shares = ops.roi_align(
        maps,
        paddle.to_tensor(boxes[order]),
        paddle.to_tensor(counts.astype('int32')),
        output_size=MASK_SIDE,
        spatial_scale=1.0,
        sampling_ratio=0,
        aligned=True,
    )
    inside = shares.squeeze(1) >= 0.5
    places = paddle.to_tensor(np.argsort(order))
    return paddle.gather(inside.astype('float32'), places)
