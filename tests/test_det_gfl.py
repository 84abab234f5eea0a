"""GFL over UM-MAE's encoders: assignment, losses, decoding, and what users can get wrong."""

import itertools
import math

import numpy as np
import paddle
import pytest
import toy
from conftest import ROOT
from readings import Readings

import det  # noqa: F401  which registers the components
import models_zoo
from det import atss, boxes, config, losses, optimizer, train
from det.gfl import MAEGFL, MAEGFLHead
from det.gfl_decoder import GFLDecoder
from det.inference import detect, live
from det.neck import MAEFPN
from det.pyramid import MAEPVT, MAESwin
from engine_loop import Run
from util.errors import InputError

SWIN = dict(embed_dim=8, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window=4, posmlp_dim=4)
PVT = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), pretrain_size=64)
STRIDES = [8, 16, 32, 64, 128]


def backbone(name, **more):
    family, settings = {'swin': (MAESwin, SWIN), 'pvt': (MAEPVT, PVT)}[name]
    return family(**{**settings, 'fpn_out_dim': 16, **more})


def detector(name='swin', **more):
    """A small detector of three classes."""
    neck = MAEFPN([16] * 4, out_channels=32, norm_type='gn')
    head = MAEGFLHead(3, 32, 32, 1, strides=STRIDES)
    return MAEGFL(backbone(name, **more), neck, head)


def a_batch(objects, classes, size=(96, 128)):
    rng = np.random.default_rng(0)
    count = len(objects)
    images = rng.normal(size=[count, 3, *size]).astype('float32')
    return {
        'image': paddle.to_tensor(images),
        'gt_bbox': [np.array(array, 'float32').reshape(-1, 4) for array in objects],
        'gt_class': [np.array(array, 'int64') for array in classes],
        'im_shape': np.array([size] * count, 'float32'),
        'scale_factor': np.ones([count, 2], 'float32'),
        'origin_shape': np.array([size] * count),
    }


def some_objects(rng, count, height, width):
    """Boxes of all sizes; some lie at the border."""
    sides = np.exp(rng.uniform(np.log(3), np.log(max(height, width)), [count, 2]))
    middles = rng.random([count, 2]) * [width, height]
    corners = np.concatenate([middles - sides / 2, middles + sides / 2], 1)
    return corners.clip(0, [width, height, width, height]).astype('float32')


# ---- assignment


def grids_of(height, width, strides=STRIDES):
    return [atss.Grid(math.ceil(height / s), math.ceil(width / s), s) for s in strides]


def by_the_paper(objects, grids, shape, topk):
    """ATSS with all distances and overlaps, one anchor after the other: {anchor: object}."""
    centers, sides, levels = [], [], []
    for grid in grids:
        first = len(centers)
        inside = []
        for row, column in itertools.product(range(grid.rows), range(grid.columns)):
            x, y = column * grid.stride, row * grid.stride
            if y < shape[0] and x < shape[1]:
                inside.append(first + row * grid.columns + column)
            centers.append((x, y))
            sides.append(8 * grid.stride)
        levels.append(inside)

    found = {}
    for number, (x1, y1, x2, y2) in enumerate(objects.astype('float64')):
        candidates = []
        for level in levels:
            far = [math.dist(centers[i], ((x1 + x2) / 2, (y1 + y2) / 2)) for i in level]
            candidates += [level[place] for place in np.argsort(far)[:topk]]
        overlaps = []
        for i in candidates:
            (x, y), half = centers[i], sides[i] / 2
            across = max(0, min(x2, x + half) - max(x1, x - half))
            down = max(0, min(y2, y + half) - max(y1, y - half))
            union = (x2 - x1) * (y2 - y1) + sides[i] ** 2 - across * down
            overlaps.append(across * down / union)
        mean = sum(overlaps) / len(overlaps)
        variance = sum((o - mean) ** 2 for o in overlaps) / (len(overlaps) - 1)
        for i, overlap in zip(candidates, overlaps):
            x, y = centers[i]
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            if overlap >= mean + math.sqrt(variance) and inside:
                best, _ = found.get(i, (0, None))
                if overlap > best:
                    found[i] = overlap, number
    return {i: number for i, (_, number) in found.items()}


