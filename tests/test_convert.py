"""Conversion between code bases keeps all numbers.

It reads the files of their own classes (tests/data/models) and writes files for them.
"""

import re
import zlib

import numpy as np
import paddle
import pytest
from conftest import ARCHIVE, KINDS

from util import convert, weights
from util.convert import names
from util.errors import InputError
from util.weights import paddle_file, safetensors_file, torch_file

COUNTS = dict(zip(KINDS.values(), (30, 50, 32, 32, 34, 113)))

UM_MAE = 'UM-MAE: Swin, PVT (PyTorch)'
# The rows of the table in docs/weights.md. '-': the code base has no such model, or we cannot
# write it
DETECTORS = {'detector: GFL': names.GFL, 'detector: Mask R-CNN': names.MASK_RCNN}
BOTH, TO_ONLY, LOSSY, NO, NONE = 'exact / exact', '- / exact', '- / lossy', '- / refused', '- / -'
MATRIX = {
    'official (PyTorch)': [BOTH, BOTH, BOTH, BOTH, BOTH, NO, NO, NO],
    'timm': [BOTH, LOSSY, BOTH, BOTH, NO, NO, NO, NO],
    'Hugging Face': [BOTH, BOTH, NO, BOTH, NO, NO, NO, NO],
    'mmpretrain': [BOTH, BOTH, BOTH, BOTH, BOTH, NO, NO, NO],
    'mmsegmentation': [BOTH, LOSSY, NO, NO, NO, BOTH, NO, NO],
    'earlier Paddle ports': [BOTH, BOTH, BOTH, BOTH, BOTH, TO_ONLY, TO_ONLY, TO_ONLY],
    # tests/test_convert_pyramids.py
    UM_MAE: [TO_ONLY, BOTH, BOTH, NONE, TO_ONLY, NONE, NONE, NONE],
    # tests/test_convert_detectors.py, as are the last two columns
    'mmdetection': [NO, NO, NO, NO, NO, NO, BOTH, BOTH],
    'detectron2': [NO, NO, NO, NO, NO, NO, NO, BOTH],
}
TO = {
    'official (PyTorch)': 'torch',
    'timm': 'timm',
    'Hugging Face': 'hf',
    'mmpretrain': 'mmpretrain',
    'mmsegmentation': 'mmseg',
    'earlier Paddle ports': 'paddle',
}
PYTORCH, FACE, LAB = 'PyTorch, official or timm names', 'Hugging Face', 'OpenMMLab'
# file -> the row and column of MATRIX that it proves, the report's name of its format, the number
# of tensors that count
FILES = {
    'official_encoder.pth': ('official (PyTorch)', 'encoder', PYTORCH, 30),
    'official_autoencoder.pth': ('official (PyTorch)', 'masked autoencoder', PYTORCH, 50),
    'official_pooled.pth': ('official (PyTorch)', 'fine-tuned, global pool', PYTORCH, 32),
    'official_token.pth': ('official (PyTorch)', 'fine-tuned, class token', PYTORCH, 32),
    'official_probe.pth': ('official (PyTorch)', 'linear probe', PYTORCH, 34),
    'official_wrapped.pth': ('official (PyTorch)', 'masked autoencoder', PYTORCH, 50),
    'timm_encoder.pth': ('timm', 'encoder', PYTORCH, 30),
    'timm_pooled.safetensors': ('timm', 'fine-tuned, global pool', PYTORCH, 32),
    'timm_token.safetensors': ('timm', 'fine-tuned, class token', PYTORCH, 32),
    'hf_encoder': ('Hugging Face', 'encoder', FACE, 38),
    'hf_encoder_memory.bin': (
        'Hugging Face',
        'encoder',
        f'{FACE}, as transformers 5 has it in memory',
        38,
    ),
    'hf_autoencoder': (
        'Hugging Face',
        'masked autoencoder',
        f'{FACE}, as transformers 5 saves',
        62,
    ),
    'hf_older.bin': ('Hugging Face', 'masked autoencoder', FACE, 62),
    'hf_memory.bin': (
        'Hugging Face',
        'masked autoencoder',
        f'{FACE}, as transformers 5 has it in memory',
        62,
    ),
    'hf_token': ('Hugging Face', 'fine-tuned, class token', FACE, 40),
    'mmpretrain_encoder.pth': ('mmpretrain', 'encoder', LAB, 30),
    'mmpretrain_autoencoder.pth': ('mmpretrain', 'masked autoencoder', LAB, 50),
    'mmpretrain_pooled.pth': ('mmpretrain', 'fine-tuned, global pool', LAB, 32),
    'mmpretrain_token.pth': ('mmpretrain', 'fine-tuned, class token', LAB, 32),
    'mmpretrain_probe.pth': ('mmpretrain', 'linear probe', LAB, 34),
    'mae_mmcls.pth': ('mmsegmentation', 'encoder', f'{LAB}, as mmsegmentation converts', 30),
    'mmseg_upernet.pth': ('mmsegmentation', 'segmentor', f'{LAB}, UPerNet of mmsegmentation', 113),
    **{
        f'port_{column}.pd': ('earlier Paddle ports', column, 'Paddle', COUNTS[kind])
        for column, kind in KINDS.items()
        if kind != names.SEGMENTOR
    },
}


