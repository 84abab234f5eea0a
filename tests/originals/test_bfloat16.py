"""--amp bfloat16 on a CPU is at least as close to float64 as PyTorch's autocast."""

import numpy as np
import paddle
import pytest

import layer
from util import bfloat16, kernels

from .conftest import report


@pytest.mark.skipif(not bfloat16.is_fast(), reason='this processor has no bfloat16')
def test_a_block_is_as_exact_as_in_pytorchs_autocast(reference):
    kernels.install()
    bfloat16.install()
    paddle.seed(0)
    block = layer.Block(96, 3)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=[4, 50, 96]).astype('float32') for name in ('x', 'dy')}
    weights = {name: weight.numpy() for name, weight in block.named_parameters()}
    # PyTorch's matrices are transposed
    theirs = {name: array.T if array.ndim == 2 else array for name, array in weights.items()}
    found = reference('bfloat16', heads=3, **arrays, **theirs)

    x = paddle.to_tensor(arrays['x'], stop_gradient=False)
    with bfloat16.products():
        y = block(x)
    y.backward(paddle.to_tensor(arrays['dy']))
    ours = {'y': y, 'x': x.grad, **{name: one.grad for name, one in block.named_parameters()}}
    ratios = []
    for name, tensor in ours.items():
        array = tensor.numpy()
        if name in theirs and array.ndim == 2:
            array = array.T
        exact = found[f'exact/{name}']
        size = np.linalg.norm(exact)
        error = np.linalg.norm(array - exact) / size
        allowed = np.linalg.norm(found[f'low/{name}'] - exact) / size
        report(name, error=error, of_pytorch=allowed)
        assert 0 < error < 2e-2
        ratios.append(error / allowed)
    # rounding errors of sums over few rows differ by chance
    assert max(ratios) < 1.5 and np.mean(ratios) < 1.05
