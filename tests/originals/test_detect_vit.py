"""The ViT of Mask R-CNN against transformers' VitDetBackbone, and both pyramids over it."""

import json

import numpy as np
import paddle
import pytest

from det.backbone import MAEViT
from det.neck_vit import SimpleFeaturePyramid, TapsFPN

from .conftest import report

SIZE = {
    'image': 64,
    'pretrain': 32,
    'patch': 4,
    'width': 32,
    'depth': 4,
    'heads': 2,
    'window': 5,  # does not divide 16 patches
    'channels': 16,
}


# Constants that go through 1 x 1 convolutions into batch normalisation: their gradient is rounding
NORMALISED_AWAY = {
    'neck.upsample_4x.0.bias',
    'neck.upsample_4x.3.bias',
    'neck.upsample_2x.0.bias',
    'backbone.blocks.5.mlp.fc2.bias',
}


def models(size):
    """Our backbone and neck."""
    simple = size['neck'] == 'simple'
    backbone = MAEViT(
        img_size=size['image'],
        pretrain_img_size=size['pretrain'],
        patch_size=size['patch'],
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        drop_path_rate=0.0,
        window_size=size['window'],
        global_attn_indexes=size['global'],
        out_indices=[size['depth'] - 1] if simple else size['global'],
    )
    kind = SimpleFeaturePyramid if simple else TapsFPN
    neck = kind(**kind.from_config({}, backbone.out_shape), out_channel=size['channels'])
    return paddle.nn.LayerDict({'backbone': backbone, 'neck': neck})


def in_our_layout(name, array, model):
    """A tensor of the reference as Paddle stores it; the place of the class token is cut off."""
    if name == 'backbone.pos_embed':
        return array[:, 1:]
    if array.ndim == 2 and not name.endswith(('rel_pos_h', 'rel_pos_w')):
        return array.T
    return array


def apart(ours, theirs):
    """The largest difference, relative to the largest value."""
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize('neck', ['simple', 'taps'])
@pytest.mark.parametrize('shape', [(64, 64), (96, 80)], ids=['its size', 'another size'])
def test_maps_and_gradients_are_the_originals(reference, neck, shape):
    """At another size both kinds of positions are interpolated."""
    size = SIZE | {'neck': neck, 'global': [1, 3] if neck == 'simple' else [0, 1, 2, 3]}
    if neck == 'taps':
        size |= {'depth': 6, 'global': [0, 2, 3, 5]}
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 3, *shape)).astype('float32')
    theirs = reference('detect_vit', settings=json.dumps(size), images=images)

    ours = models(size)
    own = dict(ours.named_parameters())
    weights = {key[7:]: theirs[key] for key in theirs if key.startswith('weight:')}
    statistics = {name for name in own if name.endswith(('_mean', '_variance'))}
    assert own.keys() - statistics == weights.keys()
    for name, array in weights.items():
        own[name].set_value(in_our_layout(name, array, ours))

    maps = ours['backbone'](paddle.to_tensor(images))
    pyramid = ours['neck'](maps)
    sum((x**3).sum() for x in pyramid).backward()
    figures = {'maps': max(apart(x.numpy(), theirs[f'map{i}']) for i, x in enumerate(maps))}
    necks = [apart(x.numpy(), theirs[f'neck{i}']) for i, x in enumerate(pyramid)]
    figures['pyramid'] = max(necks)
    gradients = {}
    for name, parameter in own.items():
        if name not in weights:
            continue
        wanted = in_our_layout(name, theirs[f'gradient:{name}'], ours)
        if neck == 'taps' and name in NORMALISED_AWAY:
            continue
        gradients[name] = apart(parameter.grad.numpy(), wanted)
    figures['gradients'] = max(gradients.values())
    report(f'{neck} {shape}', **figures)
    assert max(figures.values()) < 1e-4, sorted(gradients.items(), key=lambda pair: -pair[1])[:5]