@pytest.mark.parametrize(
    'size, shape, strides, topk',
    [
        ((128, 160), (128, 160), STRIDES, 9),
        ((128, 160), (96, 100), STRIDES, 9),  # an image in a larger batch
        ((96, 32), (96, 32), STRIDES, 9),  # levels with fewer anchors than topk
        ((64, 96), (64, 96), [4, 8, 16, 32], 3),
    ],
)
def test_anchors_are_assigned_as_in_the_paper(size, shape, strides, topk):
    grids = grids_of(*size, strides)
    positives = 0
    for seed in range(4):
        objects = some_objects(np.random.default_rng(seed), 12, *shape)
        found = atss.assign(objects, grids, shape, topk)
        expected = by_the_paper(objects, grids, shape, topk)
        assert dict(zip(found.anchors.tolist(), found.objects.tolist())) == expected
        assert (np.diff(found.anchors) > 0).all()
        positives += len(expected)
    assert positives > 40


def test_objects_beside_the_image_or_between_anchors_take_none():
    grids = grids_of(64, 64)
    between = np.array([[9, 9, 15, 15]], 'float32')  # no multiple of 8 inside
    assert len(atss.assign(between, grids, (64, 64)).anchors) == 0
    outside = np.array([[200, 300, 250, 380]], 'float32')
    assert len(atss.assign(outside, grids, (64, 64)).anchors) == 0
    assert len(atss.assign(np.zeros([0, 4], 'float32'), grids, (64, 64)).anchors) == 0


def test_each_image_counts_as_one_positive_at_least():
    grids = grids_of(64, 64)
    objects = [np.array([[3, 3, 60, 60]], 'float32'), np.zeros([0, 4], 'float32')]
    classes = [np.array([2]), np.zeros([0], 'int64')]
    found = atss.targets(grids, [(64, 64), (32, 64)], objects, classes)
    assert found.total == len(found.positive) + 1 and (found.classes == 2).all()
    assert (found.positive < len(found.valid) / 2).all()
    anchors = sum(grid.size for grid in grids)
    lost = anchors - found.valid[anchors:].sum()
    assert found.valid[:anchors].all() and lost == 4 * 8 + 2 * 4 + 2  # the lower half


# ---- boxes and decoding


def test_boxes_of_a_class_suppress_each_other_from_the_best_on():
    corners = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 5], [50, 50, 60, 60]], 'float32'
    )
    scores = np.array([0.5, 0.9, 0.8, 0.3, 0.2], 'float32')
    classes = np.array([0, 0, 1, 0, 0])
    kept = boxes.suppress(corners, scores, classes, threshold=0.6, most=100)
    assert kept.tolist() == [1, 2, 3, 4]  # box 0 overlaps box 1 by .9; box 3 by 5 / 9
    assert boxes.suppress(corners, scores, classes, threshold=0.5, most=2).tolist() == [1, 2]
    nothing = boxes.suppress(corners[:0], scores[:0], classes[:0], threshold=0.5, most=2)
    assert nothing.shape == (0,)


def test_one_certain_place_is_decoded_by_hand():
    scores = np.full([1, 3, 4, 5], -20, 'float32')
    bins = np.zeros([1, 4 * 17, 4, 5], 'float32')
    scores[0, 2, 1, 3] = 2.0  # class 2 at row 1, column 3: (24, 8)
    for side, distance in enumerate((1, 0, 2, 9)):  # left, top, right, bottom
        bins[0, 17 * side + distance, 1, 3] = 50
    batch = {'im_shape': [[30, 40]], 'scale_factor': [[0.5, 0.25]]}
    [found] = GFLDecoder([8])([scores, bins], batch)
    # (24 - 8, 8, 24 + 16, 8 + 72), clipped to 40 x 30, in the original picture
    np.testing.assert_allclose(found.boxes, [[64, 16, 160, 60]], rtol=1e-5)
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-2))], rtol=1e-6)
    assert found.classes.tolist() == [2] and found.masks is None


def test_a_level_gives_its_best_pairs_and_a_picture_its_best_objects():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=[2, 3, 8, 8]).astype('float32')
    bins = np.zeros([2, 4 * 17, 8, 8], 'float32')
    bins[:, ::17] = 50  # all distances 0
    bins[:, 1::17] = 51
    batch = {'im_shape': [[64, 64]] * 2, 'scale_factor': [[1, 1]] * 2}
    decoder = GFLDecoder([8], nms_threshold=1.0, nms_top_k=20, keep_top_k=100)
    for found, logits in zip(decoder([scores, bins], batch), scores):
        assert 10 < len(found) <= 20
        best = np.sort(1 / (1 + np.exp(-logits.reshape(-1))))[::-1]
        assert set(found.scores) <= set(best[:20])
        assert (np.diff(found.scores) <= 0).all() and len(found.above(0.9)) < len(found)
    assert all(len(found) == 7 for found in GFLDecoder([8], keep_top_k=7)([scores, bins], batch))


