"""Building blocks of the vision transformers (arXiv:2010.11929), shared by every model.

Parameter names equal timm's (vision_transformer.py @ 0.3.2), on which facebookresearch/mae is built.
Shapes: N images, C channels, L tokens, D width, H heads, p patch side.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import nn
from paddle.nn.initializer import Constant, Normal, TruncatedNormal

from util.dist import recompute
from util.errors import InputError

LayerNorm = partial(nn.LayerNorm, epsilon=1e-6)  # Paddle's default is 1e-5


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else tuple(size)


def check_images(x: paddle.Tensor, in_chans: int, img_size: tuple[int, int]) -> None:
    """InputError where images are not [N, in_chans, *img_size]."""
    expected = [in_chans, *img_size]
    if list(x.shape[1:]) != expected:
        raise InputError(
            f'the model was built for images {expected} (channels, height, width), got {list(x.shape[1:])}'
        )


class PatchEmbed(nn.Layer):
    """Cut [N, C, height, width] into patches and project each: [N, L, D], tokens in row-major order."""

    def __init__(
        self, img_size: int | tuple[int, int], patch_size: int, in_chans: int, embed_dim: int
    ):
        super().__init__()
        self.img_size, self.patch_size = pair(img_size), patch_size
        for side, length in zip(('height', 'width'), self.img_size):
            if length % patch_size or length < patch_size:
                raise InputError(
                    f'image {side} {length} is no multiple of the patch size {patch_size}'
                )
        self.grid = tuple(length // patch_size for length in self.img_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.in_chans = in_chans
        self.proj = nn.Conv2D(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        check_images(x, self.in_chans, self.img_size)
        return self.proj(x).flatten(2).transpose([0, 2, 1])


def attend(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor | None = None
) -> paddle.Tensor:
    """The mean of the values [.., M, d] that each query [.., L, d] takes by its keys; `bias` is added to the scores."""
    scores = paddle.matmul(q * q.shape[-1] ** -0.5, k, transpose_y=True)
    if bias is not None:
        scores = scores + bias
    return paddle.matmul(nn.functional.softmax(scores, axis=-1), v)


class Attention(nn.Layer):
    """Multi-head self-attention over [.., L, D]; `bias` [.., H, L, L] is added to the scores before the softmax."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True):
        super().__init__()
        if dim % num_heads:
            raise InputError(f'{num_heads} attention heads do not divide the width {dim}')
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        shape, outer = list(x.shape), list(range(x.ndim - 2))
        L = len(outer)  # the axis of the tokens
        qkv = self.qkv(x).reshape([*shape[:-1], 3, self.num_heads, self.head_dim])
        q, k, v = qkv.transpose([L + 1, *outer, L + 2, L, L + 3]).unbind(0)  # each [.., H, L, D/H]
        return self.proj(attend(q, k, v, bias).transpose([*outer, L + 1, L, L + 2]).reshape(shape))


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
    """Pre-norm transformer block over [N, L, D], or maps [N, height, width, D] where `attention` takes them.

    With `init_values` each branch is multiplied by learnt factors [D] that begin with this value (layer scale,
    arXiv:2103.17239).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        norm_layer=LayerNorm,
        drop_path: float = 0.0,
        init_values: float | None = None,
        attention: Callable[..., nn.Layer] = Attention,
    ):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attention(dim, num_heads, qkv_bias)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)
        self.gamma_1, self.gamma_2 = (
            None
            if init_values is None
            else self.create_parameter([dim], default_initializer=Constant(init_values))
            for _ in range(2)
        )

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        x = x + self._branch(self.attn(self.norm1(x), bias), self.gamma_1)
        return x + self._branch(self.mlp(self.norm2(x)), self.gamma_2)

    def _branch(self, x: paddle.Tensor, gamma: paddle.Tensor | None) -> paddle.Tensor:
        return self.drop_path(x if gamma is None else gamma * x)


class PatchMerge(nn.Layer):
    """Halve a map: [N, height, width, D] -> [N, height/2, width/2, E] by one projection of each 2 x 2 tokens."""

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable[[int], nn.Layer] | None = None):
        super().__init__()
        self.norm = norm_layer(dim) if norm_layer else None
        self.proj = nn.Conv2D(dim, out_dim, 2, stride=2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(x) if self.norm else x
        return self.proj(x.transpose([0, 3, 1, 2])).transpose([0, 2, 3, 1])


class PyramidBlock(Block):
    """A block over maps [N, height, width, D]; the first of a stage begins by halving the map."""

    def __init__(self, *args, downsample: PatchMerge | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample = downsample

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        return super().forward(self.downsample(x) if self.downsample else x, bias)


class Blocks(nn.LayerList):
    """Blocks run one after the other. With `recompute` set, training keeps only what enters each of them and
    computes the rest again in the backward pass: the same gradients for less memory and about a third more time."""

    recompute = False

    def outputs(
        self, x: paddle.Tensor, biases: list[paddle.Tensor] | None = None
    ) -> list[paddle.Tensor]:
        """What leaves each block. `biases`, one a block, are for its attention."""
        results = []
        for block, bias in zip(self, biases or [None] * len(self)):
            x = recompute(block, x, bias) if self.recompute and self.training else block(x, bias)
            results.append(x)
        return results

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.outputs(x)[-1]


class Pyramid(nn.Layer):
    """Patches, and stages of blocks over maps [N, rows, columns, D] that halve from one stage to the next.

    `block(stage, index, rate, merge)` makes a block: the index counts within the stage, the rate is of its DropPath, and
    the first of all later stages is given what halves the map. `widths` are those of the stages.
    """

    def __init__(
        self,
        patch_embed: PatchEmbed,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        drop_path_rate: float,
        block: Callable[..., PyramidBlock],
        merge_norm: Callable[[int], nn.Layer] | None = None,
    ):
        super().__init__()
        for side in patch_embed.grid:
            if side % 2 ** (len(depths) - 1):
                raise InputError(
                    f'{side} patches a side cannot be halved {len(depths) - 1} times; choose another size'
                )
        self.patch_embed, self.widths, self.width = patch_embed, tuple(widths), widths[-1]
        # rows and columns of positions: more than of patches, where some are removed
        self.places = patch_embed.grid
        self.ends = [int(end) - 1 for end in np.cumsum(depths)]  # last block of each stage
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        self.blocks = Blocks(
            block(
                stage,
                i,
                next(rates),
                PatchMerge(widths[stage - 1], widths[stage], merge_norm)
                if stage and i == 0
                else None,
            )
            for stage, depth in enumerate(depths)
            for i in range(depth)
        )

    @property
    def unit(self) -> int:
        """Side in pixels of what one token of the last map but one covers: masks remove such squares."""
        return self.patch_embed.patch_size * 2 ** (len(self.ends) - 2)

    def embed(self, images: paddle.Tensor) -> paddle.Tensor:
        """Map [N, rows, columns, D] of the patches of [N, C, height, width], without positions."""
        x = self.patch_embed(images)
        return x.reshape([-1, *self.patch_embed.grid, x.shape[2]])

    def features(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The map that leaves each block."""
        return self.outputs(self.embed(images), self.positions())

    def positions(self) -> paddle.Tensor:
        """[1, *places, any]: what the encoder needs to know of each patch's place."""
        raise NotImplementedError

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        """The map that leaves each block, of an embedded map and its positions [1 or N, rows, columns, any]."""
        raise NotImplementedError


