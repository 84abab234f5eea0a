"""Building blocks of the vision transformers (arXiv:2010.11929), shared by every model.

Parameter names equal timm's (vision_transformer.py @ 0.3.2), on which facebookresearch/mae builds.
Departures: attention takes a bias on its scores (tests/test_models_swin.py); a block can have layer
scale (tests/test_seg_model.py); activations can be recomputed (tests/test_models_mae.py).
Shapes: N images, C channels, L tokens, D width, H heads, p patch side; two dots stand for any
number of leading axes.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import nn
from paddle.nn.initializer import Constant, Normal, TruncatedNormal

from util import attention, bfloat16, broadcast, maps, residual, sizes
from util.dist import recompute
from util.errors import InputError

LayerNorm = partial(nn.LayerNorm, epsilon=1e-6)  # Paddle's default is 1e-5


def check_images(x: paddle.Tensor, in_chans: int, img_size: tuple[int, int]) -> None:
    """Raise InputError unless the images are [N, in_chans, *img_size]."""
    expected = [in_chans, *img_size]
    found = list(x.shape[1:])
    if found != expected:
        raise InputError(
            f'the model was built for images {expected} (channels, height, width), got {found}'
        )


class PatchEmbed(nn.Layer):
    """Cut images into patches and project each: [N, C, height, width] -> [N, L, D], row by row."""

    def __init__(
        self, img_size: int | tuple[int, int], patch_size: int, in_chans: int, embed_dim: int
    ):
        super().__init__()
        self.img_size = sizes.pair(img_size)
        self.patch_size = patch_size
        sizes.check_multiple(img_size, patch_size, f'the patch size {patch_size}')
        self.grid = tuple(length // patch_size for length in self.img_size)
        self.num_patches = self.grid[0] * self.grid[1]
        self.in_chans = in_chans
        self.proj = nn.Conv2D(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        check_images(x, self.in_chans, self.img_size)
        return self.project(x)

    def project(self, x: paddle.Tensor) -> paddle.Tensor:
        """The same for images of any size that `patch_size` divides."""
        x = maps.patches(self.proj, x)  # [N, rows, columns, D]
        return x.flatten(1, 2)  # [N, L, D]


def attention_weights(
    q: paddle.Tensor, k: paddle.Tensor, bias: paddle.Tensor | None = None
) -> paddle.Tensor:
    """The weight of each key [.., M, d] for each query [.., L, d]: [.., L, M], rows sum to 1.

    `bias` [.., L, M] is added to the scores before the softmax.
    """
    scale = q.shape[-1] ** -0.5
    scores = paddle.matmul(q * scale, k, transpose_y=True)  # [.., L, M]
    if bias is not None:
        scores = broadcast.add(scores, bias)
    return nn.functional.softmax(scores, axis=-1)


def attend(
    q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, bias: paddle.Tensor | None = None
) -> paddle.Tensor:
    """Scaled dot-product attention: for each query [.., L, d], a weighted mean of the values.

    Keys and values are [.., M, d], `bias` [.., L, M].
    """
    if bias is None and attention.is_fused(q):
        return attention.fused(q, k, v)
    return paddle.matmul(attention_weights(q, k, bias), v)  # [.., L, d]


class Attention(nn.Layer):
    """Multi-head self-attention over [.., L, D]; bias and mask are those of attention.attend."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool = True):
        super().__init__()
        if dim % num_heads:
            raise InputError(f'{num_heads} attention heads do not divide the width {dim}')
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, bias=None, mask=None):
        qkv = self.qkv(x)  # [.., L, 3 D]
        attended = attention.attend(self.num_heads, qkv, bias=bias, mask=mask)
        if attended is not None:
            return self.proj(attended)
        bias = bias if mask is None else bias + mask
        return self.join(attend(*self.split(qkv), bias))

    def split(self, qkv: paddle.Tensor) -> list[paddle.Tensor]:
        """Queries, keys and values of each head: [.., L, 3 D] -> three times [.., H, L, D/H]."""
        outer = list(range(qkv.ndim - 2))  # the axes before the tokens
        tokens = len(outer)
        parts, heads, width = tokens + 1, tokens + 2, tokens + 3  # axes

        qkv = qkv.reshape([*qkv.shape[:-1], 3, self.num_heads, self.head_dim])
        qkv = qkv.transpose([parts, *outer, heads, tokens, width])  # [3, .., H, L, D/H]
        return qkv.unbind(0)

    def join(self, x: paddle.Tensor) -> paddle.Tensor:
        """The heads' results side by side, mixed by a projection: [.., H, L, D/H] -> [.., L, D]."""
        outer = list(range(x.ndim - 3))
        heads = len(outer)
        tokens, width = heads + 1, heads + 2  # axes
        x = x.transpose([*outer, tokens, heads, width])  # [.., L, H, D/H]
        x = x.flatten(-2)  # [.., L, D]
        return self.proj(x)


