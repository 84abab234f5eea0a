"""PyTorch files read without PyTorch: two that it wrote (tests/data), and files built by hand."""

import io
import mmap
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from util import weights
from util.errors import InputError

FILES = [Path(__file__).parent / 'data/torch' / name for name in ('zip.pth', 'legacy.pth')]


def expected():
    """The values of tests/data/make_torch_files.py, by NumPy."""
    count, base = np.arange(6).reshape(2, 3), np.arange(24, dtype='float32')
    model = {name: (count / 4 - 0.5).astype(name) for name in ('float64', 'float32', 'float16')}
    model['bfloat16'] = model['float32']
    model |= {name: (count * 7).astype(name) for name in 'int64 int32 int16 int8 uint8'.split()}
    model |= {
        'bool': count % 2 == 0,
        'scalar': np.float32(1.5),
        'empty': np.zeros([0, 3], 'float32'),
        'transposed': base.reshape(4, 6).T,
        'slice': base[5:20:3],
        'window': base.reshape(2, 3, 4)[:, 1:, 2],
        'expanded': np.full([2, 3], 7, 'float32'),
        'shared': [base[:10], base[8:]],
        'parameter': base[:2],
        'annotated': base[2:4],
    }
    state = {
        'weight': base[:3],
        'bias': np.zeros(3, 'float32'),
        'running_mean': np.zeros(3, 'float32'),
        'running_var': np.ones(3, 'float32'),
        'num_batches_tracked': np.int64(0),
    }
    return {
        'model': model,
        'state_dict': state,
        'epoch': 3,
        'scaler': None,
        'rates': [0.1, 0.25],
        'array': np.arange(3),
        'args': {'model': 'mae', 'lr': 1e-3, 'folder': '/a/b', 'more': {'n': 1}},
        'size': (2, 3),
        'dtype': 'bfloat16',
        'device': 'cuda:1',
        'default': {'a': [1]},
        'counter': {5: 2},
        'set': {1, 2},
    }


def assert_same(ours, theirs):
    """Assert equal types (exactly dict), names in order, dtypes, shapes and bits."""
    if isinstance(theirs, np.ndarray | np.generic):
        assert (
            isinstance(ours, np.ndarray)
            and ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
        )
        assert ours.tobytes() == theirs.tobytes()
        return
    assert type(ours) is type(theirs) or isinstance(ours, np.float64)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            assert_same(a, b)
    else:
        assert ours == theirs


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_files_by_pytorch_read_as_arrays_and_plain_containers(path):
    tree = weights.read(path)
    assert_same(tree, expected())
    assert np.shares_memory(*tree['model']['shared'])


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'x.pth'


# The format by hand: each of the following makes opcodes of pickle's second protocol

SIX = {'0': np.arange(6, dtype='float32')}


def pack(value):
    if isinstance(value, dict):
        return b'}(' + b''.join(pack(part) for item in value.items() for part in item) + b'u'
    if isinstance(value, tuple):
        return b'(' + b''.join(map(pack, value)) + b't'
    return value if isinstance(value, bytes) else pickle.dumps(value, 2)[2:-1]


def call(module, name, *arguments, opcode=b'R'):
    return f'c{module}\n{name}\n'.encode() + pack(arguments) + opcode


def storage(kind='FloatStorage', count=6, key='0', *view):
    return pack(('storage', f'ctorch\n{kind}\n'.encode(), key, 'cpu', count, *view)) + b'Q'


def tensor(size, stride=(1,), offset=0, of=None, rest=(False, {})):
    values = storage() if of is None else of
    return call('torch._utils', '_rebuild_tensor_v2', values, offset, size, stride, *rest)


def write_zip(path, tree, storages=SIX, root='archive', **extra):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'{root}/data.pkl', b'\x80\x02' + pack(tree) + b'.')
        for name, data in (
            extra | {f'data/{key}': values.tobytes() for key, values in storages.items()}
        ).items():
            archive.writestr(f'{root}/{name}', data)


def write_legacy(path, tree, storages=SIX, version=1001):
    head = [
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, version, {'little_endian': True})
    ]
    data = [struct.pack('<q', len(values)) + values.tobytes() for values in storages.values()]
    path.write_bytes(
        b''.join([*head, b'\x80\x02' + pack(tree) + b'.', pickle.dumps(list(storages), 2), *data])
    )


