import numpy as np
import paddle
import pytest

import models_zoo
from util import optim


@pytest.mark.parametrize(
    'epoch, rate',
    [
        (0, 0),
        (1, 6.0e-5),
        (20, 1.2e-3),
        (40, 2.4e-3),
        (100, 2.391251e-3),
        (800, 1.248319e-3),
        (1500, 2.425122e-5),
        (1599, 2.433e-9),
    ],
)
def test_the_schedule_of_1600_epochs(epoch, rate):
    assert optim.Cosine(2.4e-3, 0.0, 40, 1600)(epoch) == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize(
    'epoch, rate', [(1, 4.0e-4), (5, 2.0e-3), (50, 1.083038e-3), (99, 1.546469e-6)]
)
def test_the_schedule_ends_at_min_lr(epoch, rate):
    assert optim.Cosine(2e-3, 1e-6, 5, 100)(epoch) == pytest.approx(rate, rel=1e-5)


def test_the_base_rate_is_for_256_samples_and_lr_overrides_it():
    assert optim.absolute_lr(None, 1.5e-4, 4096) == pytest.approx(2.4e-3)
    assert optim.absolute_lr(0.1, 1.5e-4, 4096) == 0.1


def test_decay_groups_of_vit_base_count_as_in_the_official_code():
    model = models_zoo.autoencoder('mae_vit_base_patch16')
    plain, decayed = optim.decay_groups(model, 0.05)
    assert (len(decayed['params']), len(plain['params'])) == (85, 167)
    assert (decayed['weight_decay'], plain['weight_decay']) == (0.05, 0.0)
    ids = {id(parameter) for parameter in decayed['params']}
    assert id(model.cls_token) in ids and id(model.mask_token) in ids
    assert id(model.pos_embed) not in ids | {id(parameter) for parameter in plain['params']}


@pytest.mark.parametrize('large', [0, 100])
def test_threads_update_large_parameters_as_paddle_does(large, monkeypatch):
    """Bit for bit, with the weight decay and rate of each group; so is the state."""
    monkeypatch.setattr(optim, 'LARGE', large)
    monkeypatch.setenv('OMP_NUM_THREADS', '3')
    rng = np.random.default_rng(0)
    shapes = [(), (3,), (20, 30), (7, 11), (5, 5)]
    values = [rng.normal(size=shape).astype('float32') for shape in shapes]
    made = []
    for kind in (paddle.optimizer.AdamW, optim.AdamW):
        parameters = []
        for value in values:
            parameter = paddle.create_parameter(value.shape, 'float32')
            parameter.set_value(value)
            parameters.append(parameter)
        groups = [
            {'params': parameters[:3], 'weight_decay': 0.3, 'learning_rate': 0.5},
            {'params': parameters[3:], 'weight_decay': 0.0},
        ]
        optimizer = kind(0.1, beta2=0.95, parameters=groups, weight_decay=0.0)
        made.append((parameters, optimizer))
    for _ in range(3):
        gradients = [rng.normal(size=shape).astype('float32') for shape in shapes]
        for parameters, optimizer in made:
            for parameter, gradient in zip(parameters, gradients):
                parameter.grad = paddle.to_tensor(gradient)
            optimizer.step()
    (of_paddle, paddles), (of_threads, threads) = made
    for ours, theirs in zip(of_threads, of_paddle):
        assert np.array_equal(ours.numpy(), theirs.numpy())
    state, expected = [list(each.state_dict().values()) for each in (threads, paddles)]
    assert len(state) == len(expected) == 4 * len(shapes)
    for ours, theirs in zip(state, expected):
        assert np.array_equal(ours.numpy(), theirs.numpy())


def test_adamw_equals_a_calculation_by_hand():
    layer = paddle.nn.Linear(3, 2)
    weight, bias = layer.weight.numpy().astype('float64'), layer.bias.numpy().astype('float64')
    optimizer = optim.adamw(optim.decay_groups(layer, 0.3), beta2=0.95)
    rng = np.random.default_rng(0)
    moments = [np.zeros([2, *value.shape]) for value in (weight, bias)]
    for t, lr in enumerate([0.1, 0.02, 0.05], 1):
        x = rng.normal(size=[4, 3]).astype('float32')
        (layer(paddle.to_tensor(x)) ** 2).sum().backward()
        gradients = [
            layer.weight.grad.numpy().astype('float64'),
            layer.bias.grad.numpy().astype('float64'),
        ]
        optimizer.set_lr(lr)
        optimizer.step()
        optimizer.clear_grad()
        for value, gradient, (m, v), decay in zip((weight, bias), gradients, moments, (0.3, 0.0)):
            value *= 1 - lr * decay
            m[:] = 0.9 * m + 0.1 * gradient
            v[:] = 0.95 * v + 0.05 * gradient**2
            value -= lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
    np.testing.assert_allclose(layer.weight.numpy(), weight, atol=1e-6)
    np.testing.assert_allclose(layer.bias.numpy(), bias, atol=1e-6)
