"""The feature pyramid (arXiv:1612.03144) of UM-MAE's detector: `MAEFPN`.

Order of operations, initial values and names of the parameters are mmdetection's (2.20,
add_extra_convs='on_output').
"""

import paddle
from paddle import nn
from paddle.nn import functional as F
from ppdet.core.workspace import register
from ppdet.modeling.shape_spec import ShapeSpec

from det.layers import ConvModule
from util.errors import InputError

NORMS = {'sync_bn': 'BN', 'gn': 'GN', 'none': None}


@register
class MAEFPN(nn.Layer):
    """Maps [N, out_channels, rows, columns] of a pyramid, from fine to coarse.

    The maps of the backbone before `start_level` are not used. After its last one, maps are added
    by convolutions with stride 2, until there are `num_outs`. There are no activations.
    in_channels, strides: of all maps of the backbone.
    norm_type: sync_bn (over all GPUs; on CPUs each process has its own statistics), gn or none.
    """

    def __init__(
        self,
        in_channels: tuple[int, ...] = (768, 768, 768, 768),
        strides: tuple[int, ...] = (4, 8, 16, 32),
        out_channels: int = 256,
        start_level: int = 1,
        num_outs: int = 5,
        norm_type: str = 'sync_bn',
    ):
        super().__init__()
        if norm_type not in NORMS:
            raise InputError(f'MAEFPN: norm_type is sync_bn, gn or none, not {norm_type!r}')
        used = list(in_channels)[start_level:]
        extra = num_outs - len(used)
        if not used or extra < 0:
            raise InputError(
                f'MAEFPN: {len(in_channels)} maps from start_level {start_level} on cannot become '
                f'num_outs {num_outs}'
            )
        self.start_level = start_level
        self.out_channels = out_channels
        self.strides = list(strides)[start_level:]
        for _ in range(extra):
            self.strides.append(2 * self.strides[-1])

        def conv(width: int, kernel: int, stride: int = 1) -> ConvModule:
            return ConvModule(
                width,
                out_channels,
                kernel,
                norm=NORMS[norm_type],
                weights=nn.initializer.XavierUniform(),
                stride=stride,
            )

        self.lateral_convs = nn.LayerList(conv(width, 1) for width in used)
        same_size = [conv(out_channels, 3) for _ in used]
        halving = [conv(out_channels, 3, stride=2) for _ in range(extra)]
        self.fpn_convs = nn.LayerList(same_size + halving)

    @classmethod
    def from_config(cls, cfg: dict, input_shape: list[ShapeSpec]) -> dict:
        """Arguments that follow from the backbone's maps."""
        return {
            'in_channels': [shape.channels for shape in input_shape],
            'strides': [shape.stride for shape in input_shape],
        }

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each map."""
        return [ShapeSpec(channels=self.out_channels, stride=stride) for stride in self.strides]

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        used = maps[self.start_level :]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used)]

        # top down: each map plus the one above it
        for i in reversed(range(len(laterals) - 1)):
            size = laterals[i].shape[2:]
            above = F.interpolate(laterals[i + 1], size=size, mode='nearest')
            laterals[i] = laterals[i] + above

        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals)]
        for conv in self.fpn_convs[len(laterals) :]:
            outputs.append(conv(outputs[-1]))
        return outputs
