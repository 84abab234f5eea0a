"""Products in bfloat16: factors are rounded, sums are float32, and all else is as it was."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT
from paddle import nn
from test_attention import bfloat, close

import layer
import models_zoo
from util import amp, bfloat16, kernels

fast = pytest.mark.skipif(not bfloat16.is_fast(), reason='this processor has no bfloat16')


@pytest.fixture(autouse=True)
def installed():
    kernels.install()
    bfloat16.install()


def of_layer(part, x, dy, on):
    """The result of a layer and the gradients of its input and parameters."""
    x = paddle.to_tensor(x, stop_gradient=False)
    with bfloat16.products(on):
        y = part(x)
    y.backward(paddle.to_tensor(dy, 'float32'))
    found = [y, x.grad, *(parameter.grad for parameter in part.parameters())]
    arrays = [one.numpy() for one in found]
    clear(part)
    return arrays


def clear(part):
    """Drop the gradients; clear_gradients would fill them with zeros, and their arrays too."""
    for parameter in part.parameters():
        parameter.clear_gradient(False)


@fast
@pytest.mark.parametrize('has_bias', [True, False])
def test_a_linear_layer_multiplies_rounded_factors(has_bias):
    rng = np.random.default_rng(0)
    part = nn.Linear(24, 40, bias_attr=None if has_bias else False)
    x, dy = rng.normal(size=(2, 5, 24)), rng.normal(size=(2, 5, 40))
    found = of_layer(part, x.astype('float32'), dy, True)
    low_x, low_dy, weight = bfloat(x), bfloat(dy), bfloat(part.weight.numpy())
    flat_x, flat_dy = low_x.reshape(-1, 24), low_dy.reshape(-1, 40)
    bias = part.bias.numpy() if has_bias else 0
    expected = [low_x @ weight + bias, low_dy @ weight.T, flat_x.T @ flat_dy]
    if has_bias:
        expected.append(dy.reshape(-1, 40).sum(0))  # no product, so not rounded
    close(found, expected, 1e-6)


@fast
def test_a_convolution_multiplies_rounded_factors():
    """Equal to a convolution in float32 of factors that were rounded before."""
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(2, 8, 9, 9)), rng.normal(size=(2, 6, 9, 9))
    part = nn.Conv2D(8, 6, 3, padding=1)
    found = of_layer(part, x.astype('float32'), dy, True)
    low_x, low_dy = bfloat(x).astype('float32'), bfloat(dy)
    of_weight = of_layer(part, low_x, low_dy, False)[2]
    part.weight.set_value(bfloat(part.weight.numpy()).astype('float32'))
    expected = of_layer(part, low_x, low_dy, False)
    expected[2] = of_weight
    expected[3] = dy.sum((0, 2, 3))
    close(found[:3], expected[:3], 2e-6)
    close(found[3:], expected[3:], 1e-2)  # oneDNN sums the rounded gradient


@fast
def test_a_step_is_near_to_that_in_float32():
    """Losses and gradients of an autoencoder and of a Swin, in a round of their types."""
    for name in ('mae_vit_nano_patch4', 'mae_swin_nano_32', 'mae_pvt_nano_32'):
        model = models_zoo.autoencoder(name)
        images = paddle.randn([4, 3, 32, 32])
        found = {}
        for precision in ('off', 'bfloat16'):
            paddle.seed(0)
            np.random.seed(0)
            with amp.autocast(precision):
                loss = model(images)[0]
            loss.backward()
            assert loss.dtype == paddle.float32
            gradients = [part.grad for part in model.parameters() if part.grad is not None]
            found[precision] = [x.numpy() for x in (loss, *gradients)]
            clear(model)
        low, full = found['bfloat16'], found['off']
        close(low[:1], full[:1], 2e-3)
        norm = np.linalg.norm
        far = [norm(one - other) / norm(other) for one, other in zip(low[1:], full[1:])]
        assert 1e-4 < np.median(far) < 3e-2


@fast
def test_recomputed_blocks_keep_their_precision():
    paddle.seed(0)
    blocks = layer.Blocks([layer.Block(16, 2) for _ in range(2)])
    x = paddle.randn([2, 5, 16])
    found = []
    for blocks.recompute in (False, True):
        with bfloat16.products():
            y = blocks(x)
        y.backward(paddle.ones_like(y))  # outside, as in the programs
        found.append([parameter.grad.numpy() for parameter in blocks.parameters()])
        clear(blocks)
    assert all(np.array_equal(one, other) for one, other in zip(*found))


def test_it_ends_with_its_context():
    with contextlib.suppress(KeyError), bfloat16.products():
        assert bfloat16.is_on()
        with bfloat16.products(False):
            assert not bfloat16.is_on()
        raise KeyError
    assert not bfloat16.is_on()


@pytest.mark.parametrize('most', ['AVX2', 'AVX512_CORE'])
def test_a_processor_without_its_instructions_is_not_fast(most):
    """oneDNN may emulate bfloat16 there, or has no such product."""
    result = subprocess.run(
        [sys.executable, '-c', 'import util.bfloat16 as b; print(b.is_fast())'],
        env={**os.environ, 'ONEDNN_MAX_CPU_ISA': most},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split()[-1] == 'False'
