"""The figures of segmentation against counts made by hand."""

import numpy as np
import paddle
import pytest
from paddleseg.utils import metrics as paddleseg_metrics

import seg  # noqa: F401
from seg import metrics


def by_hand(pred, label, classes):
    """mIoU, mAcc, aAcc of flat lists, one pixel and one class at a time."""
    iou, accuracy, right = [], [], 0
    for c in range(classes):
        both = sum(p == c == t for p, t in zip(pred, label))
        either = sum(t != 255 and c in (p, t) for p, t in zip(pred, label))
        truly = sum(t == c for t in label)
        right += both
        iou += [both / either] if either else []
        accuracy += [both / truly] if truly else []
    return sum(iou) / len(iou), sum(accuracy) / len(accuracy), right / sum(t != 255 for t in label)


@pytest.mark.parametrize('drawn', [6, 4, 1], ids=['all classes', 'two absent', 'one alone'])
def test_figures_leave_out_classes_that_occur_nowhere(drawn):
    rng = np.random.default_rng(drawn)
    pred = rng.integers(0, drawn, [1, 1, 9, 7]).astype('int32')
    label = np.where(rng.random(pred.shape) < 0.2, 255, rng.integers(0, drawn, pred.shape))
    areas = metrics.calculate_area(paddle.to_tensor(pred), paddle.to_tensor(label), 6)
    miou, macc, aacc = by_hand(pred.ravel().tolist(), label.ravel().tolist(), 6)
    classes, mean = metrics.mean_iou(*areas)
    right, precision, recall = metrics.class_measurement(*areas)
    assert (
        mean == pytest.approx(miou)
        and right == pytest.approx(aacc)
        and metrics.mean(recall) == pytest.approx(macc)
    )
    assert np.isnan(classes).sum() == 6 - drawn and precision.shape == (6,)


def test_a_label_without_any_pixel_that_counts_is_no_error():
    areas = metrics.calculate_area(
        paddle.zeros([1, 1, 2, 2], 'int32'), paddle.full([1, 1, 2, 2], 255), 3
    )
    assert np.isnan(metrics.mean_iou(*areas)[1]) and np.isnan(metrics.dice(*areas)[1])


def test_sizes_must_agree():
    with pytest.raises(ValueError, match='prediction is .2, 3. pixels, the label .3, 2.'):
        metrics.calculate_area(paddle.zeros([1, 1, 2, 3]), paddle.zeros([1, 1, 3, 2]), 2)


def test_dice_is_twice_the_overlap_over_the_sum():
    values, mean = metrics.dice(*map(paddle.to_tensor, ([1, 0, 2], [2, 0, 2], [3, 0, 4])))
    np.testing.assert_allclose(values, [2 / 5, np.nan, 4 / 6])
    assert mean == pytest.approx((2 / 5 + 4 / 6) / 2)


def test_mean_accuracy_is_logged(capsys):
    metrics.class_measurement(*map(paddle.to_tensor, ([1, 0, 3], [2, 0, 4], [2, 0, 4])))
    assert (
        'aAcc: 0.6667 mIoU: 0.4667 mAcc: 0.6250 (1 of 3 classes are absent'
        in capsys.readouterr().out
    )


def test_importing_seg_is_enough_for_paddlesegs_own_metrics():
    for name in ('calculate_area', 'mean_iou', 'dice', 'class_measurement'):
        assert getattr(paddleseg_metrics, name) is getattr(metrics, name)
