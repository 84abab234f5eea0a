"""The ViT encoder as PaddleSeg's backbone `MAEViT` (recipe: mmsegmentation 1.2.2, configs/mae).

Differences from the classifier's encoder: layer scale, a table of relative positions for each block
as in BEiT (arXiv:2106.08254), outputs after several blocks, and no last normalisation.
Shapes: N images, D width, H heads, rows x columns patches, L = 1 + rows * columns tokens.
"""

import paddle
from paddle import nn
from paddleseg.cvlibs import manager

import models_vit
import models_zoo
from layer import LayerNorm
from util import log, lookup, pos_embed
from util.errors import InputError


class PositionBias(nn.Layer):
    """A learnt bias of a block's attention scores for each distance and head; zero at first."""

    def __init__(self, distances: int, num_heads: int):
        super().__init__()
        self.table = self.create_parameter(
            [distances, num_heads], default_initializer=nn.initializer.Constant(0.0)
        )

    def forward(self, index: lookup.Index) -> paddle.Tensor:
        """The bias [H, L, L] for an index [L, L] of distances."""
        by_token = lookup.rows(self.table, index)  # [L, L, H]
        return by_token.transpose([2, 0, 1])


@manager.BACKBONES.add_component
class MAEViT(models_vit.Encoder):
    """Maps [N, D, rows, columns] of images [N, C, height, width], the outputs of some blocks.

    out_indices: numbers of those blocks, from 0. init_values: the first value of layer scale.
    pretrained: weights of an encoder, or of a model that has one, of any code base that
    util.convert knows; positions are interpolated to this grid. pretrained_ema: take the average
    where this file holds one beside the plain weights.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 512,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        init_values: float = 1.0,
        out_indices: tuple[int, ...] = (3, 5, 7, 11),
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_channels,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            norm_layer=LayerNorm,
            init_values=init_values,
        )
        for index in out_indices:
            if not isinstance(index, int) or index not in range(depth):
                raise InputError(
                    f'MAEViT: out_indices are numbers of its {depth} blocks, from 0, '
                    f'not {out_indices}'
                )

        distances = pos_embed.relative_positions(*self.patch_embed.grid)  # [L, L]
        self.num_distances = int(distances.max()) + 1
        self.register_buffer('index', paddle.to_tensor(distances), persistable=False)
        self.position_bias = nn.LayerList(
            PositionBias(self.num_distances, num_heads) for _ in range(depth)
        )
        self.out_indices = list(out_indices)
        self.feat_channels = [embed_dim] * len(out_indices)
        self.initialize_weights()
        if pretrained:
            report = models_zoo.start_from(self, pretrained, use_ema=pretrained_ema)
            log.info(report)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        index = lookup.Index(self.index, self.num_distances)
        biases = [bias(index) for bias in self.position_bias]
        features = self.block_features(x, biases)

        maps = []
        for i in self.out_indices:
            patches = features[i][:, 1:]  # [N, L - 1, D], without the class token
            channels_first = patches.transpose([0, 2, 1])  # [N, D, L - 1]
            maps.append(channels_first.reshape([0, 0, *self.patch_embed.grid]))
        return maps
