"""mmdetection's training transforms (3.3.0) of pictures with boxes and masks, seeded case by case.

    python detect_transforms.py GIVEN.npz COMPUTED.npz

GIVEN: cases, JSON, a list of {transforms: mmdetection's configuration of them, scene: name, seed};
for every scene image_NAME uint8 [H,W,3], boxes_NAME float32 [n,4], labels_NAME int64 [n] and
masks_NAME uint8 [n,H,W]. COMPUTED, for case n: kept{n} bool [], and where it is true image{n},
boxes{n}, labels{n}, masks{n} if the scene has masks, shape{n} and scale{n}, each (height, width).
"""

import json
import sys

import mmdet_ready  # noqa: F401  before mmdet
import numpy as np
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope


def listed(transforms):
    """Lists as tuples: JSON has no tuples, and mmcv takes only tuples for sizes."""
    return [
        {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in transform.items()
        }
        for transform in transforms
    ]


def main(given, computed):
    DefaultScope.get_instance('transforms', scope_name='mmdet')
    given, out = dict(np.load(given)), {}
    for number, case in enumerate(json.loads(str(given['cases']))):
        scene = case['scene']
        image, boxes, labels = (given[f'{k}_{scene}'].copy() for k in ('image', 'boxes', 'labels'))
        results = {
            'img': image,
            'img_shape': image.shape[:2],
            'ori_shape': image.shape[:2],
            'gt_bboxes': HorizontalBoxes(boxes),
            'gt_bboxes_labels': labels,
            'gt_ignore_flags': np.zeros(len(boxes), bool),
        }
        if case['masks']:
            results['gt_masks'] = BitmapMasks(given[f'masks_{scene}'], *image.shape[:2])
        transform = Compose(listed(case['transforms']))
        np.random.seed(case['seed'])
        results = transform(results)

        out[f'kept{number}'] = results is not None
        if results is None:
            continue
        out[f'image{number}'] = results['img']
        out[f'boxes{number}'] = results['gt_bboxes'].tensor.numpy()
        out[f'labels{number}'] = results['gt_bboxes_labels']
        out[f'scale{number}'] = results['scale_factor'][::-1]
        if case['masks']:
            out[f'masks{number}'] = results['gt_masks'].masks
    np.savez(computed, **out)


main(*sys.argv[1:])
