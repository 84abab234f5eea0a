"""Attention on CPUs without the scores of all heads in memory at once.

Where these take more than 32 MB, glibc gives their memory back to the system after each use, which
costs more than computing them twice: in groups of heads, in the forward and in the backward pass.
The numbers are the same, bit for bit.
Shapes: B images and heads, L queries and keys, d features a head.
"""

from collections.abc import Iterator

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from util import kernels, onednn

LARGE = 2**23  # scores that take 32 MB, see machine.retain_memory
GROUP = 2**22  # scores of a group of heads, at most; a head is the smallest group


def pays(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> bool:
    """Whether `attend` is the faster way for these [.., L, d]."""
    if not kernels.served(q, k, v) or not onednn.library.path.exists():
        return False
    scores = q.size // q.shape[-1] * k.shape[-2]
    return scores > LARGE


def attend(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor, scale: float) -> paddle.Tensor:
    """softmax(scale q k^T) v for q, k and v [.., L, d]; d may differ in v, and L in q."""
    flat = [x.flatten(0, -3) for x in (q, k, v)]  # [B, L, d]
    attended = Attention.apply(*flat, scale)
    return attended.reshape([*q.shape[:-1], v.shape[-1]])


class Attention(PyLayer):
    """q, k, v [B, L, d] -> [B, L, d]."""

    @staticmethod
    def forward(ctx, q, k, v, scale):
        ctx.scale = scale
        ctx.wanted = kernels.wanted(q, k, v)
        q = q * scale
        ctx.save_for_backward(q, k, v)
        attended = []
        for some in groups(q, k):
            weights = F.softmax(paddle.matmul(q[some], k[some], transpose_y=True))
            attended.append(paddle.matmul(weights, v[some]))
        return paddle.concat(attended)

    @staticmethod
    def backward(ctx, dy):
        """The gradients of q, k and v."""
        q, k, v = ctx.saved_tensor()
        parts = [[], [], []]  # of the gradients of q, k and v
        for some in groups(q, k):
            weights = F.softmax(paddle.matmul(q[some], k[some], transpose_y=True))
            dweights = paddle.matmul(dy[some], v[some], transpose_y=True)
            dscores = kernels.softmax_gradient(weights, dweights)
            parts[0].append(paddle.matmul(dscores, k[some]) * ctx.scale)
            parts[1].append(paddle.matmul(dscores, q[some], transpose_x=True))
            parts[2].append(paddle.matmul(weights, dy[some], transpose_x=True))

        gradients = []
        for is_wanted, part in zip(ctx.wanted, parts):
            gradients.append(paddle.concat(part) if is_wanted else None)
        return tuple(gradients)


def groups(q: paddle.Tensor, k: paddle.Tensor) -> Iterator[slice]:
    """The heads whose scores are computed at a time, of q [B, L, d] and k [B, M, d]."""
    of_one = q.shape[1] * k.shape[1]
    size = max(1, GROUP // of_one)
    for first in range(0, len(q), size):
        yield slice(first, first + size)
