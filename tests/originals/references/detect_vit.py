"""ViTDet's backbone by transformers' class, and both pyramids over it, written out.

    python detect_vit.py GIVEN.npz COMPUTED.npz

GIVEN holds `settings`, JSON: image and pretrain (pixels), patch, width, depth, heads, window,
global (numbers of blocks), neck (simple or taps), channels; and images float32 [N,3,.,.]. The
simple pyramid sees the last block alone, the other one the blocks of `global`.

COMPUTED holds the perturbed weights as weight:NAME, under the names of det (Linear weights are
[out, in]); in training mode map0.. of the blocks, neck0..4, and gradient:NAME of the sum of cubes
of all neck maps.
"""

import json
import sys

import torch_ready  # noqa: F401  before transformers

# isort: split
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import VitDetBackbone, VitDetConfig

RENAMED = (
    ('embeddings.projection', 'patch_embed.proj'),
    ('embeddings.position_embeddings', 'pos_embed'),
    ('encoder.layer', 'blocks'),
    ('attention', 'attn'),
)


def backbone(settings, taps):
    """The backbone of that size; its blocks that are not global have windows."""
    everywhere = range(settings['depth'])
    config = VitDetConfig(
        hidden_size=settings['width'],
        num_hidden_layers=settings['depth'],
        num_attention_heads=settings['heads'],
        image_size=settings['image'],
        pretrain_image_size=settings['pretrain'],
        patch_size=settings['patch'],
        window_size=settings['window'],
        window_block_indices=[i for i in everywhere if i not in settings['global']],
        use_absolute_position_embeddings=True,
        use_relative_position_embeddings=True,
        layer_norm_eps=1e-6,
        dropout_prob=0.0,
        drop_path_rate=0.0,
        out_indices=[i + 1 for i in taps],
    )
    return VitDetBackbone(config)


class ChannelNorm(nn.Module):
    """detectron2's LayerNorm: over the channels of a map, by hand."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Conv(nn.Module):
    """A convolution without bias, and a normalisation."""

    def __init__(self, inputs, outputs, kernel, name):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.name = name
        norm = ChannelNorm(outputs) if name == 'ln' else nn.BatchNorm2d(outputs)
        self.add_module(name, norm)

    def forward(self, x):
        return getattr(self, self.name)(self.conv(x))


def twice(inputs, outputs):
    return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)


class Simple(nn.Module):
    """detectron2's SimpleFeaturePyramid, with P6 by LastLevelMaxPool."""

    def __init__(self, width, channels):
        super().__init__()
        half, quarter = width // 2, width // 4
        self.fpn1 = nn.Sequential(
            twice(width, half), ChannelNorm(half), nn.GELU(), twice(half, quarter)
        )
        self.fpn2 = nn.Sequential(twice(width, half))
        widths = [quarter, half, width, width]
        self.lateral_convs = nn.ModuleList(Conv(w, channels, 1, 'ln') for w in widths)
        self.fpn_convs = nn.ModuleList(Conv(channels, channels, 3, 'ln') for _ in widths)

    def forward(self, maps):
        x = maps[-1]
        scaled = [self.fpn1(x), self.fpn2(x), x, F.max_pool2d(x, 2)]
        lateral = [conv(y) for conv, y in zip(self.lateral_convs, scaled)]
        outputs = [conv(y) for conv, y in zip(self.fpn_convs, lateral)]
        return [*outputs, outputs[-1][:, :, ::2, ::2]]


class Taps(nn.Module):
    """Four maps at 4, 2, 1 and 1/2 times their size, and an FPN."""

    def __init__(self, width, channels):
        super().__init__()
        self.upsample_4x = nn.Sequential(
            twice(width, width), nn.BatchNorm2d(width), nn.GELU(), twice(width, width)
        )
        self.upsample_2x = nn.Sequential(twice(width, width))
        self.lateral_convs = nn.ModuleList(Conv(width, channels, 1, 'bn') for _ in range(4))
        self.fpn_convs = nn.ModuleList(Conv(channels, channels, 3, 'bn') for _ in range(4))

    def forward(self, maps):
        a, b, c, d = maps
        scaled = [self.upsample_4x(a), self.upsample_2x(b), c, F.max_pool2d(d, 2)]
        merged = [conv(y) for conv, y in zip(self.lateral_convs, scaled)]
        for i in (2, 1, 0):
            merged[i] = merged[i] + merged[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        outputs = [conv(y) for conv, y in zip(self.fpn_convs, merged)]
        return [*outputs, outputs[-1][:, :, ::2, ::2]]


def own_name(name):
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


def main(given, computed):
    torch.manual_seed(0)
    given = np.load(given)
    settings = json.loads(str(given['settings']))
    simple = settings['neck'] == 'simple'
    taps = [settings['depth'] - 1] if simple else settings['global']
    vit = backbone(settings, taps)
    neck = (Simple if simple else Taps)(settings['width'], settings['channels'])
    with torch.no_grad():
        for parameter in [*vit.parameters(), *neck.parameters()]:
            parameter += 0.05 * torch.randn_like(parameter)

    named = {f'backbone.{own_name(name)}': p for name, p in vit.named_parameters()}
    named |= {f'neck.{name}': p for name, p in neck.named_parameters()}
    results = {f'weight:{name}': p.detach().numpy().copy() for name, p in named.items()}

    maps = list(vit.train()(torch.from_numpy(given['images'])).feature_maps)
    pyramid = neck.train()(maps)
    sum(x.pow(3).sum() for x in pyramid).backward()
    for name, parameter in named.items():
        results[f'gradient:{name}'] = parameter.grad.numpy()
    for kind, arrays in (('map', maps), ('neck', pyramid)):
        results |= {f'{kind}{i}': x.detach().numpy() for i, x in enumerate(arrays)}
    np.savez(computed, **results)


if __name__ == '__main__':
    main(*sys.argv[1:])
