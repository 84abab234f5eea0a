import argparse
import io
import os
import pickle
import tracemalloc

import numpy as np
import paddle
import pytest

from util import atomic, weights
from util.errors import InputError
from util.weights import paddle_file

TREE = {
    'model': {'a.weight': np.arange(6, dtype='float32').reshape(2, 3), 'b': np.float32(7)},
    'optimizer': {'a.weight': {'moment1': np.ones(3)}},
    'epoch': 3,
    'scaler': {},
    'args': {'lr': None, 'name': 'x'},
}


@pytest.fixture
def file(tmp_path):
    paddle_file.write(tmp_path / 'x.pd', TREE)
    return tmp_path / 'x.pd'


def assert_equal(a, b):
    assert type(a) is type(b) or isinstance(a, (np.generic, np.ndarray))
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_equal(a[key], b[key])
    else:
        np.testing.assert_array_equal(a, b)


def test_what_is_written_reads_back(file):
    assert_equal(weights.read(file), TREE)
    assert os.listdir(file.parent) == ['x.pd']


def test_plain_paddle_load_reads_it(file):
    loaded = paddle.load(str(file))
    assert list(loaded) == list(TREE) and loaded['args'] == TREE['args'] and loaded['epoch'] == 3
    np.testing.assert_array_equal(loaded['model']['a.weight'].numpy(), TREE['model']['a.weight'])


def test_arrays_are_written_as_numpy_pickles_them_up_to_protocol_4(tmp_path):
    base = np.arange(24, dtype='float32').reshape(4, 6)
    views = [base, base.T, base[:, 2], base[::2], base[:0], base[:1], base[:, :1]]
    tree = {'views': views, 'number': np.array(2.5), 'dtypes': [base.astype('bool'), base.T > 3]}
    paddle_file.write(tmp_path / 'x.pd', tree)
    expected = io.BytesIO()
    pickler = pickle.Pickler(expected, protocol=4)
    pickler.fast = True
    pickler.dump(tree)
    written = (tmp_path / 'x.pd').read_bytes()[: -paddle_file.TRAILER]
    assert written[2:] == expected.getvalue()[2:]  # before that stands the protocol's number


def test_writing_copies_no_array(tmp_path):
    array = np.zeros([2**10, 2**11], 'float32')
    tracemalloc.start()
    paddle_file.write(tmp_path / 'x.pd', {'model': {'w': array, 'turned': array.T}})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 8


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16', 'int64', 'bool'])
def test_what_paddle_save_writes_reads_as_arrays(tmp_path, dtype):
    tensor = paddle.to_tensor([[1.5, 0.0], [3.0, -2.0]]).astype(dtype)
    paddle.save({'model': {'w': tensor}, 'epoch': 1}, str(tmp_path / 'x.pdparams'))
    read = weights.read(tmp_path / 'x.pdparams')
    assert read['epoch'] == 1 and isinstance(read['model']['w'], np.ndarray)
    np.testing.assert_array_equal(
        read['model']['w'], tensor.astype('float32').numpy().astype(read['model']['w'].dtype)
    )


def test_a_whole_state_dict_by_paddle_save_reads_as_arrays(tmp_path):
    layer = paddle.nn.Linear(2, 3)
    paddle.save(layer.state_dict(), str(tmp_path / 'x.pdparams'))
    read = weights.read(tmp_path / 'x.pdparams')
    assert list(read) == ['weight', 'bias']
    np.testing.assert_array_equal(read['weight'], layer.weight.numpy())


@pytest.mark.parametrize(
    'save',
    [
        lambda tree, path: paddle.save(tree, str(path)),
        *(
            lambda tree, path, protocol=protocol: path.write_bytes(pickle.dumps(tree, protocol))
            for protocol in (2, 4)
        ),
    ],
)
def test_the_flags_of_earlier_ports_are_a_plain_dict(tmp_path, save):
    flags = argparse.Namespace(
        model='mae_vit_base_patch16', lr=None, betas=[0.9, 0.95], more=argparse.Namespace(n=1)
    )
    save({'model': {'w': np.ones(2)}, 'args': flags}, tmp_path / 'x.pd')
    read = weights.read(tmp_path / 'x.pd')['args']
    assert read == {
        'model': 'mae_vit_base_patch16',
        'lr': None,
        'betas': [0.9, 0.95],
        'more': {'n': 1},
    }
    assert type(read) is type(read['more']) is dict


