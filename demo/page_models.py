"""What the page can do with the given weight files.

Paths of pictures are those of uploads; pictures are read as the programs of the same names do.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from PIL import Image
from show_features import Viewer
from show_reconstruction import Painter

import models_zoo
from models_vit import Encoder
from util import convert, log, panels
from util.convert import names
from util.data import pictures
from util.errors import InputError

ROOT = Path(__file__).parent.parent
MOST_PIXELS = 40_000_000  # of an uploaded picture
MOST_SIDE = 1024  # pixels of a side; larger pictures are made smaller to segment or detect
LARGE = 320  # pixels that the shorter side of a shown picture has at least
TOP = 5  # classes shown


@dataclass
class Models:
    """The models of the files, by the names that the page shows.

    said: whether a painter's file says that it predicts normalised pixels; None if it says nothing.
    """

    painters: dict[str, Painter] = field(default_factory=dict)
    said: dict[str, bool | None] = field(default_factory=dict)
    viewers: dict[str, Viewer] = field(default_factory=dict)
    segmentors: dict = field(default_factory=dict)
    detectors: dict = field(default_factory=dict)

    @property
    def classifiers(self) -> dict[str, Viewer]:
        """The viewers that have classes."""
        return {name: one for name, one in self.viewers.items() if one.labels}

    @property
    def attentive(self) -> dict[str, Viewer]:
        """The viewers that have attention maps."""
        return {name: one for name, one in self.viewers.items() if isinstance(one.model, Encoder)}


def load(
    files: list[str], configs: list[str], use_ema: bool = False, may_fail: bool = False
) -> Models:
    """The models in these files; configs: of segmentors and detectors, none: those of the project.

    InputError names a file that cannot be used; where files may fail, a warning does, and the
    others are used.
    """
    models = Models()
    for file in files:
        try:
            kind = add(models, shown_name(file, files), file, configs, use_ema=use_ema)
            log.info(f'{file}: {kind}')
        except InputError as error:
            if not may_fail:
                raise
            log.warn(f'{file} is left out: {error}')
    return models


def add(models: Models, name: str, file: str, configs: list[str], use_ema: bool) -> str:
    """Add the model of a file under a name; returns what kind of model it is."""
    converted = convert.read(file, use_ema=use_ema)
    tensors = converted[0]['model']
    kind = names.kind(tensors)
    if kind == names.SEGMENTOR:
        models.segmentors[name] = fitting('seg', file, tensors, configs)
    elif kind in names.DETECTORS:
        models.detectors[name] = fitting('det', file, tensors, configs)
    else:
        models.viewers[name] = Viewer(file, use_ema)
    if kind == names.AUTOENCODER:
        flags = converted[0].get('args', {})
        said = flags.get('norm_pix_loss')
        painted = models_zoo.autoencoder_from(
            file, norm_pix_loss=said is not False, converted=converted
        )
        models.painters[name] = Painter(*painted)
        models.said[name] = said
    return kind


def shown_name(file: str, files: list[str]) -> str:
    """The name of a file, with its folder where several have the same name."""
    name = Path(file).name
    alike = [other for other in files if Path(other).name == name]
    return name if len(alike) == 1 else file


def fitting(package: str, file: str, tensors: dict, configs: list[str]):
    """The segmentor (seg) or detector (det) of the first config that a file's weights fit.

    InputError if they fit none.
    """
    width = _width(tensors)
    own = sorted(str(path) for path in ROOT.glob(f'{package}/configs/*_mae/*.yml'))
    build = {'seg': segmentor, 'det': detector}[package]
    reasons = []
    for path in configs or own:
        try:
            return build(path, file, width)
        except InputError as error:
            reasons.append(str(error))
    if len(set(reasons)) == 1:
        raise InputError(reasons[0])
    where = 'the given configs' if configs else f'the configs of {package}/configs'
    raise InputError(f'{file} fits none of {where}; give its own with --config')


def _width(tensors: dict) -> tuple[int, ...]:
    """The shape of the patch projection, which tells a model's family and size at a glance."""
    name = next(name for name in tensors if name.endswith('patch_embed.proj.weight'))
    return tuple(tensors[name].shape)


