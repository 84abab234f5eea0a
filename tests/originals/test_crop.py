"""Augmentation in pre-training equals torchvision's bit for bit, given the same crops and flips."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from util.augment import crop, transform

DRAWS = 100  # of each picture


def pictures(channels):
    """Two photographs, noise, and extreme shapes."""
    rng = np.random.default_rng(0)
    shapes = [(300, 200), (33, 31), (5, 90), (2, 2)]
    arrays = [
        *load_sample_images().images,
        *(rng.integers(256, size=[*shape, 3], dtype='uint8') for shape in shapes),
    ]
    return [np.ascontiguousarray(array if channels == 3 else array[..., 0]) for array in arrays]


@pytest.mark.parametrize('channels, size', [(3, 224), (1, 32)])
def test_augmentation_equals_torchvision(reference, channels, size):
    arrays = pictures(channels)
    mean, std = crop.statistics(channels, None, None)
    augment = transform.Train(crop.CropAndFlip(size, (0.2, 1.0)), mean, std)
    which, boxes, flips, ours = [], [], [], []
    for number, array in enumerate(arrays):
        for seed in range(DRAWS):
            rng = np.random.default_rng(seed)
            which.append(number)
            boxes.append(crop.random_box(array.shape[1], array.shape[0], rng, (0.2, 1.0)))
            flips.append(rng.random() < 0.5)
            ours.append(augment(Image.fromarray(array), np.random.default_rng(seed)))
    theirs = reference(
        'crop',
        picture=which,
        boxes=boxes,
        flips=flips,
        mean=mean,
        std=std,
        size=size,
        **{f'picture{number}': array for number, array in enumerate(arrays)},
    )['results']
    np.testing.assert_array_equal(np.stack(ours), theirs)
