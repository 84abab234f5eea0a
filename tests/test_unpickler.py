"""Harmless objects of the standard library among a weight file's flags are read as text.

No class of a file is ever called.
"""

import argparse
import datetime
import decimal
import io
import pathlib
import pickle
import types
import zipfile

import numpy as np
import pytest

from util import convert, weights
from util.convert import names
from util.errors import InputError
from util.weights import torch_file

EAST = datetime.timezone(datetime.timedelta(hours=2))
TEXTS = {  # the expected text
    'posix': (pathlib.PosixPath('/data', 'x'), '/data/x'),
    'pure': (pathlib.PurePosixPath('out'), 'out'),
    'windows': (pathlib.PureWindowsPath('C:\\runs', 'one'), 'C:\\runs\\one'),
    'moment': (datetime.datetime(2024, 2, 29, 23, 5, 6, 78), '2024-02-29 23:05:06.000078'),
    'in autumn': (datetime.datetime(2024, 10, 27, 2, 30, fold=1), '2024-10-27 02:30:00'),
    'with a zone': (
        datetime.datetime(300, 1, 2, tzinfo=EAST),
        '0300-01-02 00:00:00 UTC+(0 days 7200.000000 s)',
    ),
    'named zone': (datetime.timezone(datetime.timedelta(hours=-5), 'EST'), 'EST'),
    'date': (datetime.date(1999, 12, 31), '1999-12-31'),
    'time': (datetime.time(7, 8, 9), '07:08:09'),
    'span': (datetime.timedelta(3, 4, 5), '3 days 4.000005 s'),
    'decimal': (decimal.Decimal('1.50'), '1.50'),
}


def write(path, contents, protocol):
    """Write a file in paddle.save's format, or in torch.save's, by the name's ending."""
    data = pickle.dumps(contents, protocol)
    if path.suffix == '.pth':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('archive/data.pkl', data)
    else:
        path.write_bytes(data)


@pytest.mark.parametrize('suffix', ['.pd', '.pth'])
@pytest.mark.parametrize('protocol', [2, 4])
def test_they_become_text(tmp_path, suffix, protocol):
    args = {name: value for name, (value, _) in TEXTS.items()}
    write(
        tmp_path / f'x{suffix}',
        {'args': argparse.Namespace(**args), 'more': types.SimpleNamespace(n=1)},
        protocol,
    )
    assert weights.read(tmp_path / f'x{suffix}') == {
        'args': {name: text for name, (_, text) in TEXTS.items()},
        'more': {'n': 1},
    }


@pytest.mark.parametrize('suffix', ['.pd', '.pth'])
@pytest.mark.parametrize(
    'kind, text',
    [
        ('pathlib._local.PosixPath', 'a/b'),
        ('pathlib.WindowsPath', 'a\\b'),
        ('pathlib._local.PureWindowsPath', 'a\\b'),
    ],
)
def test_those_of_other_machines_and_of_python_3_13_too(tmp_path, suffix, kind, text):
    """These classes cannot be made here: their names replace a path's class in the pickle."""
    module, _, name = kind.rpartition('.')
    data = pickle.dumps({'p': pathlib.PurePosixPath('a', 'b')}, 2)
    assert b'cpathlib\nPurePosixPath\n' in data
    data = data.replace(b'cpathlib\nPurePosixPath\n', f'c{module}\n{name}\n'.encode())
    if suffix == '.pth':
        with zipfile.ZipFile(tmp_path / 'x.pth', 'w') as archive:
            archive.writestr('archive/data.pkl', data)
    else:
        (tmp_path / 'x.pd').write_bytes(data)
    assert weights.read(tmp_path / f'x{suffix}') == {'p': text}


@pytest.mark.parametrize(
    'value', [pathlib.Path.home, datetime.datetime.now, io.BytesIO], ids=['home', 'now', 'BytesIO']
)
def test_what_else_these_modules_have_is_refused(tmp_path, value):
    write(tmp_path / 'x.pd', {'args': value}, 4)
    with pytest.raises(InputError, match='refused, because it names|is not a safe and complete'):
        weights.read(tmp_path / 'x.pd')


def test_a_converted_file_keeps_them(official, tmp_path):
    model = official(names.ENCODER)['model']
    write(
        tmp_path / 'x.pd',
        {'model': model, 'args': {'out': pathlib.Path('runs'), 'at': datetime.date(2024, 1, 2)}},
        4,
    )
    state, _ = convert.read(tmp_path / 'x.pd')
    convert.write(tmp_path / 'y.pth', state, 'torch')
    assert torch_file.read(tmp_path / 'y.pth')['args'] == {'out': 'runs', 'at': '2024-01-02'}


@pytest.mark.parametrize(
    'wrappers',
    ['_orig_mod.module.', 'module._orig_mod.module.', 'module.module.', '_orig_mod._orig_mod.'],
)
def test_any_row_of_wrappers_is_stripped(official, tmp_path, wrappers):
    model = official(names.CLASS_TOKEN)['model']
    torch_file.write(
        tmp_path / 'x.pth', {'model': {wrappers + name: array for name, array in model.items()}}
    )
    read = convert.read(tmp_path / 'x.pth')[0]['model']
    assert read.keys() == model.keys()
    for name in model:
        np.testing.assert_array_equal(read[name], model[name])


def test_a_stranger_is_described_by_the_keys_that_its_file_has(tmp_path):
    torch_file.write(
        tmp_path / 'x.pth', {'state_dict': {'_orig_mod.module.fc.gain': np.ones(2, 'f')}}
    )
    with pytest.raises(InputError, match=r'its keys begin with _orig_mod\.module\.fc\.gain'):
        convert.read(tmp_path / 'x.pth')
