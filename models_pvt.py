"""Pyramid vision transformer (PVT, arXiv:2102.12122), as in UM-MAE (arXiv:2205.10063).

Parameter names equal implus/UM-MAE @ cb7776b. What UM-MAE changed in PVT: keys and values come from
a map that is averaged, projected and normalised; patches are merged by a plain convolution; there
is no class token. Normalisations in blocks have epsilon 1e-5, the last one 1e-6.
Departure, with its test in tests/test_models_pvt.py: images need not be square.
Shapes: N images, L tokens, D width of a stage, H heads, K classes; maps are [N, rows, columns, D].
"""

from functools import partial

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import LayerNorm, PatchEmbed, PatchMerge, Pyramid, PyramidBlock, attend
from models_classifier import PyramidClassifier
from models_sizes import PYRAMIDS
from util import attention, sizes


class PooledAttention(nn.Layer):
    """Attention over maps [N, rows, columns, D], with keys and values from an averaged map.

    The averages are over sr_ratio x sr_ratio tokens, so a head has L x L / sr_ratio^2 scores.
    """

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool, sr_ratio: int):
        super().__init__()
        bias = None if qkv_bias else False
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.q = nn.Linear(dim, dim, bias_attr=bias)
        self.kv = nn.Linear(dim, 2 * dim, bias_attr=bias)
        self.sr = nn.Conv2D(dim, dim, 1)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: paddle.Tensor, bias: None = None) -> paddle.Tensor:
        # Average, project and normalise the map
        pooled = x.transpose([0, 3, 1, 2])  # [N, D, rows, columns]
        pooled = self.sr(nn.functional.avg_pool2d(pooled, self.sr_ratio))
        pooled = pooled.flatten(2).transpose([0, 2, 1])  # [N, L / sr_ratio^2, D]
        pooled = self.norm(pooled)

        # Queries of the map, keys and values of the averages
        q = self.q(x).flatten(1, 2)  # [N, L, D]
        kv = self.kv(pooled)

        attended = attention.attend(self.num_heads, q, kv)  # [N, L, D]
        if attended is None:
            k, v = kv.chunk(2, axis=-1)
            attended = attend(self._heads(q), self._heads(k), self._heads(v))  # [N, H, L, D/H]
            attended = attended.transpose([0, 2, 1, 3])  # [N, L, H, D/H]
        return self.proj(attended.reshape(x.shape))  # [N, rows, columns, D]

    def _heads(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, L, D] -> [N, H, L, D/H]"""
        _, L, D = x.shape
        x = x.reshape([-1, L, self.num_heads, D // self.num_heads])
        return x.transpose([0, 2, 1, 3])


class PVT(Pyramid):
    """The encoder without its `pos_embed` [1, places, D], which a subclass adds.

    sr_ratios: how many tokens a side each stage averages to one, for keys and values.
    """

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
        sizes.check_stages(
            depths,
            embed_dims=embed_dims,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            sr_ratios=sr_ratios,
        )

        def block(stage: int, index: int, rate: float, merge: PatchMerge | None) -> PyramidBlock:
            attention = partial(PooledAttention, sr_ratio=sr_ratios[stage])
            return PyramidBlock(
                embed_dims[stage],
                num_heads[stage],
                mlp_ratios[stage],
                norm_layer=nn.LayerNorm,
                drop_path=rate,
                downsample=merge,
                attention=attention,
            )

        patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dims[0])
        super().__init__(patch_embed, embed_dims, depths, drop_path_rate, block)

    def learn_positions(self, initial: initializer.Initializer) -> None:
        """Add `pos_embed` as a learnt parameter."""
        rows, columns = self.places
        shape = [1, rows * columns, self.widths[0]]
        self.pos_embed = self.create_parameter(shape, default_initializer=initial)

    def positions(self) -> paddle.Tensor:
        """The position table as a map, [1, rows, columns, D]."""
        return self.pos_embed.reshape([1, *self.places, -1])

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        """The output map of each block; positions [1 or N, rows, columns, D] are added to x."""
        return self.blocks.outputs(x + positions)


class PyramidVisionTransformer(PyramidClassifier, PVT):
    """Class scores [N, K] from images [N, C, height, width]; positions are learnt from zero."""

    def __init__(
        self, num_classes: int = 1000, global_pool: bool = True, norm_layer=LayerNorm, **encoder
    ):
        PVT.__init__(self, **encoder)
        self.learn_positions(initializer.Constant(0.0))
        self.add_head(num_classes, global_pool, norm_layer)


def pvt_nano_32(**kwargs) -> PyramidVisionTransformer:
    """The PVT of tests and the tour: images of 32 x 32."""
    return PyramidVisionTransformer(**PYRAMIDS['pvt_nano_32'], **({'img_size': 32} | kwargs))


def pvt_small_256(**kwargs) -> PyramidVisionTransformer:
    """PVT-Small of UM-MAE, for images of 256 x 256."""
    return PyramidVisionTransformer(**PYRAMIDS['pvt_small_256'], **kwargs)
