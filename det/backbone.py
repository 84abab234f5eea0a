"""The ViT encoder as PaddleDetection's backbone `MAEViT` (ViTDet, arXiv:2203.16527).

Differences from the classifier's encoder: most blocks attend within windows, a few over the whole
map; each block has decomposed relative positions (arXiv:2112.01526); there is no class token and no
last normalisation. The model takes images of any size, because positions are resized.
Shapes: N images, D width, H heads, d = D / H, L tokens; maps are [N, rows, columns, D] inside.
"""

from collections.abc import Callable
from functools import partial

import paddle
from paddle import nn
from paddle.nn import functional as F
from ppdet.core.workspace import register
from ppdet.modeling.shape_spec import ShapeSpec

import models_vit
import models_zoo
from layer import Attention, Block, Blocks, LayerNorm, PatchEmbed
from models_swin import window_partition, window_reverse
from util import log, lookup, maps
from util.errors import InputError


class AnySizePatchEmbed(PatchEmbed):
    """Cut images of any size into patches and project each: a map [N, rows, columns, D]."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        height, width = x.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise InputError(
                f'images of {height} x {width} pixels cannot be cut into patches of '
                f'{self.patch_size} x {self.patch_size}; pad them to a multiple of it'
            )
        return maps.patches(self.proj, x)


def distances_between(table: paddle.Tensor, length: int) -> paddle.Tensor:
    """The rows of a table [T, d] for each pair of places on an axis: [1, length, length, d].

    Row 0 is for the most negative distance from key to query. A table for another length is
    interpolated linearly, as in detectron2.
    """
    rows = 2 * length - 1
    if table.shape[0] != rows:
        as_map = table.t().unsqueeze(0)  # [1, d, T]
        as_map = F.interpolate(as_map, [rows], mode='linear', data_format='NCW')
        table = as_map.squeeze(0).t()  # [rows, d]
    places = paddle.arange(length)
    distance = places.unsqueeze(1) - places + length - 1  # query minus key, from 0
    # with its first axis, because Paddle 3.3 has no gradient of a product of 4 axes with 3
    return lookup.rows(table, distance).unsqueeze(0)


def selectors(rows: int, columns: int, dtype: paddle.dtype) -> paddle.Tensor:
    """For each place of a map, 1 at its row and 1 at its column: [L, rows + columns]."""
    row = paddle.arange(rows).repeat_interleave(columns)
    column = paddle.arange(columns).tile([rows])
    hot = [F.one_hot(row, rows), F.one_hot(column, columns)]
    return paddle.concat(hot, axis=-1).astype(dtype)


class PositionedAttention(Attention):
    """Attention over maps [N, rows, columns, D], within windows if `window` is not 0.

    The bias of a query and a key is the query's product with a learnt vector for their distance
    down, plus one for their distance across. Maps that windows do not divide are padded with zeros,
    which are attended to, as in ViTDet. sides: rows and columns that the tables are made for.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool, window: int, sides: tuple[int, int]
    ):
        super().__init__(dim, num_heads, qkv_bias)
        self.window = window
        rows, columns = (window, window) if window else sides
        self.rel_pos_h = self._table(rows)
        self.rel_pos_w = self._table(columns)

    def _table(self, length: int) -> paddle.Tensor:
        zero = nn.initializer.Constant(0.0)
        return self.create_parameter([2 * length - 1, self.head_dim], default_initializer=zero)

    def forward(self, x: paddle.Tensor, bias: None = None) -> paddle.Tensor:
        rows, columns, width = x.shape[1:]
        if not self.window:
            tokens = x.flatten(1, 2)  # [N, L, D]
            tokens = self._attend(tokens, rows, columns)
            return tokens.reshape([-1, rows, columns, width])

        # Pad to whole windows, attend within each, and cut the padding off
        below = -rows % self.window
        right = -columns % self.window
        if below or right:
            x = F.pad(x, [0, right, 0, below], data_format='NHWC')
        windows = window_partition(x, self.window)  # [N, W, L, D]
        windows = self._attend(windows, self.window, self.window)
        x = window_reverse(windows, (rows + below, columns + right))
        return x[:, :rows, :columns]

    def _attend(self, x: paddle.Tensor, rows: int, columns: int) -> paddle.Tensor:
        """Attention among the tokens [.., L, D] of a map with so many rows and columns."""
        q, k, v = self.split(self.qkv(x))  # [.., H, L, d]

        # Products of each query with the vectors of all distances, down and across
        places = q.reshape([-1, rows, columns, self.head_dim])  # [B, rows, columns, d]
        down = distances_between(self.rel_pos_h, rows)  # [1, rows, rows, d]
        across = distances_between(self.rel_pos_w, columns)  # [1, columns, columns, d]
        by_row = paddle.matmul(places, down, transpose_y=True)  # [B, rows, columns, rows]
        places = places.transpose([0, 2, 1, 3])  # [B, columns, rows, d]
        by_column = paddle.matmul(places, across, transpose_y=True)
        by_column = by_column.transpose([0, 2, 1, 3])  # [B, rows, columns, columns]

        # Its own row and column select the two that a key adds to its product with a query: one
        # product of longer vectors gives the sum, without a bias of all pairs in memory
        products = paddle.concat([by_row, by_column], axis=-1)  # [B, rows, columns, rows + columns]
        products = products.reshape([*q.shape[:-1], rows + columns])
        selected = selectors(rows, columns, q.dtype).expand([*q.shape[:-1], -1])
        q = paddle.concat([q * self.head_dim**-0.5, products], axis=-1)
        k = paddle.concat([k, selected], axis=-1)
        weights = F.softmax(paddle.matmul(q, k, transpose_y=True), axis=-1)  # [.., H, L, L]
        return self.join(paddle.matmul(weights, v))


