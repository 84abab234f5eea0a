"""Attention that oneDNN reads and writes in place, and in one kernel, is the one written out."""

import numpy as np
import paddle
import pytest

import layer
from util import attention, bfloat16

HEADS = 3
# Leading axes of the projections, those of a bias or None, and whether keys are other tokens
CASES = {
    'plain': ((2,), None, False),
    'windows': ((2, 5), (1, 5), False),
    'one bias': ((2, 5), (1, 1), False),
    'a bias an image': ((2, 5), (2, 1), False),
    'a bias without axes': ((2,), (), False),
    'a bias each': ((2, 5), (2, 5), False),
    'other keys': ((4,), None, True),
}


def bfloat(array):
    """The nearest bfloat16 of float32 numbers: rounded to even at half of their bits."""
    bits = np.ascontiguousarray(array, 'float32').view('uint32')
    return (((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) << 16).view('float32').astype('float64')


def given(outer, of_bias, pooled):
    """Projections, a bias or None, and the gradient of the result."""
    rng = np.random.default_rng(0)
    length, width = 7, 4
    shapes = [(*outer, length, HEADS * width * (1 if pooled else 3))]
    shapes.append((*outer, 5, HEADS * width * 2) if pooled else None)
    shapes.append(None if of_bias is None else (*of_bias, HEADS, length, length))
    shapes.append((*outer, length, HEADS * width))
    return [None if s is None else rng.normal(size=s).astype('float32') for s in shapes]


def by_hand(q, kv, bias, dy, low=lambda x: x.astype('float64')):
    """The result and the gradients of what is given, in float64; `low` rounds factors."""

    def heads(x, count):
        """[.., L, count H d] -> count times [.., H, L, d]"""
        x = x.reshape(*x.shape[:-1], count, HEADS, -1)
        return list(np.moveaxis(np.moveaxis(x, -3, 0), -2, -3))

    def joined(parts):
        x = np.stack([np.moveaxis(part, -3, -2) for part in parts], -3)
        return x.reshape(*x.shape[:-3], -1)

    parts = heads(low(q), 3) if kv is None else [*heads(low(q), 1), *heads(low(kv), 2)]
    q, k, v = parts
    scale = q.shape[-1] ** -0.5
    scores = q @ np.swapaxes(k, -1, -2) * scale
    scores = np.exp(scores if bias is None else scores + bias)
    weights = scores / scores.sum(-1, keepdims=True)
    y = low(weights) @ v

    (dy,) = heads(low(dy), 1)
    dweights = dy @ np.swapaxes(v, -1, -2)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    dq = low(dscores) @ k * scale
    dk = np.swapaxes(low(dscores), -1, -2) @ q * scale
    dv = np.swapaxes(low(weights), -1, -2) @ dy
    sources = [[dq, dk, dv]] if kv is None else [[dq], [dk, dv]]
    found = [joined(parts) for parts in ([y], *sources)]
    if bias is not None:
        missing = dscores.ndim - bias.ndim
        whole = (1,) * missing + bias.shape
        axes = tuple(axis for axis, side in enumerate(whole) if side == 1)
        found.append(dscores.sum(axes, keepdims=True).reshape(bias.shape))
    return found


def attended(q, kv, bias, dy):
    """What `by_hand` returns, by oneDNN."""

    def tensor(array):
        return None if array is None else paddle.to_tensor(array, stop_gradient=False)

    inputs = [tensor(array) for array in (q, kv, bias)]
    y = attention.attend(HEADS, *inputs)
    y.backward(paddle.to_tensor(dy))
    return [y.numpy(), *(x.grad.numpy() for x in inputs if x is not None)]


def close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < tolerance * np.abs(other).max()


@pytest.mark.parametrize('case', CASES)
def test_attention_in_place_is_numpys(case):
    arrays = given(*CASES[case])
    close(attended(*arrays), by_hand(*arrays), 2e-6)


@pytest.mark.parametrize('pooled', [False, True])
def test_no_number_of_images_is_misread(pooled):
    """oneDNN's own products are wrong for 21 images of 7 tokens with 3 projections side by side."""
    for images in range(1, 65):
        arrays = given((images,), None, pooled)
        close(attended(*arrays), by_hand(*arrays), 5e-6)


@pytest.mark.parametrize('outer', [(2, 5), (1, 5)])
def test_a_mask_is_added_like_a_bias_and_has_no_gradient(outer):
    q, _, bias, dy = given(outer, (1, 1), False)
    mask = -100 * np.random.default_rng(1).integers(0, 2, [5, 1, 7, 7]).astype('float32')
    inputs = [paddle.to_tensor(array, stop_gradient=False) for array in (q, bias)]
    y = attention.attend(HEADS, inputs[0], bias=inputs[1], mask=paddle.to_tensor(mask))
    y.backward(paddle.to_tensor(dy))
    both, dq, dboth = by_hand(q, None, bias + mask, dy)
    found = [y.numpy(), *(x.grad.numpy() for x in inputs)]
    close(found, [both, dq, dboth.sum(1, keepdims=True)], 2e-6)


@pytest.mark.skipif(not bfloat16.is_fast(), reason='this processor has no bfloat16')
@pytest.mark.parametrize('case', CASES)
def test_in_bfloat16_only_the_factors_of_products_are_rounded(case):
    """Softmax is float32: rounding its input too would be a hundred times farther off."""
    arrays = given(*CASES[case])
    with bfloat16.products():
        found = attended(*arrays)
    expected = by_hand(*arrays, bfloat)
    exact = by_hand(*arrays)
    for one, rounded, other in zip(found, expected, exact, strict=True):
        # a weight that lies between two bfloat16 may go to the other one
        assert np.abs(one - rounded).max() < 1e-3 * np.abs(rounded).max()
        assert np.abs(one - other).max() < 2e-2 * np.abs(other).max()


@pytest.mark.parametrize('group', [1, 100, 150, 10**6], ids=['a head', 'two', 'an image', 'all'])
@pytest.mark.parametrize('pooled', [False, True])
def test_groups_of_heads_change_nothing(group, pooled, monkeypatch):
    arrays = given((3,), None, pooled)
    at_once = attended(*arrays)
    monkeypatch.setattr(attention, 'LARGE', 0)
    monkeypatch.setattr(attention, 'GROUP', group)
    close(attended(*arrays), at_once, 1e-6)


def test_what_needs_no_gradient_gets_none():
    q, kv, _, _ = (None if x is None else paddle.to_tensor(x) for x in given((2,), None, True))
    kv.stop_gradient = False
    attention.attend(HEADS, q, kv).sum().backward()
    assert q.grad is None and kv.grad is not None


def test_other_types_are_left_to_paddle():
    q = paddle.to_tensor(given((2,), None, False)[0])
    assert attention.attend(HEADS, q) is not None
    assert attention.attend(HEADS, q.astype('float64')) is None
    assert attention.attend(HEADS, q, bias=paddle.zeros([1, 3, 7, 7], 'float64')) is None


@pytest.mark.parametrize('outer, queries, keys', [((2, 3), 7, 7), ((2, 5, 3), 4, 9)])
def test_fused_attention_equals_the_written_out_one(monkeypatch, outer, queries, keys):
    rng = np.random.default_rng(0)
    shapes = [(*outer, length, 8) for length in (queries, keys, keys)]
    arrays = [rng.normal(size=shape).astype('float32') for shape in shapes]

    def results():
        q, k, v = (paddle.to_tensor(array, stop_gradient=False) for array in arrays)
        y = layer.attend(q, k, v)
        y.backward(paddle.ones_like(y) * paddle.arange(8, dtype='float32'))
        return [x.numpy() for x in (y, q.grad, k.grad, v.grad)]

    written_out = results()
    used = []
    fused = attention.fused
    monkeypatch.setattr(attention, 'is_fused', lambda q: True)
    monkeypatch.setattr(attention, 'fused', lambda *x: used.append(1) or fused(*x))
    close(results(), written_out, 1e-5)
    assert used
