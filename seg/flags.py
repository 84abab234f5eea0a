"""What the programs of this package are told: flags in groups (names and meanings of PaddleSeg 2.8.0's tools), the config
file, and what is built from it. Whatever is wrong there is an InputError that names it."""

import argparse
import inspect
import os
from functools import partial

import paddle
import yaml
from paddleseg.core import evaluate
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.utils import logger, utils

from seg import config as config_file
from seg import weights
from seg.model import UPerNetMAE
from util import cli
from util import weights as weight_files
from util.assign import assign_weights
from util.errors import InputError

# keys of a config that these programs read
TOP = (
    '_base_',
    '_inherited_',
    'batch_size',
    'iters',
    'train_dataset',
    'val_dataset',
    'optimizer',
    'lr_scheduler',
    'loss',
    'model',
    'test_config',
    'to_static_training',
)
TEST = ('aug_eval', 'scales', 'flip_horizontal', 'flip_vertical', 'is_slide', 'crop_size', 'stride')


def config(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('config')
    g.add_argument(
        '--config',
        default=None,
        metavar='FILE',
        help="a config in PaddleSeg's form, as those of seg/configs",
    )
    g.add_argument(
        '--opts',
        nargs='+',
        default=None,
        metavar='KEY=VALUE',
        help='overrides of the config, such as '
        'model.dropout_ratio=0 lr_scheduler.learning_rate=2e-4 test_config.stride=[256,256]',
    )


def model_path(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--model_path',
        default=None,
        metavar='FILE',
        help='weights of a segmentor, of any code base that util.convert knows',
    )


def data_format(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--data_format',
        choices=['NCHW'],
        default='NCHW',
        help="as PaddleSeg's; there is no other here",
    )


def workers(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--num_workers',
        type=cli.number(int, 0),
        default=0,
        help='processes that read and prepare images',
    )
    cli.data_timeout(p)


def _testing(p: argparse.ArgumentParser, augment: str) -> None:
    g = p.add_argument_group('testing', "default: the config's test_config")
    g.add_argument(augment, action='store_true', help='average over scales and flips')
    g.add_argument(
        '--scales',
        nargs='+',
        type=cli.number(float, 0.01),
        default=None,
        metavar='RATIO',
        help=f'with {augment}: multiples of the size that the transforms give (default: 1)',
    )
    g.add_argument(
        '--flip_horizontal',
        action='store_true',
        help=f'with {augment}: also mirrored left to right',
    )
    g.add_argument('--flip_vertical', action='store_true', help=f'with {augment}: also upside down')
    g.add_argument('--is_slide', action='store_true', help='slide a window over the image')
    g.add_argument(
        '--crop_size',
        nargs=2,
        type=cli.number(int, 1),
        default=None,
        metavar=('WIDTH', 'HEIGHT'),
        help='with --is_slide: the window',
    )
    g.add_argument(
        '--stride',
        nargs=2,
        type=cli.number(int, 1),
        default=None,
        metavar=('WIDTH', 'HEIGHT'),
        help='with --is_slide: its steps',
    )


evaluation, prediction = (
    partial(_testing, augment='--aug_eval'),
    partial(_testing, augment='--aug_pred'),
)


def configuration(path: str | None, opts: list[str] | None = None) -> Config:
    """The config of a file, with its _base_ and the overrides."""
    if path is None:
        raise InputError(
            "--config is needed: a config in PaddleSeg's form, as those of seg/configs"
        )
    if not os.path.isfile(path):
        raise InputError(f'--config {path}: no such file (looked in {os.getcwd()})')
    try:
        config = Config(path, opts=opts)
    except FileNotFoundError as error:
        raise InputError(f'{path}: its _base_ {error.filename} does not exist') from None
    except yaml.YAMLError as error:
        raise InputError(f'{path} is no YAML: {" ".join(str(error).split())}') from None
    except Exception as error:  # PaddleSeg asserts, and raises a RuntimeError around what its rules raise; or finds no dict
        raise InputError(f'{path}: {str(error).strip().splitlines()[-1]}') from None
    if empty := [key for key in TOP if key in config.dic and config.dic[key] is None]:
        raise InputError(f'{path}: the key {empty[0]} has no value')
    try:
        config_file.check_numbers(config.dic)
        config_file.share_ignore_index(config.dic)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    for key in ('batch_size', 'iters'):
        if isinstance(config.dic.get(key), float) and config.dic[key].is_integer():
            config.dic[key] = int(config.dic[key])  # 1.6e5
        if not isinstance(config.dic.get(key), int) or config.dic[key] < 1:
            raise InputError(f'{path}: {key} is a whole number from 1, not {config.dic.get(key)!r}')
    if unknown := [key for key in config.dic if key not in TOP and not str(key).startswith('_')]:
        raise InputError(
            f'{path}: PaddleSeg does not know the key {unknown[0]}; the keys are {", ".join(TOP)}'
        )
    return config


def testing(config: dict, flags: dict, aug: bool = False) -> dict:
    """How to test, by evaluate's names: a config's test_config, and over it what the flags ask for; `aug` for scales and
    flips."""
    settings = dict(config)
    known = inspect.signature(evaluate).parameters.keys() - {'model', 'eval_dataset'}
    if unknown := settings.keys() - known:
        raise InputError(
            f'test_config: evaluation does not know the key {min(unknown)}; the keys are {", ".join(TEST)}'
        )
    asked = {key: flags[key] for key in TEST[1:] if flags.get(key)}
    for switch, on, details in (
        ('aug_eval', aug, TEST[1:4]),
        ('is_slide', 'is_slide' in asked, TEST[5:]),
    ):
        chosen = {key: asked[key] for key in details if key in asked}
        if chosen and not on and not settings.get(switch):
            raise InputError(
                f'--{min(chosen)} is without effect where neither a flag nor test_config asks for {switch}'
            )
        settings.update(chosen | ({switch: True} if on else {}))
    scales = settings.get('scales', 1.0)
    for ratio in scales if isinstance(scales, (list, tuple)) and scales else [scales]:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not ratio > 0:
            raise InputError(
                f'test_config.scales are multiples of the size, numbers above 0, not {scales}'
            )
    if settings.get('is_slide'):
        for key in ('crop_size', 'stride'):
            pair = settings.get(key)
            if (
                not isinstance(pair, (list, tuple))
                or len(pair) != 2
                or not all(isinstance(v, int) and v > 0 for v in pair)
            ):
                raise InputError(
                    f'sliding a window needs --{key} WIDTH HEIGHT, or test_config.{key}; it is {pair}'
                )
        if any(step > edge for step, edge in zip(settings['stride'], settings['crop_size'])):
            raise InputError(
                f'stride {settings["stride"]} is larger than crop_size {settings["crop_size"]}: pixels between '
                'two windows would have no prediction'
            )
    return settings


def build(builder: SegBuilder, what: str, path: str):
    """`what` of a builder, such as its model or val_dataset."""
    try:
        return getattr(builder, what)
    except InputError:
        raise
    except Exception as error:
        cause = error.__context__
        if isinstance(cause, InputError):
            raise cause from None
        # as PaddleSeg wraps what a class raises
        name = str(error).partition('Tried to create a ')[2].partition(' ')[0]
        reason = f'{name}: {cause}' if name and cause else str(error)
        raise InputError(f'{path}: {what}: {" ".join(reason.split())}') from None


def model(builder: SegBuilder, path: str, model_path: str | None) -> paddle.nn.Layer:
    """The config's model with weights; its own as a code base wrote them, any other of PaddleSeg's as PaddleSeg does."""
    network = build(builder, 'model', path)
    if not model_path:
        logger.warning(
            'no --model_path: the weights are those that the config names, or random ones'
        )
    elif isinstance(network, UPerNetMAE):
        weights.assign_from(network, model_path)
    else:
        assign_weights(network, weight_files.read(model_path), model_path)
    network.eval()
    if model_path:
        logger.info(f'The weights are those of {model_path}')
    return network


def show(config: Config) -> None:
    """Log the machine and the config, as PaddleSeg's tools do."""
    utils.show_env_info()
    utils.show_cfg_info(config)
