"""UM-MAE's Swin and PVT built from timm's blocks: features of blocks, class scores, gradients.

timm's blocks differ in places and get what makes them equal: Swin's table of biases comes from the
coordinate MLP; its merging normalises before the 2 x 2 tokens are joined, and has a bias; PVT-v2's
linear attention has no activation, and its MLP's depth-wise convolution is the identity.
"""

import json
import sys

import numpy as np
import torch_ready  # noqa: F401  before timm

# isort: split
import torch
from timm.models import pvt_v2, swin_transformer
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F


def under(weights, prefix, rename=lambda name: name):
    """The weights below a name, Linear ones as PyTorch has them."""
    found = {
        rename(name[len(prefix) :]): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    return {name: value.T if value.ndim == 2 else value for name, value in found.items()}


def table(weights, prefix, window):
    """timm's rows are numbered by query minus key; the MLP is of key minus query."""
    steps = -torch.arange(1 - window, window).float()
    apart = torch.stack(torch.meshgrid(steps, steps, indexing='ij'))[None]
    logs = apart.sign() * torch.log(1 + apart.abs())
    hidden = F.relu(F.conv2d(logs, weights[f'{prefix}0.weight'], weights[f'{prefix}0.bias']))
    return (
        F.conv2d(hidden, weights[f'{prefix}2.weight'], weights[f'{prefix}2.bias'])[0].flatten(1).T
    )


def swin_block(x, weights, name, stage, index, settings):
    sides, heads = x.shape[1:3], settings['num_heads'][stage]
    block = swin_transformer.SwinTransformerBlock(
        x.shape[-1],
        sides,
        heads,
        window_size=settings['window'],
        shift_size=index % 2 * (settings['window'] // 2),
    )
    given = {
        key: value
        for key, value in under(weights, f'{name}.').items()
        if 'posmlp' not in key and 'downsample' not in key
    }
    given['attn.relative_position_bias_table'] = table(
        weights, f'{name}.attn.posmlp.', block.window_size[0]
    )
    return functional_call(block, given, x)


def swin_merge(x, weights, name):
    dim, kernel = x.shape[-1], weights[f'{name}.proj.weight']
    merging = swin_transformer.PatchMerging(dim, len(kernel), norm_layer=nn.Identity)
    x = F.layer_norm(x, [dim], weights[f'{name}.norm.weight'], weights[f'{name}.norm.bias'], 1e-6)
    # timm joins the 2 x 2 tokens column by column
    joined = {'reduction.weight': kernel.permute(0, 3, 2, 1).flatten(1)}
    return functional_call(merging, joined, x) + weights[f'{name}.proj.bias']


def pvt_block(x, weights, name, stage, index, settings):
    _, rows, columns, dim = x.shape
    block = pvt_v2.Block(
        dim,
        settings['num_heads'][stage],
        settings['mlp_ratios'][stage],
        linear_attn=True,
        qkv_bias=True,
        norm_layer=nn.LayerNorm,
    )
    # timm averages any map to 7 x 7
    assert rows == columns == 7 * settings['sr_ratios'][stage]
    block.attn.act = block.mlp.relu = block.mlp.dwconv = nn.Identity()
    given = {
        key: value for key, value in under(weights, f'{name}.').items() if 'downsample' not in key
    }
    return functional_call(block, given, (x.flatten(1, 2), [rows, columns])).reshape(x.shape)


def pvt_merge(x, weights, name):
    x = F.conv2d(
        x.permute(0, 3, 1, 2),
        weights[f'{name}.proj.weight'],
        weights[f'{name}.proj.bias'],
        stride=2,
    )
    return x.permute(0, 2, 3, 1)


def main(given, computed):
    given = dict(np.load(given))
    settings = json.loads(str(given.pop('settings')))
    images, towards = (torch.from_numpy(given.pop(name)) for name in ('images', 'towards'))
    weights = {name: torch.from_numpy(value).requires_grad_() for name, value in given.items()}
    block, merge = (pvt_block, pvt_merge) if 'pos_embed' in weights else (swin_block, swin_merge)
    kernel = weights['patch_embed.proj.weight']
    x = F.conv2d(images, kernel, weights['patch_embed.proj.bias'], stride=kernel.shape[-1]).permute(
        0, 2, 3, 1
    )
    if 'pos_embed' in weights:
        x = x + weights['pos_embed'].reshape(1, *x.shape[1:])
    else:
        x = F.layer_norm(
            x,
            x.shape[-1:],
            weights['patch_embed.norm.weight'],
            weights['patch_embed.norm.bias'],
            1e-6,
        )
    features = []
    for stage, depth in enumerate(settings['depths']):
        for index in range(depth):
            name = f'blocks.{len(features)}'
            if stage and not index:
                x = merge(x, weights, f'{name}.downsample')
            x = block(x, weights, name, stage, index, settings)
            features.append(x)
    x = F.layer_norm(
        x.mean((1, 2)), x.shape[-1:], weights['fc_norm.weight'], weights['fc_norm.bias'], 1e-6
    )
    scores = x @ weights['head.weight'] + weights['head.bias']
    (scores * towards).sum().backward()
    np.savez(
        computed,
        scores=scores.detach(),
        **{f'features.{i}': x.detach() for i, x in enumerate(features)},
        **{f'gradients.{name}': weight.grad for name, weight in weights.items()},
    )


main(*sys.argv[1:])