def segmentor(path: str, file: str, width: tuple[int, ...]):
    """The segmentor of the config `path` with the weights of a file; InputError if they differ."""
    from seg import flags, inference  # imported here because it takes seconds

    config = flags.configuration(path)
    _check_width(config.dic['model'].get('backbone', {}), width, path)
    with _warnings_alone():
        return inference.from_config(config, path, file)


@contextlib.contextmanager
def _warnings_alone():
    """Within it PaddleSeg prints warnings and errors, but not the whole config."""
    from paddleseg.utils import logger

    usual = logger.log_level
    logger.log_level = 1
    try:
        yield
    finally:
        logger.log_level = usual


def detector(path: str, file: str, width: tuple[int, ...]):
    """The detector of the config `path` with the weights of a file; InputError if they differ."""
    try:  # imported here because it takes seconds, and is not installed everywhere
        from det import config, inference
    except ImportError as error:
        raise InputError(f'{error}; requirements/det.txt has what detectors need') from None

    values = config.load(path)
    backbone = values.get(values.get(values['architecture'], {}).get('backbone'), {})
    _check_width(backbone, width, path)
    return inference.from_config({**values, 'weights': file}, path)


def _check_width(backbone: dict, width: tuple[int, ...], path: str) -> None:
    """InputError for a config of another width, before its model is built, which takes long."""
    asked = backbone.get('embed_dim')
    if asked is not None and asked != width[0]:
        raise InputError(f'{path} has a backbone of width {asked}, the weights have {width[0]}')


def check(file: str | None) -> Path:
    """The path of an uploaded picture; InputError without one, or if it is too large."""
    if not file:
        raise InputError('Choose a picture first: upload one, or take one of the examples.')
    path = Path(file)
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except Exception:  # PIL raises a dozen kinds for broken files
        raise InputError(f'{path.name} is no picture that can be read; choose another.') from None
    if width * height > MOST_PIXELS:
        raise InputError(
            f'{path.name} has {width} x {height} pixels; at most {MOST_PIXELS:,} are read. '
            'Make it smaller first.'
        )
    return path


@paddle.no_grad()
def classify(viewer: Viewer, file: Path) -> dict[str, float]:
    """The most probable classes of a picture, and their probabilities."""
    image = paddle.to_tensor(viewer.read(file)[None])
    probabilities = paddle.nn.functional.softmax(viewer.model(image), axis=1)
    values, classes = probabilities.topk(min(TOP, len(viewer.labels)), axis=1)
    best = {}
    for value, number in zip(values[0].tolist(), classes[0].tolist()):
        label = ', '.join(viewer.labels[number])
        if label in best:  # ImageNet has two kinds of cranes
            label = f'{label} (class {number})'
        best[label] = value
    return best


def of_moderate_size(file: Path) -> np.ndarray:
    """A picture uint8 [height, width, 3], made smaller if a side is longer than MOST_SIDE."""
    picture = pictures.read_as_seen(file, 3)
    picture.thumbnail((MOST_SIDE, MOST_SIDE), Image.BICUBIC)
    return np.asarray(picture)


def segment(segmentor, file: Path) -> Image.Image:
    """A picture with the colours of its classes laid over it, as by seg/predict.py."""
    from seg import predict

    picture = of_moderate_size(file)
    labels = panels.repeated(segmentor(picture), LARGE)
    picture = panels.repeated(picture, LARGE)
    colors = predict.palette(None)
    added, _ = predict.drawn(picture[..., ::-1], labels, colors)
    return predict.with_legend(added, labels, colors, segmentor.names)


def detect(detector, file: Path, threshold: float) -> Image.Image:
    """A picture with the objects of at least this score and their legend, as det/infer.py."""
    from det import draw, infer

    picture = of_moderate_size(file)
    found = detector(picture).above(threshold)
    classes = [name for _, name in detector.categories]
    times = panels.repeats(picture.shape[:2], LARGE)
    image = infer.drawn(picture, found, classes, times)
    caption = infer.caption(found, threshold)
    return draw.with_legend(image, found.classes, classes, caption)
