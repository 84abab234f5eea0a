"""Attention without the scores of all heads in memory at once.

GPUs have it in one kernel. On CPUs, where the scores take more than 32 MB, glibc gives their memory
back to the system after each use, which costs more than computing them twice: in groups of heads,
in the forward and in the backward pass. There the numbers are the same, bit for bit.
Shapes: B images and heads, L queries and keys, d features a head.
"""

from collections.abc import Iterator

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from util import kernels, onednn

LARGE = 2**23  # scores that take 32 MB, see machine.retain_memory
GROUP = 2**22  # scores of a group of heads, at most; a head is the smallest group


def attend(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor | None:
    """Scaled dot-product attention of q, k and v [.., L, d]; d may differ in v, and L in q.

    None where two products and a softmax do as well.
    """
    if is_fused(q):
        return fused(q, k, v)
    if not kernels.served(q, k, v) or not onednn.library.path.exists():
        return None
    scores = q.size // q.shape[-1] * k.shape[-2]
    if scores <= LARGE:
        return None
    flat = [x.flatten(0, -3) for x in (q, k, v)]  # [B, L, d]
    attended = Attention.apply(*flat, q.shape[-1] ** -0.5)
    return attended.reshape([*q.shape[:-1], v.shape[-1]])


def is_fused(q: paddle.Tensor) -> bool:
    """Whether the device has attention in one kernel: GPUs and devices that are like them."""
    if not paddle.in_dynamic_mode():
        return False
    return q.place.is_gpu_place() or q.place.is_custom_place()


def fused(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
    """Attention in one kernel; Paddle picks flash attention where it can.

    It could not serve a bias that is learnt, which would get no gradient.
    """
    outer = q.shape[:-3]
    parts = []
    for x in (q, k, v):
        x = x.reshape([-1, *x.shape[-3:]])  # [N, H, L, d]
        parts.append(x.transpose([0, 2, 1, 3]))  # [N, L, H, d]
    x = F.scaled_dot_product_attention(*parts)
    x = x.transpose([0, 2, 1, 3])
    return x.reshape([*outer, *x.shape[1:]])


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
