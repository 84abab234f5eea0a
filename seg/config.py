"""Values of a config file and of --opts: how they are read, and which must be numbers."""

import ast
import inspect
import re
import types
from collections.abc import Iterator
from typing import Any

import paddle
import yaml
from paddleseg.cvlibs import config as paddleseg_config
from paddleseg.cvlibs import manager

from util.errors import InputError

NUMBER = re.compile(r'[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*(?=[eE]))([eE][-+]?[0-9]+)?$')
RATES = ('learning_rate', 'warmup_iters', 'warmup_start_lr')  # keys of lr_scheduler
NEEDED = 'a number is needed, such as 0.0001 or 1e-4'
NUMBERS = (
    *RATES,
    'coef',
    'crop_size',
    'ignore_index',
    'momentum',
    'num_classes',
    'target_size',
    'weight_decay',
)
COMPONENTS = (
    manager.MODELS,
    manager.BACKBONES,
    manager.DATASETS,
    manager.TRANSFORMS,
    manager.LOSSES,
    manager.OPTIMIZERS,
)
update_without_opts = paddleseg_config.update_config_dict


class Loader(yaml.FullLoader):
    """PaddleSeg's loader, except that 1e-4, 1.5e4 and -.5 are numbers, as in YAML 1.2, not text."""


Loader.add_implicit_resolver('tag:yaml.org,2002:float', NUMBER, list('-+.0123456789'))

# seg.repairs puts this in the place of the module yaml in PaddleSeg's modules
with_numbers = types.SimpleNamespace(**{**vars(yaml), 'FullLoader': Loader})


def update_config_dict(
    dic: dict,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    iters: int | None = None,
    opts: list[str] | None = None,
) -> dict:
    """The config with other values; `opts` are KEY=VALUE, where VALUE may contain a `=`.

    seg.repairs puts it in the place of PaddleSeg's function, whose signature it has.
    """
    dic = update_without_opts(dic, learning_rate, batch_size, iters)
    for item in opts or []:
        key, equals, text = item.partition('=')
        if not key or not equals:
            raise InputError(
                f'--opts {item}: expected KEY=VALUE, such as test_config.stride=[256,256]'
            )
        *parents, last = key.split('.')
        place = dic
        for parent in parents:
            place = place.get(parent)
            if not isinstance(place, dict):
                raise InputError(f'--opts {item}: the config has no {parent} that holds keys')
        place[last] = value_of(text)
    return dic


def value_of(text: str) -> Any:
    """The value that a text of --opts stands for.

    Python's literals come first, then YAML's true, false and null; everything else is text.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        value = yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text
    is_keyword = value is None or isinstance(value, bool)
    return value if text and is_keyword else text


def check_numbers(config: dict) -> None:
    """InputError, with key and value, where a config has text but its component takes numbers."""
    schedule = config['lr_scheduler']
    if not isinstance(schedule, dict):
        schedule = {}
    for name in RATES:
        value = schedule.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f'lr_scheduler.{name} is {value!r}; {NEEDED}')
    for key, value, takes_numbers in _values(config, ''):
        if isinstance(value, str) and takes_numbers:
            raise InputError(f'{key} is {value!r}; {NEEDED}')


def _values(node: Any, key: str, takes_numbers: bool = False) -> Iterator[tuple[str, Any, bool]]:
    """Each value of a config: (key, value, whether its component takes numbers there)."""
    if isinstance(node, dict):
        parameters = _parameters(node.get('type'))
        for name, value in node.items():
            numbers = name in NUMBERS or _takes_numbers(parameters.get(name))
            yield from _values(value, f'{key}.{name}'.lstrip('.'), numbers)
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _values(value, f'{key}[{number}]', takes_numbers)
    else:
        yield key, node, takes_numbers


def _parameters(kind: Any) -> dict[str, inspect.Parameter]:
    """Parameters of the component of that type; none where it is unknown."""
    name = str(kind)
    component = getattr(paddle.optimizer.lr, name, None)
    for registry in reversed(COMPONENTS):  # the first registry that has it counts
        component = registry.components_dict.get(name, component)
    if not callable(component):
        return {}
    return dict(inspect.signature(component).parameters)


def settings(item: dict) -> dict:
    """The arguments of a component: the config's, and defaults for those that it leaves out."""
    arguments = {}
    for name, parameter in _parameters(item.get('type')).items():
        if parameter.default is not inspect.Parameter.empty:
            arguments[name] = parameter.default
    return arguments | item


def share_ignore_index(config: dict) -> None:
    """Give the loss's ignore_index to the data sets and transforms that have none of their own.

    InputError where a transform pads labels with a number that is neither a class nor ignored.
    """
    of_losses = {entry['ignore_index'] for entry in _losses(config) if 'ignore_index' in entry}
    if len(of_losses) > 1:
        raise InputError(
            f'loss.types have several ignore_index, {sorted(of_losses)}; one is needed'
        )
    for part in ('train_dataset', 'val_dataset'):
        samples = config.get(part) or {}
        name = samples.get('type')
        kind = manager.DATASETS.components_dict.get(str(name))
        ignored = getattr(kind, 'IGNORE_INDEX', 255)
        if of_losses and 'ignore_index' in _parameters(name):
            ignored = samples.setdefault('ignore_index', min(of_losses))
        classes = samples.get('num_classes', getattr(kind, 'NUM_CLASSES', None))
        for number, item in enumerate(samples.get('transforms') or []):
            _share(item, ignored, classes, f'{part}.transforms[{number}]')


def _losses(config: dict) -> Iterator[dict]:
    for entry in config['loss']['types']:
        yield entry
        yield from entry.get('losses', [])  # of a MixedLoss


def _share(item: dict, ignored: int, num_classes: int | None, key: str) -> None:
    """Let one transform ignore and pad with this number, where it does either."""
    parameters = _parameters(item.get('type'))
    for name in ('ignore_index', 'label_padding_value'):
        if name in parameters and parameters[name].default != ignored:
            item.setdefault(name, ignored)
    if 'label_padding_value' not in parameters:
        return
    padding = item.get('label_padding_value', ignored)
    is_class = num_classes is None or padding in range(num_classes)
    if padding != ignored and not is_class:
        raise InputError(
            f'{key}: {item["type"]} pads labels with label_padding_value {padding}, '
            f'which is neither ignore_index {ignored} nor one of {num_classes} classes'
        )


def _takes_numbers(parameter: inspect.Parameter | None) -> bool:
    """Whether a parameter's default is a number or a list of numbers, or its annotation says so."""
    if parameter is None:
        return False
    example = parameter.default
    while isinstance(example, (list, tuple)) and example:
        example = example[0]
    is_number = isinstance(example, (int, float)) and not isinstance(example, bool)
    return is_number or parameter.annotation in (int, float, 'int', 'float')
