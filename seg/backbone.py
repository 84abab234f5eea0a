"""The encoder of a masked autoencoder as PaddleSeg's backbone `MAEViT` (recipe: mmsegmentation 1.2.2, configs/mae).

To the classifier's encoder it adds layer scale, a table of relative positions for each block, as BEiT has them
(arXiv:2106.08254), and outputs after several blocks; there is no last normalisation.
Shapes: N images, D width, H heads, rows x columns patches, L = 1 + rows * columns tokens.
"""

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddleseg.cvlibs import manager

import models_vit
import models_zoo
from layer import LayerNorm
from util import log, pos_embed
from util.errors import InputError


class PositionBias(nn.Layer):
    """What a block adds to its attention scores: a learnt number for each distance and head, zero to begin with."""

    def __init__(self, distances: int, num_heads: int):
        super().__init__()
        self.table = self.create_parameter(
            [distances, num_heads], default_initializer=nn.initializer.Constant(0.0)
        )

    def forward(self, index: paddle.Tensor) -> paddle.Tensor:
        """[H, L, L] for index [L, L]."""
        return F.embedding(index, self.table).transpose([2, 0, 1])


@manager.BACKBONES.add_component
class MAEViT(models_vit.Encoder):
    """Maps [N, D, rows, columns] of images [N, C, img_size, img_size], as they leave some blocks.

    out_indices: numbers of those blocks, from 0. init_values: where layer scale begins. pretrained: weights of an
    encoder, or of what has one, of any code base that util.convert knows; positions are interpolated to this grid.
    """

    def __init__(
        self,
        img_size: int = 512,
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
    ):
        super().__init__(
            img_size,
            patch_size,
            in_channels,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            drop_path_rate=drop_path_rate,
            norm_layer=LayerNorm,
            init_values=init_values,
        )
        if not all(isinstance(i, int) and 0 <= i < depth for i in out_indices):
            raise InputError(
                f'MAEViT: out_indices are numbers of its {depth} blocks, from 0, not {out_indices}'
            )
        index = pos_embed.relative_positions(*self.patch_embed.grid)
        self.register_buffer('index', paddle.to_tensor(index), persistable=False)
        self.position_bias = nn.LayerList(
            PositionBias(int(index.max()) + 1, num_heads) for _ in range(depth)
        )
        self.out_indices, self.feat_channels = list(out_indices), [embed_dim] * len(out_indices)
        self.initialize_weights()
        if pretrained:
            log.info(models_zoo.start_from(self, pretrained))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        features = self.block_features(x, [bias(self.index) for bias in self.position_bias])
        return [
            features[i][:, 1:].transpose([0, 2, 1]).reshape([0, 0, *self.patch_embed.grid])
            for i in self.out_indices
        ]