def test_a_detection_threshold_is_not_reached_by_equality():
    scores = np.zeros([1, 1, 1, 1], 'float32')  # scores of 1/2
    bins = np.zeros([1, 8, 1, 1], 'float32')
    batch = {'im_shape': [[64, 64]], 'scale_factor': [[1, 1]]}
    assert len(GFLDecoder([8], score_threshold=0.5)([scores, bins], batch)[0]) == 0
    assert len(GFLDecoder([8], score_threshold=0.49)([scores, bins], batch)[0]) == 1


def test_very_negative_logits_score_0_without_a_warning():
    scores = np.array([-1e4, 2], 'float32').reshape(1, 1, 1, 2)
    bins = np.ones([1, 8, 1, 2], 'float32')
    batch = {'im_shape': [[64, 64]], 'scale_factor': [[1, 1]]}
    with np.errstate(all='raise'):
        [found] = GFLDecoder([8])([scores, bins], batch)
    np.testing.assert_allclose(found.scores, [1 / (1 + math.exp(-2))], rtol=1e-6)


# ---- losses


def test_losses_of_one_box_by_hand():
    predicted = paddle.to_tensor([[0.0, 0.0, 4.0, 4.0]])
    target = paddle.to_tensor([[2.0, 0.0, 6.0, 4.0]])
    assert losses.ious(predicted, target).item() == pytest.approx(8 / 24)
    assert losses.giou(predicted, target).item() == pytest.approx(1 - 8 / 24 + 0)
    apart = paddle.to_tensor([[8.0, 0.0, 12.0, 4.0]])
    assert losses.giou(predicted, apart).item() == pytest.approx(1 + 16 / 48)

    logits = paddle.zeros([1, 4, 17])
    distances = paddle.to_tensor([[0.0, 1.25, 15.9, 3.5]])
    found = losses.distribution_focal(logits, distances)
    np.testing.assert_allclose(found.numpy(), np.full([1, 4], math.log(17)), rtol=1e-6)
    assert losses.expected_distances(logits).numpy() == pytest.approx(np.full([1, 4], 8.0))

    score = 1 / (1 + math.exp(-0.5))
    entropy = -0.7 * math.log(score) - 0.3 * math.log(1 - score)
    found = losses.quality_focal(paddle.to_tensor([[0.5]]), paddle.to_tensor([[0.7]]))
    assert found.item() == pytest.approx(entropy * (0.7 - score) ** 2, rel=1e-5)


@pytest.mark.parametrize('objects', [[[], []], [[[9, 9, 15, 15]], []]], ids=['none', 'between'])
def test_images_without_positive_anchors_teach_the_background(objects):
    model = detector()
    found = model(a_batch(objects, [[0] * len(array) for array in objects]))
    assert found['loss_bbox'].item() == found['loss_dfl'].item() == 0
    assert found['loss_cls'].item() > 0
    sum(found.values()).backward()
    for name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            assert np.isfinite(parameter.grad.numpy()).all(), name


def test_losses_are_float32_whatever_the_maps_are():
    model = detector()
    batch = a_batch([[[10, 10, 70, 80]]], [[1]])
    maps = model.bbox_head(model.neck(model.backbone(batch['image'])))
    exact = model.bbox_head.loss(maps, batch)
    halves = [x.astype('float16') for x in maps]
    with paddle.amp.auto_cast(False):
        found = model.bbox_head.loss(halves, batch)
    for name, loss in found.items():
        assert loss.dtype == paddle.float32
        assert loss.item() == pytest.approx(exact[name].item(), rel=1e-2)


# ---- the model


def test_a_detectors_optimizer_moves_nothing_at_an_overflow(monkeypatch):
    model = detector()
    section = {'optimizer': {'layer_decay': 0.9}, 'clip_grad_by_norm': 1.0}
    made, limit = optimizer.build(section, model)
    image = a_batch([[]], [[]], (64, 64))['image']
    toy.overflow(
        monkeypatch,
        model,
        made,
        lambda: model.backbone(image)[1].square().mean(),
        model.backbone.blocks[0].mlp.fc1.bias,
        clip_grad=limit,
    )


