import numpy as np
import paddle
import pytest
from conftest import slow

import layer
import models_sizes
import models_zoo
from util import masking
from util.errors import InputError


@pytest.fixture(scope='module')
def base():
    return models_zoo.autoencoder('mae_vit_base_patch16')


def nano(**kwargs):
    return models_zoo.autoencoder('mae_vit_nano_patch4', **kwargs)


@pytest.mark.parametrize(
    'name, total, trainable, tensors',
    [
        ('mae_vit_base_patch16', 111_907_840, 111_655_680, 254),
        slow('mae_vit_large_patch16', 329_541_888, 329_239_296, 398),
        slow('mae_vit_huge_patch14', 657_074_508, 656_613_964, 494),
    ],
)
def test_parameters_count_as_in_the_official_models(name, total, trainable, tensors):
    parameters = models_zoo.autoencoder(name).parameters()
    assert len(parameters) == tensors
    assert sum(p.size for p in parameters) == total
    assert sum(p.size for p in parameters if not p.stop_gradient) == trainable


@pytest.mark.parametrize('depth, name', [(1, '_dec64d1b'), (2, ''), (4, '_dec64d4b')])
def test_decoders_of_other_depths_are_known_by_their_names(depth, name):
    with paddle.LazyGuard():
        model = models_zoo.autoencoder(f'mae_vit_nano_patch4{name}')
    assert len(model.decoder_blocks) == depth and len(model.blocks) == 4
    assert models_sizes.autoencoder_of(model.state_dict()) == f'mae_vit_nano_patch4{name}'


def test_names_order_and_shapes_are_the_official_ones(base):
    def block(prefix, d):
        return [
            (f'{prefix}.norm1.weight', [d]),
            (f'{prefix}.norm1.bias', [d]),
            (f'{prefix}.attn.qkv.weight', [d, 3 * d]),
            (f'{prefix}.attn.qkv.bias', [3 * d]),
            (f'{prefix}.attn.proj.weight', [d, d]),
            (f'{prefix}.attn.proj.bias', [d]),
            (f'{prefix}.norm2.weight', [d]),
            (f'{prefix}.norm2.bias', [d]),
            (f'{prefix}.mlp.fc1.weight', [d, 4 * d]),
            (f'{prefix}.mlp.fc1.bias', [4 * d]),
            (f'{prefix}.mlp.fc2.weight', [4 * d, d]),
            (f'{prefix}.mlp.fc2.bias', [d]),
        ]

    expected = [
        ('cls_token', [1, 1, 768]),
        ('pos_embed', [1, 197, 768]),
        ('mask_token', [1, 1, 512]),
        ('decoder_pos_embed', [1, 197, 512]),
        ('patch_embed.proj.weight', [768, 3, 16, 16]),
        ('patch_embed.proj.bias', [768]),
        *(item for i in range(12) for item in block(f'blocks.{i}', 768)),
        ('norm.weight', [768]),
        ('norm.bias', [768]),
        ('decoder_embed.weight', [768, 512]),
        ('decoder_embed.bias', [512]),
        *(item for i in range(8) for item in block(f'decoder_blocks.{i}', 512)),
        ('decoder_norm.weight', [512]),
        ('decoder_norm.bias', [512]),
        ('decoder_pred.weight', [512, 768]),
        ('decoder_pred.bias', [768]),
    ]
    assert [(name, list(p.shape)) for name, p in base.named_parameters()] == expected
    assert list(base.state_dict()) == [name for name, _ in expected]


def test_every_layer_norm_of_the_variants_has_the_official_epsilon(base):
    norms = [part for part in base.sublayers() if isinstance(part, paddle.nn.LayerNorm)]
    assert len(norms) == 2 * 12 + 1 + 2 * 8 + 1
    assert {norm._epsilon for norm in norms} == {1e-6}


