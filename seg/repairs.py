"""Repairs of PaddleSeg 2.8.0 on Paddle 3: one function each, with its reason in the docstring.

A repair first tries the installed code and leaves it alone where it works. PaddleSeg looks its
functions up in their modules at each call, so replacing them there changes evaluation, prediction
and training.
"""

import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np
import paddle
from paddleseg.core import infer as paddleseg_infer
from paddleseg.cvlibs import config as paddleseg_config
from paddleseg.datasets import Dataset
from paddleseg.deploy import infer as paddleseg_deploy
from paddleseg.deploy.infer import DeployConfig
from paddleseg.transforms import Compose, ResizeByShort, functional
from paddleseg.utils import logger
from paddleseg.utils import metrics as paddleseg_metrics

from seg import config, dataset, infer, metrics, transforms
from util import dist


def works(check: Callable[[], bool]) -> bool:
    """The result of `check`; False where it raises."""
    try:
        return bool(check())
    except Exception:
        return False


def areas() -> bool:
    """calculate_area concatenates 0-D tensors, which Paddle 3 refuses.

    Ours is also 80 times faster at 150 classes.
    """

    def check():
        pred, label = paddle.to_tensor([[[[0, 1, 1]]]]), paddle.to_tensor([[[[0, 0, 255]]]])
        found = paddleseg_metrics.calculate_area(pred, label, 2, ignore_index=255)
        return [area.tolist() for area in found] == [[1, 0], [1, 1], [2, 0]]

    return replace(paddleseg_metrics, 'calculate_area', metrics.calculate_area, check)


# areas of three classes, of which the second is nowhere
ONE_ABSENT = ([1, 0, 0], [1, 0, 1], [2, 0, 0])


def means() -> bool:
    """mean_iou and dice count a class that occurs nowhere as 0 (later PaddleSeg: as 1).

    Published figures leave it out.
    """

    def check(name, expected):
        return (
            abs(getattr(paddleseg_metrics, name)(*map(paddle.to_tensor, ONE_ABSENT))[1] - expected)
            < 1e-6
        )

    return any(
        [
            replace(
                paddleseg_metrics, 'mean_iou', metrics.mean_iou, lambda: check('mean_iou', 1 / 4)
            ),
            replace(paddleseg_metrics, 'dice', metrics.dice, lambda: check('dice', 1 / 3)),
        ]
    )


def accuracies() -> bool:
    """class_measurement gives absent classes a recall of 0, and evaluate does not print mAcc."""

    def check():
        with contextlib.redirect_stdout(io.StringIO()):  # ours logs a line
            recall = paddleseg_metrics.class_measurement(*map(paddle.to_tensor, ONE_ABSENT))[2]
        return np.isnan(recall[1])

    return replace(paddleseg_metrics, 'class_measurement', metrics.class_measurement, check)


def windows() -> bool:
    """slide_inference gives the model images smaller than its window, which it cannot take."""

    def check():
        sizes = []

        def model(x):
            sizes.append(x.shape[2:])
            return [x]

        paddleseg_infer.slide_inference(model, paddle.zeros([1, 1, 2, 3]), (4, 4), (4, 4))
        return sizes == [[4, 4]]

    return replace(paddleseg_infer, 'slide_inference', infer.slide_inference, check)


def augmentation() -> bool:
    """aug_inference averages scores instead of probabilities, and rescales a rescaled image.

    mmsegmentation averages probabilities and starts from the original, so its figures differ.
    """

    # probabilities .99 and .2 of the first class have the mean .595; the mean of the scores differs
    def check():
        def model(x):
            return [
                paddle.concat(
                    [x * 0 + np.log([0.99 / 0.01, 0.2 / 0.8])[x[0, 0, 0, 0] > 0], x * 0], axis=1
                )
            ]

        image = paddle.to_tensor([[[[0.0, 1.0]]]])
        scores = paddleseg_infer.aug_inference(
            model, image, [('resize', (1, 2))], [1.0], flip_horizontal=True
        )[1]
        return abs(paddle.nn.functional.softmax(scores, axis=1)[0, 0, 0, 0] - 0.595) < 1e-3

    return replace(paddleseg_infer, 'aug_inference', infer.multi_scale, check)


def thin_pictures() -> bool:
    """resize and resize_long round the short edge of a thin picture to 0, at which OpenCV fails."""

    def check_long():
        return functional.resize_long(np.zeros([100, 1, 3]), 10).shape == (10, 1, 3)

    def check_resize():
        return functional.resize(np.zeros([100, 1, 3]), (0, 10)).shape == (10, 1, 3)

    long_repaired = replace(functional, 'resize_long', transforms.resized_by_long, check_long)
    return replace(functional, 'resize', transforms.resized, check_resize) or long_repaired


