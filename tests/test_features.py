"""main_infer.py --features: the features of a direct call, in three formats, in constant memory."""

# ruff: noqa: F811  fixtures of other files
import csv
import os
import shutil
import sys
import tracemalloc

import numpy as np
import paddle
import pytest
from conftest import classifier, pixels
from PIL import Image
from test_main_export import export
from test_main_infer import infer, trained  # noqa: F401

import models_zoo
from util import feature_file, weights
from util.errors import InputError

STATISTICS = {'mean': (0.3,), 'std': (0.4,)}  # those of `trained`


@pytest.fixture
def extract(infer, digits, tmp_path):
    """extract(weights, '--flag', ...) -> the arrays of an .npz with the features of the digits."""

    def extract(resume, *flags, path=tmp_path / 'x.npz'):
        flags = ['--img_path', digits / 'val', '--batch_size', 3, '--features', path, *flags]
        infer('--resume', resume, *flags)
        return dict(np.load(path))

    return extract


@pytest.fixture
def images(digits):
    """The digits as an evaluation with the statistics of `trained` prepares them."""
    files = sorted((digits / 'val').glob('*/*'))
    return files, paddle.concat([pixels(file, **STATISTICS) for file in files])


def layer_norm(x, norm):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * norm.weight.numpy() + norm.bias.numpy()


def close(found, expected):
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# what they are


@paddle.no_grad()
def test_a_pooled_vit_gives_what_its_head_sees_and_all_tokens(extract, trained, images):
    files, pictures = images
    model = classifier(trained, 'ema')
    last = model.block_features(pictures)[-1].numpy()

    found = extract(trained)
    assert found.keys() == {'file', 'features'}
    assert found['file'].tolist() == list(map(str, files))
    close(found['features'], layer_norm(last[:, 1:].mean(1), model.fc_norm))
    close(
        found['features'] @ model.head.weight.numpy(), (model(pictures) - model.head.bias).numpy()
    )
    close(extract(trained, '--feature', 'cls')['features'], last[:, 0])
    close(extract(trained, '--feature', 'patches')['features'], last[:, 1:])


@paddle.no_grad()
def test_chosen_blocks_are_not_normalised(extract, trained, images):
    outputs = classifier(trained, 'ema').block_features(images[1])
    for feature, part in {
        'cls': lambda x: x[:, 0],
        'mean': lambda x: x[:, 1:].mean(1),
        'patches': lambda x: x[:, 1:],
    }.items():
        found = extract(trained, '--feature', feature, '--blocks', 3, 0, 3)
        assert list(found) == ['block3', 'block0', 'file']
        for number in (0, 3):
            close(found[f'block{number}'], part(outputs[number].numpy()))


@paddle.no_grad()
def test_a_pretrained_autoencoder_gives_its_normalised_class_token(extract, encoder, digits):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=16, in_chans=1)
    model.set_state_dict(weights.read(encoder)['model'])
    model.eval()
    pictures = paddle.concat([pixels(file) for file in sorted((digits / 'val').glob('*/*'))])
    tokens = model.forward_encoder(pictures, 0.0, paddle.arange(16.0).expand([10, 16]))[0].numpy()
    close(extract(encoder)['features'], tokens[:, 0])
    close(extract(encoder, '--feature', 'mean')['features'], tokens[:, 1:].mean(1))


@paddle.no_grad()
@pytest.mark.parametrize('name', ['swin_nano_32', 'pvt_nano_32'])
def test_a_pyramid_has_patches_and_their_mean(infer, digits, tmp_path, name):
    model = models_zoo.classifier(name, in_chans=1, num_classes=3)
    model.eval()
    paddle.save(model.state_dict(), str(tmp_path / 'x.pd'))
    path, file = tmp_path / 'x.npz', sorted((digits / 'val/1').iterdir())[0]
    flags = ['--resume', tmp_path / 'x.pd', '--img_path', file, '--features', path]
    scan = Image.open(file).resize((36, 36), Image.BICUBIC).crop((2, 2, 34, 34))
    values = (np.asarray(scan, 'float32') / 255 - 0.449) / 0.226
    picture = paddle.to_tensor(values.astype('float32')[None, None])
    maps = [x.flatten(1, 2).numpy() for x in model.features(picture)]

    infer(*flags)
    close(np.load(path)['features'], layer_norm(maps[-1].mean(1), model.fc_norm))
    infer(*flags, '--feature', 'patches', '--blocks', '0', '4')
    close(np.load(path)['block0'], maps[0])
    close(np.load(path)['block4'], maps[4])
    with pytest.raises(InputError, match='has no class token; choose --feature mean'):
        infer(*flags, '--feature', 'cls')


def test_an_exported_folder_gives_the_same(extract, trained, tmp_path):
    export('--resume', trained, '--out', tmp_path / 'exported', '--what', 'features')
    close(extract(tmp_path / 'exported')['features'], extract(trained)['features'])


# how they are written


