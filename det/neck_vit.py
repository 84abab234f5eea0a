"""Pyramids over a plain ViT's maps, for Mask R-CNN: ViTDet's and that of MAE's table 4.

Both scale maps of the ViT by powers of 2, and give a convolved map of `out_channel` channels for
each; a last one is the smallest of these at half its size. With patches of 16 pixels the strides
are 4, 8, 16, 32 and 64.
Shapes: maps are [N, channels, rows, columns]; D is the width of the ViT.
"""

import paddle
from paddle import nn
from paddle.nn import functional as F
from ppdet.core.workspace import register
from ppdet.modeling.shape_spec import ShapeSpec

from det.layers import ChannelNorm, ConvModule, batch_norm, pytorch_uniform, twice, xavier_uniform
from util.errors import InputError

SCALES = (4.0, 2.0, 1.0, 0.5)


class Pyramid(nn.Layer):
    """What both necks share: the shapes of their maps. patch: side of a ViT's patch."""

    def __init__(self, out_channel: int, patch: int, scales: list[float]):
        super().__init__()
        self.out_channel = out_channel
        strides = [patch / scale for scale in scales]
        self.strides = [*strides, 2 * strides[-1]]

    @classmethod
    def from_config(cls, cfg: dict, input_shape: list[ShapeSpec]) -> dict:
        """The arguments that follow from the backbone's maps."""
        return {
            'in_channels': [shape.channels for shape in input_shape],
            'patch': input_shape[0].stride,
        }

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each map."""
        return [ShapeSpec(channels=self.out_channel, stride=stride) for stride in self.strides]


@register
class SimpleFeaturePyramid(Pyramid):
    """ViTDet's pyramid, from the last map alone (detectron2, projects/ViTDet).

    Each scaled map goes through two convolutions with a normalisation after each.
    scale_factors: some of 4, 2, 1 and 1/2, the largest first.
    """

    def __init__(
        self,
        in_channels: list[int] = (768,),
        patch: int = 16,
        scale_factors: list[float] = SCALES,
        out_channel: int = 256,
        norm: str = 'LN',
    ):
        scales = [float(scale) for scale in scale_factors]
        if not scales or sorted(set(scales) & set(SCALES), reverse=True) != scales:
            raise InputError(
                'SimpleFeaturePyramid.scale_factors: some of 4, 2, 1 and 0.5 in this order, '
                f'not {list(scale_factors)}'
            )
        super().__init__(out_channel, patch, scales)
        self.names = []
        self.lateral_convs = nn.LayerList()
        self.fpn_convs = nn.LayerList()
        for scale in scales:
            layer, channels = _scaling(scale, in_channels[-1])
            name = f'fpn{1 + SCALES.index(scale)}'
            self.add_sublayer(name, layer)
            self.names.append(name)

            # PyTorch's default, because detectron2 has no other here
            first, second = pytorch_uniform(channels), pytorch_uniform(9 * out_channel)
            lateral = ConvModule(channels, out_channel, 1, norm, weights=first)
            conv = ConvModule(out_channel, out_channel, 3, norm, weights=second)
            self.lateral_convs.append(lateral)
            self.fpn_convs.append(conv)

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        outputs = []
        for name, lateral, conv in zip(self.names, self.lateral_convs, self.fpn_convs):
            scaled = getattr(self, name)(maps[-1])
            x = lateral(scaled)
            outputs.append(conv(x))
        outputs.append(half_size(outputs[-1]))
        return outputs


def _scaling(scale: float, width: int) -> tuple[nn.Layer, int]:
    """The layer that scales a map of D channels, and the channels that it gives."""
    half, quarter = width // 2, width // 4
    if scale == 4:
        norm = ChannelNorm(half)
        layers = [twice(width, half), norm, nn.GELU(), twice(half, quarter)]
        return nn.Sequential(*layers), quarter
    if scale == 2:
        return nn.Sequential(twice(width, half)), half
    if scale == 1:
        return nn.Identity(), width
    return nn.MaxPool2D(2, stride=2), width


@register
class TapsFPN(Pyramid):
    """A feature pyramid (arXiv:1612.03144) over four maps of the ViT (arXiv:2111.11429).

    The maps are scaled by 4, 2, 1 and 1/2, in the order of the blocks; then the pyramid goes top
    down, with a normalisation after each of its convolutions.
    """

    def __init__(
        self,
        in_channels: list[int] = (768, 768, 768, 768),
        patch: int = 16,
        out_channel: int = 256,
        norm: str = 'BN',
    ):
        super().__init__(out_channel, patch, SCALES)
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