@register
class MAEViT(nn.Layer):
    """Maps [N, D, rows, columns] of images [N, C, height, width], the outputs of some blocks.

    img_size: the size (a side, or height and width) that the relative positions of global blocks
    are made for. pretrain_img_size: that of the absolute positions, which are resized to each
    image. window_size: side of a window in tokens; global_attn_indexes: numbers of the blocks, from
    0, that attend over the whole map. out_indices: numbers of the blocks whose outputs are wanted.
    pretrained: weights of an encoder, or of a model that has one, of any code base that
    util.convert knows; its class token is dropped. pretrained_ema: take the average where this
    file holds one beside the plain weights.
    """

    initialize_weights = models_vit.Encoder.initialize_weights

    def __init__(
        self,
        img_size: int | tuple[int, int] = 1024,
        pretrain_img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        window_size: int = 14,
        global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11),
        out_indices: tuple[int, ...] = (11,),
        recompute: bool = False,
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        super().__init__()
        _check_numbers('global_attn_indexes', global_attn_indexes, depth)
        _check_numbers('out_indices', out_indices, depth)
        self.embed_dim = embed_dim
        self.out_indices = list(out_indices)
        self.patch_embed = AnySizePatchEmbed(img_size, patch_size, in_channels, embed_dim)

        # Absolute positions, for the patches of pre-training
        pretrain = PatchEmbed(pretrain_img_size, patch_size, in_channels, embed_dim)
        self.position_grid = pretrain.grid
        normal = nn.initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0)
        self.pos_embed = self.create_parameter(
            [1, pretrain.num_patches, embed_dim], default_initializer=normal
        )

        # The rate of DropPath grows linearly over the blocks
        blocks = []
        for index in range(depth):
            window = 0 if index in global_attn_indexes else window_size
            block = Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                norm_layer=LayerNorm,
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                attention=self._attention(window),
            )
            blocks.append(block)
        self.blocks = Blocks(blocks)
        self.blocks.recompute = recompute
        self.initialize_weights()
        if pretrained:
            report = models_zoo.start_from(self, pretrained, use_ema=pretrained_ema)
            log.info(report)

    def _attention(self, window: int) -> Callable[..., nn.Layer]:
        """A constructor of attention within windows of this side; 0 is for the whole map."""
        return partial(PositionedAttention, window=window, sides=self.patch_embed.grid)

    @property
    def out_shape(self) -> list[ShapeSpec]:
        """Channels and stride of each map."""
        spec = ShapeSpec(channels=self.embed_dim, stride=self.patch_embed.patch_size)
        return [spec] * len(self.out_indices)

    def positions(self, rows: int, columns: int) -> paddle.Tensor:
        """The absolute positions for a map, resized bicubic: [1, rows, columns, D]."""
        table = self.pos_embed.reshape([1, *self.position_grid, self.embed_dim])
        if (rows, columns) == tuple(self.position_grid):
            return table
        table = table.transpose([0, 3, 1, 2])  # [1, D, rows, columns] of pre-training
        table = F.interpolate(table, [rows, columns], mode='bicubic', align_corners=False)
        return table.transpose([0, 2, 3, 1])

    def forward(self, inputs: dict | paddle.Tensor) -> list[paddle.Tensor]:
        images = inputs['image'] if isinstance(inputs, dict) else inputs
        x = self.patch_embed(images)  # [N, rows, columns, D]
        x = x + self.positions(*x.shape[1:3])
        features = self.blocks.outputs(x)
        return [features[index].transpose([0, 3, 1, 2]) for index in self.out_indices]


def _check_numbers(key: str, numbers: tuple[int, ...], depth: int) -> None:
    """Raise InputError unless all are numbers of blocks."""
    for number in numbers:
        if not isinstance(number, int) or number not in range(depth):
            raise InputError(
                f'MAEViT.{key}: numbers of its {depth} blocks, from 0, are needed, '
                f'not {list(numbers)}'
            )
