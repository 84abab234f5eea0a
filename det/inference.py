"""Detections of a model, live or exported, in a batch or in one picture."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import paddle

from det import config, flags, transforms
from det.detections import Detections


def live(
    model: paddle.nn.Layer, autocast: Callable = contextlib.nullcontext
) -> Callable[..., list[np.ndarray]]:
    """A function that runs a stage of a model: (name of the stage, arrays) -> float32 arrays.

    autocast: makes the context of a forward pass.
    """
    stages = model.stages()

    @paddle.no_grad()
    def run(name: str, *arrays: np.ndarray) -> list[np.ndarray]:
        inputs = [paddle.to_tensor(array) for array in arrays]
        with autocast():
            outputs = stages[name](*inputs)
        return [output.astype('float32').numpy() for output in outputs]

    return run


def detect(model: paddle.nn.Layer, run: Callable, batch: dict) -> list[Detections]:
    """The objects that a model finds in each image of a batch, in pixels of the original pictures.

    run: runs a stage of the model, live or exported.
    """
    arrays = {}
    for name in ('im_shape', 'scale_factor', 'origin_shape'):
        arrays[name] = np.asarray(batch[name])
    return model.detect(run, np.asarray(batch['image']), arrays)


@dataclass
class Detector:
    """A model that finds objects in pictures, uint8 [height, width, 3], RGB.

    run: runs a stage of the model, live or exported. prepare: the transforms of a picture.
    categories: (category id, name) of each class.
    """

    model: paddle.nn.Layer
    run: Callable
    prepare: transforms.Chain
    categories: list[tuple[int, str]]

    def __call__(self, picture: np.ndarray) -> Detections:
        sample = self.prepare({'image': picture}, np.random.default_rng(0))
        batch = {name: value[None] for name, value in sample.items()}
        return detect(self.model, self.run, batch)[0]


def from_config(values: dict, path: str, autocast: Callable = contextlib.nullcontext) -> Detector:
    """The live detector of a config, with the weights that its key `weights` names.

    autocast: makes the context of a forward pass.
    """
    model, entries = flags.model(values, path)
    return Detector(
        model,
        live(model, autocast),
        transforms.build(flags.test_transforms(values)),
        flags.categories(values, entries),
    )


def from_export(folder: str, engine: str) -> Detector:
    """The detector that det/export.py wrote, run by `inference` or `onnx`."""
    from det import exporting

    values, about = exporting.description(folder)
    model = config.build(flags.without_pretrained(values), folder)
    model.eval()
    categories = [tuple(pair) for pair in about['categories']]
    prepare = transforms.build(about['transforms'])
    return Detector(model, exporting.runner(folder, about, engine), prepare, categories)
