"""UPerNet (arXiv:1807.10221) over four maps of a vision transformer: PaddleSeg's `UPerNetMAE`.

Parts, names of the parameters and order of operations are mmsegmentation's (1.2.2, configs/mae);
util.convert has the few names that differ. Over a pyramid it is UM-MAE's model, whose heads take
the maps as they are. Batch normalisation is synchronised over GPUs; on CPUs it is not, because
Paddle has no synchronised kernel there.
Shapes: N images, D width of the backbone, K classes; maps are [N, channels, height, width].
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddleseg.cvlibs import manager
from paddleseg.models.layers import SyncBatchNorm

import models_zoo
from layer import Pyramid
from util import log
from util.errors import InputError

POOL_SCALES = (1, 2, 3, 6)  # cells a side of the pyramid over the last map


def resize(x: paddle.Tensor, size: list[int]) -> paddle.Tensor:
    """The map at another (height, width), bilinear."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, size, mode='bilinear', align_corners=False)


class ConvModule(nn.Layer):
    """Convolution without bias that keeps the size, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int):
        super().__init__()
        fan_out = channels * kernel**2
        he = nn.initializer.KaimingNormal(fan_in=fan_out)  # as mmcv
        self.conv = nn.Conv2D(
            in_channels, channels, kernel, padding=kernel // 2, weight_attr=he, bias_attr=False
        )
        self.bn = SyncBatchNorm(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.bn(self.conv(x)))


class AveragePool(nn.Layer):
    """The means of cells x cells parts of a map, which overlap where `cells` does not divide it."""

    def __init__(self, cells: int):
        super().__init__()
        self.cells = cells

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if paddle.in_dynamic_mode():
            return F.adaptive_avg_pool2d(x, self.cells)
        # An export: paddle2onnx ends in a crash if the map has fewer rows than cells
        rows, columns = x.shape[2:]
        down = paddle.to_tensor(shares(rows, self.cells))  # [cells, rows]
        across = paddle.to_tensor(shares(columns, self.cells))  # [cells, columns]
        return paddle.matmul(paddle.matmul(down, x), across, transpose_y=True)


def shares(length: int, cells: int) -> np.ndarray:
    """The share of each of `length` places in the mean of each cell: float32 [cells, length]."""
    weights = np.zeros([cells, length], 'float32')
    for cell in range(cells):
        first = cell * length // cells
        end = -(-(cell + 1) * length // cells)
        weights[cell, first:end] = 1 / (end - first)
    return weights


def scores(channels: int, num_classes: int) -> nn.Conv2D:
    """The last layer of a head: one score for each class."""
    return nn.Conv2D(channels, num_classes, 1, weight_attr=nn.initializer.Normal(std=0.01))


class Feature2Pyramid(nn.Layer):
    """Maps of one size to 4, 2, 1 and 1/2 times that size."""

    def __init__(self, width: int):
        super().__init__()
        self.upsample_4x = nn.Sequential(
            twice(width), SyncBatchNorm(width), nn.GELU(), twice(width)
        )
        self.upsample_2x = nn.Sequential(twice(width))

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        first, second, third, fourth = maps
        return [
            self.upsample_4x(first),
            self.upsample_2x(second),
            third,
            F.max_pool2d(fourth, 2, 2),
        ]


def twice(width: int) -> nn.Conv2DTranspose:
    """A layer that doubles the size of a map, initialised as in PyTorch: U(+-1/sqrt(fan_in)).

    PyTorch takes the fan-in of a transposed convolution from the output channels.
    """
    bound = (4 * width) ** -0.5
    uniform = nn.initializer.Uniform(-bound, bound)
    return nn.Conv2DTranspose(width, width, 2, stride=2, weight_attr=uniform, bias_attr=uniform)


class UPerHead(nn.Layer):
    """Scores [N, K, height, width] at the size of the first map.

    Pools of several sizes see the last map; their result goes top down through the other maps.
    """

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.psp_modules = nn.LayerList(
            nn.Sequential(AveragePool(scale), ConvModule(width, channels, 1))
            for scale in POOL_SCALES
        )
        pooled = len(POOL_SCALES) * channels
        self.bottleneck = ConvModule(width + pooled, channels, 3)
        self.lateral_convs = nn.LayerList(ConvModule(width, channels, 1) for _ in range(3))
        self.fpn_convs = nn.LayerList(ConvModule(channels, channels, 3) for _ in range(3))
        self.fpn_bottleneck = ConvModule(4 * channels, channels, 3)
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = scores(channels, num_classes)

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        *others, last = maps

        # pyramid pooling of the last map
        pools = [resize(pool(last), last.shape[2:]) for pool in self.psp_modules]
        with_pools = paddle.concat([last, *pools], axis=1)

        # feature pyramid: each map plus the one above it
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, others)]
        laterals.append(self.bottleneck(with_pools))
        for i in reversed(range(3)):
            size = laterals[i].shape[2:]
            laterals[i] = laterals[i] + resize(laterals[i + 1], size)

        # all levels at the size of the first
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        outputs.append(laterals[3])
        first, *smaller = outputs
        size = first.shape[2:]
        fused = paddle.concat([first, *(resize(x, size) for x in smaller)], axis=1)
        features = self.fpn_bottleneck(fused)  # [N, channels, height, width]
        return self.conv_seg(self.dropout(features))


class FCNHead(nn.Layer):
    """Scores [N, K, height, width] of one map."""

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(width, channels, 3))
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = scores(channels, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        features = self.convs(x)
        return self.conv_seg(self.dropout(features))


@manager.MODELS.add_component
class UPerNetMAE(nn.Layer):
    """Scores [N, K, height, width] of each pixel of images [N, C, height, width], in a list.

    In training the scores of the auxiliary head follow as a second element.

    backbone: gives four maps of one width, all of one size, or a pyramid whose maps halve one after
    the other. channels, aux_channels: width of the two heads; the auxiliary one sees the third map.
    pretrained: weights of a whole segmentor, of any code base that util.convert knows; tensors that
    do not fit are left out. pretrained_ema: take the average where this file holds one beside the
    plain weights.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        channels: int = 768,
        aux_channels: int = 256,
        dropout_ratio: float = 0.1,
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        if len(backbone.feat_channels) != 4 or len(set(backbone.feat_channels)) > 1:
            raise InputError(
                f'UPerNetMAE: four maps of one width are needed, not {backbone.feat_channels}'
            )
        width = backbone.feat_channels[0]
        self.neck = None if isinstance(backbone, Pyramid) else Feature2Pyramid(width)
        self.decode_head = UPerHead(width, channels, num_classes, dropout_ratio)
        self.auxiliary_head = FCNHead(width, aux_channels, num_classes, dropout_ratio)
        if pretrained:
            report = models_zoo.start_from(self, pretrained, use_ema=pretrained_ema)
            log.info(report)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        maps = self.backbone(x)
        if self.neck:
            maps = self.neck(maps)
        heads = [self.decode_head(maps)]
        if self.training:
            heads.append(self.auxiliary_head(maps[2]))
        return [resize(head, x.shape[2:]) for head in heads]