def assert_numbers(model):
    """Assert that each tensor is make_model_files.py's formula for its official name.

    Linear weights are transposed.
    """
    assert len(model) == COUNTS[names.kind(model)]
    for name, array in model.items():
        official = (
            name.replace('._mean', '.running_mean')
            .replace('._variance', '.running_var')
            .removeprefix('backbone.')
        )
        found = array.T if array.ndim == 2 and name.endswith('.weight') else array
        drawn = (
            np.random.default_rng(zlib.crc32(official.encode()))
            .uniform(0.1, 0.9, found.shape)
            .astype('float32')
        )
        assert array.dtype == np.float32
        np.testing.assert_array_equal(found, drawn, err_msg=name)


# the matrix


@pytest.mark.parametrize('name', FILES)
def test_the_file_of_each_code_base_holds_the_official_numbers_whatever_its_name(
    models, tmp_path, name
):
    _, column, label, count = FILES[name]
    path = models / name
    if path.is_file():
        path = tmp_path / 'x.pd'
        path.write_bytes((models / name).read_bytes())
    state, report = convert.read(path)
    assert_numbers(state['model'])
    assert (report.format, report.kind, report.taken) == (label, KINDS[column], count)
    assert bool(report.dropped) == (column in ('linear probe', 'segmentor'))
    left = (
        ('num_batches_tracked', 'relative_position_index')
        if column == 'segmentor'
        else (
            'neck.bn.num_batches_tracked',
            'head.0.num_batches_tracked',
            'head.0.weight',
            'head.0.bias',
        )
    )
    assert all(name.endswith(left) for name in report.dropped)


def test_each_exact_reading_of_the_matrix_has_its_file():
    proven = {FILES[name][:2] for name in FILES}
    assert proven == {
        (row, column)
        for row in TO
        for column, cell in zip(KINDS, MATRIX[row])
        if cell.startswith('exact / ')
    }
    cells = [cell for row in MATRIX.values() for cell in row]
    assert {cell.partition(' / ')[0] for cell in cells} == {'exact', '-'}


def written(state, to, path):
    """The state, written for that code base and read again."""
    convert.write(path, state, to)
    return convert.read(path)[0]


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('row, column', [(row, column) for row in TO for column in KINDS])
def test_writing_is_what_the_matrix_says(official, tmp_path, row, column, suffix):
    state, path = official(KINDS[column]), tmp_path / f'x{".pd" if TO[row] == "paddle" else suffix}'
    word = MATRIX[row][list(KINDS).index(column)].rpartition(' / ')[2]
    if word == 'refused':
        with pytest.raises(
            InputError,
            match=re.escape(f'--to {TO[row]}: {KINDS[column]} cannot be written, because it'),
        ):
            convert.write(path, state, TO[row])
        assert not any(tmp_path.iterdir())
        return
    model = written(state, TO[row], path)['model']
    assert word == ('exact' if names.kind(model) == KINDS[column] else 'lossy')
    assert_numbers(model)


def test_timm_gets_the_encoder_alone_and_the_report_says_so(official, tmp_path):
    report = convert.write(tmp_path / 'x.pth', official(names.AUTOENCODER), 'timm')
    assert report.taken == 30 and len(report.dropped) == 20 + 2  # decoder; optimizer, scaler
    assert 'and 17 more: timm has the encoder alone' in str(report)
    assert not [
        name
        for name in weights.read(tmp_path / 'x.pth')['state_dict']
        if 'decoder' in name or 'mask' in name
    ]


@pytest.mark.parametrize('to', ['torch', 'mmpretrain'])
def test_a_probe_gets_the_count_that_pytorch_keeps(official, tmp_path, to):
    report = convert.write(tmp_path / 'x.pth', official(names.PROBE), to)
    (name,) = report.made
    count = next(iter(weights.read(tmp_path / 'x.pth').values()))[name]
    assert name.endswith('num_batches_tracked') and count.shape == () and count.dtype == np.int64
    assert f'made {name}: PyTorch keeps this count' in str(report)


