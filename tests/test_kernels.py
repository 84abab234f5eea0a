"""Code that is faster on CPUs computes the same as NumPy in float64 and as Paddle's operations."""

import gc
import inspect
import math
import platform
import weakref

import numpy as np
import paddle
import pytest
from paddle import nn
from scipy.special import erf

import models_zoo
from layer import DropPath
from util import broadcast, kernels, machine, maps, onednn, optim, residual, tokens

MODELS = [
    'vit_nano_patch4',
    'mae_vit_nano_patch4',
    'mae_swin_nano_32',
    'mae_pvt_nano_32',
    'simmim_swin_nano_32',
]
CLASSES = nn.Linear, nn.LayerNorm, nn.GELU, nn.Conv2D


@pytest.fixture
def paddles_own(monkeypatch):
    """Paddle's own operations; call the fixture to install our kernels."""
    functions = [(nn.functional, name) for name in ('softmax', 'interpolate', 'cross_entropy')]
    functions += [(nn.functional.conv, name) for name in ('_conv_nd', '_add_with_axis')]
    for owner, name in (*((cls, 'forward') for cls in CLASSES), *functions):
        monkeypatch.setattr(owner, name, inspect.unwrap(getattr(owner, name)))

    def install():
        kernels.install()
        maps.install()

    return install


def layer_norm_by_hand(x, dy, weight, epsilon):
    """The gradients of x, weight and bias."""
    deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    normal = (x - x.mean(-1, keepdims=True)) / deviation
    g = dy * weight
    dx = (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True)) / deviation
    return dx, (dy * normal).reshape([-1, x.shape[-1]]).sum(0), dy.reshape([-1, x.shape[-1]]).sum(0)


def given(rng, *shape):
    array = rng.normal(size=shape).astype('float32')
    return array.astype('float64'), paddle.to_tensor(array, stop_gradient=False)


def close(tensor, array, bound=2e-6):
    assert np.abs(tensor.numpy() - array).max() <= bound * np.abs(array).max()


@pytest.mark.parametrize('shape', [(5, 24), (2, 7, 96), (3, 2, 5, 17), (1, 1)], ids=str)
def test_operations_and_their_gradients_are_those_of_numpy(shape, paddles_own):
    paddles_own()
    rng = np.random.default_rng(0)
    x, X = given(rng, *shape)
    dy, DY = given(rng, *shape)
    width = shape[-1]

    y = nn.functional.softmax(X, axis=-1)
    y.backward(DY)
    s = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    close(y, s)
    assert np.abs(X.grad.numpy() - s * (dy - (dy * s).sum(-1, keepdims=True))).max() < 1e-6
    X.clear_gradient(set_to_zero=False)

    y = nn.GELU()(X)
    y.backward(DY)
    share = (1 + erf(x / math.sqrt(2))) / 2
    close(y, x * share)
    close(X.grad, dy * (share + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)))
    X.clear_gradient(set_to_zero=False)

    norm = nn.LayerNorm(width, epsilon=1e-3)
    weight, values = given(rng, width)
    norm.weight.set_value(values)
    norm(X).backward(DY)
    dx, dweight, dbias = layer_norm_by_hand(x, dy, weight, 1e-3)
    assert np.abs(X.grad.numpy() - dx).max() < 1e-5
    assert np.abs(norm.weight.grad.numpy() - dweight).max() < 1e-5
    close(norm.bias.grad, dbias)
    X.clear_gradient(set_to_zero=False)

    layer = nn.Linear(width, 11)
    bias, values = given(rng, 11)
    layer.bias.set_value(values)
    dz, DZ = given(rng, *shape[:-1], 11)
    y = layer(X)
    y.backward(DZ)
    W = layer.weight.numpy().astype('float64')
    assert np.abs(y.numpy() - (x @ W + bias)).max() < 1e-5
    assert np.abs(X.grad.numpy() - dz @ W.T).max() < 1e-5
    assert (
        np.abs(layer.weight.grad.numpy() - x.reshape([-1, width]).T @ dz.reshape([-1, 11])).max()
        < 1e-5
    )
    close(layer.bias.grad, dz.reshape([-1, 11]).sum(0))


