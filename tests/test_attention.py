"""Attention in groups of heads is the attention of all heads at once."""

import numpy as np
import paddle
import pytest

import layer
from util import attention, kernels


def attended(arrays):
    """The result and the gradients of queries, keys and values."""
    q, k, v = (paddle.to_tensor(array, stop_gradient=False) for array in arrays)
    y = layer.attend(q, k, v)
    y.backward(paddle.ones_like(y) * paddle.arange(y.shape[-1], dtype='float32'))
    return [x.numpy() for x in (y, q.grad, k.grad, v.grad)]


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    shapes = [(2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6)]  # of q, k and v
    return [rng.normal(size=shape).astype('float32') for shape in shapes]


@pytest.mark.parametrize('group', [1, 70, 10**6], ids=['one head', 'two heads', 'all'])
def test_groups_of_heads_change_no_bit(arrays, group, monkeypatch):
    kernels.install()
    at_once = attended(arrays)
    monkeypatch.setattr(attention, 'LARGE', 0)
    monkeypatch.setattr(attention, 'GROUP', group)
    for one, other in zip(attended(arrays), at_once):
        assert np.array_equal(one, other)


def test_groups_of_heads_are_numpys_attention(arrays, monkeypatch):
    monkeypatch.setattr(attention, 'LARGE', 0)
    monkeypatch.setattr(attention, 'GROUP', 70)
    q, k, v = (array.astype('float64') for array in arrays)
    scores = np.exp(np.einsum('nhld,nhmd->nhlm', q, k) / 2)
    weights = scores / scores.sum(-1, keepdims=True)
    expected = np.einsum('nhlm,nhmd->nhld', weights, v)
    assert np.abs(attended(arrays)[0] - expected).max() < 1e-6


def test_small_scores_are_made_at_once(arrays, monkeypatch):
    """So are those that a bias changes."""
    used = []
    monkeypatch.setattr(attention, 'attend', lambda *args, **options: used.append(args))
    q, k, v = (paddle.to_tensor(array) for array in arrays)
    layer.attend(q, k, v)
    monkeypatch.setattr(attention, 'LARGE', 0)
    layer.attend(q, k, v, paddle.zeros([1, 1, 5, 7]))
    layer.attend(*(x.astype('float64') for x in (q, k, v)))
    assert not used
    layer.attend(q, k, v)
    assert used


def test_what_needs_no_gradient_gets_none(arrays, monkeypatch):
    monkeypatch.setattr(attention, 'LARGE', 0)
    q, k, v = (paddle.to_tensor(array) for array in arrays)
    k.stop_gradient = False
    layer.attend(q, k, v).sum().backward()
    assert q.grad is None and v.grad is None and k.grad is not None
