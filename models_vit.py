"""Vision transformer for classification: fine-tuning and linear probing of a masked autoencoder's encoder.

Names, order and shapes of the parameters equal facebookresearch/mae models_vit.py @ efb2a80 (Linear weights are stored
[in, out]). Departures, each with its test in tests/test_models_vit.py: the probe's running variance is the unbiased one
without Paddle's BatchNorm; outputs of all blocks on request.
Shapes: N images, C channels, L patches, D width, K classes.
"""

import math

import numpy as np
import paddle
from paddle import nn
from paddle.nn import initializer

from layer import Block, Blocks, LayerNorm, PatchEmbed, draw_linears
from models_classifier import Classifier
from models_sizes import SIZES


class Encoder(nn.Layer):
    """Patches, class token, learnt positions and blocks: all but what makes an output of the tokens.

    Whoever adds layers calls initialize_weights at the end.
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
        patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        # cut at +-2, not at two deviations: as upstream
        normal = initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0)
        self.cls_token = self.create_parameter([1, 1, embed_dim], default_initializer=normal)
        self.pos_embed = self.create_parameter(
            [1, patch_embed.num_patches + 1, embed_dim], default_initializer=normal
        )
        self.patch_embed = patch_embed
        rates = np.linspace(0, drop_path_rate, depth)
        self.blocks = Blocks(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias, norm_layer, float(rate), init_values)
            for rate in rates
        )

    def initialize_weights(self) -> None:
        """Linear weights nearly normal with deviation .02, their biases 0; the patch projection as PyTorch's default for a
        convolution: U(-1/sqrt(fan_in), 1/sqrt(fan_in)), weight and bias."""
        draw_linears(self, initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0))
        proj = self.patch_embed.proj
        bound = math.prod(proj.weight.shape[1:]) ** -0.5
        for parameter in (proj.weight, proj.bias):
            initializer.Uniform(-bound, bound)(parameter)

    def embed(self, x: paddle.Tensor) -> paddle.Tensor:
        """Tokens [N, 1 + L, D] as they enter the first block."""
        x = self.patch_embed(x)
        cls_token = self.cls_token.expand([x.shape[0], -1, -1]).astype(x.dtype)
        return paddle.concat([cls_token, x], axis=1) + self.pos_embed

    def block_features(
        self, x: paddle.Tensor, biases: list[paddle.Tensor] | None = None
    ) -> list[paddle.Tensor]:
        """Tokens [N, 1 + L, D] as they leave each block; `biases` [H, 1 + L, 1 + L], one a block, for its attention."""
        return self.blocks.outputs(self.embed(x), biases)


class VisionTransformer(Classifier, Encoder):
    """Class scores [N, K] from images [N, C, height, width].

    With global_pool the mean of the patch tokens as they leave the last block (the class token is left out) goes through
    `fc_norm` to the head, and there is no `norm`; without, the class token goes through `norm`.
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
            img_size,
            patch_size,
            in_chans,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio,
            qkv_bias,
            drop_path_rate,
            norm_layer,
        )
        self.global_pool, self.num_classes = global_pool, num_classes
        if not global_pool:
            self.norm = norm_layer(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        if global_pool:
            self.fc_norm = norm_layer(embed_dim)
        self.initialize_weights()

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features [N, D] that the head sees."""
        x = self.blocks(self.embed(x))
        return self.fc_norm(x[:, 1:].mean(1)) if self.global_pool else self.norm(x)[:, 0]


def _of_size(name: str, **kwargs) -> VisionTransformer:
    size = SIZES[name]
    return VisionTransformer(
        **kwargs,
        patch_size=size.patch,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        norm_layer=LayerNorm,
    )


def vit_nano_patch4(**kwargs) -> VisionTransformer:
    return _of_size('nano_patch4', **{'img_size': 32, **kwargs})


def vit_small_patch16(**kwargs) -> VisionTransformer:
    return _of_size('small_patch16', **kwargs)


def vit_base_patch16(**kwargs) -> VisionTransformer:
    return _of_size('base_patch16', **kwargs)


def vit_large_patch16(**kwargs) -> VisionTransformer:
    return _of_size('large_patch16', **kwargs)


def vit_huge_patch14(**kwargs) -> VisionTransformer:
    return _of_size('huge_patch14', **kwargs)