class Mlp(nn.Layer):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.act(self.fc1(x))
        return self.fc2(x)


class DropPath(nn.Layer):
    """Stochastic depth (arXiv:1603.09382): drop a residual branch for a share of the samples.

    `rate` is the share; the branch of the others is divided by 1 - rate. In training only.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def divisors(self, x: paddle.Tensor) -> paddle.Tensor | None:
        """What to divide the branches of x [N, ..] by: [N, 1, ..], infinity to drop one.

        None if all stay as they are.
        """
        if not self.training or self.rate == 0:
            return None
        keep = 1 - self.rate
        one_a_sample = [x.shape[0]] + [1] * (x.ndim - 1)
        kept = paddle.floor(keep + paddle.rand(one_a_sample))  # 1 with probability `keep`, or 0
        return (keep / kept).astype(x.dtype)


class Block(nn.Layer):
    """Pre-norm transformer block over [N, L, D], or over maps if `attention` takes them.

    With `init_values` the block has layer scale (arXiv:2103.17239): each branch is multiplied by
    learnt factors [D], which start from this value.
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
        self.gamma_1 = self._layer_scale(dim, init_values)
        self.gamma_2 = self._layer_scale(dim, init_values)

    def _layer_scale(self, dim: int, init_values: float | None) -> paddle.Tensor | None:
        if init_values is None:
            return None
        return self.create_parameter([dim], default_initializer=Constant(init_values))

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        x, normed = residual.fork(self.norm1, x)
        attended = self.attn(normed, bias)
        x = residual.join(x, attended, self.gamma_1, self.drop_path.divisors(x))
        x, normed = residual.fork(self.norm2, x)
        return residual.join(x, self.mlp(normed), self.gamma_2, self.drop_path.divisors(x))