@pytest.mark.parametrize('width', [kernels.NARROW, kernels.NARROW + 1])
def test_products_of_narrow_and_of_wide_rows_equal_numpys(width):
    """oneDNN makes those of narrow rows."""
    rng = np.random.default_rng(0)
    x, X = given(rng, 2, 3, width)
    weight, W = given(rng, 7, width)
    bias, B = given(rng, 7)
    y = kernels.product(X, W.transpose([1, 0]), B)
    assert y.shape == [2, 3, 7]
    assert np.abs(y.numpy() - (x @ weight.T + bias)).max() < 1e-4  # of values up to 60


def convolution_by_hand(x, weight, dy, stride, padding, dilation):
    """y, then the gradients of x and weight: one product for each place of the window."""
    x = np.pad(x, [(0, 0), (0, 0), *[(zeros, zeros) for zeros in padding]])
    dx, dweight, y = np.zeros_like(x), np.zeros_like(weight), np.zeros_like(dy)
    for row, column in np.ndindex(weight.shape[2:]):
        top, left = row * dilation[0], column * dilation[1]
        below = slice(top, top + stride[0] * dy.shape[2], stride[0])
        right = slice(left, left + stride[1] * dy.shape[3], stride[1])
        seen, w = x[:, :, below, right], weight[:, :, row, column]
        y += np.einsum('nchw,oc->nohw', seen, w)
        dweight[:, :, row, column] = np.einsum('nchw,nohw->oc', seen, dy)
        dx[:, :, below, right] += np.einsum('nohw,oc->nchw', dy, w)
    rows, columns = (slice(zeros, side - zeros) for zeros, side in zip(padding, x.shape[2:]))
    return y, dx[:, :, rows, columns], dweight