def test_every_parameter_starts_from_the_official_distribution(base):
    for name, parameter in base.named_parameters():
        value, spread = parameter.numpy(), None
        if name.endswith('pos_embed'):
            continue
        if name in ('cls_token', 'mask_token'):  # normal, not cut
            assert value.std() == pytest.approx(0.02, rel=0.15)
            continue
        if name == 'patch_embed.proj.weight':
            spread = (6 / (768 + 768)) ** 0.5  # Xavier over the matrix [768, 3 * 16 * 16]
        elif name == 'patch_embed.proj.bias':
            spread = 768**-0.5  # PyTorch's default for convolutions
        elif value.ndim == 2:
            spread = (6 / sum(value.shape)) ** 0.5
        if spread is None:
            assert (value == (1 if name.endswith('weight') else 0)).all(), name
        else:
            assert np.abs(value).max() <= spread * (1 + 1e-6), name
            assert np.abs(value).max() > 0.98 * spread, name
            assert value.std() == pytest.approx(spread / 3**0.5, rel=0.06), name
            assert abs(value.mean()) < 5 * spread / value.size**0.5, name


def test_patch_order_is_row_column_channel():
    model = nano(in_chans=3, img_size=(8, 12))
    images = np.random.default_rng(0).normal(size=[2, 3, 8, 12]).astype('float32')
    patches = model.patchify(paddle.to_tensor(images))
    assert patches.shape == [2, 6, 48]
    for n, row, column, y, x, c in np.ndindex(2, 2, 3, 4, 4, 3):
        assert (
            patches[n, row * 3 + column, (y * 4 + x) * 3 + c].item()
            == images[n, c, row * 4 + y, column * 4 + x]
        )
    np.testing.assert_array_equal(model.unpatchify(patches).numpy(), images)


def test_normalised_target_uses_the_unbiased_variance():
    model = nano(in_chans=3, img_size=32, norm_pix_loss=True)
    patch = paddle.arange(48, dtype='float32').reshape([1, 4, 4, 3]).transpose([0, 3, 1, 2])
    mean, std = model.patch_statistics(paddle.tile(patch, [1, 1, 8, 8]))
    np.testing.assert_allclose(
        ((0 - mean) / std).numpy(), -23.5 / np.sqrt(np.arange(48).var(ddof=1) + 1e-6), rtol=1e-6
    )


def test_normalised_target_has_the_golden_value_of_vit_base(base):
    patch = paddle.arange(768, dtype='float32').reshape([1, 16, 16, 3]).transpose([0, 3, 1, 2])
    mean, std = base.patch_statistics(paddle.tile(patch, [1, 1, 14, 14]))
    # with the biased variance it would be -1.729797
    assert ((0 - mean) / std)[0, 0, 0].item() == pytest.approx(-1.728670, abs=1e-5)


@pytest.mark.parametrize('norm_pix_loss', [False, True])
def test_loss_is_the_mean_square_over_removed_patches(norm_pix_loss):
    model = nano(in_chans=3, norm_pix_loss=norm_pix_loss)
    rng = np.random.default_rng(0)
    images = rng.normal(size=[2, 3, 32, 32]).astype('float32')
    pred = rng.normal(size=[2, 64, 48]).astype('float32')
    mask = (rng.random([2, 64]) < 0.7).astype('float32')
    target = (
        images.reshape(2, 3, 8, 4, 8, 4)
        .transpose(0, 2, 4, 3, 5, 1)
        .reshape(2, 64, 48)
        .astype('float64')
    )
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(
            target.var(-1, ddof=1, keepdims=True) + 1e-6
        )
    expected = (((pred - target) ** 2).mean(-1) * mask).sum() / mask.sum()
    assert model.forward_loss(*map(paddle.to_tensor, (images, pred, mask))).item() == pytest.approx(
        expected, rel=1e-6
    )


