"""A checkpoint of the official PyTorch programs, written by hand, becomes ours.

tests/originals/test_official_training.py compares with PyTorch itself.
"""

import argparse

import numpy as np
import paddle
import pytest

import models_mae
import models_zoo
from util import amp, convert, official_training, optim, resume
from util.assign import optimizer_state
from util.checkpoint import Position
from util.errors import InputError
from util.weights import torch_file

FLAGS = {
    'batch_size': 8,
    'accum_iter': 4,
    'world_size': 2,
    'blr': 1e-3,
    'lr': 1e-3 * 64 / 256,
    'weight_decay': 0.05,
}


def training():
    model = models_zoo.autoencoder('mae_vit_nano_patch4', in_chans=1)
    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    return model, amp.Step(optimizer)


def in_official_order(names):
    """Names of the trainable parameters in the order of timm's groups, by names alone."""
    trainable = [name for name in names if not name.endswith('pos_embed')]
    plain = [name for name in trainable if name.endswith('bias') or 'norm' in name]
    return plain, [name for name in trainable if name not in plain]


@pytest.fixture
def file(tmp_path):
    """file(order) -> a checkpoint whose moments are the numbers of their parameters.

    order: sorts the weights.
    """

    def file(order=list):
        model, _ = training()
        convert.write(
            tmp_path / 'weights.pth',
            {'model': {name: tensor.numpy() for name, tensor in model.state_dict().items()}},
            'torch',
        )
        tensors = torch_file.read(tmp_path / 'weights.pth')['model']
        tensors = {name: tensors[name] for name in order(tensors)}
        plain, decayed = in_official_order(tensors)
        state = {}
        for number, name in enumerate([*plain, *decayed]):
            moment = np.full_like(tensors[name], number)
            state[number] = {'step': 7, 'exp_avg': moment, 'exp_avg_sq': 2 * moment}
        numbers = list(state)
        group = {'betas': (0.9, 0.95), 'weight_decay': 0.0, 'params': numbers[: len(plain)]}
        other = group | {'weight_decay': 0.05, 'params': numbers[len(plain) :]}
        contents = {
            'model': tensors,
            'optimizer': {'state': state, 'param_groups': [group, other]},
            'epoch': 4,
            'scaler': {
                'scale': 1024.0,
                'growth_factor': 2.0,
                'backoff_factor': 0.5,
                'growth_interval': 2000,
                '_growth_tracker': 5,
            },
            'args': argparse.Namespace(**FLAGS),
        }
        torch_file.write(tmp_path / 'checkpoint-4.pth', contents)
        return str(tmp_path / 'checkpoint-4.pth')

    return file


@pytest.mark.parametrize('order', [list, sorted, reversed])
def test_each_parameter_gets_its_own_moments(file, capsys, order):
    """Also of a code base that has its layers in another order, which is that of its weights."""
    state = resume.find(file(order), '', {'lr': None, 'blr': 1e-3, 'batch_size': 8})
    assert state['position'] == {'epoch': 5, 'effective_batch': 64}
    model, step = training()
    assert resume.restore(state, model, step) == Position(5)
    assert 'warning' not in capsys.readouterr().err
    plain, decayed = in_official_order(order(list(model.state_dict())))
    found = optimizer_state(model, step.optimizer)
    for number, name in enumerate([*plain, *decayed]):
        kinds = found[name]
        assert (kinds['moment1'] == number).all() and (kinds['moment2'] == 2 * number).all(), name
        assert kinds['beta1_pow_acc'] == pytest.approx(0.9**8)  # Paddle's is for the next step
        assert kinds['beta2_pow_acc'] == pytest.approx(0.95**8)


def test_other_settings_are_said(file, capsys):
    model, _ = training()
    groups = optim.decay_groups(model, 0.1)
    step = amp.Step(optim.adamw(groups, beta2=0.999))
    resume.restore(resume.find(file(), '', {'weight_decay': 0.1}), model, step)
    said = capsys.readouterr().err
    assert 'resuming with other flags: --weight_decay was 0.05 and is 0.1' in said
    assert 'betas [0.9, 0.95] there, [0.9, 0.999] here; weight decay 0.05 there, 0.1 here' in said


def test_other_groups_are_one_line(models):
    model = models_mae.MaskedAutoencoderViT(
        32, 8, embed_dim=24, depth=2, num_heads=3, decoder_embed_dim=16, decoder_depth=1
    )
    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    state = resume.find(str(models / 'official_autoencoder.pth'), '')
    with pytest.raises(
        InputError, match='the groups of its optimizer have 50 parameters, and 31, 17'
    ):
        resume.restore(state, model, amp.Step(optimizer))


def test_a_scaler_goes_on_with_its_scale_and_its_count(file):
    scaler = resume.find(file(), '')['scaler']
    with pytest.warns(UserWarning, match='AmpScaler can only be enabled'):
        own = paddle.amp.GradScaler(enable=True)
    own.__dict__ |= {'_enable': True, '_use_dynamic_loss_scaling': True}
    own.load_state_dict(scaler)
    assert scaler.keys() == own.state_dict().keys()
    assert own.state_dict()['scale'] == 1024 and own.state_dict()['incr_count'] == 5
    assert official_training.scaler_state({}) == official_training.scaler_state(None) == {}
