"""Swin and PVT against encoders built from timm's blocks (see references/pyramid.py)."""

import json

import numpy as np
import numpy_um as by_hand
import paddle
import pytest

import models_zoo
from models_sizes import PYRAMIDS

from .conftest import report


@pytest.mark.parametrize(
    'name, size, more',
    [
        ('swin_nano_32', 32, {'window': 16}),
        ('swin_nano_32', (32, 64), {'window': 4}),
        ('pvt_nano_32', 56, {'sr_ratios': (8, 4, 2, 1)}),
    ],
)
def test_features_scores_and_gradients_equal_those_of_timms_blocks(reference, name, size, more):
    model = models_zoo.classifier(name, img_size=size, num_classes=5, **more)
    weights = {key: value.astype('float32') for key, value in by_hand.perturb(model).items()}
    rng = np.random.default_rng(0)
    images = rng.normal(size=[2, 3, *model.patch_embed.img_size]).astype('float32')
    towards = rng.normal(size=[2, 5]).astype('float32')
    settings = json.dumps({**PYRAMIDS[name], **more})
    expected = reference('pyramid', settings=settings, images=images, towards=towards, **weights)

    features = model.features(paddle.to_tensor(images))
    scores = model(paddle.to_tensor(images))
    (scores * paddle.to_tensor(towards)).sum().backward()
    ours = {
        'scores': scores,
        **{f'features.{i}': x for i, x in enumerate(features)},
        **{f'gradients.{key}': p.grad for key, p in model.named_parameters()},
    }
    assert ours.keys() == expected.keys()
    # One bias for all pairs changes no softmax: its gradient is only rounding, so it is measured
    # relative to the weight's
    scales = {
        key: np.abs(expected[key.replace('posmlp.2.bias', 'posmlp.2.weight')]).max() for key in ours
    }
    differences = {
        key: np.abs(value.numpy() - expected[key]).max() / scales[key]
        for key, value in ours.items()
    }
    worst = {
        kind: max(value for key, value in differences.items() if key.startswith(kind))
        for kind in ('features', 'scores', 'gradients')
    }
    report(f'{name} {size}', **worst)
    assert worst['features'] < 5e-6 and worst['scores'] < 5e-6
    assert worst['gradients'] < 5e-5, max(differences, key=differences.get)