def test_plain_paddle_load_gives_the_numbers(official, tmp_path):
    convert.write(tmp_path / 'x.pd', official(names.AUTOENCODER), 'paddle')
    assert_numbers(
        {
            name: tensor.numpy()
            for name, tensor in paddle.load(str(tmp_path / 'x.pd'))['model'].items()
        }
    )


# other contents of a file


def test_flags_stay_as_a_plain_dict_and_the_state_of_training_is_left_behind_with_a_line(
    official, tmp_path
):
    state = official(names.AUTOENCODER)
    flags = {
        'model': 'mae_vit_tiny',
        'norm_pix_loss': True,
        'lr': None,
        'mask_ratio': 0.75,
        'output_dir': './output',
    }
    assert (
        type(state['args']) is dict
        and state['args'] == flags
        and 'param_groups' in state['optimizer']
    )
    for to, suffix in (
        ('paddle', '.pd'),
        ('torch', '.pth'),
        ('hf', '.safetensors'),
        ('mmpretrain', '.pth'),
    ):
        report = convert.write(tmp_path / f'x{suffix}', state, to)
        assert 'dropped optimizer, scaler: the state of training stays behind' in str(report)
        read = weights.read(tmp_path / f'x{suffix}')
        assert (
            read['args'] == flags
            and read['epoch'] == 3
            and not {'optimizer', 'scaler'} & read.keys()
        )


def test_the_history_of_an_mmengine_log_is_left_behind(models, tmp_path):
    state, _ = convert.read(models / 'mmpretrain_autoencoder.pth')
    assert state['message_hub'] == {'log_scalars': {'loss': {}}, 'runtime_info': {'iter': 2}}
    assert 'dropped message_hub: the state of training' in str(
        convert.write(tmp_path / 'x.pd', state, 'paddle')
    )
    assert weights.read(tmp_path / 'x.pd')['meta'] == {'epoch': 3, 'cfg': 'model = dict()'}


def test_what_no_format_can_keep_is_dropped_with_a_line(official, tmp_path):
    state = {
        **official(names.ENCODER),
        'seen': {1, 2},
        'average': np.ones(3),
        'rate': np.float64(0.5),
    }
    for to, suffix in (('paddle', '.pd'), ('torch', '.pth'), ('timm', '.safetensors')):
        report = convert.write(tmp_path / f'x{suffix}', state, to)
        assert 'dropped seen, average: more than text, numbers, lists and dicts of them' in str(
            report
        )
        assert weights.read(tmp_path / f'x{suffix}')['rate'] == 0.5
    # torch.load(weights_only=True) would refuse NumPy's types
    assert b'numpy' not in (tmp_path / 'x.pth').read_bytes()


@pytest.mark.parametrize('flags', ['text', None, [1]])
def test_flags_of_another_type_are_none(models, tmp_path, flags):
    torch_file.write(
        tmp_path / 'x.pth', torch_file.read(models / 'official_token.pth') | {'args': flags}
    )
    assert 'args' not in convert.read(tmp_path / 'x.pth')[0]


def test_metadata_called_model_does_not_hide_the_tensors(models, tmp_path):
    tensors = safetensors_file.read(models / 'timm_pooled.safetensors')
    safetensors_file.write(tmp_path / 'x.safetensors', tensors, {'model': 'vit_tiny'})
    assert_numbers(convert.read(tmp_path / 'x.safetensors')[0]['model'])


def test_float16_and_bfloat16_are_widened_and_float64_is_rounded(official, tmp_path):
    from safetensors.paddle import save_file

    model = official(names.CLASS_TOKEN)['model']
    for dtype in ('float16', 'float64'):
        torch_file.write(
            tmp_path / 'x.pth',
            {'model': {name: array.astype(dtype) for name, array in model.items()}},
        )
        for name, array in convert.read(tmp_path / 'x.pth')[0]['model'].items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, model[name].astype(dtype).astype('float32'))
    save_file(
        {name: paddle.to_tensor(array).astype('bfloat16') for name, array in model.items()},
        str(tmp_path / 'x'),
    )
    for name, array in convert.read(tmp_path / 'x')[0]['model'].items():
        assert array.dtype == np.float32 and not (array.view('uint32') & 0xFFFF).any()
        np.testing.assert_allclose(array, model[name], rtol=2**-8)


def test_the_average_of_the_weights_is_what_is_converted(official, tmp_path):
    average = official(names.POOLED)['model']
    paddle_file.write(
        tmp_path / 'x.pd',
        {'model': {name: array + 1 for name, array in average.items()}, 'ema': average},
    )
    read, report = convert.read(tmp_path / 'x.pd')
    assert_numbers(read['model'])
    assert report.format.endswith(', averaged weights')


def test_the_archive_is_small():
    assert ARCHIVE.stat().st_size < 200_000
