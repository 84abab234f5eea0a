import numpy as np
import paddle
import pytest

import models_mae
from util import amp, checkpoint, optim, weights
from util.errors import InputError


def training(name='mae_vit_nano_patch4', **kwargs):
    model = models_mae.create(name, **{'in_chans': 1} | kwargs)
    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    optimizer.set_lr(1e-3)
    return model, optimizer, amp.Step(optimizer)


def train(model, optimizer, step, seed):
    paddle.seed(seed)
    step.backward(model(paddle.randn([4, 1, 32, 32]))[0], 0)


def values(model):
    return {name: parameter.numpy() for name, parameter in model.named_parameters()}


def test_going_on_from_a_checkpoint_equals_never_having_stopped(tmp_path):
    straight = training()
    train(*straight, seed=1)
    checkpoint.save(str(tmp_path), 7, *straight, {'lr': None})
    train(*straight, seed=2)

    paddle.nn.Linear(3, 3)  # a layer made before the model shifts Paddle's own parameter names
    resumed = training()
    assert checkpoint.resume(str(tmp_path / 'checkpoint-7.pd'), *resumed) == 8
    train(*resumed, seed=2)
    expected, got = values(straight[0]), values(resumed[0])
    for name in expected:
        np.testing.assert_array_equal(expected[name], got[name], err_msg=name)


def test_a_checkpoint_has_the_official_keys_and_structured_optimizer_state(tmp_path):
    state = training()
    train(*state, seed=1)
    checkpoint.save(str(tmp_path), 0, *state, {'lr': None})
    saved = weights.read(tmp_path / 'checkpoint-0.pd')
    assert list(saved) == ['model', 'optimizer', 'epoch', 'scaler', 'args']
    trainable = [name for name, p in state[0].named_parameters() if not p.stop_gradient]
    assert sorted(name for name, kinds in saved['optimizer'].items() if kinds) == sorted(trainable)
    moments = saved['optimizer']['blocks.1.mlp.fc1.weight']
    assert set(moments) == {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'} and moments['moment1'].shape == (96, 384)


@pytest.mark.parametrize('other, message', [
    ({'img_size': 16}, r'pos_embed is \[1, 17, 96\] there, \[1, 65, 96\] here'),
    ({'in_chans': 3}, r'patch_embed.proj.weight is \[96, 3, 4, 4\] there, \[96, 1, 4, 4\] here')])
def test_a_checkpoint_of_another_model_is_refused_by_its_first_difference(tmp_path, other, message):
    checkpoint.save(str(tmp_path), 0, *training(**other), {})
    with pytest.raises(InputError, match=message):
        checkpoint.resume(str(tmp_path / 'checkpoint-0.pd'), *training())


def test_missing_and_additional_keys_are_named():
    model, _, _ = training()
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match='norm.weight .* is missing there'):
        checkpoint.load_model(model, {name: t for name, t in tensors.items() if name != 'norm.weight'}, 'x.pd')
    with pytest.raises(InputError, match='it has head.weight, which'):
        checkpoint.load_model(model, tensors | {'head.weight': tensors['norm.weight']}, 'x.pd')


def test_weights_alone_cannot_be_resumed(tmp_path):
    paddle.save({'model': {}}, str(tmp_path / 'x.pd'))
    with pytest.raises(InputError, match="no 'optimizer'"):
        checkpoint.resume(str(tmp_path / 'x.pd'), *training())
