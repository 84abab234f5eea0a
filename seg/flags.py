"""Flags of the programs of this package, their config file, and the objects that are built from it.

Flags have the names and meanings of PaddleSeg 2.8.0's tools. Every fault of a flag or of the config
is an InputError that names it.
"""

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
# keys of test_config: a switch, then the keys that have an effect with it
AUGMENTED = ('aug_eval', 'scales', 'flip_horizontal', 'flip_vertical')
SLIDING = ('is_slide', 'crop_size', 'stride')
TEST = AUGMENTED + SLIDING


def config(p: argparse.ArgumentParser) -> None:
    """Declare --config and --opts."""
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
        help='other values for keys of the config, such as '
        'model.dropout_ratio=0 lr_scheduler.learning_rate=2e-4 test_config.stride=[256,256]',
    )


def model_path(p: argparse.ArgumentParser) -> None:
    """Declare --model_path and --use_ema."""
    p.add_argument(
        '--model_path',
        default=None,
        metavar='FILE',
        help='weights of a segmentor, of any code base that util.convert knows',
    )
    cli.average(p)


def data_format(p: argparse.ArgumentParser) -> None:
    """Declare --data_format, which PaddleSeg's command lines may contain."""
    p.add_argument(
        '--data_format',
        choices=['NCHW'],
        default='NCHW',
        help="PaddleSeg's flag; there is no other layout here",
    )


def workers(p: argparse.ArgumentParser) -> None:
    """Declare --num_workers and --data_timeout."""
    p.add_argument(
        '--num_workers',
        type=cli.number(int, 0),
        default=0,
        help='processes that read and prepare images',
    )
    cli.data_timeout(p)


def _testing(p: argparse.ArgumentParser, augment: str) -> None:
    """Declare the flags that replace values of test_config; `augment` is the first one's name."""
    g = p.add_argument_group('testing', "default: the config's test_config")
    g.add_argument(augment, action='store_true', help='average over scales and flips')
    g.add_argument(
        '--scales',
        nargs='+',
        type=cli.number(float, 0.01),
        default=None,
        metavar='RATIO',
        help=f'with {augment}: factors of the size that the transforms make (default: 1)',
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
        help='with --is_slide: steps of the window',
    )


evaluation = partial(_testing, augment='--aug_eval')
prediction = partial(_testing, augment='--aug_pred')


def configuration(path: str | None, opts: list[str] | None = None) -> Config:
    """The config of a file, its _base_ and the values of --opts; InputError where it is wrong."""
    if path is None:
        raise InputError(
            "--config is needed: a config in PaddleSeg's form, as those of seg/configs"
        )
    if not os.path.isfile(path):
        raise InputError(f'--config {path}: no such file (looked in {os.getcwd()})')
    config = _parsed(path, opts)
    values = config.dic
    for key in TOP:
        if key in values and values[key] is None:
            raise InputError(f'{path}: the key {key} has no value')
    try:
        config_file.check_numbers(values)
        config_file.share_ignore_index(values)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    for key in ('batch_size', 'iters'):
        _make_whole(values, key, path)
    for key in values:
        if key not in TOP and not str(key).startswith('_'):
            raise InputError(
                f'{path}: PaddleSeg does not know the key {key}; the keys are {", ".join(TOP)}'
            )
    return config


def _parsed(path: str, opts: list[str] | None) -> Config:
    """PaddleSeg's Config of a file; InputError in one line where it cannot be made."""
    try:
        return Config(path, opts=opts)
    except FileNotFoundError as error:
        raise InputError(f'{path}: its _base_ {error.filename} does not exist') from None
    except yaml.YAMLError as error:
        raise InputError(f'{path} is no YAML: {_in_one_line(error)}') from None
    except Exception as error:  # PaddleSeg asserts, raises RuntimeErrors, or fails without a dict
        last_line = str(error).strip().splitlines()[-1]
        raise InputError(f'{path}: {last_line}') from None


def _in_one_line(text: object) -> str:
    words = str(text).split()
    return ' '.join(words)


def _make_whole(values: dict, key: str, path: str) -> None:
    """Make a value an int, which YAML may write as 1.6e5; InputError where it is none."""
    value = values.get(key)
    if isinstance(value, float) and value.is_integer():
        value = values[key] = int(value)
    if not isinstance(value, int) or value < 1:
        raise InputError(f'{path}: {key} is a whole number from 1, not {value!r}')


