"""Learnt tables: gradients without atomic additions, and which models have such tables."""

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F
from readings import Readings
from test_det_gfl import a_batch, detector

import det.backbone
import models_zoo
from seg.backbone import MAEViT
from util import lookup


@pytest.fixture
def gpu(monkeypatch):
    """Lookups do what they do on a GPU."""
    monkeypatch.setattr(lookup, 'is_atomic', lambda table: True)


@pytest.mark.parametrize(
    'places, rows',
    [(1, 1), (64, 1), (65, 1), (300, 500), (5000, 7), (4096, 127)],
)
def test_the_sums_of_rows_are_those_of_numpy(places, rows, monkeypatch):
    rng = np.random.default_rng(places)
    numbers = rng.integers(rows, size=places)
    numbers[numbers == 3] = rows - 1  # a row that is nowhere
    values = rng.standard_normal([places, 3]).astype('float32')
    expected = np.zeros([rows, 3])
    np.add.at(expected, numbers, values.astype('float64'))
    for most in (lookup.MOST, 1000):  # in one part and in several
        monkeypatch.setattr(lookup, 'MOST', most)
        index = lookup.Index(paddle.to_tensor(numbers), rows)
        for _ in range(2):  # prepared, and kept
            found = index.sums(paddle.to_tensor(values)).numpy()
            np.testing.assert_allclose(found, expected, atol=1e-6 * np.sqrt(places) + 1e-6)


def test_the_gradient_of_a_table_in_low_precision_is_added_up_in_float32(gpu):
    numbers = paddle.zeros([2, 5000], 'int64')
    table = paddle.zeros([2, 3], 'float16')
    table.stop_gradient = False
    rows = lookup.rows(table, numbers)
    (rows.astype('float32') * 0.1).sum().backward()
    assert table.grad.dtype == paddle.float16
    np.testing.assert_allclose(table.grad[0].numpy(), 1000, rtol=1e-3)
    assert not table.grad[1].numpy().any()


def test_an_infinite_gradient_stays_with_its_row(gpu):
    table = paddle.ones([3, 1])
    table.stop_gradient = False
    weights = paddle.to_tensor([1.0, np.inf, 2.0, 3.0])
    (lookup.rows(table, paddle.to_tensor([0, 1, 0, 2]))[:, 0] * weights).sum().backward()
    assert table.grad[:, 0].tolist() == [3, np.inf, 3]


def swin(name):
    model = models_zoo.autoencoder(name)
    images = paddle.randn([2, 3, 32, 32])
    noise = paddle.rand([2, model.num_patches])
    return model, lambda: model(images, 0.75, noise)[0]


def swin_classifier():
    model = models_zoo.classifier('swin_nano_32', num_classes=3)
    return model, lambda: model(paddle.ones([2, 3, 32, 32])).square().sum()


def segmentor():
    model = MAEViT(32, 4, embed_dim=24, depth=2, num_heads=2, out_indices=(0, 1))
    return model, lambda: sum(x.square().mean() for x in model(paddle.ones([2, 3, 32, 32])))


def detector_of_swin():
    model = detector()
    batch = a_batch([[[10, 10, 70, 80]], []], [[1], []])
    return model, lambda: sum(model(batch).values())


def detector_of_vit():
    model = det.backbone.PositionedAttention(8, 2, True, window=4, sides=(8, 8))
    for table in (model.rel_pos_h, model.rel_pos_w):
        table.set_value(paddle.randn(table.shape))
    x = paddle.randn([2, 8, 8, 8])
    return model, lambda: model(x).square().sum()


MODELS = {
    'UM-MAE': lambda: swin('mae_swin_nano_32'),
    'SimMIM': lambda: swin('simmim_swin_nano_32'),
    'Swin': swin_classifier,
    'seg': segmentor,
    'det, Swin': detector_of_swin,
    'det, ViT': detector_of_vit,
}


@pytest.mark.parametrize('make', MODELS.values(), ids=MODELS)
def test_models_have_the_gradients_of_paddles_embedding(make, monkeypatch):
    """No other embedding with a gradient is left, and nothing waits for the device."""
    paddle.seed(0)
    model, loss_of = make()
    model.eval()  # no random depth
    plain = []
    own = F.embedding

    def embedding(numbers, table, *rest):
        plain.append(paddle.is_grad_enabled() and not table.stop_gradient)
        return own(numbers, table, *rest)

    gradients = {}
    readings = Readings(monkeypatch)
    for is_atomic in (False, True):
        monkeypatch.setattr(lookup, 'is_atomic', lambda table, answer=is_atomic: answer)
        model.clear_gradients()
        before = readings.by_iteration.total()
        loss_of().backward()
        assert readings.by_iteration.total() == before
        gradients[is_atomic] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
        if not is_atomic:
            monkeypatch.setattr(F, 'embedding', embedding)
    assert not any(plain)
    for name, expected in gradients[False].items():
        scale = max(expected.abs().max().item(), 1e-3)
        apart = (gradients[True][name] - expected).abs().max().item()
        assert apart <= 2e-5 * scale, name