WRITERS = pytest.mark.parametrize('write', [write_zip, write_legacy])


def message(path, *contents, write=write_zip):
    """The one line of the error that reading ends with."""
    if contents:
        write(path, *contents)
    with pytest.raises(InputError) as caught:
        weights.read(path)
    assert '\n' not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@WRITERS
@pytest.mark.parametrize(
    'kind, dtype',
    [
        pair.split()
        for pair in (
            'Double float64, Float float32, Half float16, Long int64, Int int32, Short int16, '
            'Char int8, Byte uint8, Bool bool, Untyped uint8'
        ).split(', ')
    ],
)
def test_every_type_of_storage(path, write, kind, dtype):
    values = np.array([0, 1, 2, 100, 3, 1]).astype(dtype)
    bare = storage(f'{kind}Storage')
    write(path, {'x': tensor((3, 2), (2, 1), of=bare), 'bare': bare}, {'0': values})
    assert_same(weights.read(path), {'x': values.reshape(3, 2), 'bare': values})


@WRITERS
def test_bfloat16_becomes_float32(path, write):
    # bfloat16 has a sign, 8 bits of exponent and 7 of fraction
    bits = np.array([0x3FC0, 0xC000, 0x7F80, 0x0001], 'uint16')
    write(path, {'x': tensor((4,), of=storage('BFloat16Storage', 4))}, {'0': bits})
    assert_same(weights.read(path), {'x': np.array([1.5, -2, np.inf, 2.0**-133], 'float32')})


@pytest.mark.parametrize(
    'kind, dtype', [('FloatStorage', '>f4'), ('LongStorage', '>i8'), ('BFloat16Storage', '>u2')]
)
def test_a_zip_of_a_big_endian_machine(path, kind, dtype):
    # 1 and 2, for bfloat16 as bits
    values = np.array([0x3F80, 0x4000] if kind == 'BFloat16Storage' else [1, 2]).astype(dtype)
    write_zip(path, {'x': tensor((2,), of=storage(kind, 2))}, {'0': values}, byteorder=b'big')
    assert_same(
        weights.read(path), {'x': np.array([1, 2], 'int64' if kind == 'LongStorage' else 'float32')}
    )


@WRITERS
def test_views(path, write):
    base, whole = np.arange(24, dtype='float32'), storage(count=24)
    write(
        path,
        {
            'turned': tensor((6, 4), (1, 6), of=whole),
            'step': tensor((3,), (5,), 4, whole),
            'repeated': tensor((2, 2), (0, 1), 22, whole),
            'last': tensor((), (), 23, whole),
            'none': tensor((2, 0), (1, 1), 24, whole),
            'old': call('torch._utils', '_rebuild_tensor', whole, 1, (2,), (1,)),
        },
        {'0': base},
    )
    read = weights.read(path)
    assert_same(
        read,
        {
            'turned': base.reshape(4, 6).T,
            'step': base[[4, 9, 14]],
            'repeated': base[[[22, 23], [22, 23]]],
            'last': base[23],
            'none': np.empty([2, 0], 'float32'),
            'old': base[1:3],
        },
    )
    assert np.shares_memory(read['turned'], read['step'])


def test_views_of_storages_in_old_legacy_files(path):
    part = storage('FloatStorage', 6, '0', ('1', 2, 3))
    write_legacy(path, {'x': tensor((2,), offset=1, of=part)})
    assert_same(weights.read(path), {'x': np.array([3, 4], 'float32')})
    assert 'does not fit a storage of 3 values' in message(
        path, {'x': tensor((2,), offset=2, of=part)}, write=write_legacy
    )


def test_attributes_of_a_namespace_become_keys_and_those_of_an_ordered_dict_are_dropped(path):
    state = pack({'items': 1}) + b'b'
    write_zip(
        path,
        {
            'args': call('argparse', 'Namespace', opcode=b'\x81') + state,
            'model': call('collections', 'OrderedDict') + state,
        },
    )
    assert_same(weights.read(path), {'args': {'items': 1}, 'model': {}})


