"""Pyramids over a plain ViT's maps, for Mask R-CNN: ViTDet's and that of MAE's table 4.

Both give maps of `out_channel` channels at a quarter to four times the patch (strides 4 to 32 for
patches of 16), and a fifth, which is the fourth at half its size.
Shapes: maps are [N, channels, rows, columns]; D is the width of the ViT.
"""

import paddle
from paddle import nn
from paddle.nn import functional as F
from ppdet.core.workspace import register
from ppdet.modeling.shape_spec import ShapeSpec

from det.layers import ChannelNorm, ConvModule, batch_norm, pytorch_uniform, twice, xavier_uniform
from util.errors import InputError


def _strides(input_shape: list[ShapeSpec]) -> list[float]:
    """The strides of the four maps and of the fifth, for a ViT whose patches have this side."""
    patch = input_shape[0].stride
    return [patch / 4, patch / 2, patch, patch * 2, patch * 4]


class Pyramid(nn.Layer):
    """What both necks share: the shapes of the five maps."""

    def __init__(self, out_channel: int, strides: list[float]):
        super().__init__()
        self.out_channel = out_channel
        self.strides = strides

    @classmethod
    def from_config(cls, cfg: dict, input_shape: list[ShapeSpec]) -> dict:
        """The arguments that follow from the backbone's maps."""
        return {
            'in_channels': [shape.channels for shape in input_shape],
            'strides': _strides(input_shape),
        }

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each map."""
        return [ShapeSpec(channels=self.out_channel, stride=stride) for stride in self.strides]


@register
class SimpleFeaturePyramid(Pyramid):
    """ViTDet's pyramid, from the last map alone (detectron2, projects/ViTDet).

    The map is scaled by 4, 2, 1 and 1/2; each then goes through two convolutions with layer
    normalisation.
    """

    def __init__(
        self,
        in_channels: list[int] = (768,),
        strides: list[float] = (4, 8, 16, 32, 64),
        out_channel: int = 256,
        norm: str = 'LN',
    ):
        super().__init__(out_channel, list(strides))
        width = in_channels[-1]
        half, quarter = width // 2, width // 4
        self.fpn1 = nn.Sequential(
            twice(width, half), ChannelNorm(half), nn.GELU(), twice(half, quarter)
        )
        self.fpn2 = nn.Sequential(twice(width, half))
        self.fpn3 = nn.Identity()
        self.fpn4 = nn.MaxPool2D(2, stride=2)
        self.lateral_convs = nn.LayerList()
        self.fpn_convs = nn.LayerList()
        for channels in (quarter, half, width, width):
            lateral = ConvModule(channels, out_channel, 1, norm, weights=pytorch_uniform(channels))
            conv = ConvModule(
                out_channel, out_channel, 3, norm, weights=pytorch_uniform(9 * out_channel)
            )
            self.lateral_convs.append(lateral)
            self.fpn_convs.append(conv)

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        last = maps[-1]
        scales = (self.fpn1, self.fpn2, self.fpn3, self.fpn4)
        outputs = []
        for scale, lateral, conv in zip(scales, self.lateral_convs, self.fpn_convs):
            x = lateral(scale(last))
            outputs.append(conv(x))
        outputs.append(half_size(outputs[-1]))
        return outputs


@register
class TapsFPN(Pyramid):
    """A feature pyramid (arXiv:1612.03144) over four maps of the ViT (arXiv:2111.11429).

    The maps are scaled by 4, 2, 1 and 1/2, in the order of the blocks; then the pyramid goes top
    down, with a normalisation after each of its convolutions.
    """

    def __init__(
        self,
        in_channels: list[int] = (768, 768, 768, 768),
        strides: list[float] = (4, 8, 16, 32, 64),
        out_channel: int = 256,
        norm: str = 'BN',
    ):
        super().__init__(out_channel, list(strides))
        if len(in_channels) != 4:
            raise InputError(
                f'TapsFPN: the backbone gives {len(in_channels)} maps, but 4 are needed; '
                'give MAEViT four out_indices'
            )
        width = in_channels[0]
        self.upsample_4x = nn.Sequential(
            twice(width, width), batch_norm(width), nn.GELU(), twice(width, width)
        )
        self.upsample_2x = nn.Sequential(twice(width, width))
        self.lateral_convs = nn.LayerList()
        self.fpn_convs = nn.LayerList()
        for _ in in_channels:
            lateral = ConvModule(width, out_channel, 1, norm, weights=xavier_uniform(width))
            conv = ConvModule(
                out_channel, out_channel, 3, norm, weights=xavier_uniform(9 * out_channel)
            )
            self.lateral_convs.append(lateral)
            self.fpn_convs.append(conv)

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        first, second, third, fourth = maps
        maps = [
            self.upsample_4x(first),
            self.upsample_2x(second),
            third,
            F.max_pool2d(fourth, 2, 2),
        ]

        # Top down: each map plus the one above it
        merged = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        for level in reversed(range(3)):
            above = F.interpolate(merged[level + 1], merged[level].shape[2:], mode='nearest')
            merged[level] = merged[level] + above

        outputs = [conv(x) for conv, x in zip(self.fpn_convs, merged)]
        outputs.append(half_size(outputs[-1]))
        return outputs


def half_size(x: paddle.Tensor) -> paddle.Tensor:
    """Every other row and column of a map, as detectron2's LastLevelMaxPool."""
    return F.max_pool2d(x, 1, 2)
