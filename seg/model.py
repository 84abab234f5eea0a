"""UPerNet (arXiv:1807.10221) over four maps of a vision transformer, as PaddleSeg's model `UPerNetMAE`.

Parts, names of the parameters and order of operations are mmsegmentation's (1.2.2, configs/mae); util.convert has the few
names that differ. Over a pyramid it is UM-MAE's, whose heads take the maps as they are. Batch normalisation is synchronised
on GPUs and plain on CPUs, where Paddle has no kernel for it.
Shapes: N images, D width of the backbone, K classes; maps are [N, channels, height, width].
"""

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
    return (
        x
        if list(x.shape[2:]) == list(size)
        else F.interpolate(x, size, mode='bilinear', align_corners=False)
    )


class ConvModule(nn.Layer):
    """Convolution without bias that keeps the size, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int):
        super().__init__()
        he = nn.initializer.KaimingNormal(fan_in=channels * kernel**2)  # by fan-out, as mmcv
        self.conv = nn.Conv2D(
            in_channels, channels, kernel, padding=kernel // 2, weight_attr=he, bias_attr=False
        )
        self.bn = SyncBatchNorm(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.bn(self.conv(x)))


def scores(channels: int, num_classes: int) -> nn.Conv2D:
    """The last layer of a head."""
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
    """Twice the size, with PyTorch's initialisation, U(+-1/sqrt(fan_in)), whose fan-in is of the output channels here."""
    bound = (4 * width) ** -0.5
    uniform = nn.initializer.Uniform(-bound, bound)
    return nn.Conv2DTranspose(width, width, 2, stride=2, weight_attr=uniform, bias_attr=uniform)


class UPerHead(nn.Layer):
    """A pyramid of pools over the last map, then top down through the others; scores [N, K, height, width] of the first."""

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.psp_modules = nn.LayerList(
            nn.Sequential(nn.AdaptiveAvgPool2D(scale), ConvModule(width, channels, 1))
            for scale in POOL_SCALES
        )
        self.bottleneck = ConvModule(width + len(POOL_SCALES) * channels, channels, 3)
        self.lateral_convs = nn.LayerList(ConvModule(width, channels, 1) for _ in range(3))
        self.fpn_convs = nn.LayerList(ConvModule(channels, channels, 3) for _ in range(3))
        self.fpn_bottleneck = ConvModule(4 * channels, channels, 3)
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = scores(channels, num_classes)

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        *others, last = maps
        pools = [resize(pool(last), last.shape[2:]) for pool in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, others)]
        laterals.append(self.bottleneck(paddle.concat([last, *pools], axis=1)))
        for i in reversed(range(3)):
            laterals[i] = laterals[i] + resize(laterals[i + 1], laterals[i].shape[2:])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)] + laterals[3:]
        outputs = [outputs[0]] + [resize(x, outputs[0].shape[2:]) for x in outputs[1:]]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(paddle.concat(outputs, axis=1))))


class FCNHead(nn.Layer):
    """Scores [N, K, height, width] of one map."""

    def __init__(self, width: int, channels: int, num_classes: int, dropout: float):
        super().__init__()
        self.convs = nn.Sequential(ConvModule(width, channels, 3))
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = scores(channels, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv_seg(self.dropout(self.convs(x)))


@manager.MODELS.add_component
class UPerNetMAE(nn.Layer):
    """[scores] of images [N, C, height, width] for each pixel, [N, K, height, width]; in training also the auxiliary head's.

    backbone: gives four maps of one width; they are of one size, or a pyramid's, of which each halves the one before.
    channels, aux_channels: of the two heads; the auxiliary one is on the third map.
    pretrained: weights of a whole segmentor, of any code base that util.convert knows; what does not fit is left out.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: nn.Layer,
        channels: int = 768,
        aux_channels: int = 256,
        dropout_ratio: float = 0.1,
        pretrained: str | None = None,
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
            log.info(models_zoo.start_from(self, pretrained))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        maps = self.backbone(x)
        maps = self.neck(maps) if self.neck else maps
        heads = [self.decode_head(maps)]
        if self.training:
            heads.append(self.auxiliary_head(maps[2]))
        return [resize(head, x.shape[2:]) for head in heads]
