"""mmsegmentation's training transforms, seeded case by case.

    python segment_augment.py GIVEN.npz COMPUTED.npz

GIVEN: cases, JSON, a list of {transforms: mmsegmentation's configuration of them, scene: name,
seed, and for the whole pipeline batch: [height, width] of the padding}; for every scene image_NAME
uint8 [H,W,3] BGR and label_NAME uint8 [H,W]. COMPUTED, for case n: image{n} uint8 [h,w,3] BGR or,
for a batch, float32 [3,height,width] RGB, normalised and padded; label{n} uint8 or int64 [h,w];
next{n} float64 [], numpy.random's next draw.
"""

import json
import sys

import mmseg_ready  # noqa: F401  before mmseg
import numpy as np
from mmengine.dataset import Compose
from mmseg.datasets.transforms import PackSegInputs
from mmseg.models import SegDataPreProcessor
from mmseg.utils import register_all_modules

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def listed(transforms):
    """Lists as tuples: JSON has no tuples, and mmcv takes only tuples for sizes."""
    return [
        {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in transform.items()
        }
        for transform in transforms
    ]


def batched(results, size):
    """The only image of a batch after the model's preprocessor."""
    packed = PackSegInputs()(results)
    prepare = SegDataPreProcessor(
        mean=MEAN, std=STD, bgr_to_rgb=True, pad_val=0, seg_pad_val=255, size=tuple(size)
    )
    batch = prepare(
        {'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}, training=True
    )
    return batch['inputs'][0].numpy(), batch['data_samples'][0].gt_sem_seg.data[0].numpy()


def main(given, computed):
    register_all_modules()
    given, out = dict(np.load(given)), {}
    for number, case in enumerate(json.loads(str(given['cases']))):
        image, label = (given[f'{kind}_{case["scene"]}'].copy() for kind in ('image', 'label'))
        results = {
            'img': image,
            'img_shape': image.shape[:2],
            'ori_shape': image.shape[:2],
            'gt_seg_map': label,
            'seg_fields': ['gt_seg_map'],
        }
        transform = Compose(listed(case['transforms']))
        np.random.seed(case['seed'])
        results = transform(results)
        out[f'next{number}'] = np.random.random()
        pair = (
            batched(results, case['batch'])
            if 'batch' in case
            else (results['img'], results['gt_seg_map'])
        )
        out[f'image{number}'], out[f'label{number}'] = pair
    np.savez(computed, **out)


if __name__ == '__main__':
    main(*sys.argv[1:])
