"""main_parity.py over encoders and classifiers: every rung, against timm and Hugging Face."""

import argparse
import datetime
import pathlib
import zipfile

import numpy as np
import paddle
import pytest

import models_sizes
import models_zoo
from util import convert, weights
from util.weights import torch_file

from .conftest import report

FIRST = ['keys and shapes', 'weights', 'blocks', 'logits']
LADDER = [*FIRST, 'loss', 'gradients', 'losses of the steps', 'weights after the steps']


@pytest.mark.parametrize(
    'size, kind, classes',
    [
        ('nano', 'class_token', 10),
        ('nano', 'probe', 10),
        ('nano', 'encoder', 10),
        ('nano', 'hf_classifier', 10),
        ('base', 'pooled', 1000),
    ],
)
def test_encoders_and_classifiers_pass_every_rung(made, climbed, size, kind, classes):
    result, rungs = climbed(made(size, kind, classes))
    report(f'{size} {kind}', **{name: rung['relative'] for name, rung in rungs.items()})
    assert result.returncode == 0, result.stdout
    assert list(rungs) == [
        name if (kind, name) != ('encoder', 'logits') else 'features' for name in LADDER
    ]


@pytest.mark.parametrize('kind', ['full', 'pooled', 'class_token', 'probe'])
def test_files_of_openmmlab_pass_every_rung(made, climbed, tmp_path, kind):
    state, _ = convert.read(made('nano', kind))
    convert.write(tmp_path / 'mm.pth', state, 'mmpretrain')
    result, rungs = climbed(tmp_path / 'mm.pth')
    assert result.returncode == 0, result.stdout
    assert len(rungs) == len(LADDER) + (kind == 'full')


def test_flags_of_the_standard_library_are_read_by_both(made, climbed, tmp_path):
    """Of Python 3.13 and of Windows, whose classes cannot be made here: their names go into the
    pickle in place of others."""
    model = weights.read(made('nano', 'class_token'))['model']
    flags = argparse.Namespace(
        out=pathlib.PurePosixPath('a', 'b'),
        data=pathlib.PureWindowsPath('c:', 'd'),
        begun=datetime.datetime(2024, 2, 29, 23, 5, tzinfo=datetime.timezone.utc),
        limit=datetime.timedelta(hours=5),
    )
    torch_file.write(tmp_path / 'plain.pth', {'model': model, 'args': flags})
    with (
        zipfile.ZipFile(tmp_path / 'plain.pth') as plain,
        zipfile.ZipFile(tmp_path / 'flags.pth', 'w') as renamed,
    ):
        for name in plain.namelist():
            data = plain.read(name)
            if name.endswith('data.pkl'):
                assert b'cpathlib\nPurePosixPath\n' in data and b'PureWindowsPath\n' in data
                data = data.replace(b'cpathlib\nPurePosix', b'cpathlib._local\nPosix')
                data = data.replace(b'cpathlib\nPureWindows', b'cpathlib\nWindows')
            renamed.writestr(name, data)
    assert convert.read(tmp_path / 'flags.pth')[0]['args']['data'].endswith('d')
    result, rungs = climbed(tmp_path / 'flags.pth')
    assert result.returncode == 0, result.stdout
    assert list(rungs) == LADDER


def test_both_take_the_same_of_plain_weights_and_their_average(made, climbed, tmp_path):
    model = weights.read(made('nano', 'pooled'))['model']
    average = {name: array / 2 for name, array in model.items()}
    torch_file.write(tmp_path / 'two.pth', {'model': model, 'model_ema': average})
    state, _ = convert.read(tmp_path / 'two.pth')
    convert.write(tmp_path / 'plain.pd', state, 'paddle')
    for flags, taken in (([], 'model'), (['--use_ema'], 'model_ema')):
        result, rungs = climbed(tmp_path / 'two.pth', *flags)
        assert result.returncode == 0, result.stdout
        assert list(rungs) == LADDER and f'{taken!r} is taken' in result.stderr
    result, rungs = climbed(tmp_path / 'two.pth', tmp_path / 'plain.pd', '--use_ema')
    assert result.returncode == 1 and not rungs['weights']['passed']


def test_clipped_steps_pass_as_well(made, climbed, tmp_path):
    source, losses = made('nano', 'pooled'), []
    for flags in (['--clip_grad', 1e-6], []):
        # so small that epsilon slows Adam down: otherwise Adam ignores a change of scale
        result, _ = climbed(source, '--reprod_log', tmp_path, *flags)
        assert result.returncode == 0, result.stdout
        losses.append(
            np.load(tmp_path / 'train_align_paddle.npy', allow_pickle=True).item()['losses']
        )
    assert np.abs(losses[0] - losses[1]).max() > 1e-3


def test_both_are_evaluated_on_the_same_pixels(made, climbed, digits, tmp_path):
    log, names = tmp_path / 'log', tmp_path / 'names.txt'
    # the model has ten outputs, the data three digits
    names.write_text('\n'.join(map(str, range(10))))
    flags = ['--data_path', digits, '--class_names', names, '--reprod_log', log]
    result, rungs = climbed(made('nano', 'pooled'), *flags)
    assert result.returncode == 0, result.stdout
    assert rungs['validation scores']['passed'] and rungs['metric']['passed']
    assert 'images: 10' in result.stdout and 'predicted differently: []' in result.stdout
    steps = ['bp_align', 'forward', 'loss', 'metric', 'train_align']
    assert sorted(file.name for file in log.iterdir()) == sorted(
        f'{step}_{end}' for step in steps for end in ('torch.npy', 'paddle.npy', 'diff.log')
    )
    ours, theirs = (
        np.load(log / f'forward_{name}.npy', allow_pickle=True).item()
        for name in ('paddle', 'torch')
    )
    np.testing.assert_allclose(ours['logits'], theirs['logits'], atol=1e-5)
    assert 'logits: passed' in (log / 'forward_diff.log').read_text()


@pytest.mark.parametrize('kind, patch', [('pooled', 4), ('token', 8), ('hf', 4)])
def test_rectangles_and_other_patches_pass_every_rung(climbed, tmp_path, kind, patch):
    """timm's VisionTransformer with img_size=(height, width), and transformers' with image_size."""
    paddle.seed(0)
    model = models_zoo.classifier(
        'vit_nano_patch4',
        img_size=(24, 40),
        patch_size=patch,
        num_classes=10,
        global_pool=kind == 'pooled',
    )
    tensors = {}
    for name, value in model.state_dict().items():
        tensors[name] = (value + 0.02 * paddle.randn(value.shape)).numpy()
    state = {'model': tensors, 'args': {'input_size': [24, 40]}}
    if kind == 'hf':
        file = tmp_path / 'hf/model.safetensors'
        convert.write(file.parent, state, 'hf', models_sizes.size_of(tensors))
        flags = ['--input_size', 24, 40]
    else:
        file = tmp_path / 'x.pth'
        convert.write(file, state, 'torch')
        flags = []
    result, rungs = climbed(file, *flags)
    assert result.returncode == 0, result.stdout
    assert list(rungs) == LADDER
