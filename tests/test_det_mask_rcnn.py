"""Mask R-CNN's parts by hand in NumPy; the whole against mmdetection is in tests/originals."""

import copy
from collections import Counter

import numpy as np
import paddle
import pytest
import toy
from paddle.vision import ops
from readings import Readings

from det import boxes as geometry
from det import config, train
from det.paste import paste
from det.roi import MAERoIHead, Pooler, mask_targets
from det.roi_align import roi_align
from det.rpn import MAERPNHead, anchors_of
from det.targets import decode, encode, sample
from engine_loop import Run
from util.errors import InputError

NANO = 'det/configs/mask_rcnn_mae/mask_rcnn_mae_nano_digits.yml'
TINY = (
    'MAEViT.embed_dim=24 MAEViT.depth=2 MAEViT.global_attn_indexes=[1] MAEViT.out_indices=[1] '
    'MAEViT.img_size=[32,48] MAEViT.pretrain_img_size=32 SimpleFeaturePyramid.out_channel=8 '
    'MAERoIHead.box_width=16 MAERoIHead.batch_size=16'
).split()
BOXES = np.array([[2, 3, 20, 25], [24, 4, 45, 30]], 'float32')


def test_anchors_have_one_area_and_three_shapes():
    anchors = anchors_of((2, 3), stride=4, side=32, ratios=(0.5, 1.0, 2.0))
    assert anchors.shape == (18, 4)
    np.testing.assert_allclose(geometry.areas(anchors), 1024, rtol=1e-5)
    np.testing.assert_allclose(anchors[1], [-16, -16, 16, 16])
    second_row = anchors[9 + 2]  # twice as high as wide
    wide, high = second_row[2:] - second_row[:2]
    assert high == pytest.approx(2 * wide)
    np.testing.assert_allclose((second_row[:2] + second_row[2:]) / 2, [0, 4], atol=1e-5)


def test_decode_undoes_encode_and_limits_growth():
    weights = (10.0, 10.0, 5.0, 5.0)
    boxes = np.array([[0, 0, 10, 20], [5, 5, 25, 15]], 'float32')
    deltas = encode(boxes, BOXES, weights)
    np.testing.assert_allclose(decode(boxes, deltas, weights), BOXES, atol=1e-4)
    np.testing.assert_allclose(deltas[0], [6, 2, 5 * np.log(1.8), 5 * np.log(1.1)], atol=1e-5)
    grown = decode(boxes[:1], np.full([1, 4], 1e6, 'float32') * [0, 0, 1, 1], weights)
    assert grown[0, 2] - grown[0, 0] == pytest.approx(10 * 1000 / 16)


def test_samples_are_drawn_without_repetition_and_filled_up():
    rng = np.random.default_rng(0)
    positive, negative = sample(np.arange(50), np.arange(50, 90), 32, 0.25, rng)
    assert len(set(positive)) == 8 and len(set(negative)) == 24
    positive, negative = sample(np.arange(3), np.arange(3, 90), 32, 0.25, rng)
    assert len(positive) == 3 and len(negative) == 29


def test_the_best_anchor_of_a_box_is_positive_for_the_box_it_overlaps_most():
    """As in detectron2: it is no target of the box that it is the best of."""
    head = MAERPNHead(8, [4])
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 4]], 'float32')
    anchors = np.array([[0, 0, 10, 8], [50, 50, 60, 60], [0, 0, 10, 20]], 'float32')
    (labels, matches), (without, _) = head.match(anchors, [truth, truth[:0]])
    assert labels.tolist() == [1, 0, -1]  # overlaps .8 and .5; none; .5
    assert matches[0] == 0
    assert without.tolist() == [0, 0, 0]


def test_proposals_of_training_and_detection_are_the_same():
    head = MAERPNHead(8, [4, 8], before_nms=[60, 60], after_nms=[30, 30])
    rng = np.random.default_rng(0)
    anchors = head.anchors([(6, 8), (3, 4)])
    logits = [rng.normal(size=(1, len(a))).astype('float32') for a in anchors]
    deltas = [rng.normal(size=(1, len(a), 4)).astype('float32') * 0.3 for a in anchors]
    shape = np.array([[24, 32]], 'float32')
    tensors = ([paddle.to_tensor(x) for x in part] for part in (logits, deltas))
    (trained,) = head.proposals(*tensors, anchors, shape)
    found = head.propose([x[0] for x in logits], [x[0] for x in deltas], anchors, shape[0])
    np.testing.assert_allclose(found, trained, atol=1e-4)
    assert 0 < len(found) <= 30
    assert found.min() >= 0 and found[:, 2].max() <= 32