@pytest.mark.parametrize('has_bias', [True, False], ids=['bias', 'no_bias'])
@pytest.mark.parametrize(
    ('channels', 'kernel', 'stride', 'padding', 'dilation'),
    [
        ((16, 24), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((3, 8), (7, 7), (2, 2), (3, 3), (1, 1)),
        ((5, 7), (3, 2), (1, 1), (1, 0), (2, 1)),
        ((1, 1), (1, 3), (1, 2), (0, 2), (1, 3)),
        ((6, 4), (1, 1), (1, 1), (0, 0), (1, 1)),
    ],
    ids=str,
)
def test_convolutions_are_those_of_numpy(
    channels, kernel, stride, padding, dilation, has_bias, paddles_own, monkeypatch
):
    paddles_own()
    monkeypatch.setattr(kernels, 'LARGE_MAPS', 0)
    served = []
    apply = kernels.Convolution.apply
    monkeypatch.setattr(
        kernels.Convolution, 'apply', lambda *args: served.append(1) or apply(*args)
    )
    rng = np.random.default_rng(0)
    x, X = given(rng, 2, channels[0], 9, 11)
    layer = nn.Conv2D(*channels, kernel, stride, padding, dilation, bias_attr=has_bias and None)
    weight, values = given(rng, *layer.weight.shape)
    layer.weight.set_value(values)
    bias = np.zeros(channels[1])
    if has_bias:
        bias, values = given(rng, channels[1])
        layer.bias.set_value(values)

    Y = layer(X)
    assert served or (kernel == (1, 1) and not has_bias)
    dy, DY = given(rng, *Y.shape)
    Y.backward(DY)
    y, dx, dweight = convolution_by_hand(x, weight, dy, stride, padding, dilation)
    close(Y, y + bias[:, None, None])
    close(X.grad, dx)
    close(layer.weight.grad, dweight)
    if has_bias:
        close(layer.bias.grad, dy.sum((0, 2, 3)))


def test_convolutions_that_oneDNN_does_not_serve_are_paddles(paddles_own):
    paddles_own()
    x = paddle.rand([1, 4, 8, 8])
    assert kernels.convolution(nn.Conv2D(4, 4, 2, 2), x) is None, 'patches'
    assert kernels.convolution(nn.Conv2D(4, 4, 1), x) is None, 'small maps'
    assert kernels.convolution(nn.Conv2D(4, 4, 3, groups=4), x) is None
    assert kernels.convolution(nn.Conv2D(4, 4, 3, padding='SAME'), x) is None
    assert kernels.convolution(nn.Conv2D(4, 4, 3, padding=[1, 0, 1, 0]), x) is None
    assert kernels.convolution(nn.Conv2D(4, 4, 3, padding_mode='reflect', padding=1), x) is None
    assert kernels.convolution(nn.Conv2D(4, 4, 3, data_format='NHWC'), x) is None
    assert kernels.convolution(nn.Conv2D(4, 4, 3), x.astype('float64')) is None


def test_what_onednn_has_made_is_freed():
    """Many shapes of a convolution, as images of many sizes ask for, keep the memory flat."""
    layer = nn.Conv2D(3, 8, 3, padding=1)
    freed = onednn.library._owned
    made = []

    def owned(handle, kind):
        made.append(weakref.ref(handle))
        return freed(handle, kind)

    onednn.library._owned = owned
    try:
        for side in range(4, 8):
            kernels.convolution(layer, paddle.rand([1, 3, side, side]))
    finally:
        del onednn.library._owned
    assert any(handle() is not None for handle in made)
    onednn.convolution.cache_clear()
    gc.collect()
    assert all(handle() is None for handle in made)


def bilinear_by_hand(x, size):
    """Along each axis: the two nearest values, by their distance from the centre of a pixel."""
    for axis, target in zip((2, 3), size):
        side = x.shape[axis]
        at = ((np.arange(target) + 0.5) * side / target - 0.5).clip(0, side - 1)
        first = np.floor(at).astype(int)
        second = np.minimum(first + 1, side - 1)
        share = (at - first).reshape([-1, 1] if axis == 2 else [-1])
        x = x.take(first, axis) * (1 - share) + x.take(second, axis) * share
    return x


@pytest.mark.parametrize('size', [(8, 12), (3, 5), (2, 7)], ids=str)
def test_bilinear_resizing_is_that_of_numpy(size, paddles_own):
    paddles_own()
    rng = np.random.default_rng(0)
    x, X = given(rng, 2, 3, 4, 6)
    dy, DY = given(rng, 2, 3, *size)
    y = nn.functional.interpolate(X, size, mode='bilinear', align_corners=False)
    y.backward(DY)
    close(y, bilinear_by_hand(x, size))
    # the gradient of a linear operation: sum(dy * resize(e)) for each unit map e
    gradient = np.zeros([4, 6])
    for row, column in np.ndindex(4, 6):
        unit = np.zeros([1, 1, 4, 6])
        unit[0, 0, row, column] = 1
        gradient[row, column] = (dy[1, 2] * bilinear_by_hand(unit, size)).sum()
    close(X.grad[1, 2], gradient)


def test_cross_entropy_of_maps_is_that_of_numpy(paddles_own):
    paddles_own()
    rng = np.random.default_rng(0)
    x, X = given(rng, 2, 5, 3, 4)
    labels = rng.integers(0, 5, [2, 1, 3, 4])
    labels[0, 0, 0, 1] = 255
    losses = nn.functional.cross_entropy(
        X, paddle.to_tensor(labels), axis=1, ignore_index=255, reduction='none'
    )
    losses.sum().backward()
    shares = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    one_hot = labels == np.arange(5)[:, None, None]
    known = labels != 255
    close(losses, np.where(known, -np.log((shares * one_hot).sum(1, keepdims=True) + ~known), 0))
    close(X.grad, (shares - one_hot) * known)


@pytest.mark.parametrize(
    ('shape', 'other'),
    [
        ((2, 7, 5), (5,)),
        ((2, 7, 5), (1, 7, 5)),
        ((2, 7, 5), (2, 1, 1)),
        ((2, 3, 4, 5), (1, 3, 1, 1)),
        ((2, 3, 4, 5), (2, 1, 4, 1)),
        ((2, 5, 3, 4, 4), (1, 5, 1, 4, 4)),
        ((2, 5, 3, 4, 4), (1, 1, 3, 4, 4)),
        ((2, 5, 3, 4, 4), (1, 1, 1, 1, 1)),
        ((2, 3), (2, 3)),
        ((4, 3), ()),
    ],
    ids=str,
)
def test_sums_and_products_of_repeated_values_are_those_of_numpy(
    shape, other, paddles_own, monkeypatch
):
    """The results bit for bit; the gradient of what is repeated is a sum."""
    paddles_own()
    monkeypatch.setattr(broadcast, 'SMALL', 0)
    rng = np.random.default_rng(0)
    x, X = given(rng, *shape)
    y, Y = given(rng, *other)
    dz, DZ = given(rng, *shape)
    whole = (1,) * (len(shape) - len(other)) + other
    repeated = tuple(axis for axis in range(len(shape)) if whole[axis] == 1)

    def summed(gradient):
        return gradient.sum(repeated, keepdims=True).reshape(other)

    assert broadcast.served(X, Y)
    total = broadcast.add(X, Y)
    assert np.array_equal(total.numpy(), X.numpy() + Y.numpy())
    total.backward(DZ)
    assert np.array_equal(X.grad.numpy(), DZ.numpy())
    close(Y.grad, summed(dz))
    X.clear_gradient(False), Y.clear_gradient(False)

    product = broadcast.multiply(X, Y)
    assert np.array_equal(product.numpy(), X.numpy() * Y.numpy())
    product.backward(DZ)
    close(X.grad, dz * y)
    close(Y.grad, summed(dz * x))


def test_what_cannot_be_repeated_is_left_to_paddle(paddles_own, monkeypatch):
    paddles_own()
    x = paddle.rand([4, 3])
    assert not broadcast.served(x, x[0]), 'small'
    monkeypatch.setattr(broadcast, 'SMALL', 0)
    assert broadcast.served(x, x[0])
    assert not broadcast.served(x[0], x), 'the first one is repeated'
    assert not broadcast.served(x[:, :1], x)
    assert not broadcast.served(x, x[0].astype('float64'))
    assert broadcast.add(x[0], x).shape == [4, 3]


@pytest.mark.parametrize('transposed', [False, True], ids=['patches', 'transposed'])
def test_biases_of_other_convolutions_are_those_of_numpy(transposed, paddles_own, monkeypatch):
    """Of those that Paddle does; a transposed one is the gradient of a convolution."""
    paddles_own()
    monkeypatch.setattr(broadcast, 'SMALL', 0)
    rng = np.random.default_rng(0)
    x, X = given(rng, 2, 3, 8, 6)
    kind = nn.Conv2DTranspose if transposed else nn.Conv2D
    convolution = kind(3, 5, 2, 2)
    weight, values = given(rng, *convolution.weight.shape)
    bias, biases = given(rng, 5)
    convolution.weight.set_value(values), convolution.bias.set_value(biases)
    Y = convolution(X)
    dy, DY = given(rng, *Y.shape)
    Y.backward(DY)
    windows = (2, 2), (0, 0), (1, 1)
    if transposed:
        dx, _, dweight = convolution_by_hand(dy, weight, x, *windows)
        _, y, _ = convolution_by_hand(np.zeros_like(dy), weight, x, *windows)
    else:
        y, dx, dweight = convolution_by_hand(x, weight, dy, *windows)
    close(Y, y + bias[:, None, None])
    close(X.grad, dx)
    close(convolution.weight.grad, dweight)
    close(convolution.bias.grad, dy.sum((0, 2, 3)))
    assert 'Sum' in str(Y.grad_fn.name())


@pytest.mark.parametrize('channels_last', [False, True], ids=['patches', 'merged'])
def test_windows_that_touch_are_those_of_numpy(channels_last, paddles_own, monkeypatch):
    """As one product of matrices, whether the channels come first or last."""
    paddles_own()
    rng = np.random.default_rng(0)
    x, X = given(rng, 2, 3, 9, 8)  # the last row fills no window
    convolution = nn.Conv2D(3, 5, (2, 4), (2, 4))
    weight, values = given(rng, *convolution.weight.shape)
    bias, biases = given(rng, 5)
    convolution.weight.set_value(values), convolution.bias.set_value(biases)
    if channels_last:
        Y = maps.merged(convolution, X.transpose([0, 2, 3, 1]))
    else:
        Y = maps.patches(convolution, X)
    assert Y.shape == [2, 4, 2, 5]
    dy, DY = given(rng, *Y.shape)
    Y.backward(DY)
    dy = dy.transpose(0, 3, 1, 2)
    windows = (2, 4), (0, 0), (1, 1)
    y, dx, dweight = convolution_by_hand(x, weight, dy, *windows)
    close(Y, (y + bias[:, None, None]).transpose(0, 2, 3, 1))
    close(X.grad, dx)
    close(convolution.weight.grad, dweight)
    close(convolution.bias.grad, dy.sum((0, 2, 3)))


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_tokens_are_left_out_and_inserted_as_by_numpy(dtype):
    """Bit for bit, except the gradient of the token, which is a sum; float64 is Paddle's way."""
    rng = np.random.default_rng(0)
    N, L, V, D = 3, 7, 3, 4
    shuffle = np.argsort(rng.random([N, L]), axis=1)
    restore = np.argsort(shuffle, axis=1)
    images = np.arange(N)[:, None]
    x = rng.normal(size=[N, L, D]).astype(dtype)
    X = paddle.to_tensor(x, stop_gradient=False)
    kept = tokens.keep(X, paddle.to_tensor(shuffle[:, :V]))
    assert np.array_equal(kept.numpy(), x[images, shuffle[:, :V]])
    dy = rng.normal(size=[N, V, D]).astype(dtype)
    kept.backward(paddle.to_tensor(dy))
    dx = np.zeros_like(x)
    dx[images, shuffle[:, :V]] = dy
    assert np.array_equal(X.grad.numpy(), dx)

    x = rng.normal(size=[N, 1 + V, D]).astype(dtype)
    token = rng.normal(size=[1, 1, D]).astype(dtype)
    X, TOKEN = [paddle.to_tensor(array, stop_gradient=False) for array in (x, token)]
    filled = tokens.insert(X, TOKEN, paddle.to_tensor(restore))
    y = np.concatenate([x[:, :1], np.tile(token, [N, L, 1])], axis=1)
    y[images, 1 + shuffle[:, :V]] = x[:, 1:]
    assert np.array_equal(filled.numpy(), y)
    dy = rng.normal(size=y.shape).astype(dtype)
    filled.backward(paddle.to_tensor(dy))
    dx = np.concatenate([dy[:, :1], dy[images, 1 + shuffle[:, :V]]], axis=1)
    assert np.array_equal(X.grad.numpy(), dx)
    close(TOKEN.grad[0, 0], dy[images, 1 + shuffle[:, V:]].sum((0, 1), dtype='float64'))


@pytest.mark.parametrize('is_dropped', [False, True], ids=['all', 'dropped'])
@pytest.mark.parametrize('has_gamma', [False, True], ids=['plain', 'gamma'])
def test_a_residual_branch_is_that_of_numpy(has_gamma, is_dropped, paddles_own, monkeypatch):
    """x + gamma * (norm(x) * factor) / divisors, and its gradients."""
    paddles_own()
    monkeypatch.setattr(broadcast, 'SMALL', 0)
    rng = np.random.default_rng(0)
    x, X = given(rng, 3, 5, 8)
    dy, DY = given(rng, 3, 5, 8)
    factor, FACTOR = given(rng, 8)
    norm = nn.LayerNorm(8, epsilon=1e-3)
    gamma, GAMMA = given(rng, 8) if has_gamma else (np.ones(8), None)
    divisors = np.array([0.5, np.inf, 0.5]).reshape(3, 1, 1) if is_dropped else 1.0
    DIVISORS = paddle.to_tensor(divisors.astype('float32')) if is_dropped else None

    kept, normed = residual.fork(norm, X)
    y = residual.join(kept, normed * FACTOR, GAMMA, DIVISORS)
    assert kept.data_ptr() == X.data_ptr()
    assert kept is not X and X.is_leaf
    paddle.autograd.backward([y, 2 * X], [DY, DY])  # features are also used elsewhere
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)
    close(y, x + gamma * normal * factor / divisors)
    of_norm = dy * gamma * factor / divisors
    dx, dweight, dbias = layer_norm_by_hand(x, of_norm, np.ones(8), 1e-3)
    close(X.grad, 3 * dy + dx)
    close(norm.weight.grad, dweight)
    close(norm.bias.grad, dbias)
    if has_gamma:
        close(GAMMA.grad, (dy * normal * factor / divisors).sum((0, 1)))
    assert np.array_equal(y[1].numpy(), X[1].numpy()) == is_dropped