class PatchMerge(nn.Layer):
    """Project every 2 x 2 tokens to one: [N, rows, columns, D] -> [N, rows/2, columns/2, E]."""

    def __init__(self, dim: int, out_dim: int, norm_layer: Callable[[int], nn.Layer] | None = None):
        super().__init__()
        self.norm = norm_layer(dim) if norm_layer else None
        self.proj = nn.Conv2D(dim, out_dim, 2, stride=2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.norm(x) if self.norm else x
        return maps.merged(self.proj, x)  # [N, rows/2, columns/2, E]


class PyramidBlock(Block):
    """A block over maps [N, rows, columns, D]; with `downsample` it first halves the map."""

    def __init__(self, *args, downsample: PatchMerge | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.downsample = downsample

    def forward(self, x: paddle.Tensor, bias: paddle.Tensor | None = None) -> paddle.Tensor:
        x = self.downsample(x) if self.downsample else x
        return super().forward(x, bias)


class Blocks(nn.LayerList):
    """Blocks that run one after the other.

    With `recompute` set, training stores only the input of each block and computes the rest again
    in the backward pass: the same gradients, less memory, about a quarter more time.
    """

    recompute = False

    def outputs(
        self, x: paddle.Tensor, biases: list[paddle.Tensor] | None = None
    ) -> list[paddle.Tensor]:
        """The output of each block. `biases` has one bias per block, for its attention."""
        if biases is None:
            biases = [None] * len(self)
        recomputed = self.recompute and self.training
        results = []
        for block, bias in zip(self, biases):
            x = recompute(bfloat16.as_now(block), x, bias) if recomputed else block(x, bias)
            results.append(x)
        return results

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.outputs(x)[-1]


class Pyramid(nn.Layer):
    """Patches, then stages of blocks over maps [N, rows, columns, D], halved between stages.

    widths, depths: D and the number of blocks of each stage.
    block: (stage, index within the stage, rate of its DropPath, PatchMerge or None) -> a block.
    The first block of each later stage gets the PatchMerge, which halves the map.
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
        halvings = len(depths) - 1
        multiple = patch_embed.patch_size * 2**halvings
        need = f'{multiple}, because patches are halved {halvings} times'
        sizes.check_multiple(patch_embed.img_size, multiple, need)
        self.patch_embed = patch_embed
        self.widths = tuple(widths)
        self.width = widths[-1]
        # Rows and columns of positions; masked autoencoders have more positions than patches
        self.places = patch_embed.grid
        self.ends = [int(end) - 1 for end in np.cumsum(depths)]  # last block of each stage

        # The rate of DropPath grows linearly over all blocks
        rates = iter(np.linspace(0, drop_path_rate, sum(depths)).tolist())
        blocks = []
        for stage, depth in enumerate(depths):
            for index in range(depth):
                merge = None
                if stage and index == 0:
                    merge = PatchMerge(widths[stage - 1], widths[stage], merge_norm)
                blocks.append(block(stage, index, next(rates), merge))
        self.blocks = Blocks(blocks)

    @property
    def unit(self) -> int:
        """Side, in pixels, of a token of the last map but one: masks remove such squares."""
        return self.patch_embed.patch_size * 2 ** (len(self.ends) - 2)

    def embed(self, images: paddle.Tensor) -> paddle.Tensor:
        """Patches as a map, without positions: [N, C, height, width] -> [N, rows, columns, D]."""
        x = self.patch_embed(images)  # [N, L, D]
        return x.reshape([-1, *self.patch_embed.grid, x.shape[2]])

    def features(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The output map of each block."""
        return self.outputs(self.embed(images), self.positions())

    def stage_maps(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """The last map of each stage, [N, rows, columns, D]."""
        features = self.features(images)
        return [features[end] for end in self.ends]

    def positions(self) -> paddle.Tensor:
        """The encoder's own description of each patch's place, [1, *places, any width]."""
        raise NotImplementedError

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        """The output map of each block, for an embedded map and the positions of its patches.

        x [N, rows, columns, D], positions [1 or N, rows, columns, any width].
        """
        raise NotImplementedError


class PyramidMaps(Pyramid):
    """The last map of each stage, projected to one width by `fpn1`, `fpn2` ..., for segmentation.

    A subclass builds the encoder, then calls `add_projections`.
    """

    def add_projections(self, out_width: int) -> None:
        """Add the projections, then initialize the whole model as UM-MAE does for segmentation."""
        self.projections = [f'fpn{stage}' for stage in range(1, 1 + len(self.widths))]
        for name, width in zip(self.projections, self.widths):
            setattr(self, name, nn.Conv2D(width, out_width, 1))
        init_pyramid(self, TruncatedNormal(std=0.02, a=-2.0, b=2.0))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps [N, out_width, rows, columns] of images [N, C, height, width]."""
        maps = []
        for name, last in zip(self.projections, self.stage_maps(x)):
            projection = getattr(self, name)
            maps.append(projection(last.transpose([0, 3, 1, 2])))
        return maps


def upsample_mask(mask: paddle.Tensor, like: paddle.Tensor) -> paddle.Tensor:
    """A mask [N, L] of square units as a bool map [N, rows, columns, 1] of the size of `like`.

    Units are in row-major order; like [N, rows, columns, D].
    """
    rows, columns = like.shape[1:3]
    side = math.isqrt(rows * columns // mask.shape[1])  # of a unit, in tokens
    x = mask.astype('float32')
    x = x.reshape([-1, rows // side, 1, columns // side, 1])
    x = x.expand([-1, -1, side, -1, side])  # paddle2onnx makes a wrong Tile of repeat_interleave
    return x.reshape([-1, rows, columns, 1]) > 0


def split_tokens(x: paddle.Tensor) -> paddle.Tensor:
    """Make 2 x 2 tokens of each: [N, rows, columns, 4 D] -> [N, 2 rows, 2 columns, D].

    A pixel shuffle (arXiv:1609.05158), of whose channel axis paddle2onnx takes no notice.
    """
    _, rows, columns, width = x.shape
    x = x.reshape([-1, rows, columns, width // 4, 2, 2])
    x = x.transpose([0, 1, 4, 2, 5, 3])  # [N, rows, 2, columns, 2, D]
    return x.reshape([-1, 2 * rows, 2 * columns, width // 4])


def init_linears(model: nn.Layer, weight: Callable[[paddle.Tensor], None]) -> None:
    """Initialize the weights of all Linear layers by `weight`, their biases to 0."""
    for part in model.sublayers():
        if isinstance(part, nn.Linear):
            weight(part.weight)
            if part.bias is not None:
                Constant(0.0)(part.bias)


def init_pyramid(model: nn.Layer, linear_weight: Callable[[paddle.Tensor], None]) -> None:
    """Initialize a model over a pyramid as UM-MAE does.

    First every convolution: normal with variance 2 / fan-out, bias 0. Then every Linear by
    `linear_weight`, as in init_linears.
    """
    for part in model.sublayers():
        if isinstance(part, nn.Conv2D):
            channels, _, *sides = part.weight.shape
            fan_out = channels * math.prod(sides)
            Normal(std=math.sqrt(2 / fan_out))(part.weight)
            Constant(0.0)(part.bias)
    init_linears(model, linear_weight)


def enable_recompute(model: nn.Layer) -> None:
    """Make every stack of blocks in `model` recompute its activations."""
    for part in model.sublayers():
        if isinstance(part, Blocks):
            part.recompute = True