def test_boxes_go_to_the_map_of_their_size_and_come_back_in_order():
    pooler = Pooler([4, 8, 16, 32], canonical_size=224)
    sides = np.array([100, 112, 223, 225, 448, 3000, 10], 'float32')
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    assert pooler.levels(boxes).tolist() == [0, 1, 1, 2, 3, 3, 0]

    parts, counts, places = pooler.split([boxes[:3], boxes[3:]])
    np.testing.assert_array_equal(np.concatenate(parts)[places], boxes)
    assert np.array(counts).tolist() == [[1, 1], [2, 0], [0, 1], [0, 2]]
    parts, counts, places = pooler.split([boxes[:0]])
    assert len(places) == 0 and [len(part) for part in parts] == [1] * 4


def test_boxes_of_maps_in_low_precision_are_pooled_in_float32():
    """Paddle has no other RoIAlign, on GPUs neither."""
    pooler = Pooler([4, 8], canonical_size=224)
    maps = [paddle.randn([1, 2, side, side]).astype('float16') for side in (16, 8)]
    boxes = [np.array([[3, 5, 40, 60], [8, 8, 10, 40]], 'float32')]
    found = pooler(maps, boxes, 7)
    assert found.dtype == paddle.float32
    expected = pooler([x.astype('float32') for x in maps], boxes, 7)
    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_masks_of_targets_are_cut_out_and_halved():
    bitmaps = np.zeros([2, 40, 40], 'uint8')
    bitmaps[0, :, 20:] = 1
    bitmaps[1, 10:] = 1
    boxes = np.array([[6, 0, 34, 28], [6, 0, 34, 28], [0, 0, 28, 28]], 'float32')
    targets = mask_targets(bitmaps, boxes, np.array([1, 0, 1])).numpy()
    np.testing.assert_array_equal(targets[0], bitmaps[1, :28, 6:34])
    np.testing.assert_array_equal(targets[1], bitmaps[0, :28, 6:34])
    np.testing.assert_array_equal(targets[2], bitmaps[1, :28, :28])


def test_a_pasted_mask_is_bilinear_between_its_cells():
    mask = np.zeros([4, 4], 'float32')
    mask[1:3, 1:3] = 1
    whole = paste(mask[None], np.array([[2, 3, 6, 7]], 'float32'), (12, 10))
    assert whole[0].nonzero()[0].tolist() == [4, 4, 5, 5]  # one cell is one pixel
    assert whole[0].nonzero()[1].tolist() == [3, 4, 3, 4]
    large = paste(np.ones([1, 28, 28]), np.array([[-5, -5, 40, 40]], 'float32'), (12, 10))
    assert large.all()
    assert paste(np.zeros([0, 28, 28]), np.zeros([0, 4]), (12, 10)).shape == (0, 12, 10)


def test_roi_align_is_the_mean_of_samples():
    """Paddle's, with one sample a pixel: the mean of a linear map is its value at the centre."""
    rows, columns = np.mgrid[:16, :16].astype('float32')
    image = paddle.to_tensor((2 * rows + columns)[None, None])
    box = paddle.to_tensor([[3.0, 2.0, 11.0, 14.0]])
    found = ops.roi_align(image, box, paddle.to_tensor([1], 'int32'), 2, sampling_ratio=0)
    centers = [[2 * y + x - 1.5 for x in (5, 9)] for y in (5, 11)]
    np.testing.assert_allclose(found[0, 0], centers, rtol=1e-5)


def test_the_gradient_of_narrow_boxes_is_right_here_and_wrong_in_paddle():
    """If this fails because Paddle is right, det/roi_align.py can go."""
    boxes = np.array([[7.1, 3, 7.8, 9.6], [12, 12, 15.5, 16]], 'float32')
    values = np.random.default_rng(0).normal(size=(2, 16, 16)).astype('float32')
    x, y = (paddle.to_tensor(values, stop_gradient=False) for _ in range(2))
    ours = roi_align(x, boxes, 3)
    count = paddle.to_tensor([2], 'int32')
    theirs = ops.roi_align(y[None], paddle.to_tensor(boxes), count, 3, sampling_ratio=0)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

    # the features are linear in the map, so their sum is the product of map and gradient
    for feature in (0, 1):
        (of_ours,) = paddle.grad(ours[feature, 0].sum(), x, retain_graph=True)
        (of_theirs,) = paddle.grad(theirs[feature, 0].sum(), y, retain_graph=True)
        total = ours[feature, 0].sum().item()
        assert (of_ours * x).sum().item() == pytest.approx(total, rel=1e-4)
        is_right = (of_theirs * y).sum().item() == pytest.approx(total, rel=1e-4)
        assert is_right == (feature == 1)


