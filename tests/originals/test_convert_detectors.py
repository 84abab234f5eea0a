"""Files of detectors against their producers.

GFL's neck and head are mmdetection's. Mask R-CNN is a network in PyTorch that is named as
detectron2's, which cannot be installed.
"""

import json

import numpy as np
import paddle
import pytest
from test_convert_detectors import (
    CHANNELS,
    CLASSES,
    DEPTH,
    HEADS,
    HIDDEN,
    MAPS,
    OUT,
    PATCH,
    WIDTH,
    gfl,
    mask_rcnn,
    state_of,
)
from test_convert_pyramids import assert_equal

from util import convert, weights

from .conftest import report


def outputs(model, given):
    """What detectron2's parts give, by ours."""
    given = {name: paddle.to_tensor(array) for name, array in given.items()}
    maps = model.neck([given['map']])
    found = {f'map{level}': x for level, x in zip(range(2, 6), maps)}
    y = model.rpn_head.rpn_conv(maps[2])
    found['logits'], found['deltas'] = model.rpn_head.rpn_cls(y), model.rpn_head.rpn_reg(y)
    scores, deltas = model.roi_head.bbox_head(given['boxes'])
    found['scores'], found['box_deltas'] = scores, deltas.flatten(1)
    found['masks'] = model.roi_head.mask_head(given['masks'])
    return {name: value.numpy() for name, value in found.items()}


@paddle.no_grad()
def test_detectron2s_network_loads_our_file_strictly_and_computes_what_we_compute(
    reference, tmp_path
):
    model = mask_rcnn()
    rng = np.random.default_rng(0)
    for tensor in model.state_dict().values():
        noise = rng.normal(0.02, 0.05, tensor.shape).astype('float32')
        tensor.set_value(tensor + paddle.to_tensor(noise))
    model.eval()
    ours = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    convert.write(tmp_path / 'x.pth', {'model': ours}, 'detectron2')

    arrays = {
        'map': rng.normal(size=[1, WIDTH, 4, 6]).astype('float32'),
        'boxes': rng.normal(size=[3, OUT, 7, 7]).astype('float32'),
        'masks': rng.normal(size=[3, OUT, 14, 14]).astype('float32'),
    }
    sizes = {
        'width': WIDTH,
        'depth': DEPTH,
        'heads': HEADS,
        'patch': PATCH,
        'out': OUT,
        'hidden': HIDDEN,
        'classes': CLASSES,
    }
    theirs = reference('detect_vitdet', weights=str(tmp_path / 'x.pth'), **arrays, **sizes)
    expected = outputs(model, arrays)
    assert theirs.keys() == expected.keys()
    errors = {
        name: np.abs(value - theirs[name]).max() / np.abs(value).max()
        for name, value in expected.items()
    }
    report('largest difference to a network named as detectron2', **errors)
    assert max(errors.values()) < 1e-5

    for name in ('again.pth', 'again.pkl'):
        state, _ = convert.read(tmp_path / name)
        assert_equal(state['model'], ours)


@pytest.mark.parametrize('norm, name', [('sync_bn', 'BN'), ('gn', 'GN')])
def test_mmdetections_neck_and_head_load_our_file_strictly(reference, tmp_path, norm, name):
    ours = state_of(gfl('swin', norm))
    convert.write(tmp_path / 'x.pth', {'model': ours}, 'mmdet')
    settings = {
        'width': MAPS,
        'channels': CHANNELS,
        'convs': 2,
        'classes': CLASSES,
        'norm': name,
        'kept': 10,
    }
    path = str(tmp_path / 'x.pth')
    theirs = reference('detect_file', weights=path, settings=json.dumps(settings))
    written = weights.read(path)['state_dict']
    np.testing.assert_array_equal(written['bbox_head.integral.project'], theirs['project'])
    again = weights.read(tmp_path / 'again.pth')['state_dict']
    assert_equal(written, again)
    assert_equal(convert.read(tmp_path / 'again.pth')[0]['model'], ours)
