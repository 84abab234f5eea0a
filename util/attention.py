"""Attention of the heads that a projection has written side by side.

GPUs have it in one kernel. On CPUs oneDNN reads and writes the heads where they are, so nothing is
transposed. Where the scores take more than 32 MB, glibc would give their memory back to the system
after each use, which costs more than computing them twice: then some heads come at a time, in the
forward and in the backward pass. Numbers are those of the written-out attention, up to rounding.
Shapes: N images, L queries, M keys, P projections side by side, H heads of width d.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

from util import bfloat16, broadcast, kernels, onednn, tensors

LARGE = 2**23  # scores that take 32 MB, see machine.retain_memory
GROUP = 2**20  # scores of a group of heads, at most: 4 MB; a head is the smallest group


def is_fused(x: paddle.Tensor) -> bool:
    """Whether the device has attention in one kernel: GPUs and devices that are like them."""
    if not paddle.in_dynamic_mode():
        return False
    return x.place.is_gpu_place() or x.place.is_custom_place()


def fused(q: paddle.Tensor, k: paddle.Tensor, v: paddle.Tensor) -> paddle.Tensor:
    """Attention of q, k and v [.., L, d] in one kernel; Paddle picks flash attention where it can.

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


def attend(
    heads: int,
    q: paddle.Tensor,
    kv: paddle.Tensor | None = None,
    bias: paddle.Tensor | None = None,
    mask: paddle.Tensor | None = None,
) -> paddle.Tensor | None:
    """Scaled dot-product attention by oneDNN, [.., L, D]; None where the device has other ways.

    q [.., L, D] with kv [.., M, 2 D], or q alone as queries, keys and values [.., L, 3 D].
    bias [.., H, L, M] and mask [.., 1, L, M], which has no gradient, are added to the scores; their
    leading axes may be 1.
    """
    given = [x for x in (q, kv, bias, mask) if x is not None]
    if not tensors.served(*given) or not onednn.library.path.exists():
        return None
    return Attention.apply(heads, q, kv, bias, mask)


class Group(NamedTuple):
    """Some images, and some of their heads."""

    image: int  # the first one
    images: int
    head: int
    heads: int


@dataclass(frozen=True)
class Heads:
    """The queries, keys or values of all heads: one of the projections in x [N, L, P H d]."""

    x: paddle.Tensor
    projection: int
    projections: int
    count: int  # H

    @property
    def width(self) -> int:
        """Values of a head, d."""
        return self.x.shape[-1] // self.projections // self.count

    def layout(self, group: Group) -> tensors.Strided:
        """How [images, heads, L, d] of a group lie in x."""
        length, row = self.x.shape[-2:]
        shape = (group.images, group.heads, length, self.width)
        return tensors.Strided(shape, (length * row, self.width, row, 1), tensors.dtype(self.x))

    def is_misread(self, group: Group) -> bool:
        """Whether oneDNN's products (version 3, AVX-512) of a group would be wrong.

        They are where the step from image to image is by chance that of dense heads of all images
        side by side, as with 48 windows of 16 tokens.
        """
        length, row = self.x.shape[-2:]
        dense = group.heads * self.width
        return row != dense and length * row == group.images * dense

    def part(self, group: Group) -> tensors.Part:
        """The tensor from the first value of the group on."""
        length, row = self.x.shape[-2:]
        place = self.projection * self.count + group.head
        return tensors.Part(self.x, group.image * length * row + place * self.width)


Matrices = Heads | paddle.Tensor  # of the heads, or the scores [.., L, M] of a group


def product(
    x: Matrices,
    y: Matrices,
    result: Matrices,
    group: Group,
    factor: float = 1.0,
    transpose_x: bool = False,
    transpose_y: bool = False,
) -> None:
    """Write x @ y, times a factor, into `result`, for a group."""
    for some in readable(group, x, y, result):
        layouts, places = [], []
        for matrices in (x, y, result):
            if isinstance(matrices, Heads):
                layouts.append(matrices.layout(some))
                places.append(matrices.part(some))
            else:
                shape = (some.images, some.heads, *matrices.shape[-2:])
                layouts.append(tensors.contiguous(*shape, dtype=tensors.dtype(matrices)))
                first = (some.image - group.image) * math.prod(shape[1:])
                places.append(tensors.Part(matrices, first))
        for place, is_turned in enumerate((transpose_x, transpose_y)):
            if is_turned:
                layouts[place] = layouts[place].transposed()
        multiply = onednn.product(*layouts, factor)
        multiply(*places)


def readable(group: Group, *given: Matrices) -> list[Group]:
    """The group, or its images in two parts where oneDNN would misread the whole."""
    if any(isinstance(one, Heads) and one.is_misread(group) for one in given):
        half = group.images // 2
        first = group._replace(images=half)
        return [first, group._replace(image=group.image + half, images=group.images - half)]
    return [group]


