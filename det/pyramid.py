"""UM-MAE's encoders as PaddleDetection's backbones `MAESwin` and `MAEPVT` (implus/UM-MAE, DET).

They are the classifiers' encoders (models_swin.py, models_pvt.py) for images of any size, with a
normalisation and a projection of the last map of each stage (`up1` to `up4`); the parameters have
UM-MAE's names. There is no last normalisation, and all epsilons are 1e-5.
Departure: UM-MAE initializes only `up1` to `up4`, because its encoders are always pre-trained; here
the encoder gets the values that it has in segmentation.
Shapes: N images, D width of a stage, W windows of L = window^2 tokens, H heads; maps are
[N, rows, columns, D] inside, and [N, D, rows, columns] with strides of 1, 2, 4 and 8 times
`patch_size` as results.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.nn import initializer
from ppdet.core.workspace import register
from ppdet.modeling.shape_spec import ShapeSpec

import models_pvt
import models_swin
import models_zoo
from layer import Pyramid, init_pyramid
from util import log, lookup
from util.errors import InputError


class DetectionMaps(Pyramid):
    """Maps of the stages of an encoder, for images [N, C, height, width] of any size.

    `divisor` must divide the sides of the images. A subclass builds the encoder, then calls
    `add_projections`.
    """

    def add_projections(self, out_width: int) -> None:
        """Add `up1`, `up2` ..., then initialize the whole model."""
        self.projections = [f'up{stage}' for stage in range(1, 1 + len(self.widths))]
        for name, width in zip(self.projections, self.widths):
            setattr(self, name, nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out_width)))
        self.out_width = out_width
        self.first = 0
        init_pyramid(self, initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0))

    def start(self, pretrained: str | None, use_ema: bool) -> None:
        """Begin from the weights in the file `pretrained`, if there is one."""
        if pretrained:
            report = models_zoo.start_from(self, pretrained, use_ema=use_ema)
            log.info(report)

    def leave_out(self, count: int) -> None:
        """Give None for the first `count` maps, which the neck does not use.

        Their projections stay as they are, as in UM-MAE, where they have no gradients.
        """
        self.first = count
        for name in self.projections[:count]:
            for parameter in getattr(self, name).parameters():
                parameter.stop_gradient = True

    @property
    def divisor(self) -> int:
        """Side, in pixels, of a token of the last map."""
        return self.patch_embed.patch_size * 2 ** (len(self.widths) - 1)

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each map."""
        strides = [self.patch_embed.patch_size * 2**stage for stage in range(len(self.widths))]
        return [ShapeSpec(channels=self.out_width, stride=stride) for stride in strides]

    def embed(self, images: paddle.Tensor) -> paddle.Tensor:
        """Patches as a map [N, rows, columns, D]."""
        _, channels, height, width = images.shape
        if channels != self.patch_embed.in_chans:
            raise InputError(
                f'images have {channels} channels, and the backbone takes '
                f'{self.patch_embed.in_chans}; set in_channels'
            )
        if height % self.divisor or width % self.divisor:
            raise InputError(
                f'images of {height} x {width} pixels: {self.divisor} must divide both sides; '
                f'pad them, by Pad: {{size_divisor: {self.divisor}}}'
            )
        rows = height // self.patch_embed.patch_size
        columns = width // self.patch_embed.patch_size
        x = self.patch_embed.project(images)  # [N, L, D]
        return x.reshape([-1, rows, columns, x.shape[2]])

    def forward(self, inputs: dict | paddle.Tensor) -> list[paddle.Tensor | None]:
        """Maps [N, out_width, rows, columns] of images, or of the `image` of a batch."""
        images = inputs['image'] if isinstance(inputs, dict) else inputs
        lasts = self.stage_maps(images)
        maps = [None] * self.first
        for name, last in zip(self.projections[self.first :], lasts[self.first :]):
            projection = getattr(self, name)
            projected = projection(last)  # [N, rows, columns, out_width]
            maps.append(projected.transpose([0, 3, 1, 2]))
        return maps


