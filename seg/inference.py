"""A segmentor, live or exported, that finds the class of each pixel of a picture."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from paddleseg.cvlibs import Config, SegBuilder, manager
from paddleseg.transforms import Compose

from seg import flags, infer


@dataclass
class Segmentor:
    """A model that finds the class of each pixel of pictures, uint8 [height, width, 3], RGB.

    prepare: the transforms of a picture. settings: the arguments of infer.labels.
    names: of the classes, as far as they are known. autocast: makes the context of a forward pass.
    """

    model: Callable
    prepare: Compose
    settings: dict
    names: tuple[str, ...] = ()
    autocast: Callable = contextlib.nullcontext

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Class numbers, int32 [height, width]."""
        bgr = picture[..., ::-1]
        with self.autocast():
            return infer.labels(self.model, bgr, self.prepare, **self.settings)


def from_config(
    config: Config, path: str, weights: str | None, use_ema: bool = False, asked: dict | None = None
) -> Segmentor:
    """The live segmentor of the config in the file `path`, with the weights of another file.

    asked: flags of the testing that replace the config's test_config, see flags.testing.
    """
    builder = SegBuilder(config)
    prepare = Compose(flags.build(builder, 'val_transforms', path))
    model = flags.model(builder, path, weights, use_ema)
    settings = testing(config.test_config, asked)
    return Segmentor(model, prepare, settings, names_of(config))


def from_export(
    folder: str,
    config: Config | None = None,
    asked: dict | None = None,
    engine: str = 'inference',
) -> Segmentor:
    """The segmentor that seg/export.py wrote, run by `inference` or `onnx`.

    A config replaces what the export says of testing.
    """
    model = infer.Exported(folder, engine)
    test_config = config.test_config if config else model.test_config
    settings = testing(test_config, asked)
    return Segmentor(model, model.transforms, settings, names_of(config) if config else ())


def testing(test_config: dict, asked: dict | None) -> dict:
    """The arguments of infer.labels: those of a test_config, replaced by flags."""
    asked = asked or {}
    settings = flags.testing(test_config, asked, bool(asked.get('aug_pred')))
    return {key: settings[key] for key in flags.TEST if key in settings}


def names_of(config: Config) -> tuple[str, ...]:
    """The names of the classes, where the config's data set has them."""
    for part in ('val_dataset', 'train_dataset'):
        section = config.dic.get(part) or {}
        kind = manager.DATASETS.components_dict.get(str(section.get('type')))
        if hasattr(kind, 'NAMES'):
            return kind.NAMES
    return ()