def test_parquet_and_csv_hold_the_numbers_of_the_npz(extract, infer, trained, digits, tmp_path):
    expected = extract(trained, '--blocks', 1, 2)
    flags = ['--img_path', digits / 'val', '--batch_size', 3, '--blocks', 1, 2, '--features']

    infer('--resume', trained, *flags, tmp_path / 'x.csv')
    with open(tmp_path / 'x.csv', newline='') as file:
        titles, *rows = csv.reader(file)
    columns = [f'block{block}_{i}' for block in (1, 2) for i in range(96)]
    assert titles == ['file', *columns]
    assert [row[0] for row in rows] == expected['file'].tolist()
    numbers = np.array([row[1:] for row in rows]).astype('float32')
    np.testing.assert_array_equal(numbers, np.hstack([expected['block1'], expected['block2']]))

    parquet = pytest.importorskip('pyarrow.parquet')
    infer('--resume', trained, *flags, tmp_path / 'x.parquet', '--feature', 'patches')
    patches = extract(trained, '--blocks', 1, 2, '--feature', 'patches')
    table = parquet.read_table(tmp_path / 'x.parquet').to_pydict()
    assert table['file'] == expected['file'].tolist()
    for name in ('block1', 'block2'):
        np.testing.assert_array_equal(np.array(table[name], 'float32'), patches[name])


@pytest.mark.parametrize('suffix', feature_file.KINDS)
def test_memory_does_not_grow_with_the_pictures(tmp_path, monkeypatch, suffix):
    if suffix == '.parquet':
        pytest.importorskip('pyarrow')
        monkeypatch.setattr(feature_file, 'GROUP', 2**20)
    width = 64 if suffix == '.csv' else 2**14  # numbers a row

    def peak(batches):
        files = [f'{number:08}.png' for number in range(8 * batches)]
        tracemalloc.start()
        with feature_file.writing(tmp_path / f'x{suffix}', files) as sink:
            for start in range(0, len(files), 8):
                rows = {name: np.full([8, width], start, 'float32') for name in ('a', 'b')}
                sink.add(files[start : start + 8], rows)
        size = (tmp_path / f'x{suffix}').stat().st_size
        return tracemalloc.get_traced_memory()[1], size, tracemalloc.stop()

    peak(2)  # imports
    (few, small, _), (many, large, _) = peak(5), peak(50)
    assert many < 1.5 * few + 2**16
    assert large > 5 * small or suffix == '.parquet'  # equal numbers are packed there


def test_parquet_is_written_by_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip('pyarrow.parquet')
    monkeypatch.setattr(feature_file, 'GROUP', 1000)
    with feature_file.writing(tmp_path / 'x.parquet', ['a', 'b', 'c', 'd', 'e']) as sink:
        for name in 'abcde':
            sink.add([name], {'features': np.full([1, 150], ord(name), 'float32')})
    written = parquet.ParquetFile(tmp_path / 'x.parquet')
    assert [written.metadata.row_group(i).num_rows for i in range(3)] == [2, 2, 1]
    rows = written.read().to_pydict()
    assert rows['file'] == list('abcde')
    assert [row[0] for row in rows['features']] == [97, 98, 99, 100, 101]


@pytest.mark.parametrize('suffix', feature_file.KINDS)
def test_a_broken_picture_leaves_what_was_there_before(infer, trained, digits, tmp_path, suffix):
    if suffix == '.parquet':
        pytest.importorskip('pyarrow')
    shutil.copytree(digits / 'val', tmp_path / 'val')
    (tmp_path / 'val/2/99.png').write_bytes(b'\x89PNG broken')
    path = tmp_path / f'x{suffix}'
    path.write_text('before')
    flags = ['--features', path, '--batch_size', 2, '--blocks', 0, 1]
    with pytest.raises(InputError, match='val/2/99.png cannot be read as a picture of 1 channels'):
        infer('--resume', trained, '--img_path', tmp_path / 'val', *flags)
    assert path.read_text() == 'before'
    assert sorted(os.listdir(tmp_path)) == ['val', path.name]


def test_file_names_of_any_bytes_are_kept(tmp_path):
    names = [os.fsdecode(b'\xff.png'), '\u56fe, "1".png']
    rows = {'features': np.zeros([2, 1], 'float32')}
    for suffix in ('.npz', '.csv'):
        with feature_file.writing(tmp_path / f'x{suffix}', names) as sink:
            sink.add(names, rows)
    assert np.load(tmp_path / 'x.npz')['file'].tolist() == names
    with open(tmp_path / 'x.csv', newline='', errors='surrogateescape') as file:
        assert [row[0] for row in csv.reader(file)][1:] == names


# errors

BAD = {
    'suffix': ('--features x.pt', '--features x.pt: the name must end in one of .npz, .parquet'),
    'no folder': ('--features no/x.npz', '--features no/x.npz: there is no folder no'),
    'a table': ('--features x.csv --feature patches', 'has no place for the features of all'),
    'block': ('--features x.npz --blocks 4', '--blocks 4: the model has the blocks 0 to 3'),
    'json': ('--features x.npz --json', '--json is for labels, and --features writes none'),
    'no head': ('--features x.npz --resume {encoder} --cls_token', '{encoder} has no head; leave'),
    'alone': ('--blocks 1', '--blocks needs --features FILE'),
    'one alone': ('--feature cls', '--feature needs --features FILE'),
}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_bad_input_is_named(infer, trained, encoder, digits, flags, message):
    flags = flags.format(encoder=encoder).split()
    with pytest.raises(InputError) as error:
        infer('--resume', trained, '--img_path', digits / 'val', *flags)
    assert message.format(encoder=encoder) in str(error.value) and '\n' not in str(error.value)


def test_without_pyarrow_an_error_names_the_packages(infer, trained, digits, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    with pytest.raises(InputError, match='needs the package in requirements/features.txt'):
        infer('--resume', trained, '--img_path', digits / 'val', '--features', 'x.parquet')