@pytest.fixture(scope='module')
def tiny():
    paddle.seed(0)
    return config.build(config.load(NANO, TINY), NANO)


def batch(boxes):
    """Two images of 32 x 48 pixels with these boxes, whose masks fill them."""
    masks = np.zeros([len(boxes), 32, 48], 'uint8')
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
    return {
        'image': paddle.randn([2, 3, 32, 48]),
        'im_shape': np.array([[32, 48]] * 2, 'float32'),
        'scale_factor': np.array([[2, 2], [0.5, 0.5]], 'float32'),
        'origin_shape': np.array([[16, 24], [64, 96]]),
        'gt_bbox': [boxes] * 2,
        'gt_class': [np.arange(len(boxes))] * 2,
        'gt_segm': [masks] * 2,
        'draws': [1, 2],
    }


def test_losses_repeat_with_the_draws_and_every_parameter_learns(tiny):
    tiny.train()
    example = batch(BOXES)
    first, again = tiny(example), tiny(example)
    assert {name: loss.item() for name, loss in first.items()} == {
        name: loss.item() for name, loss in again.items()
    }
    assert list(first) == ['loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask']
    sum(first.values()).backward()
    assert all(parameter.grad is not None for parameter in tiny.parameters())
    tiny.clear_gradients()


def test_a_step_reads_anchors_and_proposals_once_and_nothing_else(tiny, monkeypatch):
    """Which boxes are sampled depends on their values; so it is in PaddleDetection."""
    batches = [batch(BOXES)] * 4
    model = copy.deepcopy(tiny)
    run = Run(model, toy.sgd(model), toy.Data(batches), toy.flags(print_freq=3))
    readings = Readings(monkeypatch)
    waiting = Counter()  # operations that must know how large their result is

    def counted(own):
        def operation(*args, **kwargs):
            waiting[own.__name__, readings.iteration] += 1
            return own(*args, **kwargs)

        return operation

    monkeypatch.setattr(paddle, 'nonzero', counted(paddle.nonzero))
    monkeypatch.setattr(ops, 'nms', counted(ops.nms))
    for _ in run.epochs():
        train.train_one_epoch(run)
    assert readings.of(4) == [3, 2, 2, 3]
    maps = 2 * len(model.neck.out_shape)  # of two images
    for iteration in range(4):
        assert waiting['nonzero', iteration] == waiting['nms', iteration] == maps


def test_images_without_boxes_train_the_background(tiny):
    tiny.train()
    losses = tiny(batch(BOXES[:0]))
    values = {name: loss.item() for name, loss in losses.items()}
    assert values['loss_rpn_bbox'] == values['loss_bbox'] == values['loss_mask'] == 0
    assert values['loss_rpn_cls'] > 0 and values['loss_cls'] > 0
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in tiny.parameters())
    tiny.clear_gradients()


def test_bad_samples_are_named(tiny):
    tiny.train()
    example = batch(BOXES)
    with pytest.raises(InputError, match='set TrainDataset.with_masks to true'):
        tiny({name: value for name, value in example.items() if name != 'gt_segm'})
    with pytest.raises(InputError, match='class 3, counted from 0, but num_classes is 3'):
        tiny(example | {'gt_class': [np.array([0, 3])] * 2})


def test_detections_lie_in_the_original_picture(tiny):
    tiny.eval()
    tiny.score_threshold = 0.2
    stages = tiny.stages()

    @paddle.no_grad()
    def run(name, *inputs):
        outputs = stages[name](*[paddle.to_tensor(array) for array in inputs])
        return [output.numpy() for output in outputs]

    example = batch(BOXES)
    shapes = {name: example[name] for name in ('im_shape', 'scale_factor', 'origin_shape')}
    found = tiny.detect(run, example['image'].numpy(), shapes)
    for one, (height, width) in zip(found, example['origin_shape']):
        assert 0 < len(one) <= 100
        assert one.masks.shape == (len(one), height, width) and one.masks.dtype == bool
        assert (one.boxes >= 0).all() and (one.boxes <= [width, height] * 2).all()
        assert (np.diff(one.scores) <= 0).all()
    tiny.score_threshold = 1.0
    assert [len(one) for one in tiny.detect(run, example['image'].numpy(), shapes)] == [0, 0]
    tiny.score_threshold = 0.05


