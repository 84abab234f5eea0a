"""Building blocks of the vision transformers (arXiv:2010.11929), shared by every model.

Parameter names equal timm's (vision_transformer.py @ 0.3.2), on which facebookresearch/mae is built.
Shapes: N images, C channels, L tokens, D width, H heads, p patch side.
"""
import math
from collections.abc import Callable
from functools import partial

import paddle
from paddle import nn
from paddle.nn.initializer import Constant

from util.dist import recompute
from util.errors import InputError

LayerNorm = partial(nn.LayerNorm, epsilon=1e-6)  # Paddle's default is 1e-5


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else tuple(size)


class PatchEmbed(nn.Layer):
    """Cut [N, C, height, width] into patches and project each: [N, L, D], tokens in row-major order."""

    def __init__(self, img_size: int | tuple[int, int], patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.img_size, self.patch_size = pair(img_size), patch_size
        for side, length in zip(('height', 'width'), self.img_size):
            if length % patch_size or length < patch_size:
                raise InputError(f'image {side} {length} is no multiple of the patch size {patch_size}')
        self.grid = tuple(length // patch_size for length in self.img_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.in_chans = in_chans
        self.proj = nn.Conv2D(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        expected = [self.in_chans, *self.img_size]
        if list(x.shape[1:]) != expected:
            raise InputError(f'the model was built for images {expected} (channels, height, width), got {list(x.shape[1:])}')
        return self.proj(x).flatten(2).transpose([0, 2, 1])


class Attention(nn.Layer):
    """Multi-head self-attention over [N, L, D]; `bias` [.., H, L, L] is added to the scores before the softmax."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True):
        super().__init__()
        if dim % num_heads:
            raise InputError(f'{num_heads} attention heads do not divide the width {dim}')
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        L, D = x.shape[1:]
        qkv = self.qkv(x).reshape([-1, L, 3, self.num_heads, self.head_dim])
        q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # each [N, H, L, D/H]
        scores = paddle.matmul(q * self.head_dim ** -0.5, k, transpose_y=True)
        if bias is not None:
            scores = scores + bias
        x = paddle.matmul(nn.functional.softmax(scores, axis=-1), v)  # [N, H, L, D/H]
        return self.proj(x.transpose([0, 2, 1, 3]).reshape([-1, L, D]))


class Mlp(nn.Layer):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Layer):
    """In training, leave out a residual branch for a share `rate` of the samples and scale up the others
    (stochastic depth, arXiv:1603.09382)."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = paddle.floor(keep + paddle.rand([x.shape[0]] + [1] * (x.ndim - 1)))
        return x / keep * kept.astype(x.dtype)


class Block(nn.Layer):
    """Pre-norm transformer block over [N, L, D]. With `init_values` each branch is multiplied by learnt factors [D] that
    begin with this value (layer scale, arXiv:2103.17239)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, qkv_bias: bool = True, norm_layer=LayerNorm,
                 drop_path: float = 0.0, init_values: float | None = None):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma_1, self.gamma_2 = (
            None if init_values is None else self.create_parameter([dim], default_initializer=Constant(init_values))
            for _ in range(2))

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        x = x + self._branch(self.attn(self.norm1(x), bias), self.gamma_1)
        return x + self._branch(self.mlp(self.norm2(x)), self.gamma_2)

    def _branch(self, x: paddle.Tensor, gamma: paddle.Tensor | None) -> paddle.Tensor:
        return self.drop_path(x if gamma is None else gamma * x)


class Blocks(nn.LayerList):
    """Blocks run one after the other. With `recompute` set, training keeps only what enters each of them and
    computes the rest again in the backward pass: the same gradients for less memory and about a third more time."""

    recompute = False

    def outputs(self, x: paddle.Tensor, biases: list[paddle.Tensor] | None = None) -> list[paddle.Tensor]:
        """What leaves each block. `biases`, one a block, are for its attention."""
        results = []
        for block, bias in zip(self, biases or [None] * len(self)):
            x = recompute(block, x, bias) if self.recompute and self.training else block(x, bias)
            results.append(x)
        return results

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.outputs(x)[-1]


def choose(variants: dict[str, Callable], name: str) -> Callable:
    """The variant called `name`; InputError with all names where there is none."""
    if name not in variants:
        raise InputError(f'no model {name!r}; choose from {", ".join(sorted(variants))}')
    return variants[name]


def image_shape(tensors: dict) -> tuple[int, int]:
    """Channels, and side in pixels, of the square images that weights were made for."""
    _, channels, patch, _ = tensors['patch_embed.proj.weight'].shape
    return channels, math.isqrt(tensors['pos_embed'].shape[1] - 1) * patch


def enable_recompute(model: nn.Layer) -> None:
    """Make every stack of blocks in `model` recompute its activations."""
    for part in model.sublayers():
        if isinstance(part, Blocks):
            part.recompute = True
