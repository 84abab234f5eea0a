"""Detections of a model in a batch of pictures."""

from collections.abc import Callable

import numpy as np
import paddle

from det.detections import Detections


def live(model: paddle.nn.Layer) -> Callable[..., list[np.ndarray]]:
    """A function that runs a stage of a model: (name of the stage, arrays) -> arrays."""
    stages = model.stages()

    @paddle.no_grad()
    def run(name: str, *arrays: np.ndarray) -> list[np.ndarray]:
        inputs = [paddle.to_tensor(array) for array in arrays]
        return [output.numpy() for output in stages[name](*inputs)]

    return run


def detect(model: paddle.nn.Layer, run: Callable, batch: dict) -> list[Detections]:
    """What a model finds in each image of a batch, in pixels of the original pictures.

    run: runs a stage of the model, live or exported.
    """
    arrays = {}
    for name in ('im_shape', 'scale_factor', 'origin_shape'):
        arrays[name] = np.asarray(batch[name])
    return model.detect(run, np.asarray(batch['image']), arrays)