def test_a_nest_of_shared_lists_is_read_once(path):
    # written out these would be 2 ** 200 ones
    nest = b'](K\x01e' + b''.join(b'q%c0](h%ch%ce' % (i, i, i) for i in range(200))
    write_zip(path, {'x': nest})
    read = weights.read(path)['x']
    assert read[0] is read[1]


@WRITERS
def test_reading_takes_no_more_memory_than_the_file(path, write):
    storages = {f'{i}': np.arange(2**18, dtype='float32') for i in range(2)}
    write(
        path,
        {key: tensor((2**18,), of=storage('FloatStorage', 2**18, key)) for key in storages},
        storages,
    )
    tracemalloc.start()
    read = weights.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(read) == 2 and peak < 1.2 * path.stat().st_size


@WRITERS
@pytest.mark.parametrize(
    'module, name',
    [
        path.rsplit('.', 1)
        for path in (
            'os.system posix.mkdir builtins.eval builtins.getattr __builtin__.exec '
            'torch.storage._load_from_bytes torch.storage.TypedStorage torch.QInt8Storage '
            'torch.load torch._utils._rebuild_qtensor torch._utils._rebuild_sparse_tensor '
            'torch.nn.Linear numpy.load collections.namedtuple util.weights.read'
        ).split()
    ],
)
def test_other_names_are_refused(path, write, module, name):
    said = message(path, {'model': call(module, name, str(path.parent / 'pwned'))}, write=write)
    assert said == f'{path}: refused, because it names {module}.{name}, which no weight file needs'
    assert os.listdir(path.parent) == ['x.pth']


@pytest.mark.parametrize('part', ['head', 'keys'])
def test_all_pickles_of_a_legacy_file_are_guarded(path, part):
    evil = b'\x80\x02' + call('posix', 'mkdir', str(path.parent / 'pwned')) + b'.'
    write_legacy(path, {'x': 1}, {})
    whole, magic, keys = path.read_bytes(), 15, len(pickle.dumps([], 2))
    path.write_bytes(
        whole[:magic] + evil + whole[magic:] if part == 'head' else whole[:-keys] + evil
    )
    assert 'names posix.mkdir' in message(path)
    assert os.listdir(path.parent) == ['x.pth']


@WRITERS
@pytest.mark.parametrize(
    'size, stride, offset',
    [
        ((7,), (1,), 0),
        ((6,), (1,), 1),
        ((2, 3), (4, 1), 0),
        ((2,), (10**18,), 0),
        ((1,), (1,), 6),
        ((), (), -1),
        ((-1,), (1,), 0),
        ((2,), (-1,), 3),
        ((0,), (1,), -1),
        ((2**63, 2**63), (1, 1), 0),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(path, write, size, stride, offset):
    assert 'does not fit a storage of 6 values' in message(
        path, {'x': tensor(size, stride, offset)}, write=write
    )


@WRITERS
@pytest.mark.parametrize(
    'tree',
    [
        tensor((2, 3)),
        tensor(('2',)),
        tensor((1.5,)),
        tensor((1,), of=1),
        tensor((1,), of=storage(count=-1)),
        tensor((1,), of=storage('Size')),
        tensor((1,), of=b'X\x01\0\0\0aQ'),
        tensor((2,), rest=(False, {}, {'neg': True})),
    ],
)
def test_a_tensor_that_makes_no_sense_is_refused(path, write, tree):
    assert 'is not a safe and complete weight file' in message(path, {'x': tree}, write=write)


def test_storages_that_are_missing_or_short_are_named(path):
    assert "storage '0' is missing" in message(path, {'x': tensor((6,))}, {})
    assert "storage '0' is missing" in message(path, {'x': tensor((6,))}, {}, write=write_legacy)
    assert "storage '0' has 24 bytes, too few for 7 values" in message(
        path, {'x': tensor((1,), of=storage(count=7))}
    )
    write_legacy(path, {'x': tensor((6,))})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack('<q', 6), struct.pack('<q', -6)))
    assert "storage '0' has -6 values here, 6 in the pickle" in message(path)
    path.write_bytes(whole[:-1])
    assert "is cut short: storage '0' should have 24 bytes" in message(path)


@WRITERS
def test_a_file_cut_short_anywhere_is_refused(path, write):
    write(path, {'x': tensor((6,))})
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        said = message(path)
        assert write is write_legacy or size < 2 or 'is cut short' in said


