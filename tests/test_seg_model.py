"""The segmentor: positions by hand, parameters counted, what PaddleSeg builds from a config."""

import numpy as np
import paddle
import pytest

import seg  # noqa: F401  which registers the parts

# isort: split
from paddleseg.cvlibs import manager

from seg.backbone import MAEViT
from seg.loss import CrossEntropyOverAllPixelsLoss
from seg.model import AveragePool, UPerNetMAE, shares
from util import pos_embed


@pytest.fixture
def segmentor():
    backbone = MAEViT(32, 8, embed_dim=24, depth=2, num_heads=3, out_indices=[0, 0, 1, 1])
    return UPerNetMAE(5, backbone, channels=4, aux_channels=2)


def test_relative_positions_by_hand():
    """Two rows of three patches: 3 x 5 distances, then the three of the class token."""
    index = pos_embed.relative_positions(2, 3)
    patches = [(row, column) for row in range(2) for column in range(3)]
    for i, (row, column) in enumerate(patches):
        for j, (other_row, other_column) in enumerate(patches):
            assert index[1 + i, 1 + j] == (row - other_row + 1) * 5 + (column - other_column + 2)
    assert (
        index[0, 1:].tolist() == [15] * 6
        and index[1:, 0].tolist() == [16] * 6
        and index[0, 0] == 17
    )


def test_a_position_moves_the_attention_of_its_head_and_block_alone(segmentor):
    backbone, x = segmentor.backbone, paddle.randn([1, 3, 32, 32])
    backbone.eval()
    first, _, last, _ = (x.numpy() for x in backbone(x))
    table = backbone.position_bias[1].table
    table.set_value(table + paddle.arange(table.shape[0], dtype='float32')[:, None] / 9)
    again, _, moved, _ = (x.numpy() for x in backbone(x))
    np.testing.assert_array_equal(first, again)
    assert np.abs(last - moved).max() > 1e-4
    tokens = backbone.block_features(x)[0]
    bias = backbone.position_bias[1](backbone.index)
    assert bias.shape == [3, 17, 17]
    by_hand = (
        backbone.blocks[1](tokens, bias)[:, 1:].numpy().reshape(1, 4, 4, 24).transpose(0, 3, 1, 2)
    )
    np.testing.assert_allclose(by_hand, moved, atol=1e-6)


def test_the_published_model_has_its_235_parameters():
    """Counted from the recipe: embedding 4, blocks 12 x 15, neck and heads 12, 8 and 31."""
    # narrow heads have as many parameters
    model = UPerNetMAE(150, MAEViT(64, 16), channels=8, aux_channels=4)
    names = [
        name for name, _ in model.named_parameters() if not name.endswith(('_mean', '_variance'))
    ]
    assert len(names) == 235
    assert sum(name.startswith('backbone.') for name in names) == 3 + 1 + 12 * (12 + 2 + 1)


def test_maps_and_scores_have_their_sizes(segmentor):
    x = paddle.randn([2, 3, 32, 32])
    segmentor.eval()
    maps = segmentor.neck(segmentor.backbone(x))
    assert [y.shape for y in maps] == [[2, 24, side, side] for side in (16, 8, 4, 2)]
    assert [y.shape for y in segmentor(x)] == [[2, 5, 32, 32]]
    segmentor.train()
    assert [y.shape for y in segmentor(x)] == [[2, 5, 32, 32]] * 2


def test_layer_scale_of_zero_leaves_the_tokens(segmentor):
    block, x = segmentor.backbone.blocks[0], paddle.randn([1, 17, 24])
    block.gamma_1.set_value(paddle.zeros([24]))
    block.gamma_2.set_value(paddle.zeros([24]))
    np.testing.assert_array_equal(block(x).numpy(), x.numpy())


def test_the_loss_counts_ignored_pixels_as_zero_by_hand():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=[2, 5, 4, 6]).astype('float32'), rng.integers(0, 5, [2, 4, 6])
    labels[0, :2] = 255
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    total = sum(
        -np.log(shares[n, labels[n, y, x], y, x])
        for n in range(2)
        for y in range(4)
        for x in range(6)
        if labels[n, y, x] != 255
    )
    loss = CrossEntropyOverAllPixelsLoss(ignore_index=255)
    for shape in ([2, 4, 6], [2, 1, 4, 6]):
        value = loss(paddle.to_tensor(scores), paddle.to_tensor(labels.reshape(shape)))
        assert value.shape == [1]
        np.testing.assert_allclose(value.item(), total / 48, rtol=1e-6)


def test_paddleseg_knows_the_parts():
    assert manager.BACKBONES['MAEViT'] is MAEViT and manager.MODELS['UPerNetMAE'] is UPerNetMAE
    assert manager.LOSSES['CrossEntropyOverAllPixelsLoss'] is CrossEntropyOverAllPixelsLoss


@pytest.mark.parametrize('rows, columns, cells', [(4, 4, 6), (16, 12, 3), (7, 5, 2), (16, 16, 1)])
def test_the_pools_of_an_export_are_those_of_the_live_model(rows, columns, cells):
    maps = np.random.default_rng(0).standard_normal([2, 3, rows, columns], dtype='float32')
    live = AveragePool(cells)(paddle.to_tensor(maps)).numpy()
    by_matrices = shares(rows, cells) @ maps @ shares(columns, cells).T
    np.testing.assert_allclose(by_matrices, live, atol=1e-6)
