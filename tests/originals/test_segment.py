"""The segmentor against mmsegmentation's classes.

Compared are maps, logits, losses, gradients, statistics and the sliding window. To keep a record of
ViT-B's comparison:

    MAE_REPORTS=reports python -m pytest -m 'parity and full' tests/originals/test_segment.py
"""

import json

import numpy as np
import paddle
import pytest
from conftest import ROOT

import seg  # noqa: F401  which registers and repairs

# isort: split
from paddleseg.core import infer
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.transforms import Compose, Normalize
from paddleseg.utils import metrics

from parity import ladder
from seg import weights
from seg.backbone import MAEViT
from seg.loss import CrossEntropyOverAllPixelsLoss
from seg.model import UPerNetMAE
from seg.optimizer import LayerDecayAdamW
from seg.transforms import ResizeKeepRatio
from util import convert
from util.weights import sha256

from .conftest import keep, parity_record, report

CONFIG = 'seg/configs/upernet_mae/upernet_mae_base_ade20k_512x512_160k.yml'
TINY = dict(
    image=64,
    patch=16,
    width=48,
    depth=4,
    heads=3,
    out_indices=[0, 1, 2, 3],
    channels=32,
    auxiliary=16,
    classes=7,
    window=64,
    stride=43,
)
BASE = dict(
    image=512,
    patch=16,
    width=768,
    depth=12,
    heads=12,
    out_indices=[3, 5, 7, 11],
    channels=768,
    auxiliary=256,
    classes=150,
    window=512,
    stride=341,
)
LENGTHS = "relative: the length of the difference over that of the original's tensor"
DEVIATIONS = [
    'mmsegmentation 1.2.2 on mmcv-lite; BatchNorm for SyncBN, and nothing dropped, '
    'so that results repeat',
    'Gradients and statistics are of 3 images, or the pool of one cell would be normalised over '
    'two values. Gradients are compared by their lengths: of a hundred million ReLUs some stand so '
    'near 0 that rounding decides',
    'Biases that go through 1 x 1 convolutions into batch normalisation, whose gradients are mere '
    'rounding, are left out',
    'Optimizer groups, rates and metrics are compared by tests of their own '
    '(tests/originals/test_segment.py)',
]
NORMALISED_AWAY = {'neck.upsample_4x.0.bias', 'neck.upsample_4x.3.bias', 'neck.upsample_2x.0.bias'}


@pytest.fixture(scope='module')
def climbed():
    """climbed(size, file of the weights, rungs) notes the rungs of ViT-B.

    The record is written after the last test.
    """
    found = {'rungs': []}

    def note(size, file, *rungs):
        if size is BASE:
            found['rungs'] += rungs
            found.setdefault('sha256', sha256(file))

    yield note
    if found['rungs']:
        keep(
            'parity_upernet_vit_base',
            parity_record(
                'UPerNet on vit_base_patch16: Paddle equals mmsegmentation',
                'UPerNet, vit_base_patch16',
                __file__,
                {'file': 'upernet.pth', 'sha256': found['sha256']},
                found['rungs'],
                DEVIATIONS,
            ),
        )


def build(size, path, dropped=0.0):
    """Our model of that size with the weights of mmsegmentation's file."""
    backbone = MAEViT(
        size['image'],
        size['patch'],
        embed_dim=size['width'],
        depth=size['depth'],
        num_heads=size['heads'],
        drop_path_rate=dropped,
        out_indices=size['out_indices'],
    )
    model = UPerNetMAE(size['classes'], backbone, size['channels'], size['auxiliary'], dropped)
    weights.assign_from(model, str(path))
    return model


