"""Attention in groups of heads, and in one kernel, is the attention that is written out."""

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
    apply = attention.Attention.apply
    monkeypatch.setattr(attention.Attention, 'apply', lambda *x: used.append(1) or apply(*x))
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


@pytest.mark.parametrize('outer, queries, keys', [((2, 3), 7, 7), ((2, 5, 3), 4, 9)])
def test_fused_attention_equals_the_written_out_one(monkeypatch, outer, queries, keys):
    rng = np.random.default_rng(0)
    shapes = [(*outer, length, 8) for length in (queries, keys, keys)]
    arrays = [rng.normal(size=shape).astype('float32') for shape in shapes]
    written_out = attended(arrays)
    used = []
    fused = attention.fused
    monkeypatch.setattr(attention, 'is_fused', lambda q: True)
    monkeypatch.setattr(attention, 'fused', lambda *x: used.append(1) or fused(*x))
    for ours, expected in zip(attended(arrays), written_out, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert used == [1]


def test_attention_with_a_bias_is_never_fused(monkeypatch):
    """A fused one gives no gradient to the bias."""
    monkeypatch.setattr(attention, 'is_fused', lambda q: True)
    q = paddle.rand([1, 2, 3, 4])
    bias = paddle.zeros([1, 2, 3, 3])
    bias.stop_gradient = False
    layer.attend(q, q, q, bias).square().sum().backward()
    assert bias.grad.abs().sum() > 0


def test_on_cpus_attention_is_written_out():
    assert not attention.is_fused(paddle.rand([1, 2, 3, 4]))