@pytest.mark.parametrize('ratio, kept', [(0.75, 16), (0.7, 19), (0.0, 64), (0.98, 1)])
def test_masking_keeps_the_smallest_noise_and_restores_the_order(ratio, kept):
    model = nano()
    noise = np.random.default_rng(0).random([3, 64]).astype('float32')
    visible, mask, ids_restore = model.random_masking(3, ratio, paddle.to_tensor(noise))
    order = noise.argsort(axis=1)
    assert masking.num_visible(64, ratio) == kept
    np.testing.assert_array_equal(visible.numpy(), order[:, :kept])
    expected = np.ones([3, 64])
    np.put_along_axis(expected, order[:, :kept], 0, axis=1)
    np.testing.assert_array_equal(mask.numpy(), expected)
    np.testing.assert_array_equal(
        np.take_along_axis(order, ids_restore.numpy(), axis=1), np.tile(np.arange(64), [3, 1])
    )


def test_noise_fixes_the_mask_and_without_it_every_call_draws_anew():
    model, images = nano(), paddle.randn([2, 3, 32, 32])
    noise = paddle.rand([2, 64])
    first, second = (model(images, 0.75, noise) for _ in range(2))
    np.testing.assert_array_equal(first[2].numpy(), second[2].numpy())
    assert first[0].item() == second[0].item()
    assert (model(images)[2].numpy() != model(images)[2].numpy()).any()


def test_a_mask_given_as_noise_of_zeros_and_ones_keeps_the_zeros():
    mask = paddle.to_tensor(np.tile([[1, 1, 0, 1]], [2, 16]).astype('float32'))
    np.testing.assert_array_equal(
        nano()(paddle.randn([2, 3, 32, 32]), 0.75, mask)[2].numpy(), mask.numpy()
    )


def test_removed_pixels_do_not_reach_the_prediction():
    model, noise = nano(), paddle.rand([1, 64])
    images = paddle.randn([1, 3, 32, 32])
    _, pred, mask = model(images, 0.75, noise)
    hidden = model.unpatchify(mask.unsqueeze(-1).expand([1, 64, 48]))
    _, other, _ = model(images + 9 * hidden, 0.75, noise)
    np.testing.assert_array_equal(pred.numpy(), other.numpy())
    _, other, _ = model(images + 9 * (1 - hidden), 0.75, noise)
    assert np.abs(pred.numpy() - other.numpy()).max() > 1e-3


@pytest.mark.parametrize('in_chans, size', [(1, (32, 32)), (5, (16, 40)), (3, (64, 4))])
def test_any_channels_and_any_size_that_the_patch_divides(in_chans, size):
    model = nano(in_chans=in_chans, img_size=size)
    patches = size[0] * size[1] // 16
    loss, pred, mask = model(paddle.randn([2, in_chans, *size]))
    assert (
        pred.shape == [2, patches, 16 * in_chans]
        and mask.shape == [2, patches]
        and loss.shape == []
    )
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if not p.stop_gradient)


def test_a_size_that_the_patch_does_not_divide_is_named():
    with pytest.raises(InputError, match='height 30 .* patch size 4'):
        nano(img_size=(30, 32))
    with pytest.raises(InputError, match=r'\[3, 32, 32\].*\[3, 16, 32\]'):
        nano()(paddle.randn([1, 3, 16, 32]))


def test_a_ratio_that_keeps_nothing_is_named():
    with pytest.raises(InputError, match='keeps none of 64'):
        nano()(paddle.randn([1, 3, 32, 32]), 0.999)


def test_an_unknown_name_lists_the_right_ones():
    with pytest.raises(
        InputError, match='mae_vit_bas.*mae_vit_base_patch16, .*mae_vit_huge_patch14'
    ):
        models_zoo.autoencoder('mae_vit_bas')


def test_recompute_changes_no_gradient():
    model, images, noise = nano(), paddle.randn([2, 3, 32, 32]), paddle.rand([2, 64])

    def gradients():
        model.clear_gradients()
        model(images, 0.75, noise)[0].backward()
        return [p.grad.numpy() for p in model.parameters() if not p.stop_gradient]

    plain = gradients()
    layer.enable_recompute(model)
    assert all(blocks.recompute for blocks in (model.blocks, model.decoder_blocks))
    for a, b in zip(plain, gradients()):
        np.testing.assert_allclose(a, b, atol=1e-7)
