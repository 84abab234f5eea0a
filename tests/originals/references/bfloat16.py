"""timm's transformer block in PyTorch's autocast to bfloat16, and in float64.

    python bfloat16.py GIVEN.npz COMPUTED.npz

GIVEN: x and dy [N, L, D], heads, and the block's weights by name. COMPUTED: for `low` and `exact`
the result `y`, the gradient `x` and those of the weights, each as KIND/NAME.
"""

import sys

import numpy as np
import torch_ready  # noqa: F401  before timm

# isort: split
import torch
from timm.models.vision_transformer import Block


def step(given, kind):
    dtype = torch.float64 if kind == 'exact' else torch.float32
    tensors = {name: torch.from_numpy(given[name]).to(dtype) for name in given if name != 'heads'}
    x, dy = tensors.pop('x').requires_grad_(), tensors.pop('dy')
    block = Block(x.shape[-1], int(given['heads']), qkv_bias=True).to(dtype)
    block.load_state_dict(tensors)
    with torch.autocast('cpu', torch.bfloat16, enabled=kind == 'low'):
        y = block(x)
    y.backward(dy.to(y.dtype))
    found = {'y': y, 'x': x.grad, **{name: part.grad for name, part in block.named_parameters()}}
    return {f'{kind}/{name}': array.detach().double().numpy() for name, array in found.items()}


def main(given, computed):
    given = dict(np.load(given))
    np.savez(computed, **step(given, 'low'), **step(given, 'exact'))


if __name__ == '__main__':
    main(*sys.argv[1:])
