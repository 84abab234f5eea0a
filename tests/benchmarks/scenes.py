"""The objects in the images of a detector's training step, the same ones for both frameworks."""

import numpy as np

OBJECTS = 7  # of an image, as many as COCO has on average


def objects(case, classes):
    """For each image boxes float32 [n, 4] (x1 y1 x2 y2, in pixels) and their classes int64 [n]."""
    rng = np.random.default_rng(0)
    side = case['side']
    boxes, labels = [], []
    for _ in range(case['batch']):
        sides = side * np.exp(rng.uniform(np.log(1 / 16), np.log(1 / 2), [OBJECTS, 2]))
        low = rng.random([OBJECTS, 2]) * (side - sides)
        boxes.append(np.concatenate([low, low + sides], axis=1).astype('float32'))
        labels.append(rng.integers(0, classes, OBJECTS))
    return boxes, labels