class PaddedWindowAttention(models_swin.WindowAttention):
    """Attention within windows of a map of any size, which zeros fill up to whole windows.

    The zeros take part in the attention as keys and values.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        reach = self.window - 1  # the largest distance within a window
        steps = np.arange(-reach, reach + 1, dtype='float32')
        logs = np.sign(steps) * np.log1p(np.abs(steps))
        distances = np.stack(np.meshgrid(logs, logs, indexing='ij'))  # [2, steps, steps]

        # the distance from each query to each key
        row, column = np.divmod(np.arange(self.window**2), self.window)  # of a token, [L]
        down = row - row[:, None] + reach  # [L, L]
        across = column - column[:, None] + reach
        index = down * len(steps) + across
        for name, array in (('distances', distances[None]), ('index', index)):
            self.register_buffer(name, paddle.to_tensor(array), persistable=False)

    def forward(self, x: paddle.Tensor, bias: None = None) -> paddle.Tensor:
        _, rows, columns, _ = x.shape
        below = -rows % self.window
        right = -columns % self.window
        if below or right:
            x = F.pad(x, [0, right, 0, below], data_format='NHWC')
        x = self.attend_windows(x, self.window_bias())
        return x[:, :rows, :columns]

    def window_bias(self) -> paddle.Tensor:
        """The bias of each pair of tokens of a window, equal in all windows: [1, 1, H, L, L]."""
        table = self.posmlp(self.distances)  # [1, H, steps, steps]
        table = table.flatten(2)[0].t()  # [steps^2, H]
        bias = lookup.rows(table, self.index)  # [L, L, H]
        return bias.transpose([2, 0, 1])[None, None]

    def mask(self, grid: tuple[int, int]) -> paddle.Tensor:
        """As models_swin.shifted_window_mask, [W, 1, L, L], but not kept for each size of map."""
        regions = models_swin.shifted_window_regions(grid, self.window, self.shift)
        regions = paddle.to_tensor(regions)  # [W, 1, L]
        same = regions.unsqueeze(-1) == regions.unsqueeze(-2)
        return 100 * (same.astype('float32') - 1)


@register
class MAESwin(DetectionMaps, models_swin.Swin):
    """Maps of images by Swin.

    Windows are never clipped to the map, and every second block of each stage shifts them.
    pretrained: weights of a fine-tuned classifier, or of another model with such an encoder, of any
    code base that util.convert knows. pretrained_ema: take the average where this file holds one
    beside the plain weights.
    """

    def __init__(
        self,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 16,
        posmlp_dim: int = 32,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        fpn_out_dim: int = 768,
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        models_swin.Swin.__init__(
            self,
            img_size=patch_size * 2 ** (len(depths) - 1),  # no weight depends on it
            patch_size=patch_size,
            in_chans=in_channels,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window=window,
            posmlp_dim=posmlp_dim,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            norm_layer=nn.LayerNorm,
        )
        self.add_projections(fpn_out_dim)
        self.start(pretrained, pretrained_ema)

    def check_windows(self, *sizes) -> None:
        """Any size fits, because maps are padded to a multiple of the window."""

    def attention(
        self, window: int, sides: list[int], stage: int, index: int
    ) -> Callable[..., PaddedWindowAttention]:
        """The attention of a block: number `index` of its stage."""
        shift = window // 2 if index % 2 else 0
        return partial(PaddedWindowAttention, window=window, shift=shift)

    def features(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The output map of each block; distances within windows take the place of positions."""
        return self.blocks.outputs(self.embed(images))


@register
class MAEPVT(DetectionMaps, models_pvt.PVT):
    """Maps of images by PVT, whose learnt positions are interpolated to each size of map.

    pretrain_size: the side of the images for whose patches there are positions.
    pretrained, pretrained_ema: as for MAESwin.
    """

    def __init__(
        self,
        pretrain_size: int = 256,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        num_heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
        drop_path_rate: float = 0.1,
        fpn_out_dim: int = 768,
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        models_pvt.PVT.__init__(
            self,
            img_size=pretrain_size,
            patch_size=patch_size,
            in_chans=in_channels,
            embed_dims=embed_dims,
            depths=depths,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            sr_ratios=sr_ratios,
            drop_path_rate=drop_path_rate,
        )
        self.learn_positions(initializer.Constant(0.0))
        self.add_projections(fpn_out_dim)
        self.start(pretrained, pretrained_ema)

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        """The output map of each block; positions [1, *places, D] are interpolated to the map x."""
        positions = F.interpolate(
            positions.transpose([0, 3, 1, 2]),
            size=x.shape[1:3],
            mode='bicubic',
            align_corners=False,
        )
        return super().outputs(x, positions.transpose([0, 2, 3, 1]))
