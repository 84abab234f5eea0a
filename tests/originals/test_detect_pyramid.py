"""Swin and PVT for detection against encoders from mmdetection's and timm's blocks.

Maps are no multiples of the window, smaller than it, or have other sides than the positions.
"""

import json

import numpy as np
import numpy_um as by_hand
import paddle
import pytest

from det.pyramid import MAEPVT, MAESwin

from .conftest import report

SWIN = dict(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window=8, posmlp_dim=8)
PVT = dict(
    embed_dims=(16, 32, 64, 128),
    depths=(1, 1, 2, 1),
    num_heads=(1, 2, 4, 8),
    mlp_ratios=(4, 4, 4, 4),
    sr_ratios=(8, 4, 2, 1),
)


@pytest.mark.parametrize(
    'family, settings, size',
    [
        (MAESwin, SWIN, (96, 160)),  # 24 x 40 to 3 x 5 tokens
        (MAESwin, SWIN, (32, 352)),  # 8 x 88 to 1 x 11 tokens
        (MAEPVT, {**PVT, 'pretrain_size': 64}, (96, 160)),
        (MAEPVT, {**PVT, 'pretrain_size': 96}, (96, 96)),
    ],
)
def test_maps_and_gradients_equal_those_of_other_code_bases_blocks(
    reference, family, settings, size
):
    model = family(**settings, fpn_out_dim=24, drop_path_rate=0.0)
    weights = {key: value.astype('float32') for key, value in by_hand.perturb(model).items()}
    rng = np.random.default_rng(0)
    images = rng.normal(size=[2, 3, *size]).astype('float32')
    maps = model(paddle.to_tensor(images))
    towards = {
        f'towards{i}': rng.normal(size=x.shape).astype('float32') for i, x in enumerate(maps, 1)
    }
    sum((x * paddle.to_tensor(t)).sum() for x, t in zip(maps, towards.values())).backward()
    theirs = reference(
        'detect_pyramid', settings=json.dumps(settings), images=images, **towards, **weights
    )

    ours = {f'map{i}': x for i, x in enumerate(maps, 1)}
    ours |= {f'gradient:{name}': p.grad for name, p in model.named_parameters()}
    assert ours.keys() == theirs.keys()
    errors = {}
    for name, x in ours.items():
        # One bias for all pairs changes no softmax: its gradient is only rounding, so it is
        # measured relative to the weight's
        scale = np.abs(theirs[name.replace('posmlp.2.bias', 'posmlp.2.weight')]).max()
        errors[name] = np.abs(x.numpy() - theirs[name]).max() / scale
    worst = {
        kind: max(error for name, error in errors.items() if name.startswith(kind))
        for kind in ('map', 'gradient')
    }
    report(f'{family.__name__} {size}', **worst)
    assert worst['map'] < 5e-6
    assert worst['gradient'] < 5e-5, max(errors, key=errors.get)