def given(size, images):
    rng = np.random.default_rng(0)
    side, classes = size['image'], size['classes']
    labels = rng.integers(0, classes, [images, side, side])
    labels[rng.random(labels.shape) < 0.2] = 255
    # Patches of colour, so that the images' means differ: over pure noise, batch normalisation of
    # the pool of one cell would divide by almost zero
    colors = np.kron(rng.normal(size=[images, 3, 4, 4]), np.ones([side // 4, side // 4]))
    return {
        'images': (colors + rng.normal(size=colors.shape) / 2).astype('float32'),
        'labels': labels,
    }


def largest(ours, theirs):
    assert ours.shape == theirs.shape and np.isfinite(theirs).all()
    return np.abs(ours - theirs).max()


@pytest.mark.parametrize(
    'size', [TINY, pytest.param(BASE, marks=pytest.mark.full)], ids=['tiny', 'base']
)
def test_maps_neck_and_logits_equal_mmsegmentation(reference, tmp_path, climbed, size):
    inputs = given(size, 2 if size is TINY else 1)
    theirs = reference(
        'segment', parts=['file', 'model'], size=json.dumps(size), images=inputs['images']
    )
    model = build(size, tmp_path / 'upernet.pth')
    model.eval()
    with paddle.no_grad():
        maps = model.backbone(paddle.to_tensor(inputs['images']))
        necks = model.neck(maps)
        ours = {
            **{f'map{i}': x for i, x in enumerate(maps)},
            **{f'neck{i}': x for i, x in enumerate(necks)},
            'decode': model.decode_head(necks),
            'auxiliary': model.auxiliary_head(necks[2]),
            'decode_resized': model(paddle.to_tensor(inputs['images']))[0],
        }
    errors = {name: largest(value.numpy(), theirs[name]) for name, value in ours.items()}
    report(
        'segmentor',
        **errors,
        **{f'largest_{name}': np.abs(theirs[name]).max() for name in ('map3', 'neck0', 'decode')},
    )
    pairs = [(name, value.numpy(), theirs[name]) for name, value in ours.items()]
    climbed(
        size,
        tmp_path / 'upernet.pth',
        ladder.rung('features', pairs[:-3], 1e-5),
        ladder.rung('logits', pairs[-3:], 1e-5),
    )
    for name, error in errors.items():
        assert error < max(1e-4, 2e-6 * np.abs(theirs[name]).max()), name


# The pool of one cell is normalised over the images; with two images its values would be +-1 and
# their gradients only rounding
@pytest.mark.parametrize(
    'size, images', [(TINY, 6), pytest.param(BASE, 3, marks=pytest.mark.full)], ids=['tiny', 'base']
)
def test_losses_gradients_and_statistics_equal_mmsegmentation(
    reference, tmp_path, climbed, size, images
):
    inputs = given(size, images)
    theirs = reference('segment', parts=['file', 'gradients'], size=json.dumps(size), **inputs)
    model = build(size, tmp_path / 'upernet.pth')
    model.train()
    scores = model(paddle.to_tensor(inputs['images']))
    loss = CrossEntropyOverAllPixelsLoss(ignore_index=255)
    decode, auxiliary = (
        weight * loss(part, paddle.to_tensor(inputs['labels']))
        for weight, part in zip((1, 0.4), scores)
    )
    (decode + auxiliary).backward()
    assert (
        abs(decode.item() - theirs['loss_decode']) < 1e-5
        and abs(auxiliary.item() - theirs['loss_auxiliary']) < 1e-5
    )
    ours, _ = convert.renamed(
        {name: p.grad.numpy() for name, p in model.named_parameters() if not p.stop_gradient},
        'mmseg',
    )
    expected = {name[5:]: value for name, value in theirs.items() if name.startswith('grad:')}
    ours = {name: value for name, value in ours.items() if 'relative_position_index' not in name}
    assert ours.keys() == expected.keys()
    # The gradient of a bias before 1 x 1 convolutions and batch normalisation is only rounding
    errors = {
        name: np.abs(ours[name] - value).max()
        / (np.abs(value).max() if name not in NORMALISED_AWAY else 1)
        for name, value in expected.items()
    }
    report('gradients', count=len(errors), worst=max(errors.values()))
    if size is TINY:
        assert max(errors.values()) < 2e-5, max(errors, key=errors.get)
    # At full size rounding decides a few of a hundred million ReLUs, which changes single entries:
    # there only lengths are compared
    lengths = {
        name: np.linalg.norm(ours[name] - value) / np.linalg.norm(value)
        for name, value in expected.items()
        if name not in NORMALISED_AWAY
    }
    losses = [
        (name, np.array([value.item()]), theirs[f'loss_{name}'].reshape(1))
        for name, value in (('decode', decode), ('auxiliary', auxiliary))
    ]
    climbed(
        size,
        tmp_path / 'upernet.pth',
        ladder.rung('loss', losses, 1e-6),
        ladder.rung(
            'gradients',
            [(name, np.array([1 + length]), np.ones(1)) for name, length in lengths.items()],
            2e-3,
            LENGTHS,
        ),
    )
    report('lengths', worst=max(lengths.values()), median=np.median(list(lengths.values())))
    assert max(lengths.values()) < 2e-3, max(lengths, key=lengths.get)
    before, after = (
        convert.renamed(tensors, 'mmseg')[0]
        for tensors in (
            convert.read(tmp_path / 'upernet.pth')[0]['model'],
            {name: b.numpy() for name, b in model.state_dict().items()},
        )
    )
    statistics = {name[5:]: value for name, value in theirs.items() if name.startswith('stat:')}
    assert len(statistics) == 28
    for name, value in statistics.items():
        if name.endswith('mean'):
            np.testing.assert_allclose(after[name], value, rtol=1e-5, atol=1e-6)
        else:  # Paddle's variance is the biased one: by a factor of (n - 1) / n, over n values
            shares = (after[name] - 0.9 * before[name]) / (value - 0.9 * before[name])
            assert shares.std() < 1e-3 and (images - 1) / images - 1e-3 < shares.mean() < 1, name


@pytest.mark.parametrize(
    'size, images, tolerance',
    [(TINY, 6, 1e-3), pytest.param(BASE, 3, 2e-2, marks=pytest.mark.full)],
    ids=['tiny', 'base'],
)
def test_steps_of_training_equal_mmsegmentation(
    reference, tmp_path, climbed, size, images, tolerance
):
    """Compared by length, as in main_parity.py.

    The distance between the weights after the steps is relative to the distance travelled, plus
    what float32 may round off in each step.
    """
    inputs, count = given(size, images), 3
    theirs = reference(
        'segment', parts=['file', 'steps'], size=json.dumps(size), count=count, **inputs
    )
    model = build(size, tmp_path / 'upernet.pth')
    model.train()
    optimizer = LayerDecayAdamW()(model, 1e-4)
    criterion = CrossEntropyOverAllPixelsLoss(ignore_index=255)
    losses = []
    for _ in range(count):
        scores = model(paddle.to_tensor(inputs['images']))
        loss = sum(
            weight * criterion(part, paddle.to_tensor(inputs['labels']))
            for weight, part in zip((1, 0.4), scores)
        )
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(loss.item())
    starts = convert.renamed(convert.read(tmp_path / 'upernet.pth')[0]['model'], 'mmseg')[0]
    ends = convert.renamed(
        {name: p.numpy() for name, p in model.named_parameters() if not p.stop_gradient}, 'mmseg'
    )[0]
    ways = []
    for name in sorted(
        ends.keys() & {name[6:] for name in theirs if name.startswith('after:')} - NORMALISED_AWAY
    ):
        start, end, other = (
            array.astype('float64') for array in (starts[name], ends[name], theirs[f'after:{name}'])
        )
        if name.endswith('qkv.bias'):  # the key part does not change the softmax
            third = len(start) // 3
            start, end, other = (
                np.delete(array, slice(third, 2 * third)) for array in (start, end, other)
            )
        way = np.linalg.norm(other - start) + count * np.finfo(
            'float32'
        ).eps / tolerance * np.linalg.norm(start)
        ways.append((name, np.array([way + np.linalg.norm(end - other)]), np.array([way])))
    assert len(ways) == sum(not p.stop_gradient for p in model.parameters()) - len(NORMALISED_AWAY)
    rungs = [
        ladder.rung(
            'losses of the steps',
            [('losses', np.array(losses, 'float32'), theirs['losses'])],
            tolerance / 10,
        ),
        ladder.rung('weights after the steps', ways, tolerance, LENGTHS),
    ]
    climbed(size, tmp_path / 'upernet.pth', *rungs)
    report('steps', **{rung.name: rung.relative for rung in rungs})
    assert theirs['losses'][-1] < theirs['losses'][0] and all(rung.passed for rung in rungs), rungs


@pytest.mark.parametrize(
    'size, shape',
    [(TINY, [3, 64, 100]), pytest.param(BASE, [3, 512, 683], marks=pytest.mark.full)],
    ids=['tiny', 'base'],
)
def test_the_sliding_window_equals_mmsegmentation(reference, tmp_path, climbed, size, shape):
    scene = np.random.default_rng(0).normal(size=shape).astype('float32')
    theirs = reference('segment', parts=['file', 'slide'], size=json.dumps(size), scene=scene)
    model = build(size, tmp_path / 'upernet.pth')
    model.eval()
    with paddle.no_grad():
        window, stride = ([size[name]] * 2 for name in ('window', 'stride'))
        ours = infer.slide_inference(model, paddle.to_tensor(scene[None]), window, stride)
    climbed(
        size,
        tmp_path / 'upernet.pth',
        ladder.rung('sliding window', [('slide', ours.numpy()[0], theirs['slide'])], 1e-5),
    )
    report(
        'slide',
        error=largest(ours.numpy()[0], theirs['slide']),
        largest=np.abs(theirs['slide']).max(),
    )
    assert largest(ours.numpy()[0], theirs['slide']) < max(
        1e-4, 2e-6 * np.abs(theirs['slide']).max()
    )


def test_a_picture_at_one_and_at_several_scales_equals_mmsegmentation(reference, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, [90, 123, 3]).astype('uint8')
    ratios = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    theirs = reference(
        'segment',
        parts=['file', 'multiscale'],
        size=json.dumps(TINY),
        picture=picture,
        scale=[256, 64],
        ratios=ratios,
    )
    model = build(TINY, tmp_path / 'upernet.pth')
    model.eval()
    prepare = Compose(
        [ResizeKeepRatio([256, 64]), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
    )
    data = prepare({'img': picture.astype('float32'), 'trans_info': []})
    image = paddle.to_tensor(data['img'][None])
    slide = dict(is_slide=True, crop_size=[64, 64], stride=[43, 43])
    with paddle.no_grad():
        _, single = infer.inference(model, image, data['trans_info'], **slide)
        labels, logarithms = infer.aug_inference(
            model, image, data['trans_info'], scales=ratios, flip_horizontal=True, **slide
        )
    errors = {
        'single': largest(single.numpy()[0], theirs['single']),
        'probabilities': largest(logarithms.exp().numpy()[0], theirs['probabilities']),
    }
    report('whole picture', **errors, same_labels=(labels.numpy()[0, 0] == theirs['answer']).mean())
    assert errors['single'] < 1e-4 and errors['probabilities'] < 1e-5
    assert (labels.numpy()[0, 0] == theirs['answer']).mean() > 0.9999


@pytest.mark.parametrize('present', [7, 4])
def test_the_metrics_equal_mmsegmentation_with_and_without_absent_classes(reference, present):
    rng = np.random.default_rng(present)
    predictions, targets = rng.integers(0, present, [2, 3, 40, 50])
    predictions[0, 0, :5] = 5  # predicted where no label has it
    targets[rng.random(targets.shape) < 0.1] = 255
    theirs = reference(
        'segment',
        parts=['metrics'],
        size=json.dumps(TINY),
        predictions=predictions,
        targets=targets,
    )
    areas = metrics.calculate_area(
        *(paddle.to_tensor(maps[:, None]) for maps in (predictions, targets)), 7
    )
    ious, miou = metrics.mean_iou(*areas)
    accuracy, _, recalls = metrics.class_measurement(*areas)
    np.testing.assert_allclose(ious, theirs['IoU'], rtol=1e-6)
    np.testing.assert_allclose(recalls, theirs['Acc'], rtol=1e-6)
    np.testing.assert_allclose(
        [accuracy, miou, np.nanmean(recalls)],
        [theirs[name] for name in ('aAcc', 'mIoU', 'mAcc')],
        rtol=1e-6,
    )


def test_rates_and_decays_of_all_235_parameters_equal_mmsegmentation(reference, tmp_path):
    size = {**TINY, 'depth': 12, 'out_indices': [3, 5, 7, 11]}
    theirs = reference('segment', parts=['file', 'optimizer'], size=json.dumps(size))
    model = build(size, tmp_path / 'upernet.pth')
    parameters = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    renamed = list(convert.renamed({name: p.numpy() for name, p in parameters.items()}, 'mmseg')[0])
    optimizer = LayerDecayAdamW()(model, 1e-4)
    ours = {
        name: (p.optimize_attr['learning_rate'], 0.05 * optimizer._apply_decay_param_fun(p.name))
        for name, p in zip(renamed, parameters.values())
    }
    expected = {
        name: pair
        for name, *pair in zip(
            theirs['optimizer_names'], theirs['lr_scale'], theirs['weight_decay']
        )
    }
    assert len(ours) == 235 and ours.keys() == expected.keys()
    for name, pair in expected.items():
        np.testing.assert_allclose(ours[name], pair, rtol=1e-9, err_msg=name)


def test_the_rate_equals_mmsegmentation_over_160000_iterations(reference):
    warm_up = [0, 1, 2, 10, 100, 500, 1000, 1400, 1499]
    decay = [1500, 1501, 2000, 5000, 20000, 40000, 80000, 120000, 150000, 159000, 159999]
    iterations = warm_up + decay
    theirs = reference('schedule', iterations=iterations)['rates']
    schedule, ours = SegBuilder(Config(str(ROOT / CONFIG))).lr_scheduler, []
    for _ in range(iterations[-1] + 1):
        ours.append(schedule())
        schedule.step()
    errors = np.abs(np.array(ours)[iterations] - theirs)
    report('rate', largest=errors.max(), largest_share=errors.max() / 1e-4)
    assert errors.max() < 1e-7  # of 1e-4: mmengine warms up in 1499 steps and PaddleSeg in 1500
