"""Flags of the programs of this package, with the names of PaddleDetection's tools."""

import argparse
from pathlib import Path

import paddle

from det import annotations, batches, config, transforms, weights
from det.dataset import COCODataSet
from util import cli, log
from util.errors import InputError

DATASETS = {'COCODataSet': COCODataSet}


def configuration(p: argparse.ArgumentParser) -> None:
    """Add -c and -o."""
    g = p.add_argument_group('config')
    g.add_argument(
        '-c',
        '--config',
        default=None,
        metavar='FILE',
        help="a config in PaddleDetection's form, as those of det/configs",
    )
    g.add_argument(
        '-o',
        '--opt',
        nargs='+',
        action='extend',
        default=None,
        metavar='KEY=VALUE',
        help='other values for keys of the config, such as '
        'TrainReader.batch_size=4 LearningRate.base_lr=2e-4',
    )


def amp(p: argparse.ArgumentParser) -> None:
    """Add --amp, which means float16 without a value, as in PaddleDetection."""
    cli.amp(p, bare='float16')


def workers(p: argparse.ArgumentParser) -> None:
    """Add --data_timeout; worker_num of the config is the number of workers."""
    cli.data_timeout(p)


def data_set(values: dict, section: str) -> COCODataSet:
    """The data set of a section such as TrainDataset; InputError names what is wrong there."""
    arguments = config.section(values, section)
    name = arguments.pop('name', None)
    if name not in DATASETS:
        raise InputError(f'{section}.name is {name!r}; these programs read {", ".join(DATASETS)}')
    arguments.pop('data_fields', None)  # PaddleDetection's; the architecture decides here
    try:
        return DATASETS[name](**arguments)
    except TypeError as error:
        raise InputError(f'{section}: {error}') from None


def samples(values: dict, kind: str, seed: int = 0) -> tuple[batches.Samples, int]:
    """The prepared samples of a kind, Train or Eval, and their batch size."""
    reader = config.section(values, f'{kind}Reader')
    steps = reader.pop('sample_transforms', None) or []
    batch_size = reader.pop('batch_size', 1)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f'{kind}Reader.batch_size is a whole number from 1, not {batch_size!r}')
    if reader:
        raise InputError(
            f'{kind}Reader has no key {min(reader)}; it has sample_transforms and batch_size'
        )
    dataset = data_set(values, f'{kind}Dataset')
    return batches.Samples(dataset, transforms.build(steps), seed), batch_size


def model(values: dict, path: str) -> tuple[paddle.nn.Layer, dict]:
    """The model with the weights that the config's key `weights` names, ready to detect.

    Also the file's other entries, such as `categories`.
    """
    network = config.build(without_pretrained(values), path)
    entries = {}
    if values.get('weights'):
        entries = weights.assign_from(network, values['weights'])
    else:
        log.warn('no -o weights=FILE: the weights are random')
    network.eval()
    return network, entries


def without_pretrained(values: dict) -> dict:
    """A config whose backbone reads no pre-trained file, because other weights replace them."""
    plain = {}
    for key, section in values.items():
        if isinstance(section, dict) and 'pretrained' in section:
            section = {**section, 'pretrained': None}
        plain[key] = section
    return plain


def test_transforms(values: dict) -> list:
    """The transforms of a picture without labels: TestReader's, or else EvalReader's."""
    name = 'TestReader' if values.get('TestReader') else 'EvalReader'
    return config.section(values, name).get('sample_transforms') or []


def categories(values: dict, entries: dict) -> list[tuple[int, str]]:
    """The (category id, name) of each class of a model.

    entries: of its weight file. Without `categories` there, those of EvalDataset's json, if it
    exists and has as many classes; otherwise numbers from 1.
    """
    count = values['num_classes']
    if entries.get('categories'):
        known = entries['categories']
        found = list(zip(known['ids'], known['names']))
    else:
        found = _of_eval_dataset(values)
    if found and len(found) != count:
        raise InputError(
            f'num_classes is {count}, but there are {len(found)} categories: '
            f'{", ".join(name for _, name in found[:5])}'
        )
    return found or [(number, f'class {number}') for number in range(1, 1 + count)]


def _of_eval_dataset(values: dict) -> list[tuple[int, str]]:
    section = values.get('EvalDataset') or {}
    path = Path(section.get('dataset_dir', '')) / section.get('anno_path', '')
    if not path.is_file():
        return []
    return annotations.categories_of(annotations.read(path), path)
