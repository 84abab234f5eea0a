"""Import this before mmdet, so that mmdet accepts mmcv-lite.

mmdet asks for compiled operators, which mmcv-lite lacks: those that our models use are written out
here, slowly. The version check is met as in mmseg_ready.py.
"""

import mmseg_ready  # noqa: F401  before mmcv's operators

# isort: split
import sys

import torch


def nms(boxes, scores, iou_threshold, **_):
    """mmcv's: boxes and scores of what is left, [n, 5], and their indices; one after the other."""
    order = torch.sort(scores, descending=True, stable=True).indices.tolist()
    kept = []
    while order:
        best, *order = order
        kept.append(best)
        order = [i for i in order if overlap(boxes[best], boxes[i]) <= iou_threshold]
    kept = torch.tensor(kept, dtype=torch.long)
    return torch.cat([boxes[kept], scores[kept, None]], 1), kept


def overlap(a, b):
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(float(width), 0.0) * max(float(height), 0.0)
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b)]
    return shared / (sum(areas) - shared)


def batched_nms(boxes, scores, idxs, nms_cfg, class_agnostic=False):
    """mmcv's: the same for each class (`idxs`) on its own, by descending score."""
    found = []
    for label in idxs.unique():
        mine = torch.nonzero(idxs == label)[:, 0]
        _, kept = nms(boxes[mine], scores[mine], nms_cfg['iou_threshold'])
        found.append(mine[kept])
    kept = torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
    kept = kept[torch.sort(scores[kept], descending=True, stable=True).indices]
    return torch.cat([boxes[kept], scores[kept, None]], 1), kept


operators = sys.modules['mmcv.ops']
operators.nms, operators.batched_nms = nms, batched_nms
MODULES = (
    'carafe',
    'merge_cells',
    'modulated_deform_conv',
    'multi_scale_deform_attn',
    'nms',
    'roi_align',
)
for name in MODULES:
    sys.modules[f'mmcv.ops.{name}'] = operators
sys.modules['mmpretrain'] = None  # mmdet can do without, and it does not know these transformers
