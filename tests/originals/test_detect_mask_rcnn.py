"""Mask R-CNN's heads against mmdetection's classes: targets, losses, gradients, steps, detections.

The maps of the pyramid are given (tests/originals/test_detect_vit.py compares those).
"""

import json

import numpy as np
import paddle
import pytest

from det.mask_rcnn import MAEMaskRCNN
from det.roi import MAERoIHead
from det.rpn import MAERPNHead

from .conftest import report

SETTINGS = {
    'channels': 16,
    'width': 32,
    'classes': 3,
    'strides': [4, 8, 16, 32, 64],
    'anchor_scale': 8,
    'rpn_samples': 64,
    'roi_samples': 32,
    'before_nms': 100,
    'after_nms': 60,
    'size': [128, 192],
    'score': 0.05,
    'kept': 20,
    'noise': 0.05,
    'rate': 1e-4,
    'decay': 0.05,
    'steps': 2,
}
# x1 y1 x2 y2; apart from each other, so that no anchor is the best of one and overlaps another more
OBJECTS = [
    [[8, 10, 50.5, 60], [100, 20, 180, 110.25], [40, 80, 70, 120]],
    [],
    [[30, 30, 58, 58], [110, 60, 140, 88]],
]


class Given(paddle.nn.Layer):
    """A backbone that returns given maps."""

    out_shape = ()

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, inputs):
        return self.maps


