"""What a ViT attends to: the weights of its blocks and heads, and their rollout over the blocks.

Rollout is that of arXiv:2005.00928: a block's weights, averaged over its heads, and the identity,
which stands for the residual branch, count half each; the matrices of the blocks are multiplied.
Shapes: N images, H heads, T = 1 + L tokens, the class token first, then L patches.
"""

import numpy as np
import paddle

from layer import attention_weights
from models_vit import Encoder
from util.errors import InputError


@paddle.no_grad()
def weights_of(model: Encoder, images: paddle.Tensor) -> list[np.ndarray]:
    """The attention weights [N, H, T, T] of each block, for images [N, C, height, width].

    The last two axes are the token that looks and the token that it looks at. InputError for models
    without a class token, whose attention does not connect all patches.
    """
    if not isinstance(model, Encoder):
        raise InputError(
            f'a {type(model).__name__} looks only at parts of its maps or at averages of them, '
            'so there are no attention maps; use --show pca'
        )
    weights = []
    x = model.embed(images)  # [N, T, D]
    for block in model.blocks:
        q, k, _ = block.attn.split(block.attn.qkv(block.norm1(x)))  # [N, H, T, D/H]
        weights.append(attention_weights(q, k).numpy())
        x = block(x)
    return weights


def rollout(weights: list[np.ndarray]) -> list[np.ndarray]:
    """After each block, how much of each token's content came from each input token: [N, T, T]."""
    identity = np.eye(weights[0].shape[-1], dtype='float32')
    total = identity
    totals = []
    for of_block in weights:
        mixed = (of_block.mean(1) + identity) / 2  # [N, T, T]
        total = mixed @ total
        totals.append(total)
    return totals


def seen_by(weights: np.ndarray, query: str | int) -> np.ndarray:
    """How much a query looks at each patch: [.., T, T] -> [.., L].

    query: 'cls' for the class token, 'mean' for the mean of all patches, or a patch's number.
    """
    to_patches = weights[..., 1:]  # [.., T, L]
    if query == 'cls':
        return to_patches[..., 0, :]
    if query == 'mean':
        return to_patches[..., 1:, :].mean(-2)
    return to_patches[..., 1 + query, :]
