"""Config files in PaddleDetection's form: how they are read, changed by -o, and built from.

Differences from PaddleDetection's own reader: the YAML loader is a safe one, `-o A.b.c=1 A.b.d=2`
keeps both values, an unknown key is an error, and 1e-4 is a number.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import yaml
from ppdet.core import workspace

from util.errors import InputError

BASE = '_BASE_'
NUMBER = re.compile(r'[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*(?=[eE]))([eE][-+]?[0-9]+)?$')
# Keys beside the names of classes that the programs of this package read
KEYS = (
    'architecture',
    'epoch',
    'log_iter',
    'metric',
    'num_classes',
    'pretrain_weights',
    'save_dir',
    'snapshot_epoch',
    'weights',
    'worker_num',
)
SECTIONS = (
    'EvalDataset',
    'EvalReader',
    'LearningRate',
    'OptimizerBuilder',
    'TestDataset',
    'TestReader',
    'TrainDataset',
    'TrainReader',
)
WHOLE = {  # the keys that are whole numbers, with their defaults
    'epoch': 1,
    'log_iter': 20,
    'num_classes': 80,
    'snapshot_epoch': 1,
    'worker_num': 2,
}


class Loader(yaml.SafeLoader):
    """A safe loader that reads 1e-4 as a number, and PaddleDetection's `!Name {...}` as a dict."""


def _tagged(loader: Loader, name: str, node: yaml.Node) -> dict:
    """`!Name {key: value}` as {'name': 'Name', 'key': value}."""
    values = {}
    if isinstance(node, yaml.MappingNode):
        values = loader.construct_mapping(node, deep=True)
    return {'name': name, **values}


Loader.add_implicit_resolver('tag:yaml.org,2002:float', NUMBER, list('-+.0123456789'))
Loader.add_multi_constructor('!', _tagged)


def load(path: str | None, overrides: list[str] | None = None) -> dict:
    """The config of a file, its _BASE_ files, and KEY=VALUE overrides, checked.

    InputError in one line where a file or a value is wrong.
    """
    if not path:
        raise InputError('-c is needed: a config file, such as those of det/configs')
    config = read(Path(path))
    for item in overrides or []:
        override(config, item)
    _check(config, path)
    return config


def read(path: Path, included: tuple[Path, ...] = ()) -> dict:
    """The values of a YAML file over those of its _BASE_ files."""
    if path.resolve() in included:
        raise InputError(f'{path}: its {BASE} leads back to itself')
    try:
        values = yaml.load(path.read_text(encoding='utf-8'), Loader=Loader)
    except FileNotFoundError:
        asked = f'{included[-1]}: its {BASE} {path}' if included else f'-c {path}'
        raise InputError(f'{asked}: no such file') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path} cannot be read as YAML: {" ".join(str(error).split())}') from None
    if not isinstance(values, dict):
        raise InputError(f'{path}: expected keys and values, found {type(values).__name__}')

    bases = values.pop(BASE, None) or []
    if isinstance(bases, str):
        bases = [bases]
    config = {}
    for base in bases:
        file = path.parent / Path(base).expanduser()
        merge(config, read(file, (*included, path.resolve())))
    return merge(config, values)


def merge(config: dict, values: dict) -> dict:
    """Put values over those of a config, dict by dict; a list replaces a list."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(config.get(key), dict):
            merge(config[key], value)
        else:
            config[key] = value
    return config


def override(config: dict, item: str) -> None:
    """Put one KEY=VALUE of -o into a config; VALUE is read as YAML."""
    key, equals, text = item.partition('=')
    if not key or not equals:
        raise InputError(f'-o {item}: expected KEY=VALUE, such as TrainReader.batch_size=4')
    *parents, last = key.split('.')
    place = config
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise InputError(f'-o {item}: {parent} of the config holds no keys')
    place[last] = _value(text)


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError:
        return text


def _check(config: dict, path: str) -> None:
    """InputError for an unknown key, and for a value of the wrong kind."""
    for key in config:
        is_class = isinstance(workspace.global_config.get(key), workspace.SchemaDict)
        if not is_class and key not in (*KEYS, *SECTIONS):
            raise InputError(
                f'{path}: unknown key {key}; expected a registered class or one of '
                f'{", ".join(KEYS + SECTIONS)}'
            )
    for key in SECTIONS:
        if not isinstance(config.get(key, {}), dict):
            raise InputError(f'{path}: {key} holds keys and values, not {config[key]!r}')
    for key, default in WHOLE.items():
        value = config.setdefault(key, default)
        if isinstance(value, float) and value.is_integer():
            value = config[key] = int(value)
        least = 0 if key == 'worker_num' else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f'{path}: {key} is a whole number from {least}, not {value!r}')
    if config.setdefault('metric', 'COCO') != 'COCO':
        raise InputError(f'{path}: metric is COCO here, not {config["metric"]!r}')
    if not isinstance(config.get('architecture'), str):
        raise InputError(f'{path}: architecture names the class of the model; it is missing')


def section(config: dict, name: str) -> dict:
    """A section of a config; InputError if it is missing."""
    if not config.get(name):
        raise InputError(f'the config has no {name}, which this program needs')
    return dict(config[name])


def build(config: dict, path: str):
    """The model of a config, with random or its backbone's pre-trained weights.

    InputError names the class whose arguments are wrong.
    """
    with _Workspace(config):
        name = config['architecture']
        _check_arguments(path)
        try:
            return workspace.create(name)
        except InputError as error:
            raise InputError(f'{path}: {error}') from None
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            reason = ' '.join(str(error).split())
            raise InputError(f'{path}: {name} cannot be built: {reason}') from error


def _check_arguments(path: str) -> None:
    """InputError for an argument that a class of the config does not have."""
    for name, values in workspace.global_config.items():
        if not isinstance(values, workspace.SchemaDict):
            continue
        unknown = values.find_extra_keys() if values.strict else []
        if unknown:
            known = inspect.signature(getattr(values.pymodule, name)).parameters
            raise InputError(
                f'{path}: {name} has no argument {min(unknown)}; it has {", ".join(known)}'
            )


class _Workspace:
    """PaddleDetection's global config with the values of one config file, for a block.

    `create` reads and changes a global dict; afterwards it is as before, so that a second config
    of the same process does not inherit values of the first.
    """

    def __init__(self, config: dict):
        self.config = config
        self.before = {}

    def __enter__(self):
        current = workspace.global_config
        for name, values in current.items():
            is_schema = isinstance(values, workspace.SchemaDict)
            self.before[name] = values.copy() if is_schema else values
        workspace.merge_config(self.config)

    def __exit__(self, *failure):
        workspace.global_config.clear()
        workspace.global_config.update(self.before)