class Operands(NamedTuple):
    """What attention reads, or the gradients that it writes."""

    queries: Heads
    keys: Heads
    values: Heads

    @classmethod
    def of(cls, heads: int, q: paddle.Tensor, kv: paddle.Tensor | None) -> 'Operands':
        """q and kv as `attend` takes them."""
        if kv is None:
            return cls(*(Heads(q, place, 3, heads) for place in range(3)))
        return cls(Heads(q, 0, 1, heads), Heads(kv, 0, 2, heads), Heads(kv, 1, 2, heads))

    @property
    def scale(self) -> float:
        """The factor of the products of queries and keys."""
        return self.queries.width**-0.5

    def groups(self, whole: bool) -> list[Group]:
        """All heads of all images: at once if `whole` or if they have few scores, else some."""
        q, heads = self.queries.x, self.queries.count
        length, row = q.shape[-2:]
        images = tensors.count(q) // (length * row)
        of_one = length * self.keys.x.shape[-2]  # scores of a head
        if whole or images * heads * of_one <= LARGE:
            return [Group(0, images, 0, heads)]
        some_heads = min(heads, max(1, GROUP // of_one))
        some_images = max(1, GROUP // (heads * of_one))  # 1 unless it takes all heads
        groups = []
        for image in range(0, images, some_images):
            for head in range(0, heads, some_heads):
                left = min(some_images, images - image), min(some_heads, heads - head)
                groups.append(Group(image, left[0], head, left[1]))
        return groups

    def weights(self, group: Group, *added: paddle.Tensor) -> paddle.Tensor:
        """The weight of each key for each query, float32; rows sum to 1.

        added: to the scores of all heads of all images.
        """
        length, keys = self.queries.x.shape[-2], self.keys.x.shape[-2]
        outer = [group.images, group.heads]
        if added:  # these have the axes of the images
            outer = [*self.queries.x.shape[:-2], self.queries.count]
        scores = tensors.empty([*outer, length, keys])
        product(self.queries, self.keys, scores, group, self.scale, transpose_y=True)
        for each in added:
            broadcast.combine(broadcast.ADD, scores, each, scores)
        normalise, _ = onednn.softmax(tensors.rows(scores), keys)
        normalise(scores, scores)
        return scores


class Attention(PyLayer):
    """See `attend`. A few weights are kept for the backward pass, many are made again there."""

    @staticmethod
    def forward(ctx, heads, q, kv, bias, mask):
        added = [x for x in (bias, mask) if x is not None]
        ctx.wanted = tensors.wanted(*(x for x in (q, kv) if x is not None), *added)
        ctx.heads, ctx.has_kv = heads, kv is not None
        ctx.added = [x.shape for x in added]
        ctx.type = bfloat16.chosen()

        q, kv = ctx.type(q), ctx.type(kv) if ctx.has_kv else None
        operands = Operands.of(heads, q, kv)
        attended = tensors.empty([*q.shape[:-1], heads * operands.values.width])
        groups = operands.groups(whole=bool(added))
        for group in groups:
            weights = operands.weights(group, *added)
            product(ctx.type(weights), operands.values, Heads(attended, 0, 1, heads), group)

        ctx.are_kept = len(groups) == 1
        saved = [q, kv, weights if ctx.are_kept else None]
        ctx.save_for_backward(*(x for x in saved if x is not None))
        return attended

    @staticmethod
    def backward(ctx, dy):
        """The gradients of q, kv, bias and mask, of those that there are."""
        q, *others = ctx.saved_tensor()
        kv = others.pop(0) if ctx.has_kv else None
        operands = Operands.of(ctx.heads, q, kv)
        dq, dkv = tensors.empty(q.shape), tensors.empty(kv.shape) if ctx.has_kv else None
        gradients = Operands.of(ctx.heads, dq, dkv)
        dattended = Heads(ctx.type(dy), 0, 1, ctx.heads)
        for group in operands.groups(whole=ctx.are_kept):
            weights = others[0] if ctx.are_kept else operands.weights(group)
            dweights = tensors.empty(weights.shape)
            product(dattended, operands.values, dweights, group, transpose_y=True)
            dscores = kernels.softmax_gradient(weights, dweights)
            weights, low = ctx.type(weights), ctx.type(dscores)
            product(weights, dattended, gradients.values, group, transpose_x=True)
            product(low, operands.keys, gradients.queries, group, operands.scale)
            product(low, operands.queries, gradients.keys, group, operands.scale, transpose_x=True)

        made = [dq, dkv] if ctx.has_kv else [dq]
        for shape, is_wanted in zip(ctx.added, ctx.wanted[len(made) :]):
            made.append(broadcast.total(dscores, shape) if is_wanted else None)
        return tuple(x if is_wanted else None for x, is_wanted in zip(made, ctx.wanted))