@pytest.mark.parametrize(
    'name',
    [
        'mae_base',
        'vitdet_base',
        *(pytest.param(name, marks=pytest.mark.slow) for name in ('mae_large', 'vitdet_large')),
    ],
)
def test_published_configs_can_be_built(name):
    taps = '[0,1]' if name.startswith('vitdet') else '[0,1,2,3]'
    small = (
        f'MAEViT.embed_dim=24 MAEViT.depth=4 MAEViT.num_heads=2 MAEViT.out_indices={taps} '
        'MAEViT.global_attn_indexes=[1,3] MAERoIHead.box_width=8'
    ).split()
    path = f'det/configs/mask_rcnn_mae/mask_rcnn_{name}_100e_coco.yml'
    model = config.build(config.load(path, small), path)
    assert model.neck.strides == [4, 8, 16, 32, 64]
    assert isinstance(model.roi_head, MAERoIHead)
    assert model.roi_head.num_classes == 80


STEPS = """
import sys

import util
import numpy as np
import paddle
from test_det_mask_rcnn import NANO, TINY, four_images
from det import config
from util import dist, replicas

dist.begin()
paddle.seed(3)
model = config.build(config.load(NANO, TINY), NANO)
model.train()
network = replicas.wrap(model)
share = 4 // dist.world_size()
first = dist.rank() * share


def part(batch, begin, end):
    return {name: value[begin:end] for name, value in batch.items()}


def values(losses):
    return [loss.item() for loss in losses.values()]


# Images whose ranks have samples of unequal numbers: one process takes the two parts in turn
uneven = four_images((1, 0, 3, 9))
parts = [part(uneven, first, first + share)] if share == 2 else [
    part(uneven, 0, 2), part(uneven, 2, 4)
]
apart = dist.mean(np.mean([values(model(one)) for one in parts], axis=0).tolist())

before = {name: p.numpy() for name, p in model.named_parameters()}
sgd = paddle.optimizer.SGD(0.05, parameters=model.parameters())
batch = part(four_images((4, 6, 9, 5)), first, first + share)
rows = []
for _ in range(2):
    losses = network(batch)
    sum(losses.values()).backward()
    replicas.average_gradients(model.parameters())
    sgd.step()
    sgd.clear_grad()
    rows.append(dist.mean(values(losses)))
if dist.is_main():
    change = {name: p.numpy() - before[name] for name, p in model.named_parameters()}
    np.savez(sys.argv[1], losses=np.array(rows), apart=np.array(apart), **change)
"""


def four_images(counts):
    """A batch of images with so many objects, and a seed of the draws for each."""
    rng = np.random.default_rng(0)
    batch = {'image': paddle.to_tensor(rng.normal(size=[4, 3, 32, 48]).astype('float32'))}
    batch |= {'gt_bbox': [], 'gt_class': [], 'gt_segm': []}
    for count in counts:
        low = rng.integers(0, [32, 20], [count, 2])
        boxes = np.concatenate([low, low + rng.integers(5, 12, [count, 2])], axis=1)
        masks = np.zeros([count, 32, 48], 'uint8')
        for mask, (x1, y1, x2, y2) in zip(masks, boxes):
            mask[y1:y2, x1:x2] = 1
        batch['gt_bbox'].append(boxes.astype('float32'))
        batch['gt_class'].append(np.arange(count) % 3)
        batch['gt_segm'].append(masks)
    return batch | {'im_shape': np.array([[32, 48]] * 4, 'float32'), 'draws': [5, 6, 7, 8]}


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(one_and_two):
    """The comparison uses plain SGD: Adam would turn gradients that are rounding into full steps.

    Each rank divides by the counts of its own samples, as mmdetection does. So two processes equal
    one where every image has its full share of samples, 4 of 16 positive: at least 4 objects. With
    fewer, each process equals one that has its part of the images alone.
    """
    one, two = one_and_two(STEPS)
    np.testing.assert_allclose(two.pop('apart'), one.pop('apart'), rtol=1e-5)
    np.testing.assert_allclose(two.pop('losses'), one.pop('losses'), rtol=1e-4)
    for name, change in one.items():
        largest = np.abs(change).max()
        assert largest > 0, name
        np.testing.assert_allclose(
            two[name], change, atol=1e-4 * largest + 1e-7, rtol=0, err_msg=name
        )
