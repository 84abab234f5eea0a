"""Pyramid vision transformer (arXiv:2102.12122) as UM-MAE has it (arXiv:2205.10063).

Parameter names equal UM-MAE's (implus/UM-MAE). It differs from the original PVT: keys and values come from a map that is
averaged, projected and normalised; patches are merged by a plain convolution; there is no class token. Normalisations in
blocks have epsilon 1e-5, the last one 1e-6, as there.
Shapes: N images, D width of a stage, H heads; maps are [N, rows, columns, D].
"""

from functools import partial

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import LayerNorm, PatchEmbed, Pyramid, PyramidBlock, attend
from models_classifier import PyramidClassifier
from models_sizes import PYRAMIDS


class PooledAttention(nn.Layer):
    """Attention over maps [N, rows, columns, D]; keys and values come from the map's means over sr x sr tokens."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, sr_ratio: int):
        super().__init__()
        bias = None if qkv_bias else False
        self.num_heads, self.sr_ratio = num_heads, sr_ratio
        self.q = nn.Linear(dim, dim, bias_attr=bias)
        self.kv = nn.Linear(dim, 2 * dim, bias_attr=bias)
        self.sr = nn.Conv2D(dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: paddle.Tensor, bias: None = None) -> paddle.Tensor:
        pooled = self.sr(nn.functional.avg_pool2d(x.transpose([0, 3, 1, 2]), self.sr_ratio))
        pooled = self.norm(pooled.flatten(2).transpose([0, 2, 1]))
        q = self._heads(self.q(x).flatten(1, 2))
        k, v = map(self._heads, self.kv(pooled).chunk(2, axis=-1))
        return self.proj(attend(q, k, v).transpose([0, 2, 1, 3]).reshape(x.shape))

    def _heads(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] -> [N, H, L, D/H]"""
        return x.reshape([-1, x.shape[1], self.num_heads, x.shape[2] // self.num_heads]).transpose(
            [0, 2, 1, 3]
        )


class PVT(Pyramid):
    """The encoder, but for `pos_embed` [1, places, D]. `sr_ratios`: over how many tokens a side each stage averages."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 256,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        num_heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
        drop_path_rate: float = 0.0,
    ):
        def block(stage, index, rate, merge):
            return PyramidBlock(
                embed_dims[stage],
                num_heads[stage],
                mlp_ratios[stage],
                norm_layer=nn.LayerNorm,
                drop_path=rate,
                downsample=merge,
                attention=partial(PooledAttention, sr_ratio=sr_ratios[stage]),
            )

        patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dims[0])
        super().__init__(patch_embed, embed_dims, depths, drop_path_rate, block)

    def learn_positions(self, initial: initializer.Initializer) -> None:
        """Make `pos_embed` a parameter, drawn by this initializer."""
        rows, columns = self.places
        self.pos_embed = self.create_parameter(
            [1, rows * columns, self.widths[0]], default_initializer=initial
        )

    def positions(self) -> paddle.Tensor:
        return self.pos_embed.reshape([1, *self.places, -1])

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        return self.blocks.outputs(x + positions)


class PyramidVisionTransformer(PyramidClassifier, PVT):
    """Class scores [N, K] from images [N, C, height, width]; its positions are learnt, from zeros."""

    def __init__(
        self, num_classes: int = 1000, global_pool: bool = True, norm_layer=LayerNorm, **encoder
    ):
        PVT.__init__(self, **encoder)
        self.learn_positions(initializer.Constant(0.0))
        self.add_head(num_classes, global_pool, norm_layer)


def pvt_nano_32(**kwargs) -> PyramidVisionTransformer:
    return PyramidVisionTransformer(**PYRAMIDS['pvt_nano_32'], **{'img_size': 32, **kwargs})


def pvt_small_256(**kwargs) -> PyramidVisionTransformer:
    return PyramidVisionTransformer(**PYRAMIDS['pvt_small_256'], **kwargs)