def test_each_storage_by_pytorch_is_compared_with_its_checksum(path):
    whole = FILES[0].read_bytes()
    with zipfile.ZipFile(FILES[0]) as archive:
        entries = [entry for entry in archive.infolist() if '/data/' in entry.filename]
    for entry in entries:
        if not entry.file_size:
            continue
        name, extra = struct.unpack_from('<HH', whole, entry.header_offset + 26)
        damaged = bytearray(whole)
        damaged[entry.header_offset + 30 + name + extra] ^= 1
        path.write_bytes(damaged)
        assert f'the checksum of {entry.filename} does not match' in message(path)


def test_storages_by_pytorch_are_not_copied():
    array = weights.read(FILES[0])['model']['float32']
    while isinstance(array, np.ndarray):
        array = array.base
    assert isinstance(array.obj, mmap.mmap)


def test_a_flipped_byte_of_a_zip_changes_nothing_unseen(path):
    write_zip(path, {'x': tensor((6,))}, byteorder=b'little')
    whole, tree = path.read_bytes(), weights.read(path)
    values = whole.index(SIX['0'].tobytes())
    contents = [
        *range(whole.index(b'\x80\x02'), whole.index(b'.PK') + 1),
        *range(values, values + 24),
    ]
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            assert_same(weights.read(path), tree)  # such as a date
            assert position not in contents
        except InputError as error:
            assert str(path) in str(error) and '\n' not in str(error)
    write_zip(path, {'x': 'a' * 10**6})
    # the pickle now ends after an empty dict, so its rest need not be read
    path.write_bytes(path.read_bytes().replace(b'\x80\x02}(', b'\x80\x02}.'))
    assert 'Bad CRC-32' in message(path)


def arrays(path):
    with path.open('wb') as file:
        np.savez(file, a=np.ones(2))


def tar(path):
    with tarfile.open(path, 'w') as archive:
        archive.addfile(tarfile.TarInfo('storages'), io.BytesIO())


@pytest.mark.parametrize(
    'make, said',
    [
        (
            lambda path: path.write_text('\n <!DOCTYPE html><html>'),
            'is not a weight file but a web page; the download failed',
        ),
        (
            lambda path: path.write_text('version https://git-lfs\noid'),
            'is not a weight file but a pointer to one',
        ),
        (
            lambda path: path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(600)),
            'is not a safe and complete weight file',
        ),
        (arrays, 'is a zip archive, but not a PyTorch file'),
        (lambda path: write_zip(path, {}, **{'constants.pkl': b''}), 'is a TorchScript program'),
        (lambda path: write_zip(path, {}, **{'code/a.py': b''}), 'is a TorchScript program'),
        (lambda path: write_legacy(path, {}, version=1002), 'is of version 1002'),
        (lambda path: write_zip(path, [1, 2]), 'holds a list; expected a dict'),
        (lambda path: write_legacy(path, tensor((6,))), 'holds a ndarray; expected a dict'),
        (
            lambda path: write_zip(path, {'x': pack('os\nsystem') + pack('f') + b'\x93'}),
            'names os\\nsystem.f, which',
        ),
        (tar, 'is a tar archive, as the first PyTorch versions wrote'),
    ],
)
def test_what_is_no_pytorch_file_of_weights_is_named(path, make, said):
    make(path)
    assert said in message(path)


@pytest.mark.parametrize('name', ['x.pth', 'x.bin', 'x.safetensors', 'x.pdparams', 'x'])
def test_the_contents_and_not_the_name_tell_the_format(tmp_path, name):
    # its length, 0x3C, is a '<' at the beginning of the file
    header = b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(0x3C)
    plain, by_torch = {'x': np.ones(1, 'float32')}, {'x': tensor((1,), of=storage(count=1))}
    makers = [
        lambda path: path.write_bytes(
            struct.pack('<Q', len(header)) + header + plain['x'].tobytes()
        ),
        lambda path: write_zip(path, by_torch, {'0': plain['x']}, root='a/b c'),
        lambda path: write_legacy(path, by_torch, {'0': plain['x']}),
        lambda path: path.write_bytes(pickle.dumps(plain, 2)),
    ]
    for make in makers:
        make(tmp_path / name)
        assert_same(weights.read(tmp_path / name), plain)
