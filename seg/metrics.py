"""Metrics of predictions as mmsegmentation counts them.

Classes that occur in neither labels nor predictions are left out of a mean instead of counting 0.

seg.repairs puts these functions in the place of those in paddleseg.utils.metrics, whose signatures
they have. Areas are int64 [K], pixels of each class: where label and prediction agree, of the
prediction, of the label. Ignored pixels are in none of them.
"""

import numpy as np
import paddle
from paddleseg.utils import logger

from seg import census
from util import dist

Areas = tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]

# counted pixels and ignored pixels of an evaluation; class_measurement sets them back to 0
counted = [0, 0]


def calculate_area(
    pred: paddle.Tensor, label: paddle.Tensor, num_classes: int, ignore_index: int = 255
) -> Areas:
    """The areas of predictions and labels of the same height and width; else ValueError."""
    if pred.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f'the prediction is {list(pred.shape[-2:])} pixels, the label {list(label.shape[-2:])}'
        )
    predicted = pred.numpy().ravel().astype('int64')
    wanted = label.numpy().ravel().astype('int64')

    counts = wanted != ignore_index
    num_counted = int(counts.sum())
    counted[0] += num_counted
    counted[1] += counts.size - num_counted

    predicted = predicted[counts]
    wanted = wanted[counts]
    agreeing = predicted[predicted == wanted]
    return (
        _areas_of(agreeing, num_classes),
        _areas_of(predicted, num_classes),
        _areas_of(wanted, num_classes),
    )


def _areas_of(classes: np.ndarray, num_classes: int) -> paddle.Tensor:
    """The number of pixels of each class; other numbers are left out."""
    known = classes[(classes >= 0) & (classes < num_classes)]
    return paddle.to_tensor(np.bincount(known, minlength=num_classes))


def _in_numpy(*areas: paddle.Tensor) -> list[np.ndarray]:
    return [area.numpy() for area in areas]


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """The ratio part / whole, NaN where the whole is 0."""
    unknown = np.full(len(part), np.nan)
    return np.divide(part, whole, out=unknown, where=whole > 0)


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN where all are."""
    if np.isnan(values).all():
        return float('nan')
    return float(np.nanmean(values))


def mean_iou(
    intersect_area: paddle.Tensor, pred_area: paddle.Tensor, label_area: paddle.Tensor
) -> tuple[np.ndarray, float]:
    """The IoU of each class, NaN for one that is absent from both, and their mean."""
    both, pred, label = _in_numpy(intersect_area, pred_area, label_area)
    iou = ratio(both, pred + label - both)
    return iou, mean(iou)


def dice(
    intersect_area: paddle.Tensor, pred_area: paddle.Tensor, label_area: paddle.Tensor
) -> tuple[np.ndarray, float]:
    """The Dice coefficient of each class, NaN for one that is absent from both, and their mean."""
    both, pred, label = _in_numpy(intersect_area, pred_area, label_area)
    values = ratio(2 * both, pred + label)
    return values, mean(values)


def class_measurement(
    intersect_area: paddle.Tensor, pred_area: paddle.Tensor, label_area: paddle.Tensor
) -> tuple[float, np.ndarray, np.ndarray]:
    """aAcc, the share of pixels that are right, then precision and recall of each class.

    Precision and recall are NaN where there is no pixel. Logs mmsegmentation's three figures,
    because paddleseg.core.evaluate has no place for mAcc. Warns of classes that are in no label,
    because a model that never predicts them looks perfect.
    """
    both, pred, label = _in_numpy(intersect_area, pred_area, label_area)
    accuracy = ratio(both.sum(keepdims=True), label.sum(keepdims=True))  # [1]
    right = float(accuracy[0])
    precision = ratio(both, pred)
    recall = ratio(both, label)

    iou, miou = mean_iou(intersect_area, pred_area, label_area)
    absent = np.isnan(iou).sum()
    logger.info(
        f'[EVAL] aAcc: {right:.4f} mIoU: {miou:.4f} mAcc: {mean(recall):.4f} '
        f'({absent} of {len(iou)} classes are absent and left out)'
    )
    num_ignored = _ignored(int(label.sum()))
    text = census.warning(label, num_ignored)
    if text:
        logger.warning(f'[EVAL] {text}')
    return right, precision, recall


def _ignored(pixels: int) -> int | None:
    """How many pixels were ignored in the evaluation that ends here; None where it is not known.

    pixels: how many counted. Another number was counted where an evaluation before it was broken
    off; several ranks count a few images twice, which does not change the share.
    """
    total, ignored = (int(number) for number in dist.sum_over_ranks(counted))
    counted[:] = 0, 0
    is_known = total == pixels or dist.world_size() > 1
    return ignored if is_known else None
