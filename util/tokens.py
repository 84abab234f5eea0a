"""Leaving tokens out of sequences, and filling sequences up with a learnt token.

On CPUs each is one copy of whole rows, and so is its gradient. Elsewhere Paddle's operations do it.
Shapes: N images, L patches, V visible patches, D width.
"""

import numpy as np
import paddle
from paddle.autograd import PyLayer

from util import tensors


def keep(x: paddle.Tensor, ids_keep: paddle.Tensor) -> paddle.Tensor:
    """The tokens of x [N, L, D] at the places ids_keep [N, V], which differ: [N, V, D]."""
    if tensors.served(x):
        return Keep.apply(x, ids_keep)
    index = ids_keep.unsqueeze(-1).expand([-1, -1, x.shape[2]])
    return paddle.take_along_axis(x, index, axis=1)


def insert(x: paddle.Tensor, token: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
    """Class token, then all patches in the image's order: [N, 1 + V, D] -> [N, 1 + L, D].

    ids_restore [N, L] has each patch's place among the visible ones; `token` [1, 1, D] stands for
    those whose place lies behind them.
    """
    if tensors.served(x, token):
        return Insert.apply(x, token, ids_restore)
    N, L = ids_restore.shape
    D = x.shape[2]

    # Append tokens for the removed patches, then bring all patches into the image's order
    num_removed = L + 1 - x.shape[1]
    removed = token.expand([N, num_removed, D]).astype(x.dtype)
    patches = paddle.concat([x[:, 1:], removed], axis=1)  # [N, L, D], without class token
    index = ids_restore.unsqueeze(-1).expand([N, L, D])
    patches = paddle.take_along_axis(patches, index, axis=1)
    return paddle.concat([x[:, :1], patches], axis=1)  # [N, 1 + L, D]


class Keep(PyLayer):
    """x [N, L, D] at the places ids_keep [N, V] -> [N, V, D]."""

    @staticmethod
    def forward(ctx, x, ids_keep):
        L = x.shape[1]
        places = _absolute(ids_keep.numpy(), L)  # [N, V]
        ctx.places, ctx.shape = places, x.shape
        return rows_of(x, places)

    @staticmethod
    def backward(ctx, dy):
        """The gradient of x, 0 for tokens that were left out; None for the places."""
        N, L, _ = ctx.shape
        none = ctx.places.size  # a row behind those of dy
        origins = np.full(N * L, none)
        origins[ctx.places] = np.arange(none).reshape(ctx.places.shape)
        return rows_of(dy, origins.reshape(N, L), none), None


class Insert(PyLayer):
    """x [N, 1 + V, D], a token [1, 1, D] and ids_restore [N, L] -> [N, 1 + L, D]."""

    @staticmethod
    def forward(ctx, x, token, ids_restore):
        N, filled, D = x.shape  # class token and visible patches
        within = ids_restore.numpy() + 1  # [N, L]
        within = np.pad(within, [(0, 0), (1, 0)])  # [N, 1 + L], 0 for the class token
        is_removed = within >= filled
        last = N * filled  # the row of the token
        places = np.where(is_removed, last, _absolute(within, filled))
        ctx.wanted = tensors.wanted(x, token)
        ctx.places, ctx.is_removed, ctx.shape = places, is_removed, x.shape
        table = paddle.concat([x.reshape([-1, D]), token.reshape([1, D])])
        return rows_of(table, places)

    @staticmethod
    def backward(ctx, dy):
        """The gradients of x and the token; None for ids_restore."""
        N, filled, D = ctx.shape
        dx = dtoken = None
        x_wanted, token_wanted = ctx.wanted
        if x_wanted:
            origins = np.empty(N * filled + 1, 'int64')
            origins[ctx.places] = np.arange(ctx.places.size).reshape(ctx.places.shape)
            dx = rows_of(dy, origins[:-1].reshape(N, filled))
        if token_wanted:
            removed = paddle.to_tensor(ctx.is_removed.reshape(1, -1).astype('float32'))
            dtoken = paddle.matmul(removed, dy.reshape([-1, D])).reshape([1, 1, D])
        return dx, dtoken, None


def _absolute(places: np.ndarray, length: int) -> np.ndarray:
    """Places [N, ..] within sequences of this length as rows of all N sequences."""
    first = np.arange(len(places)) * length  # [N], of each sequence
    return places + first[:, None]


def rows_of(x: paddle.Tensor, rows: np.ndarray, none: int = -1) -> paddle.Tensor:
    """Rows [N, K] of x [.., D], all axes before the last one counted as one: [N, K, D].

    The row with the number `none` is 0.
    """
    table = x.reshape([-1, x.shape[-1]])
    return paddle._C_ops.embedding(paddle.to_tensor(rows), table, none, False)
