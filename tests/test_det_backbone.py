"""MAEViT and the pyramids over it, by hand in NumPy and by equality of two ways to compute."""

import numpy as np
import paddle
import pytest

import models_zoo
from det.backbone import MAEViT, PositionedAttention, distances_between
from det.neck_vit import SimpleFeaturePyramid, TapsFPN
from layer import Attention
from util.errors import InputError

SMALL = {
    'img_size': 32,
    'pretrain_img_size': 32,
    'patch_size': 4,
    'embed_dim': 96,
    'depth': 4,
    'num_heads': 3,
    'drop_path_rate': 0.0,
    'window_size': 4,
    'global_attn_indexes': [1, 3],
    'out_indices': [3],
}


def perturbed(layer, std=0.3):
    for parameter in layer.parameters():
        parameter.set_value(parameter + std * paddle.randn(parameter.shape))
    return layer


def attended(layer, x):
    """Attention with relative positions over one map [rows, columns, D], pair by pair."""
    rows, columns, width = x.shape
    heads, d = layer.num_heads, layer.head_dim
    weight, bias = layer.qkv.weight.numpy(), layer.qkv.bias.numpy()
    q, k, v = (x.reshape(-1, width) @ weight + bias).reshape(-1, 3, heads, d).transpose(1, 2, 0, 3)
    down, across = layer.rel_pos_h.numpy(), layer.rel_pos_w.numpy()
    places = [divmod(i, columns) for i in range(rows * columns)]
    result = np.zeros([rows * columns, heads, d])
    for head in range(heads):
        for i, (y, x_) in enumerate(places):
            scores = k[head] @ q[head, i] / d**0.5
            for j, (y2, x2) in enumerate(places):
                scores[j] += q[head, i] @ (down[y - y2 + rows - 1] + across[x_ - x2 + columns - 1])
            weights = np.exp(scores - scores.max())
            result[i, head] = weights @ v[head] / weights.sum()
    mixed = result.reshape(-1, width) @ layer.proj.weight.numpy() + layer.proj.bias.numpy()
    return mixed.reshape(rows, columns, width)


def test_relative_positions_are_added_for_each_pair():
    layer = perturbed(PositionedAttention(8, 2, True, window=0, sides=(3, 4)))
    x = np.random.default_rng(0).normal(size=(1, 3, 4, 8)).astype('float32')
    np.testing.assert_allclose(layer(paddle.to_tensor(x))[0], attended(layer, x[0]), atol=1e-5)


def test_a_map_that_windows_do_not_divide_is_padded_with_zeros():
    """Padding is attended to: its keys and values are the biases."""
    layer = perturbed(PositionedAttention(8, 2, True, window=3, sides=(4, 5)))
    x = np.random.default_rng(0).normal(size=(1, 4, 5, 8)).astype('float32')
    padded = np.zeros([6, 6, 8], 'float32')
    padded[:4, :5] = x[0]
    wanted = np.zeros_like(padded)
    for y in (0, 3):
        for x_ in (0, 3):
            place = np.s_[y : y + 3, x_ : x_ + 3]
            wanted[place] = attended(layer, padded[place])
    np.testing.assert_allclose(layer(paddle.to_tensor(x))[0], wanted[:4, :5], atol=1e-5)


def test_without_positions_it_is_plain_attention():
    layer = PositionedAttention(8, 2, True, window=0, sides=(3, 3))
    plain = Attention(8, 2)
    plain.set_state_dict({name: p for name, p in layer.state_dict().items() if 'rel' not in name})
    x = paddle.randn([2, 3, 3, 8])
    np.testing.assert_allclose(layer(x).flatten(1, 2), plain(x.flatten(1, 2)), rtol=1e-5, atol=1e-6)


def test_a_table_for_another_length_is_interpolated_linearly():
    table = paddle.arange(7, dtype='float32').reshape([7, 1])  # of 4 places
    rows = distances_between(table, 2)[0, :, :, 0].numpy()  # 3 distances: -1, 0, 1
    np.testing.assert_allclose(rows, [[3, 2 / 3], [16 / 3, 3]], atol=1e-5)


def test_maps_of_other_image_sizes():
    model = MAEViT(**SMALL)
    assert [spec.stride for spec in model.out_shape] == [4]
    (x,) = model({'image': paddle.randn([2, 3, 24, 40])})
    assert x.shape == [2, 96, 6, 10]
    with pytest.raises(InputError, match='cannot be cut into patches of 4 x 4'):
        model(paddle.randn([1, 3, 30, 40]))


@pytest.mark.parametrize('key', ['out_indices', 'global_attn_indexes'])
def test_numbers_of_blocks_are_checked(key):
    with pytest.raises(InputError, match=f'MAEViT.{key}: numbers of its 4 blocks'):
        MAEViT(**SMALL | {key: [4]})


def test_weights_of_pre_training_start_it_without_their_class_token(tmp_path):
    source = models_zoo.autoencoder('mae_vit_nano_patch4')
    file = str(tmp_path / 'mae.pdparams')
    paddle.save(source.state_dict(), file)
    model = MAEViT(**SMALL, pretrained=file)
    np.testing.assert_array_equal(model.pos_embed, source.pos_embed[:, 1:])
    np.testing.assert_array_equal(model.blocks[2].mlp.fc1.weight, source.blocks[2].mlp.fc1.weight)
    assert not model.blocks[0].attn.rel_pos_h.numpy().any()

    start = models_zoo.start_from(model, file)
    assert 'cls_token' in start.dropped
    assert all('rel_pos' in name for name in start.fresh)
    grown = MAEViT(**SMALL | {'pretrain_img_size': 48}, pretrained=file)
    assert grown.pos_embed.shape == [1, 144, 96]


def test_strides_of_the_pyramids():
    maps = [paddle.randn([1, 16, 8, 8]) for _ in range(4)]
    for kind in (SimpleFeaturePyramid, TapsFPN):
        neck = kind([16] * 4, patch=16, out_channel=8)
        assert [spec.stride for spec in neck.out_shape] == [4, 8, 16, 32, 64]
        assert [x.shape for x in neck(maps)] == [[1, 8, s, s] for s in (32, 16, 8, 4, 2)]

    part = SimpleFeaturePyramid([16], patch=4, scale_factors=[2, 1, 0.5], out_channel=8)
    assert part.strides == [2, 4, 8, 16]
    assert [x.shape[2] for x in part(maps)] == [16, 8, 4, 2]
    with pytest.raises(InputError, match='scale_factors: some of 4, 2, 1 and 0.5'):
        SimpleFeaturePyramid([16], scale_factors=[3, 1])
    with pytest.raises(InputError, match='gives 1 maps, but 4 are needed'):
        TapsFPN([16])