@pytest.mark.parametrize('name', ['swin', 'pvt'])
def test_a_step_reaches_all_parameters_but_the_unused_projection(name):
    model = detector(name)
    found = model(a_batch([[[10, 10, 70, 80], [60, 20, 90, 50]], []], [[1, 2], []]))
    assert found.keys() == {'loss_cls', 'loss_bbox', 'loss_dfl'}
    sum(found.values()).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {
        f'backbone.up1.{part}' for part in ('0.weight', '0.bias', '1.weight', '1.bias')
    }
    assert [x is None for x in model.backbone(paddle.zeros([1, 3, 32, 32]))] == [True] + [False] * 3


def test_a_step_that_logs_nothing_reads_nothing_from_the_device(monkeypatch):
    model = detector()
    batches = [a_batch([[[10, 10, 70, 80], [60, 20, 90, 50]], []], [[1, 2], []])] * 4
    run = Run(model, toy.sgd(model), toy.Data(batches), toy.flags(print_freq=3))
    readings = Readings(monkeypatch)
    for _ in run.epochs():
        stats = train.train_one_epoch(run)
    assert readings.of(4) == [1, 0, 0, 1] and stats['loss_dfl'] > 0


def test_detections_come_from_any_size_of_image():
    model = detector()
    model.bbox_head.gfl_cls.bias.set_value(paddle.zeros([3]))  # scores of about 1/2
    model.eval()
    for size in ((96, 128), (160, 32)):
        found = detect(model, live(model), a_batch([[], []], [[], []], size))
        for detections in found:
            assert 5 < len(detections) <= 100
            corners = detections.boxes
            assert (corners >= 0).all() and (corners <= [size[1], size[0]] * 2).all()


def test_a_fresh_head_gives_each_class_a_score_of_one_percent():
    head = MAEGFLHead(3, 32, 32, 2)
    maps = head([paddle.zeros([1, 32, 4, 4])] * 5)
    assert maps[0].numpy() == pytest.approx(math.log(0.01 / 0.99), rel=1e-4)
    for name, parameter in head.named_parameters():
        if name.endswith('.weight') and parameter.ndim == 4:
            assert parameter.numpy().std() == pytest.approx(0.01, rel=0.1), name
    assert [scale.scale.item() for scale in head.scales] == [1] * 5


@pytest.mark.slow
def test_the_published_detectors_have_the_originals_sizes():
    """Parameters counted by hand from the settings of UM-MAE's configs."""
    neck = 3 * (768 * 256 + 2 * 256) + 5 * (9 * 256**2 + 2 * 256)
    towers = 8 * (9 * 256**2 + 2 * 256)
    head = towers + 9 * 256 * (80 + 68) + 80 + 68 + 5
    for name, widths in (
        ('swin_tiny', (96, 192, 384, 768)),
        ('pvt_small', (64, 128, 320, 512)),
    ):
        path = str(ROOT / f'det/configs/gfl_um_mae/gfl_um_mae_{name}_25e_coco.yml')
        model = config.build(config.load(path), path)
        counts = {}
        for key, parameter in model.named_parameters():
            if not key.endswith(('_mean', '_variance')):
                part = key.split('.')[0]
                counts[part] = counts.get(part, 0) + parameter.size
        classifier = models_zoo.classifier(f'{name}_256')
        encoder = sum(
            p.size
            for key, p in classifier.named_parameters()
            if not key.startswith(('head', 'fc_'))
        )
        ups = sum(2 * width + 768 * width + 768 for width in widths)
        assert counts == {'backbone': encoder + ups, 'neck': neck, 'bbox_head': head}
        assert [shape.stride for shape in model.neck.out_shape] == STRIDES


@pytest.mark.parametrize('name', ['swin_nano_32', 'pvt_nano_32'])
def test_a_detectors_encoder_begins_from_a_classifier(name, tmp_path):
    classifier = models_zoo.classifier(name, num_classes=5)
    settings = dict(models_zoo.models_sizes.PYRAMIDS[name])
    path = str(tmp_path / 'classifier.pd')
    paddle.save({'model': classifier.state_dict()}, path)
    family = MAEPVT if name.startswith('pvt') else MAESwin
    if family is MAEPVT:
        settings['pretrain_size'] = 32
    encoder = family(**settings, fpn_out_dim=16, pretrained=path)
    own = encoder.state_dict()
    for key, value in classifier.state_dict().items():
        if not key.startswith(('head', 'fc_norm')):
            np.testing.assert_array_equal(own[key].numpy(), value.numpy(), err_msg=key)


