"""Figures of a confusion between labels and predictions as mmsegmentation counts them: classes that occur in neither are
left out of a mean instead of counting 0.

The functions have the signatures of paddleseg.utils.metrics, whose place seg.repairs gives them. Areas are int64 [K],
pixels a class: where label and prediction agree, of the prediction, of the label; ignored pixels are in none.
"""

import numpy as np
import paddle
from paddleseg.utils import logger

from seg import census
from util import dist

Areas = tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]

counted = [0, 0]  # pixels that count and ignored ones, of an evaluation; class_measurement ends it


def calculate_area(
    pred: paddle.Tensor, label: paddle.Tensor, num_classes: int, ignore_index: int = 255
) -> Areas:
    """Areas of predictions and labels of any, but the same, number of pixels; ValueError for different sizes."""
    if pred.shape[-2:] != label.shape[-2:]:
        raise ValueError(
            f'the prediction is {list(pred.shape[-2:])} pixels, the label {list(label.shape[-2:])}'
        )
    pred, label = (values.numpy().ravel().astype('int64') for values in (pred, label))
    counts = label != ignore_index
    counted[:] = counted[0] + int(counts.sum()), counted[1] + int((~counts).sum())
    pred, label = pred[counts], label[counts]
    return tuple(
        paddle.to_tensor(
            np.bincount(values[(values >= 0) & (values < num_classes)], minlength=num_classes)
        )
        for values in (pred[pred == label], pred, label)
    )


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def mean(values: np.ndarray) -> float:
    """Mean of what is not NaN; NaN where all is."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float('nan')


def mean_iou(
    intersect_area: paddle.Tensor, pred_area: paddle.Tensor, label_area: paddle.Tensor
) -> tuple[np.ndarray, float]:
    """IoU of each class, NaN for one that is absent from both, and their mean."""
    both, pred, label = (area.numpy() for area in (intersect_area, pred_area, label_area))
    iou = ratio(both, pred + label - both)
    return iou, mean(iou)


def dice(
    intersect_area: paddle.Tensor, pred_area: paddle.Tensor, label_area: paddle.Tensor
) -> tuple[np.ndarray, float]:
    """Dice of each class, NaN for one that is absent from both, and their mean."""
    both, pred, label = (area.numpy() for area in (intersect_area, pred_area, label_area))
    values = ratio(2 * both, pred + label)
    return values, mean(values)


def class_measurement(
    intersect_area: paddle.Tensor, pred_area: paddle.Tensor, label_area: paddle.Tensor
) -> tuple[float, np.ndarray, np.ndarray]:
    """aAcc, the share of pixels that are right, then precision and recall of each class, NaN where there is no pixel.

    Logs mmsegmentation's three figures: paddleseg.core.evaluate, in training as well, has no place for mAcc. Warns of
    classes that are in no label, because a model that never names them looks perfect.
    """
    both, pred, label = (area.numpy() for area in (intersect_area, pred_area, label_area))
    right = float(ratio(both.sum(keepdims=True), label.sum(keepdims=True))[0])
    recall = ratio(both, label)
    iou, miou = mean_iou(intersect_area, pred_area, label_area)
    logger.info(
        f'[EVAL] aAcc: {right:.4f} mIoU: {miou:.4f} mAcc: {mean(recall):.4f} '
        f'({np.isnan(iou).sum()} of {len(iou)} classes are absent and left out)'
    )
    text = census.warning(label, _ignored(int(label.sum())))
    if text:
        logger.warning(f'[EVAL] {text}')
    return right, ratio(both, pred), recall


def _ignored(pixels: int) -> int | None:
    """How many pixels were ignored in the evaluation that ends here; None where it is not known.

    pixels: how many counted. Another number was counted where an evaluation before it was broken
    off; several ranks count a few images twice, which does not change the share.
    """
    total, ignored = (int(number) for number in dist.sum_over_ranks(counted))
    counted[:] = 0, 0
    return ignored if total == pixels or dist.world_size() > 1 else None
