"""Vision transformer for classification: fine-tuning and linear probing of a pre-trained encoder.

Paper: arXiv:2010.11929. Parameter names, order and shapes equal facebookresearch/mae models_vit.py
@ efb2a80 (Paddle stores Linear weights [in, out]).
Departures, each with its test in tests/test_models_vit.py: `block_features` gives the outputs of
all blocks; the probe's normalisation is not Paddle's BatchNorm (models_classifier.py).
Shapes: N images, C channels, L patches, D width, K classes.
"""

import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import initializer

from layer import Block, Blocks, LayerNorm, PatchEmbed, init_linears
from models_classifier import Classifier
from models_sizes import SIZES
from util import broadcast


class Encoder(nn.Layer):
    """The layers up to the tokens of the last block: patches, class token, positions, blocks.

    A subclass adds its own layers, then calls initialize_weights.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer=nn.LayerNorm,
        init_values: float | None = None,
    ):
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)

        normal = _truncated_normal()
        num_tokens = 1 + self.patch_embed.num_patches
        self.cls_token = self.create_parameter([1, 1, embed_dim], default_initializer=normal)
        self.pos_embed = self.create_parameter(
            [1, num_tokens, embed_dim], default_initializer=normal
        )

        # The rate of DropPath grows linearly over the blocks
        blocks = []
        for rate in np.linspace(0, drop_path_rate, depth):
            block = Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                norm_layer,
                drop_path=float(rate),
                init_values=init_values,
            )
            blocks.append(block)
        self.blocks = Blocks(blocks)

    def initialize_weights(self) -> None:
        """Initialize every Linear and the patch projection.

        Linear: truncated normal weights, zero biases. Patch projection: PyTorch's default for a
        convolution, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and bias.
        """
        init_linears(self, _truncated_normal())
        proj = self.patch_embed.proj
        bound = math.prod(proj.weight.shape[1:]) ** -0.5
        for parameter in (proj.weight, proj.bias):
            initializer.Uniform(-bound, bound)(parameter)

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """Tokens [N, 1 + L, D] that enter the first block, of images [N, C, height, width]."""
        x = self.patch_embed(x)  # [N, L, D]
        cls_token = self.cls_token.expand([x.shape[0], -1, -1])
        x = paddle.concat([cls_token.astype(x.dtype), x], axis=1)  # [N, 1 + L, D]
        return broadcast.add(x, self.pos_embed)

    def block_features(
        self, x: paddle.Tensor, biases: list[paddle.Tensor] | None = None
    ) -> list[paddle.Tensor]:
        """Tokens [N, 1 + L, D] after each block, of images [N, C, height, width].

        biases: one a block, [heads, 1 + L, 1 + L], for its attention.
        """
        return self.blocks.outputs(self.embed(x), biases)


def _truncated_normal() -> initializer.Initializer:
    """Standard deviation 0.02, cut at -2 and 2, not at two deviations: as upstream."""
    return initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0)


class VisionTransformer(Classifier, Encoder):
    """Class scores [N, K] from images [N, C, height, width].

    With global_pool, the head sees the mean of the patch tokens, without the class token, through
    `fc_norm`. Otherwise it sees the class token through `norm`. A model has one of the two.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer=nn.LayerNorm,
        global_pool: bool = False,
    ):
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop_path_rate=drop_path_rate,
            norm_layer=norm_layer,
        )
        self.global_pool = global_pool
        self.num_classes = num_classes
        if not global_pool:
            self.norm = norm_layer(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        if global_pool:
            self.fc_norm = norm_layer(embed_dim)
        self.initialize_weights()

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features [N, D] that the head sees."""
        x = self.blocks(self.embed(x))  # [N, 1 + L, D]
        if self.global_pool:
            patches = x[:, 1:]  # [N, L, D], without the class token
            x = self.fc_norm(patches.mean(1))
        else:
            x = self.norm(x)[:, 0]
        return x


def _of_size(name: str, **kwargs) -> VisionTransformer:
    size = SIZES[name]
    return VisionTransformer(
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        norm_layer=LayerNorm,
        **({'patch_size': size.patch} | kwargs),
    )


def vit_nano_patch4(**kwargs) -> VisionTransformer:
    """The ViT of tests and the tour: images of 32 x 32, patches of 4 x 4."""
    return _of_size('nano_patch4', **({'img_size': 32} | kwargs))


def vit_nano_patch8(**kwargs) -> VisionTransformer:
    """The encoder of mae_vit_nano_patch8: images of 64 x 64, patches of 8 x 8."""
    return _of_size('nano_patch8', **({'img_size': 64} | kwargs))


def vit_small_patch16(**kwargs) -> VisionTransformer:
    """ViT-Small of the earlier Paddle port: width 384, 12 blocks, 6 heads."""
    return _of_size('small_patch16', **kwargs)


def vit_base_patch16(**kwargs) -> VisionTransformer:
    """ViT-Base: width 768, 12 blocks."""
    return _of_size('base_patch16', **kwargs)


def vit_large_patch16(**kwargs) -> VisionTransformer:
    """ViT-Large: width 1024, 24 blocks."""
    return _of_size('large_patch16', **kwargs)


def vit_huge_patch14(**kwargs) -> VisionTransformer:
    """ViT-Huge: width 1280, 32 blocks, patches of 14 x 14."""
    return _of_size('huge_patch14', **kwargs)
