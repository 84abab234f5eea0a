"""The feature pyramid and the head of GFL against mmdetection's classes (3.3.0).

UM-MAE's own version is 2.20, whose GFL computes the same. Its SyncBN needs GPUs, so its BN takes
the place. The running statistics of the two frameworks differ by a factor (see
test_segment.py), so inference is compared before the training.
"""

import inspect
import json

import numpy as np
import paddle
import pytest

from det import optimizer
from det.gfl import MAEGFLHead
from det.gfl_decoder import GFLDecoder
from det.neck import MAEFPN
from util import optim

from .conftest import report, run_reference

SETTINGS = dict(
    width=48, channels=64, convs=4, classes=5, norm='BN', kept=40, rate=1e-4, decay=0.05, steps=2
)
LOSSES = ('loss_cls', 'loss_bbox', 'loss_dfl')
STATISTICS = {'running_mean': '_mean', 'running_var': '_variance'}
HEIGHT, WIDTH = 128, 160


class Detector(paddle.nn.Layer):
    """Neck and head, over given maps."""

    def __init__(self, norm_type):
        super().__init__()
        width, channels = SETTINGS['width'], SETTINGS['channels']
        self.backbone = paddle.nn.Layer()
        self.backbone.blocks = []
        self.neck = MAEFPN([width] * 4, out_channels=channels, norm_type=norm_type)
        strides = [shape.stride for shape in self.neck.out_shape]
        self.bbox_head = MAEGFLHead(
            SETTINGS['classes'], channels, channels, SETTINGS['convs'], strides=strides
        )

    def forward(self, maps):
        return self.bbox_head(self.neck(maps))


