"""Residual branches on CPUs: x + branch(norm(x)) without the copies of Paddle's additions.

Paddle's gradient of a sum copies it for each of the two terms, and adds up in one thread what
reaches x from both ways. Here both terms share one gradient, and oneDNN adds within the
normalisation's. Inputs that these do not serve go to Paddle. Results are equal bit for bit.
"""

import paddle
from paddle import nn
from paddle.autograd import PyLayer

from util import broadcast, kernels, tensors


def fork(norm: nn.Layer, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
    """x for `join`, which must be its only use, and norm(x) for the branch."""
    if not kernels.uses_onednn() or x.stop_gradient or not isinstance(norm, nn.LayerNorm):
        return x, norm(x)
    if kernels.is_hooked(norm) or not kernels.normalises(norm, x):
        return x, norm(x)
    return Fork.apply(x, norm.weight, norm.bias, norm._epsilon)


def join(
    x: paddle.Tensor,
    branch: paddle.Tensor,
    gamma: paddle.Tensor | None = None,
    divisors: paddle.Tensor | None = None,
) -> paddle.Tensor:
    """x + gamma * branch / divisors; the branch has no other use.

    x and branch [N, .., D] have the same shape; gamma [D]; divisors [N, 1, ..] have no gradient.
    """
    if gamma is not None:
        branch = broadcast.multiply(branch, gamma)
    if broadcast.served(x, branch):
        return Join.apply(x, branch, divisors)
    if divisors is not None:
        branch = branch / divisors
    return x + branch


class Fork(PyLayer):
    """x [.., D] -> x and its normalisation over the last axis."""

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        y = kernels.LayerNorm.forward(ctx, x, weight, bias, epsilon)
        # another tensor in the same memory: Paddle would take x itself for one changed in place
        same = x.unsqueeze(0).squeeze(0)
        return same, y

    @staticmethod
    def backward(ctx, dx, dy):
        """The gradients of x, weight and bias."""
        gradient, *others = kernels.LayerNorm.backward(ctx, dy)
        return broadcast.combine(broadcast.ADD, gradient, dx, gradient), *others


class Join(PyLayer):
    """x + branch / divisors, or x + branch without divisors."""

    @staticmethod
    def forward(ctx, x, branch, divisors):
        ctx.wanted = tensors.wanted(x, branch)
        ctx.divisors = divisors
        if divisors is None:
            return broadcast.combine(broadcast.ADD, x, branch)
        branch = broadcast.combine(broadcast.DIVIDE, branch, divisors)
        return broadcast.combine(broadcast.ADD, branch, x, branch)

    @staticmethod
    def backward(ctx, dy):
        """The gradients of x and branch; without divisors they are one tensor."""
        x_wanted, branch_wanted = ctx.wanted
        dbranch = None
        if branch_wanted:
            dbranch = dy
            if ctx.divisors is not None:
                dbranch = broadcast.combine(broadcast.DIVIDE, dy, ctx.divisors)
        gradients = (dy if x_wanted else None, dbranch)
        return gradients if ctx.divisors is None else (*gradients, None)
