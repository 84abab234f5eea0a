"""COCO data sets of a few pictures, written by the tests."""

import copy
import json

import numpy as np
from PIL import Image

from det.dataset import COCODataSet

CATEGORIES = [{'id': 7, 'name': 'cat'}, {'id': 0, 'name': 'ant'}, {'id': 3, 'name': 'bee'}]
SIZES = {10: (40, 60), 4: (50, 30), 8: (64, 64)}  # id: height, width


def pixels(height, width, seed=0):
    """A picture of noise, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype('uint8')


def box(image_id, bbox, category_id=7, **others):
    """An object as it stands in a json, with the corners of its box as polygon."""
    x, y, width, height = bbox
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    entry = {
        'image_id': image_id,
        'category_id': category_id,
        'bbox': bbox,
        'area': width * height,
        'iscrowd': 0,
        'segmentation': [corners],
    }
    return entry | others


def content(objects, sizes=SIZES, categories=CATEGORIES):
    """The contents of a json; objects without an id are numbered from 1."""
    images = [
        {'id': key, 'file_name': f'{key}.png', 'height': height, 'width': width}
        for key, (height, width) in sizes.items()
    ]
    numbered = [{'id': number} | entry for number, entry in enumerate(objects, 1)]
    what = {'images': images, 'annotations': numbered, 'categories': categories}
    return copy.deepcopy(what)


def write(root, what, sizes=SIZES):
    """Write pictures of these sizes to root/val, and a json to root/val.json."""
    (root / 'val').mkdir(exist_ok=True)
    for key, (height, width) in sizes.items():
        Image.fromarray(pixels(height, width, key)).save(root / f'val/{key}.png')
    text = what if isinstance(what, str) else json.dumps(what)
    (root / 'val.json').write_text(text, encoding='utf-8')
    return root


def read(root, **settings):
    """The data set that `write` wrote."""
    return COCODataSet(str(root), 'val', 'val.json', **settings)
