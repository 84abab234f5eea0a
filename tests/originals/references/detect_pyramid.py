"""UM-MAE's encoders for detection, from blocks of other code bases: maps and gradients.

    python detect_pyramid.py GIVEN.npz COMPUTED.npz

GIVEN holds `settings` (JSON: depths, num_heads, window or mlp_ratios and sr_ratios), images
[N,3,.,.], towards1..4 of the maps' shapes, and the weights under our names, Linear ones [in, out].
COMPUTED holds map1..4 and gradient:NAME of the sum of all maps times `towards`.

Swin's blocks are mmdetection's (3.3.0), which fill maps up and shift as UM-MAE does; the table of
biases comes from the coordinate MLP. PVT's are timm's PVT-v2 with linear attention, less what
UM-MAE's has not; they average by the recipe's ratio.
"""

import json
import sys

import numpy as np
import torch_ready  # noqa: F401  before timm

# isort: split
import torch
from timm.models import pvt_v2
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

NAMES = {'attn.': 'attn.w_msa.', 'mlp.fc1': 'ffn.layers.0.0', 'mlp.fc2': 'ffn.layers.1'}


def under(weights, prefix):
    """The weights of a block without its merging and its MLP; Linear ones as PyTorch has them."""
    found = {}
    for name, value in weights.items():
        inner = name.removeprefix(prefix)
        if inner != name and not inner.startswith(('downsample', 'attn.posmlp')):
            found[inner] = value.T if value.ndim == 2 else value
    return found


def table(weights, prefix, block):
    """The row of mmdetection's table for each pair of tokens, by the MLP of key minus query."""
    side = block.attn.window_size
    places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij'), -1)
    places = places.reshape(-1, 2).float()
    apart = (places[None] - places[:, None]).reshape(-1, 2)  # of query, key
    rows = block.attn.w_msa.relative_position_index.reshape(-1)
    of_row = torch.zeros((2 * side - 1) ** 2, 2)
    of_row[rows] = apart
    assert torch.equal(of_row[rows], apart)
    logs = of_row.sign() * torch.log(1 + of_row.abs())
    first, last = (weights[f'{prefix}{i}.weight'][:, :, 0, 0] for i in (0, 2))
    hidden = F.relu(logs @ first.T + weights[f'{prefix}0.bias'])
    return hidden @ last.T + weights[f'{prefix}2.bias']


def swin_block(x, weights, name, stage, index, settings):
    # here, because mmdetection's import takes long
    import mmdet_ready  # noqa: F401  before mmdet
    from mmdet.models.backbones.swin import SwinBlock

    n, rows, columns, dim = x.shape
    block = SwinBlock(
        dim, settings['num_heads'][stage], 4 * dim, settings['window'], shift=index % 2 == 1
    )
    given = {}
    for inner, value in under(weights, f'{name}.').items():
        for ours, theirs in NAMES.items():
            inner = inner.replace(ours, theirs)
        given[inner] = value
    given['attn.w_msa.relative_position_bias_table'] = table(weights, f'{name}.attn.posmlp.', block)
    x = functional_call(block, given, (x.flatten(1, 2), (rows, columns)), strict=False)
    return x.reshape(n, rows, columns, dim)


def pvt_block(x, weights, name, stage, index, settings):
    n, rows, columns, dim = x.shape
    block = pvt_v2.Block(
        dim,
        settings['num_heads'][stage],
        settings['mlp_ratios'][stage],
        linear_attn=True,
        qkv_bias=True,
        norm_layer=nn.LayerNorm,
    )
    block.attn.act = block.mlp.relu = block.mlp.dwconv = nn.Identity()
    block.attn.pool = nn.AvgPool2d(settings['sr_ratios'][stage])
    given = under(weights, f'{name}.')
    x = functional_call(block, given, (x.flatten(1, 2), [rows, columns]))
    return x.reshape(n, rows, columns, dim)


def strided(x, weights, name):
    """A convolution [N, C, ..] whose stride is its kernel's side, as [N, rows, columns, D]."""
    kernel = weights[f'{name}.weight']
    x = F.conv2d(x, kernel, weights[f'{name}.bias'], stride=kernel.shape[-1])
    return x.permute(0, 2, 3, 1)


def norm(x, weights, name):
    scale = weights[f'{name}.weight']
    return F.layer_norm(x, scale.shape, scale, weights[f'{name}.bias'], 1e-5)


def forward(images, weights, settings):
    is_swin = 'pos_embed' not in weights
    block = swin_block if is_swin else pvt_block
    x = strided(images, weights, 'patch_embed.proj')
    if is_swin:
        x = norm(x, weights, 'patch_embed.norm')
    else:
        positions = weights['pos_embed']
        side = round(positions.shape[1] ** 0.5)
        grid = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, x.shape[1:3], mode='bicubic', align_corners=False)
        x = x + grid.permute(0, 2, 3, 1)

    maps, number = [], 0
    for stage, depth in enumerate(settings['depths']):
        for index in range(depth):
            name = f'blocks.{number}'
            if stage and not index:
                if is_swin:
                    x = norm(x, weights, f'{name}.downsample.norm')
                x = strided(x.permute(0, 3, 1, 2), weights, f'{name}.downsample.proj')
            x = block(x, weights, name, stage, index, settings)
            number += 1
        up = f'up{stage + 1}'
        y = norm(x, weights, f'{up}.0') @ weights[f'{up}.1.weight'] + weights[f'{up}.1.bias']
        maps.append(y.permute(0, 3, 1, 2))
    return maps


def main(given, computed):
    given = dict(np.load(given))
    settings = json.loads(str(given.pop('settings')))
    images = torch.from_numpy(given.pop('images'))
    towards = [torch.from_numpy(given.pop(f'towards{i}')) for i in range(1, 5)]
    weights = {name: torch.from_numpy(value).requires_grad_() for name, value in given.items()}
    maps = forward(images, weights, settings)
    sum((x * t).sum() for x, t in zip(maps, towards)).backward()
    np.savez(
        computed,
        **{f'map{i}': x.detach() for i, x in enumerate(maps, 1)},
        **{f'gradient:{name}': weight.grad for name, weight in weights.items()},
    )


main(*sys.argv[1:])