def short_edges() -> bool:
    """ResizeByShort enlarges a thin picture without limit, and keeps its short edge for the next.

    A PNG of 161 bytes took 60 GB.
    """

    def check():
        resize = ResizeByShort(4, max_size=8)
        shapes = []
        for height in (100, 2):
            data = resize({'img': np.zeros([height, 2, 3]), 'trans_info': []})
            shapes.append(data['img'].shape)
        return shapes == [(8, 1, 3), (4, 4, 3)]

    return replace(ResizeByShort, '__call__', transforms.resize_by_short, check)


def reading() -> bool:
    """Compose raises an AttributeError at an unreadable picture; sizes and labels are not checked.

    The error should name the file.
    """

    def check():
        some = Dataset.__new__(Dataset)
        some.__dict__.update(
            file_list=[(os.devnull, os.devnull)],
            mode='val',
            transforms=Compose([]),
            num_classes=2,
            ignore_index=255,
        )
        try:
            some[0]
        except Exception as error:
            return os.devnull in str(error)

    return replace(Dataset, '__getitem__', dataset.sample, check)


def reading_lists() -> bool:
    """Dataset takes the BOM of a list for a part of a name, and fails at blank lines and blanks."""

    def check():
        with tempfile.TemporaryDirectory() as folder:
            with open(f'{folder}/list.txt', 'w', encoding='utf-8-sig') as file:
                file.write('a b.png c.png\n\n')
            some = Dataset('val', folder, [], num_classes=2, val_path=f'{folder}/list.txt')
        return some.file_list == [[f'{folder}/a b.png', f'{folder}/c.png']]

    return replace(Dataset, '__init__', dataset.begin(Dataset.__init__), check)


def deploy_files() -> bool:
    """A deploy.yaml of PaddleSeg's export names model.pdmodel, but Paddle 3 writes model.json."""

    def check():
        with tempfile.TemporaryDirectory() as folder:
            open(f'{folder}/model.json', 'w').close()
            config = DeployConfig.__new__(DeployConfig)
            config._dir, config.dic = folder, {'Deploy': {'model': 'model.pdmodel'}}
            return os.path.exists(config.model)

    named = DeployConfig.model.fget

    def model(self):
        path = named(self)
        other = os.path.splitext(path)[0] + '.json'
        return other if not os.path.exists(path) and os.path.exists(other) else path

    return replace(DeployConfig, 'model', property(model), check)


def numbers() -> bool:
    """YAML 1.1, in which PaddleSeg reads configs and deploy.yaml, takes 1e-4 for text."""
    made = []
    for module in (paddleseg_config, paddleseg_deploy):

        def check(module=module):
            return module.yaml.load('1e-4', Loader=module.yaml.FullLoader) == 1e-4

        made.append(replace(module, 'yaml', config.with_numbers, check))
    return any(made)


def overrides() -> bool:
    """--opts refuses a value with a `=`, and reads false as text, which counts as true."""

    def check():
        found = paddleseg_config.update_config_dict({}, opts=['a=b=c', 'd=false'])
        return found == {'a': 'b=c', 'd': False}

    return replace(paddleseg_config, 'update_config_dict', config.update_config_dict, check)


def logged_text() -> bool:
    """log prints UTF-8 as if it were Latin-1, which garbles all names that are not ASCII."""

    def check():
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            logger.log(0, 'ä')
        return 'ä' in printed.getvalue()

    def log(level: int = 2, message: str = '') -> None:
        if level <= logger.log_level and dist.is_main():
            now = time.strftime('%Y-%m-%d %H:%M:%S')
            print(f'{now} [{logger.levels[level]}]\t{message}', flush=True)

    return replace(logger, 'log', log, check)


def replace(owner, name: str, ours, check: Callable[[], bool]) -> bool:
    """Replace a function whose check fails by ours; True where it was replaced."""
    if works(check):
        return False
    setattr(owner, name, ours)
    return True


REPAIRS = (
    areas,
    means,
    accuracies,
    windows,
    augmentation,
    thin_pictures,
    short_edges,
    reading,
    reading_lists,
    deploy_files,
    numbers,
    overrides,
    logged_text,
)


def apply() -> list[str]:
    """Make the repairs that are needed, and return their names.

    The checks run on the CPU, because the program may still choose it.
    """
    device = paddle.get_device()
    paddle.set_device('cpu')
    made = [repair.__name__ for repair in REPAIRS if repair()]
    paddle.set_device(device)
    return made