def test_drop_path_drops_whole_samples_and_scales_the_others():
    drop_path = DropPath(0.25)
    x = paddle.rand([1000, 2, 3])
    divisors = drop_path.divisors(x)
    assert divisors.shape == [1000, 1, 1]
    assert set(divisors.flatten().tolist()) == {0.75, math.inf}
    assert 0.2 < float(divisors.isinf().astype('float32').mean()) < 0.3
    drop_path.eval()
    assert drop_path.divisors(x) is None and DropPath(0.0).divisors(x) is None


def test_they_serve_what_they_can_and_leave_the_rest_to_paddle(paddles_own, monkeypatch):
    paddles_own()
    own = nn.functional.softmax
    paddles_own()
    assert nn.functional.softmax is own, 'installed twice'
    used = []
    for cls in (kernels.Linear, kernels.LayerNorm, kernels.Gelu, kernels.Softmax, maps.Resize):
        apply = cls.apply
        monkeypatch.setattr(
            cls,
            'apply',
            lambda *args, apply=apply, name=cls.__name__: used.append(name) or apply(*args),
        )
    x = paddle.rand([3, 4, 5])
    nn.Linear(5, 2)(x), nn.LayerNorm(5)(x), nn.GELU()(x), nn.functional.softmax(x, axis=2)
    images = paddle.rand([1, 2, 4, 4])
    nn.functional.interpolate(images, [8, 8], mode='bilinear')
    assert used == ['Linear', 'LayerNorm', 'Gelu', 'Softmax', 'Resize']
    used.clear()
    (
        nn.Linear(5, 2, bias_attr=False)(x),
        nn.LayerNorm([4, 5])(x),
        nn.LayerNorm(5, weight_attr=False)(x),
        nn.GELU(True)(x),
    )
    nn.functional.softmax(x, axis=1), nn.functional.softmax(x.astype('float64')), nn.GELU()(x[:0])
    resize = nn.functional.interpolate
    resize(images, [8, 8], mode='bilinear', align_corners=True)
    resize(images, [8, 8], mode='bicubic'), resize(images, [8, 8])
    resize(images, scale_factor=2, mode='bilinear')
    with paddle.no_grad():
        nn.Linear(5, 2)(x)
    assert used == []