def test_of_argparse_nothing_else_is_known(tmp_path):
    (tmp_path / 'x.pd').write_bytes(pickle.dumps({'args': argparse.ArgumentParser}))
    with pytest.raises(InputError, match=r'argparse\.ArgumentParser'):
        weights.read(tmp_path / 'x.pd')


def test_a_file_that_holds_itself_is_named(tmp_path):
    tree = {'args': argparse.Namespace()}
    tree['args'].more = tree
    (tmp_path / 'x.pd').write_bytes(pickle.dumps(tree))
    with pytest.raises(InputError, match='is not a safe and complete weight file'):
        weights.read(tmp_path / 'x.pd')


def test_safetensors_read_as_arrays(tmp_path):
    from safetensors.paddle import save_file

    tensors = {'a': paddle.randn([2, 3]), 'b': paddle.ones([4]).astype('bfloat16')}
    save_file(tensors, str(tmp_path / 'x.safetensors'))
    read = weights.read(tmp_path / 'x.safetensors')
    np.testing.assert_array_equal(read['a'], tensors['a'].numpy())
    assert read['b'].dtype == np.float32 and (read['b'] == 1).all()


def test_every_flipped_byte_is_noticed(file):
    whole = file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        if position not in range(
            end := len(whole) - paddle_file.TRAILER, end + len(paddle_file.MAGIC)
        ):
            with pytest.raises(InputError, match='checksum'):
                weights.read(file)
        else:  # only the mark of the checksum is damaged: the contents are whole
            assert_equal(weights.read(file), TREE)


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize('name', ['x.pd', 'x.pdparams', 'x.pth'])
def test_a_crafted_pickle_does_not_run(tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({'model': Evil(tmp_path / 'pwned')}))
    with pytest.raises(InputError, match='posix.mkdir'):
        weights.read(tmp_path / name)
    assert not (tmp_path / 'pwned').exists()


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda path: path.mkdir(), 'is a folder'),
        (lambda path: None, 'no such file'),
        (lambda path: path.touch(), 'is empty'),
        (lambda path: path.write_text('<html>not found</html>'), 'not a weight file'),
        (
            lambda path: path.write_bytes(pickle.dumps(TREE)[:200]),
            'not a safe and complete weight file',
        ),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), 'holds a list'),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path, make, message):
    make(tmp_path / 'x.pd')
    with pytest.raises(InputError, match=message):
        weights.read(tmp_path / 'x.pd')


def test_a_truncated_safetensors_file_is_named(tmp_path):
    (tmp_path / 'x.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{"a": 1')
    with pytest.raises(InputError, match='x.safetensors is not a complete'):
        weights.read(tmp_path / 'x.safetensors')


def test_a_failed_write_leaves_the_old_file_and_nothing_else(file):
    before = file.read_bytes()
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        paddle_file.write(file, TREE | {'epoch': lambda: None})
    assert file.read_bytes() == before and os.listdir(file.parent) == ['x.pd']


def test_leftovers_of_killed_writers_are_cleaned(file):
    (file.parent / '.x.pd.999999999.tmp').write_bytes(b'half')
    atomic.clean(file.parent)
    assert os.listdir(file.parent) == ['x.pd']


def test_a_dict_that_nests_itself_takes_no_time(tmp_path):
    tree = {}
    for _ in range(60):  # visiting each path would take 2 ** 60 visits
        tree = {'a': tree, 'b': tree}
    (tmp_path / 'x.pd').write_bytes(pickle.dumps({'model': tree}))
    assert weights.read(tmp_path / 'x.pd')['model']['a']['b'].keys() == {'a', 'b'}
