"""paddle.hub: the list of models, their help, and models with and without weights."""

import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT

import main_finetune
import models_zoo
from util import machine
from util.errors import InputError
from util.weights import paddle_file

OFFICIAL = (
    'mae_vit_base_patch16',
    'mae_vit_large_patch16',
    'mae_vit_huge_patch14',
)  # of the README


def load(name, **settings):
    return paddle.hub.load(str(ROOT), name, source='local', **settings)


@pytest.fixture(scope='module')
def trained(classify):
    _, out = classify(main_finetune)
    return out / 'checkpoint-best.pd'


def equals_file(model, file, prefixes):
    """Whether the model's tensors of these names are those of the file; how many there are."""
    tensors = paddle_file.read(file)['model']
    own = model.state_dict()
    named = [name for name in own if name.startswith(prefixes)]
    return len(named), all(np.array_equal(own[name], tensors[name]) for name in named)


def test_every_model_is_an_entry_and_nothing_else_is():
    listed = paddle.hub.list(str(ROOT), source='local')
    assert sorted(listed) == sorted([*models_zoo.AUTOENCODERS, *models_zoo.CLASSIFIERS])
    assert set(listed) > set(OFFICIAL)
    for family in ('vit_', 'swin_', 'pvt_', 'mae_swin_', 'mae_pvt_', 'simmim_swin_', 'simmim_pvt_'):
        assert any(name.startswith(family) for name in listed)


@pytest.mark.parametrize(
    'name, says',
    [('mae_vit_large_patch16', 'width 512, 8 blocks'), ('pvt_small_256', 'PVT-Small of UM-MAE')],
)
def test_help_describes_the_model_and_how_it_is_called(name, says):
    text = paddle.hub.help(str(ROOT), name, source='local')
    assert says in text.splitlines()[0]
    for word in ('weights:', 'start_from:', 'use_ema:', 'img_size'):
        assert word in text
    assert ('norm_pix_loss' in text) == name.startswith('mae_')
    assert max(map(len, text.splitlines())) <= 100


def test_a_new_model_has_the_settings():
    assert load('vit_nano_patch4', num_classes=7).head.weight.shape == [96, 7]
    assert load('simmim_swin_nano_32', in_chans=1).in_chans == 1


def test_an_autoencoder_is_ready_from_its_file(encoder):
    model = load('mae_vit_nano_patch4', weights=encoder)
    count, is_equal = equals_file(model, encoder, ('',))
    assert count > 50 and is_equal and not model.training
    assert list(model.img_size) == [16, 16] and model.in_chans == 1
    assert model.about['input_size'] == 16


def test_a_classifier_is_ready_from_its_file(trained):
    model = load('vit_nano_patch4', weights=trained, num_classes=3)
    count, is_equal = equals_file(model, trained, ('',))
    assert count > 40 and is_equal and not model.training
    assert model.about['labels'] == [['0'], ['1'], ['2']] and model.about['in_chans'] == 1


def test_a_pretrained_file_gives_an_encoder_or_the_beginning_of_a_training(encoder, capsys):
    ready = load('vit_nano_patch4', weights=encoder)
    features = ready.forward_features(paddle.zeros([2, 1, 16, 16]))
    assert features.shape == [2, 96] and not ready.training

    settings = {'img_size': 16, 'in_chans': 1, 'num_classes': 5}
    begun = load('vit_nano_patch4', start_from=encoder, **settings)
    assert begun.training and begun.head.weight.shape == [96, 5]
    assert 'copied:' in capsys.readouterr().out
    for model in (ready, begun):
        count, is_equal = equals_file(model, encoder, ('blocks.', 'patch_embed.', 'pos_embed'))
        assert count > 40 and is_equal


@pytest.mark.parametrize(
    'name, settings, said',
    [
        ('mae_vit_nano_patch4', {'weights': 'x', 'start_from': 'y'}, 'give one'),
        ('vit_nano_patch4', {'use_ema': True}, 'give weights'),
        ('mae_vit_nano_patch4', {'weights': 'ENCODER', 'mask_ratio': 0.5}, 'mask_ratio: beside'),
        ('mae_vit_base_patch16', {'weights': 'ENCODER'}, 'trained with model mae_vit_nano_patch4'),
        ('vit_nano_patch4', {'weights': 'ENCODER', 'num_classes': 3}, 'give start_from instead'),
        ('vit_nano_patch4', {'weights': 'TRAINED', 'num_classes': 9}, 'nb_classes 3, but'),
        ('vit_base_patch16', {'weights': 'TRAINED'}, 'has model vit_nano_patch4'),
    ],
)
def test_what_does_not_fit_is_said(encoder, trained, name, settings, said):
    files = {'ENCODER': encoder, 'TRAINED': trained}
    if 'weights' in settings:
        settings = settings | {'weights': files.get(settings['weights'], settings['weights'])}
    with pytest.raises(InputError, match=said):
        load(name, **settings)


def test_paddle_lacks_the_settings_that_come_after_it():
    amd = 'vendor_id : AuthenticAMD\nflags : fpu avx2 ht\n'
    assert machine.unset({'OMP_NUM_THREADS': '1'}, 8, '') == 'OMP_NUM_THREADS=8'
    assert machine.unset({'OMP_NUM_THREADS': '4'}, 8, '') == ''
    assert machine.unset({'OMP_NUM_THREADS': '1'}, 1, amd) == 'MKL_DEBUG_CPU_TYPE=5'


def test_who_imported_paddle_first_is_told_once(tmp_path):
    script = f"""
import os
os.sched_getaffinity = lambda process: range(8)
import paddle
for _ in range(2):
    paddle.hub.load({str(ROOT)!r}, 'vit_nano_patch4', source='local')
"""
    environ = {name: value for name, value in os.environ.items() if name != 'OMP_NUM_THREADS'}
    done = subprocess.run(
        [sys.executable, '-c', script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith('warning: ')]
    assert 'Paddle was imported first' in line and 'OMP_NUM_THREADS=8' in line