def test_layers_that_somebody_watches_are_called(paddles_own):
    """Forward hooks run, as those of counters and of readers of features."""
    paddles_own()
    model = models_zoo.autoencoder('mae_vit_nano_patch4')
    seen = []
    for name in ('patch_embed.proj', 'blocks.0.norm1', 'blocks.0.norm2'):
        part = dict(model.named_sublayers())[name]
        part.register_forward_post_hook(lambda *_, name=name: seen.append(name))
    model(paddle.rand([2, 3, 32, 32]))
    assert seen == ['patch_embed.proj', 'blocks.0.norm1', 'blocks.0.norm2']


def test_frozen_weights_get_no_gradient(paddles_own):
    paddles_own()
    rows, maps = paddle.rand([4, 6]), paddle.rand([2, 6, 5, 5])
    layers = [(nn.Linear(6, 6), rows), (nn.LayerNorm(6), rows), (nn.Conv2D(6, 6, 3), maps)]
    for layer, x in layers:
        layer.weight.stop_gradient = True
        layer(x).sum().backward()
        assert layer.weight.grad is None and x.grad is None and layer.bias.grad is not None


def test_without_onednn_linear_layers_are_still_served(paddles_own, monkeypatch, tmp_path):
    monkeypatch.setattr(onednn.library, 'path', tmp_path / 'libdnnl.so.3')
    paddles_own()
    assert hasattr(nn.Linear.forward, '__wrapped__') and not hasattr(nn.GELU.forward, '__wrapped__')
    assert nn.Linear(5, 2)(paddle.ones([3, 5])).shape == [3, 2]