def example():
    """Maps and objects of three images, one of them without objects, as arrays by name."""
    # of these maps no value before a ReLU is so near 0 that rounding decides (with seed 0 one is)
    rng = np.random.default_rng(1)
    height, width = SETTINGS['size']
    arrays = {'draws': np.array([10, 11, 12])}
    for i, stride in enumerate(SETTINGS['strides']):
        shape = (3, SETTINGS['channels'], height // stride, width // stride)
        arrays[f'map{i}'] = rng.normal(size=shape).astype('float32')
    for i, boxes in enumerate(OBJECTS):
        masks = np.zeros([len(boxes), height, width], 'uint8')
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            rows, columns = np.mgrid[:height, :width]
            down = (rows - (y1 + y2) / 2) / (y2 - y1)
            across = (columns - (x1 + x2) / 2) / (x2 - x1)
            mask[down**2 + across**2 < 0.25] = 1  # an ellipse
        arrays[f'box{i}'] = np.array(boxes, 'float32').reshape(-1, 4)
        arrays[f'label{i}'] = np.arange(len(boxes)) % SETTINGS['classes']
        arrays[f'mask{i}'] = masks
    arrays['scale_factor'] = np.array([[2, 2], [1, 1], [0.5, 0.5]], 'float32')
    arrays['origin_shape'] = np.array([[64, 96], [128, 192], [256, 384]])
    return arrays


def model_and_batch(arrays, norm):
    """Our detector over the given maps, and its batch."""
    maps = [paddle.to_tensor(arrays[f'map{i}'], stop_gradient=False) for i in range(5)]
    channels, strides = SETTINGS['channels'], SETTINGS['strides']
    proposal = MAERPNHead(
        channels,
        strides,
        anchor_scale=SETTINGS['anchor_scale'],
        batch_size=SETTINGS['rpn_samples'],
        before_nms=[SETTINGS['before_nms']] * 2,
        after_nms=[SETTINGS['after_nms']] * 2,
    )
    roi = MAERoIHead(
        channels,
        strides[:4],
        SETTINGS['classes'],
        batch_size=SETTINGS['roi_samples'],
        box_width=SETTINGS['width'],
        norm=norm,
    )
    neck = paddle.nn.Identity()
    neck.out_shape = [paddle.static.InputSpec([1])] * 0
    model = MAEMaskRCNN(Given(maps), neck, proposal, roi, kept=SETTINGS['kept'])
    model.grids = lambda height, width: [tuple(x.shape[2:]) for x in maps]
    images = paddle.zeros([3, 3, *SETTINGS['size']])
    batch = {
        'image': images,
        'draws': arrays['draws'],
        'im_shape': np.array([SETTINGS['size']] * 3, 'float32'),
        'scale_factor': arrays['scale_factor'],
        'origin_shape': arrays['origin_shape'],
        'gt_bbox': [arrays[f'box{i}'] for i in range(3)],
        'gt_class': [arrays[f'label{i}'] for i in range(3)],
        'gt_segm': [arrays[f'mask{i}'] for i in range(3)],
    }
    return model, maps, batch


def ours(array):
    """A tensor of the reference as Paddle stores it: matrices of Linear the other way round."""
    return array.T if array.ndim == 2 else array


def apart(found, wanted):
    """The length of the difference, relative to that of what is wanted (itself, if that is 0).

    No anchor of the last map is sampled, so its gradient is 0.
    """
    length = np.linalg.norm(wanted) or 1.0
    return np.linalg.norm(found - wanted) / length


@pytest.mark.parametrize('norm', ['LN', 'BN'])
def test_training_and_detection_are_the_originals(reference, norm):
    arrays = example()
    theirs = reference('detect_mask_rcnn', settings=json.dumps(SETTINGS | {'norm': norm}), **arrays)
    model, maps, batch = model_and_batch(arrays, norm)
    own = dict(model.named_parameters())
    own = {name: p for name, p in own.items() if not name.endswith(('_mean', '_variance'))}
    assert own.keys() == {key[7:] for key in theirs if key.startswith('weight:')}
    for name, parameter in own.items():
        parameter.set_value(ours(theirs[f'weight:{name}']))

    detections_are_theirs(model, batch, theirs)

    # Losses, proposals and gradients
    model.train()
    proposals = []
    losses_of = model.roi_head.losses

    def noting(maps, boxes, batch):
        proposals[:] = boxes
        return losses_of(maps, boxes, batch)

    model.roi_head.losses = noting
    losses = model(batch)
    sum(losses.values()).backward()
    for i, boxes in enumerate(proposals):
        np.testing.assert_allclose(boxes, theirs[f'proposal{i}'], atol=1e-3)
    figures = {}
    for name, loss in losses.items():
        figures[name] = abs(loss.item() / theirs[name].item() - 1)
    gradients = {
        name: apart(parameter.grad.numpy(), ours(theirs[f'gradient:{name}']))
        for name, parameter in own.items()
    }
    for i, x in enumerate(maps):
        gradients[f'map{i}'] = apart(x.grad.numpy(), theirs[f'gradient:map{i}'])
    figures['gradients'] = max(gradients.values())

    # Steps of AdamW
    for parameter in own.values():
        parameter.clear_gradient()
    optimizer = paddle.optimizer.AdamW(
        SETTINGS['rate'], parameters=list(own.values()), weight_decay=SETTINGS['decay']
    )
    sums = []
    for step in range(SETTINGS['steps']):
        loss = sum(model(batch | {'draws': arrays['draws'] + step}).values())
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        sums.append(loss.item())
    figures['losses of steps'] = np.abs(np.array(sums) / theirs['losses'] - 1).max()
    after = {
        name: apart(parameter.numpy(), ours(theirs[f'after:{name}']))
        for name, parameter in own.items()
    }
    figures['weights after steps'] = max(after.values())
    report(norm, **figures)
    worst = [max(found, key=found.get) for found in (gradients, after)]
    assert max(figures.values()) < 1e-4, f'{figures}, worst: {worst}'


def detections_are_theirs(model, batch, theirs):
    """Boxes, scores, classes and masks of all images."""
    model.eval()
    stages = model.stages()

    @paddle.no_grad()
    def run(name, *inputs):
        outputs = stages[name](*[paddle.to_tensor(array) for array in inputs])
        return [output.numpy() for output in outputs]

    shapes = {name: batch[name] for name in ('im_shape', 'scale_factor', 'origin_shape')}
    for i, found in enumerate(model.detect(run, batch['image'].numpy(), shapes)):
        wanted, pasted = theirs[f'found{i}'], theirs[f'pasted{i}']
        assert len(found) == len(wanted) > 0
        np.testing.assert_array_equal(found.classes, wanted[:, 5])
        np.testing.assert_allclose(found.scores, wanted[:, 4], rtol=1e-4)
        np.testing.assert_allclose(found.boxes, wanted[:, :4], atol=1e-2)
        assert found.masks.shape == pasted.shape
        assert (found.masks != pasted).mean() < 1e-4
        assert pasted.any()
