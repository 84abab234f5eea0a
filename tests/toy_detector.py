"""A detector that trains in seconds: coloured squares in COCO's layout, and a config for them."""

import json

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

BASE = ROOT / 'det/configs/_base_/gfl_25e.yml'
CATEGORIES = [{'id': 7, 'name': 'blue'}, {'id': 3, 'name': 'red'}]  # labels follow the ids
COLOURS = {3: (220, 40, 40), 7: (40, 40, 220)}
SIZE = (32, 64)  # height, width
PICTURES = 8
SETTINGS = {  # a config, but for its data sets
    'architecture': 'MAEGFL',
    'num_classes': 2,
    'epoch': 2,
    'snapshot_epoch': 1,
    'log_iter': 1,
    'worker_num': 0,
    'MAEGFL': {'backbone': 'MAESwin'},
    'MAESwin': {
        'embed_dim': 8,
        'depths': [1, 1, 1, 1],
        'num_heads': [1, 1, 2, 2],
        'window': 4,
        'posmlp_dim': 4,
        'drop_path_rate': 0.1,
        'fpn_out_dim': 32,
    },
    'MAEFPN': {'out_channels': 32, 'start_level': 0, 'num_outs': 4, 'norm_type': 'gn'},
    'MAEGFLHead': {'feat_channels': 32, 'stacked_convs': 1, 'reg_max': 8},
}
TRANSFORMS = [
    {'Resize': {'target_size': [32, 64]}},
    {'NormalizeImage': {'mean': [0.5, 0.5, 0.5], 'std': [0.25, 0.25, 0.25]}},
    {'Pad': {'size_divisor': 32}},
]


def write_squares(root, pictures=PICTURES, parts=('train', 'val')):
    """Pictures with one or two squares each, and a json for each part."""
    rng = np.random.default_rng(0)
    for part in parts:
        (root / part).mkdir(parents=True)
        images, objects = [], []
        for number in range(pictures):
            pixels = rng.integers(80, 120, (*SIZE, 3)).astype('uint8')
            name = f'{number:03}.png'
            images.append({'id': number + 1, 'file_name': name, 'height': 32, 'width': 64})
            for left in (0, 32)[: 1 + number % 2]:
                objects.append(_square(pixels, left, number + 1, rng))
                objects[-1]['id'] = len(objects)
            Image.fromarray(pixels).save(root / part / name)
        content = {'images': images, 'annotations': objects, 'categories': CATEGORIES}
        (root / f'{part}.json').write_text(json.dumps(content))
    return root


def _square(pixels, left, image, rng):
    """Paint a square into the half of a picture from `left` on; its entry in a json."""
    side = int(rng.integers(12, 20))
    x, y = int(rng.integers(left, left + 32 - side)), int(rng.integers(0, 32 - side))
    category = int(rng.choice(list(COLOURS)))
    pixels[y : y + side, x : x + side] = COLOURS[category]
    return {
        'image_id': image,
        'category_id': category,
        'bbox': [x, y, side, side],
        'area': side * side,
        'iscrowd': 0,
    }


def write_config(file, data, **changes):
    """A config of the squares in `data`; changes: further values, section by section."""
    values = {'_BASE_': str(BASE), **SETTINGS}
    for kind, part in (('Train', 'train'), ('Eval', 'val')):
        values[f'{kind}Dataset'] = {
            'dataset_dir': str(data),
            'image_dir': part,
            'anno_path': f'{part}.json',
        }
        values[f'{kind}Reader'] = {'batch_size': 4, 'sample_transforms': TRANSFORMS}
    values['TrainDataset']['min_side'] = 0
    values['TrainReader']['sample_transforms'] = [{'RandomFlip': {}}, *TRANSFORMS]
    values['TestReader'] = {'sample_transforms': TRANSFORMS}
    values['LearningRate'] = {
        'base_lr': 1e-3,
        'schedulers': [{'name': 'LinearWarmup', 'steps': 2}],
    }
    file.write_text(yaml.safe_dump({**values, **changes}))
    return file


@pytest.fixture(scope='session')
def squares(tmp_path_factory):
    """The data of the tiny detector: 8 pictures to train, 8 to evaluate."""
    return write_squares(tmp_path_factory.mktemp('squares') / 'data')


@pytest.fixture(scope='session')
def detection(squares):
    """The config file of the tiny detector."""
    return write_config(squares.parent / 'tiny.yml', squares)