def test_softmax_gradient_is_paddles_where_oneDNN_has_but_its_reference_code(monkeypatch):
    """That code takes seven times as long as Paddle's."""
    forward, _ = onednn.softmax(6, 5)
    monkeypatch.setattr(onednn, 'softmax', lambda rows, width: (forward, None))
    rng = np.random.default_rng(0)
    x, X = given(rng, 6, 5)
    dy, DY = given(rng, 6, 5)
    kernels.softmax(X).backward(DY)
    s = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    close(X.grad, s * (dy - (dy * s).sum(-1, keepdims=True)))


def test_what_onednn_refuses_is_an_error():
    with pytest.raises(RuntimeError, match='memory_desc_create_with_strides returned'):
        onednn.library.layout(-1, 4)


def step(name):
    """Loss and gradients of a step of AdamW, and the weights after it."""
    paddle.seed(0)
    images = paddle.rand([4, 1, 32, 32])
    if name.startswith('vit'):
        model = models_zoo.classifier(
            name, img_size=32, in_chans=1, num_classes=3, global_pool=True, drop_path_rate=0.1
        )
        loss = nn.functional.cross_entropy(model(images), paddle.to_tensor([0, 1, 2, 0]))
    else:
        model = models_zoo.autoencoder(name, img_size=32, in_chans=1, norm_pix_loss=True)
        loss = model(images)[0]
    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    optimizer.set_lr(1e-3)
    loss.backward()
    gradients = {key: p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    return loss.item(), gradients, {key: value.numpy() for key, value in model.state_dict().items()}


@pytest.mark.parametrize('name', MODELS)
def test_models_train_alike_with_and_without(name, paddles_own):
    loss, gradients, _ = step(name)
    paddles_own()
    again, others, _ = step(name)
    assert again == pytest.approx(loss, rel=1e-6)
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for key, gradient in gradients.items():
        # some are only rounding: those of values that shift all scores of a softmax equally
        assert (
            np.abs(others[key] - gradient).max() <= 1e-5 * np.abs(gradient).max() + 1e-8 * largest
        ), key


@pytest.mark.parametrize('name', MODELS)
def test_nothing_writes_through_a_view(name):
    """A training step with views, Paddle's default, equals one with copies bit for bit.

    Copies are faster on CPUs; a write through a view would be lost with copies.
    """
    try:
        paddle.set_flags({'FLAGS_use_stride_kernel': True})
        with_views = step(name)
    finally:
        paddle.set_flags({'FLAGS_use_stride_kernel': False})
    with_copies = step(name)
    assert with_views[0] == with_copies[0]
    for key, value in with_views[2].items():
        assert np.array_equal(value, with_copies[2][key]), key


def test_freed_memory_is_kept_where_the_library_is_glibc():
    assert machine.retain_memory() == (platform.libc_ver()[0] == 'glibc')