class PyramidMaps(Pyramid):
    """The last map of each stage, projected to one width by `fpn1`, `fpn2` ..., as segmentation takes them.

    Whoever inherits builds the encoder, then calls `add_projections`.
    """

    def add_projections(self, out_width: int) -> None:
        """Add the projections, then draw the whole model as UM-MAE does for segmentation."""
        self.projections = [f'fpn{stage}' for stage in range(1, 1 + len(self.widths))]
        for name, width in zip(self.projections, self.widths):
            setattr(self, name, nn.Conv2D(width, out_width, 1))
        draw_pyramid(self, TruncatedNormal(std=0.02, a=-2.0, b=2.0))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps [N, out_width, rows, columns] of images [N, C, height, width]."""
        features = self.features(x)
        last = [features[end].transpose([0, 3, 1, 2]) for end in self.ends]  # [N, D, rows, columns]
        return [getattr(self, name)(x) for name, x in zip(self.projections, last)]


def enlarge(mask: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    """A mask [N, L] of square parts, in row-major order, as a bool map [N, rows, columns, 1] of the size of `like`."""
    rows, columns = like.shape[1:3]
    side = math.isqrt(rows * columns // mask.shape[1])
    x = mask.astype('float32').reshape([-1, rows // side, columns // side, 1])
    return x.repeat_interleave(side, 1).repeat_interleave(side, 2) > 0


def draw_linears(model: nn.Layer, weight: Callable[[paddle.Tensor], None]) -> None:
    """Draw every Linear's weight anew by this initializer; its bias becomes 0."""
    for part in model.sublayers():
        if isinstance(part, nn.Linear):
            weight(part.weight)
            if part.bias is not None:
                Constant(0.0)(part.bias)


def draw_pyramid(model: nn.Layer, linear_weight: Callable[[paddle.Tensor], None]) -> None:
    """Draw a model over a pyramid anew, as UM-MAE does: every convolution normal with variance 2 / fan-out, its bias
    0; then every Linear by this initializer, as draw_linears."""
    for part in model.sublayers():
        if isinstance(part, nn.Conv2D):
            channels, _, *sides = part.weight.shape
            Normal(std=math.sqrt(2 / (channels * math.prod(sides))))(part.weight)
            Constant(0.0)(part.bias)
    draw_linears(model, linear_weight)


def enable_recompute(model: nn.Layer) -> None:
    """Make every stack of blocks in `model` recompute its activations."""
    for part in model.sublayers():
        if isinstance(part, Blocks):
            part.recompute = True