def given():
    """Maps and objects of three images: one of them has no object, one is padded in the batch."""
    rng = np.random.default_rng(0)
    arrays = {}
    for i in range(4):
        shape = [3, SETTINGS['width'], HEIGHT // 4 // 2**i, WIDTH // 4 // 2**i]
        arrays[f'map{i}'] = rng.normal(size=shape).astype('float32')
    for i, count in enumerate((12, 0, 5)):
        sides = np.exp(rng.uniform(np.log(4), np.log(110), [count, 2]))
        low = rng.uniform(-4, 1, [count, 2]) + rng.random([count, 2]) * [WIDTH - 40, HEIGHT - 40]
        box = np.concatenate([low, low + sides], 1).clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
        arrays[f'box{i}'] = box.astype('float32')
        arrays[f'label{i}'] = rng.integers(0, SETTINGS['classes'], count)
    arrays['pad_shape'] = np.array([[128, 160], [128, 160], [96, 128]])
    arrays['im_shape'] = np.array([[128, 160], [120, 150], [90, 128]])
    arrays['scale_factor'] = np.array([[1.0, 1.0], [0.5, 0.52], [2.0, 2.0]], 'float32')
    return arrays


@pytest.fixture
def paddles_convolutions(monkeypatch):
    """Paddle's own instead of oneDNN's, which tests/test_kernels.py compares with NumPy.

    One input of a ReLU is so near to 0 here that another rounding changes its sign. That alone
    moves the gradients of all layers before it by 2 %.
    """
    own = inspect.unwrap(paddle.nn.Conv2D.forward)
    monkeypatch.setattr(paddle.nn.Conv2D, 'forward', own)


@pytest.fixture(scope='module', params=['BN', 'GN'])
def case(request, tmp_path_factory):
    """The arrays given and computed, and our detector with the same weights."""
    settings = {**SETTINGS, 'norm': request.param}
    arrays = given()
    folder = tmp_path_factory.mktemp('gfl')
    theirs = run_reference(folder, 'detect_gfl', settings=json.dumps(settings), **arrays)
    return arrays, theirs, request.param


def build(theirs, norm):
    """Our detector with mmdetection's weights."""
    model = Detector({'BN': 'sync_bn', 'GN': 'gn'}[norm])
    state = {}
    for name, array in theirs.items():
        kind, _, name = name.partition(':')
        if kind != 'weight' or name.endswith(('num_batches_tracked', 'integral.project')):
            continue
        stem, _, last = name.rpartition('.')
        state[f'{stem}.{STATISTICS.get(last, last)}'] = array
    assert state.keys() == model.state_dict().keys()
    model.set_state_dict(state)
    return model


def batch_of(arrays):
    images = range(3)
    return {
        'image': np.zeros([3, 3, HEIGHT, WIDTH]),
        'gt_bbox': [arrays[f'box{i}'] for i in images],
        'gt_class': [arrays[f'label{i}'] for i in images],
        'pad_shape': arrays['pad_shape'],
        'im_shape': arrays['im_shape'],
        'scale_factor': arrays['scale_factor'],
    }


def tensors(arrays):
    maps = [paddle.to_tensor(arrays[f'map{i}']) for i in range(4)]
    for x in maps:
        x.stop_gradient = False
    return maps


def relative(ours, theirs):
    """The largest difference, relative to the largest number unless all are 0."""
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    return np.abs(ours - theirs).max() / (np.abs(theirs).max() or 1)


def test_maps_of_neck_and_head_equal_mmdetection(case):
    arrays, theirs, norm = case
    model = build(theirs, norm)
    model.eval()
    necks = model.neck(tensors(arrays))
    maps = model.bbox_head(necks)
    errors = {}
    for i in range(5):
        parts = {'neck': necks[i], 'score': maps[i], 'bins': maps[5 + i]}
        for name, x in parts.items():
            errors[f'{name}{i}'] = relative(x.numpy(), theirs[f'{name}{i}'])
    report(f'GFL {norm} maps', worst=max(errors.values()))
    assert max(errors.values()) < 1e-5, errors


def test_detections_equal_mmdetection(case):
    arrays, theirs, _ = case
    maps = [theirs[f'{name}{i}'] for name in ('score', 'bins') for i in range(5)]
    found = GFLDecoder([8, 16, 32, 64, 128], keep_top_k=SETTINGS['kept'])(maps, batch_of(arrays))
    assert len(found) == 3
    for i, detections in enumerate(found):
        expected = theirs[f'found{i}']
        assert len(detections) == len(expected) == SETTINGS['kept']
        np.testing.assert_allclose(detections.scores, expected[:, 4], rtol=1e-5)
        np.testing.assert_array_equal(detections.classes, expected[:, 5])
        np.testing.assert_allclose(detections.boxes, expected[:, :4], rtol=1e-5, atol=1e-3)


def test_assigned_objects_equal_mmdetection(case):
    arrays, theirs, norm = case
    model = build(theirs, norm)
    targets = model.bbox_head.targets(grids(theirs), batch_of(arrays))
    expected = theirs['label'].reshape(-1)
    positive = np.flatnonzero(expected < SETTINGS['classes'])
    assert len(positive) > 30
    np.testing.assert_array_equal(targets.positive, positive)
    np.testing.assert_array_equal(targets.classes, expected[positive])
    np.testing.assert_array_equal(targets.boxes, theirs['target'].reshape(-1, 4)[positive])
    np.testing.assert_array_equal(targets.valid, theirs['valid'].reshape(-1) > 0)
    assert not targets.valid.all() and targets.total == theirs['total']


def grids(theirs):
    head = MAEGFLHead(2, 32, 32, 1)
    return head.grids([theirs[f'score{i}'] for i in range(5)])


@pytest.mark.usefixtures('paddles_convolutions')
def test_losses_and_gradients_equal_mmdetection(case):
    arrays, theirs, norm = case
    model = build(theirs, norm)
    model.train()
    maps = tensors(arrays)
    losses = model.bbox_head.loss(model(maps), batch_of(arrays))
    sum(losses.values()).backward()

    of_losses = {name: relative(losses[name].numpy(), theirs[name]) for name in LOSSES}
    gradients = {name: p.grad for name, p in model.named_parameters() if not p.stop_gradient}
    gradients |= {f'map{i}': maps[i].grad for i in (1, 2, 3)}
    names = {name.removeprefix('gradient:') for name in theirs if name.startswith('gradient:')}
    assert names == gradients.keys() and maps[0].grad is None
    errors = {
        name: relative(x.numpy(), theirs[f'gradient:{name}']) for name, x in gradients.items()
    }
    report(f'GFL {norm} training', losses=max(of_losses.values()), gradients=max(errors.values()))
    assert max(of_losses.values()) < 1e-5, of_losses
    assert max(errors.values()) < 1e-4, max(errors, key=errors.get)


@pytest.mark.usefixtures('paddles_convolutions')
def test_steps_of_adamw_equal_mmdetection(case):
    arrays, theirs, norm = case
    model = build(theirs, norm)
    model.train()
    free = ['pos_embed', 'norm', 'bias']
    groups = optimizer.groups(model, SETTINGS['decay'], 1.0, free)
    names = {p.name: name for name, p in model.named_parameters()}
    decayed = {names[p.name] for group in groups if group['weight_decay'] for p in group['params']}
    assert decayed == set(theirs['decayed'])

    adamw = optim.adamw(groups, 0.999)
    adamw.set_lr(SETTINGS['rate'])
    rows = []
    for _ in range(SETTINGS['steps']):
        losses = model.bbox_head.loss(model(tensors(arrays)), batch_of(arrays))
        sum(losses.values()).backward()
        adamw.step()
        adamw.clear_grad()
        rows.append([losses[name].item() for name in LOSSES])

    np.testing.assert_allclose(rows, theirs['losses'], rtol=1e-5)
    # Adam makes full steps even of gradients that are only rounding, and in their direction. Such
    # entries, one in some tensors, count only towards the limit of whole tensors
    whole, sure = {}, {}
    for name, p in model.named_parameters():
        if p.stop_gradient:
            continue
        after = theirs[f'after:{name}']
        size = np.linalg.norm(after)
        error = p.numpy() - after
        gradient = np.abs(theirs[f'gradient:{name}'])
        whole[name] = np.linalg.norm(error) / size
        sure[name] = np.linalg.norm(error[gradient > 1e-5 * gradient.max()]) / size
    report(f'GFL {norm} steps', whole=max(whole.values()), sure=max(sure.values()))
    assert max(whole.values()) < 1e-4, max(whole, key=whole.get)
    assert max(sure.values()) < 1e-6, max(sure, key=sure.get)