def test_a_detector_begins_from_a_detector_of_other_classes(tmp_path):
    trained = detector()
    path = str(tmp_path / 'detector.pd')
    paddle.save({'model': trained.state_dict()}, path)
    paddle.seed(2)
    neck = MAEFPN([16] * 4, out_channels=32, norm_type='gn')
    head = MAEGFLHead(4, 32, 32, 1, strides=STRIDES)
    other = MAEGFL(backbone('swin'), neck, head)
    start = models_zoo.start_from(other, path)
    assert start.dropped == ['bbox_head.gfl_cls.weight', 'bbox_head.gfl_cls.bias']
    for key, value in other.state_dict().items():
        if 'gfl_cls' not in key:
            np.testing.assert_array_equal(value.numpy(), trained.state_dict()[key].numpy())


@pytest.mark.parametrize(
    'wrong, message',
    [
        (lambda: detector()(a_batch([[[1, 1, 9, 9]]], [[3]])), 'class 3, .* but num_classes is 3'),
        (lambda: backbone('swin')(paddle.zeros([1, 3, 40, 32])), '40 x 32 .*size_divisor: 32'),
        (lambda: backbone('pvt')(paddle.zeros([1, 1, 32, 32])), 'have 1 channels, .* takes 3'),
        (lambda: MAEFPN(norm_type='bn'), "norm_type is sync_bn, gn or none, not 'bn'"),
        (lambda: MAEFPN(start_level=4), '4 maps from start_level 4 on cannot become num_outs 5'),
        (lambda: MAEFPN(num_outs=2), '4 maps from start_level 1 on cannot become num_outs 2'),
        (lambda: MAEGFLHead(3, 48, 48), '32 groups of normalisation do not divide 48 channels'),
    ],
)
def test_bad_input_is_named(wrong, message):
    with pytest.raises(InputError, match=message) as error:
        wrong()
    assert '\n' not in str(error.value)


STEPS = """
import sys

import util
import numpy as np
import paddle
from test_det_gfl import a_batch, detector, some_objects
from util import dist, replicas

dist.begin()
paddle.seed(3)
model = detector(drop_path_rate=0.0)
model.bbox_head.gfl_cls.bias.set_value(paddle.zeros([3]))
network = replicas.wrap(model)
sgd = paddle.optimizer.SGD(0.001, parameters=model.parameters())
rng = np.random.default_rng(0)
objects = [some_objects(rng, count, 96, 128) for count in (4, 0, 9, 2)]
batch = a_batch(objects, [np.arange(len(array)) % 3 for array in objects])
share = 4 // dist.world_size()
mine = slice(dist.rank() * share, (dist.rank() + 1) * share)
batch = {name: value[mine] for name, value in batch.items()}
rows = []
for _ in range(3):
    losses = network(batch)
    sum(losses.values()).backward()
    replicas.average_gradients(model.parameters())
    sgd.step()
    sgd.clear_grad()
    rows.append(dist.mean([loss.item() for loss in losses.values()]))
if dist.is_main():
    state = {name: p.numpy() for name, p in model.named_parameters()}
    np.savez(sys.argv[1], losses=np.array(rows), **state)
"""


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(one_and_two):
    """The comparison uses group normalisation, no drop path and plain SGD.

    Batch normalisation over processes needs GPUs, drop path is drawn for each rank, and Adam would
    turn gradients that are only rounding into full steps. The ranks have 4 and 11 objects. Scores
    begin at 1/2: while those of all positive anchors of a rank add up to less than 1, the losses of
    boxes are divided by 1, in the original as well, so that more processes learn more slowly.
    """
    one, two = one_and_two(STEPS)
    np.testing.assert_allclose(two['losses'], one['losses'], rtol=1e-5)
    assert (np.diff(one['losses'].sum(axis=1)) < 0).all()
    assert np.abs(one['bbox_head.gfl_cls.bias']).max() > 1e-3  # it was 0 before
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=2e-7, err_msg=name)