def testing(config: dict, flags: dict, aug: bool = False) -> dict:
    """Arguments for PaddleSeg's evaluate: a config's test_config with the values of the flags.

    aug: whether a flag asks for several scales and flips. InputError where a value is wrong or has
    no effect.
    """
    settings = dict(config)
    known = inspect.signature(evaluate).parameters.keys() - {'model', 'eval_dataset'}
    unknown = settings.keys() - known
    if unknown:
        raise InputError(
            f'test_config: evaluation does not know the key {min(unknown)}; '
            f'the keys are {", ".join(TEST)}'
        )

    _put_over(settings, flags, AUGMENTED, aug)
    _put_over(settings, flags, SLIDING, bool(flags.get('is_slide')))
    _check_scales(settings.get('scales', 1.0))
    if settings.get('is_slide'):
        _check_windows(settings)
    return settings


def _put_over(settings: dict, flags: dict, keys: tuple[str, ...], is_asked: bool) -> None:
    """Put the flags of a group over the settings; the first key is the group's switch.

    is_asked: whether a flag turns it on. InputError where flags would have no effect.
    """
    switch, *details = keys
    chosen = {key: flags[key] for key in details if flags.get(key)}
    if chosen and not is_asked and not settings.get(switch):
        raise InputError(
            f'--{min(chosen)} has no effect: neither a flag nor test_config asks for {switch}'
        )
    settings.update(chosen)
    if is_asked:
        settings[switch] = True


def _check_scales(scales) -> None:
    """InputError where scales is neither a number above 0 nor a list of such numbers."""
    ratios = scales if isinstance(scales, (list, tuple)) and scales else [scales]
    for ratio in ratios:
        is_number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        if not is_number or not ratio > 0:
            raise InputError(
                f'test_config.scales are factors of the size, numbers above 0, not {scales}'
            )


def _check_windows(settings: dict) -> None:
    """InputError where a window slides without size or steps, or jumps over pixels."""
    for key in ('crop_size', 'stride'):
        pair = settings.get(key)
        if not _is_size(pair):
            raise InputError(
                f'sliding a window needs --{key} WIDTH HEIGHT, or test_config.{key}; it is {pair}'
            )
    crop_size, stride = settings['crop_size'], settings['stride']
    if stride[0] > crop_size[0] or stride[1] > crop_size[1]:
        raise InputError(
            f'stride {stride} is larger than crop_size {crop_size}: pixels between two windows '
            'would have no prediction'
        )


def _is_size(pair) -> bool:
    """Whether a value is a pair of whole numbers above 0."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        return False
    return all(isinstance(edge, int) and edge > 0 for edge in pair)


def build(builder: SegBuilder, what: str, path: str):
    """The part of a config called `what`, such as model or val_dataset, built by PaddleSeg.

    InputError with the config's path where that fails.
    """
    try:
        return getattr(builder, what)
    except InputError:
        raise
    except Exception as error:
        cause = error.__context__
        if isinstance(cause, InputError):
            raise cause from None
        # PaddleSeg wraps the error of a class: 'Tried to create a NAME object, but ...'
        name = str(error).partition('Tried to create a ')[2].partition(' ')[0]
        reason = f'{name}: {cause}' if name and cause else error
        raise InputError(f'{path}: {what}: {_in_one_line(reason)}') from None


def model(
    builder: SegBuilder, path: str, model_path: str | None, use_ema: bool = False
) -> paddle.nn.Layer:
    """The config's model with the weights of a file, ready to infer.

    A UPerNetMAE takes weights of any code base that util.convert knows, PaddleSeg's other models
    those of PaddleSeg. use_ema: take the average where the file holds one beside the plain weights.
    """
    if use_ema and not model_path:
        raise InputError('--use_ema chooses among the weights of --model_path; give it')
    network = build(builder, 'model', path)
    if use_ema and not isinstance(network, UPerNetMAE):
        raise InputError(
            f'--use_ema: a file of {type(network).__name__} holds one set of weights; '
            'give the file with the average as --model_path'
        )
    if not model_path:
        logger.warning(
            'no --model_path: the weights are those that the config names, or random ones'
        )
    elif isinstance(network, UPerNetMAE):
        weights.assign_from(network, model_path, use_ema)
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
