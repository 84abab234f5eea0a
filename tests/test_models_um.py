"""UM-MAE against tests/numpy_um.py, which shares no code with the models."""

import numpy as np
import numpy_um as by_hand
import paddle
import pytest

import models_um
import models_zoo
from util.errors import InputError

DEPTHS, HEADS = {'swin': (2, 1, 2, 1), 'pvt': (1, 1, 2, 1)}, (1, 2, 4, 8)
FAMILIES = ['swin', 'pvt']


def nano(family, **kwargs):
    return models_zoo.autoencoder(f'mae_{family}_nano_32', **kwargs)


def pictures(model, count=2, seed=1):
    return (
        np.random.default_rng(seed)
        .normal(size=[count, model.in_chans, *model.img_size])
        .astype('float32')
    )


def uniform_masks(model, count=2, seed=2):
    """bool [N, rows, columns] over units, True = removed."""
    rows, columns = model.grid
    kept = np.random.default_rng(seed).integers(4, size=[count, rows // 2, columns // 2, 1, 1])
    cells = kept != np.arange(4).reshape(2, 2)
    return cells.transpose(0, 1, 3, 2, 4).reshape(count, rows, columns)


def noise_of(removed):
    return paddle.to_tensor(removed.reshape(len(removed), -1).astype('float32'))


def latent_by_hand(family, weights, images, removed, replaced=None):
    if family == 'swin':
        return by_hand.swin_latent(weights, images, removed, DEPTHS['swin'], HEADS, 8, replaced)
    return by_hand.pvt_latent(
        weights, images, removed, DEPTHS['pvt'], HEADS, (4, 2, 1, 1), replaced
    )


def recorded(model):
    """A list that gets every later draw of secondary masking."""
    drawn, draw = [], model.secondary_masking
    model.secondary_masking = lambda *args: drawn.append(draw(*args)) or drawn[-1]
    return drawn


def replaced_units(drawn, removed):
    """A mask over all units of the numbers drawn among the visible ones, in the cells' order."""
    units = np.zeros([len(removed), removed[0].size], dtype=bool)
    for row, mask, chosen in zip(units, removed, drawn.numpy()):
        row[by_hand.cell_order(mask)[chosen]] = True
    return units.reshape(removed.shape)


def assert_close(ours, expected, atol=1e-5):
    worst, largest = np.abs(ours.numpy() - expected).max(), np.abs(expected).max()
    print(f'largest difference {worst:.1e} of {largest:.1f}')
    np.testing.assert_allclose(ours.numpy(), expected, atol=atol * largest)


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        {'vis_mask_ratio': 0.25, 'norm_pix_loss': True},
        {'img_size': (32, 64), 'in_chans': 1, 'norm_pix_loss': True},
        {'img_size': (64, 32), 'vis_mask_ratio': 0.5, 'fix_um_positions': True, 'in_chans': 4},
    ],
)
def test_latents_predictions_and_loss_are_those_written_out_by_hand(family, kwargs):
    model = nano(family, **kwargs)
    weights, images, removed = by_hand.perturb(model), pictures(model), uniform_masks(model)
    drawn, replaced = recorded(model), None
    latent, mask, ids_restore = model.forward_encoder(
        paddle.to_tensor(images), 0.75, noise_of(removed)
    )
    if 'vis_mask_ratio' in kwargs:
        replaced = replaced_units(drawn[0], removed)
        assert (replaced.sum((1, 2)) == removed[0].size // 4 * kwargs['vis_mask_ratio']).all()
        assert (replaced[0] != replaced[1]).any()
    np.testing.assert_array_equal(mask.numpy(), removed.reshape(2, -1))
    expected = latent_by_hand(family, weights, images, removed, replaced)
    assert_close(latent, expected)

    predicted = model.forward_decoder(latent, ids_restore)
    expected = by_hand.decode(weights, expected, removed, 4, kwargs.get('fix_um_positions', False))
    assert_close(predicted, expected)

    loss = model.forward_loss(paddle.to_tensor(images), predicted, mask)
    expected = by_hand.loss(images, expected, removed, 4, kwargs.get('norm_pix_loss', False))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_pass_is_encoder_decoder_and_loss(family):
    model = nano(family)
    images, noise = paddle.to_tensor(pictures(model)), noise_of(uniform_masks(model))
    latent, mask, ids_restore = model.forward_encoder(images, 0.75, noise)
    predicted = model.forward_decoder(latent, ids_restore)
    for ours, expected in zip(
        model(images, 0.75, noise), (model.forward_loss(images, predicted, mask), predicted, mask)
    ):
        np.testing.assert_array_equal(ours.numpy(), expected.numpy())


@pytest.mark.parametrize('family', FAMILIES)
def test_positions_of_most_visible_tokens_are_others_unless_they_are_put_right(family):
    """The original's order is wrong for most tokens, but the released weights were trained so."""
    models = [nano(family, fix_um_positions=fixed) for fixed in (False, True)]
    models[1].set_state_dict(models[0].state_dict())
    removed = uniform_masks(models[0])
    mistaken = np.mean([by_hand.cell_order(mask) != np.flatnonzero(~mask) for mask in removed])
    assert 0.5 < mistaken < 0.9
    images, noise = paddle.to_tensor(pictures(models[0])), noise_of(removed)
    ours, right = (model(images, 0.75, noise)[1].numpy() for model in models)
    assert np.abs(ours - right).max() > 1e-3


@pytest.mark.parametrize('family', FAMILIES)
def test_without_noise_one_unit_of_each_cell_is_kept_anew_at_every_call(family):
    model = nano(family)
    images = paddle.to_tensor(pictures(model, 8))
    masks = [model(images)[2].numpy() for _ in range(2)]
    assert (masks[0] != masks[1]).any()
    rows, columns = model.grid
    for mask in masks:
        cells = (
            mask.reshape(8, rows // 2, 2, columns // 2, 2).transpose(0, 1, 3, 2, 4).reshape(-1, 4)
        )
        assert (cells.sum(1) == 3).all()
        assert (cells.sum(0) < len(cells)).all()  # each of the four is kept sometimes


@pytest.mark.parametrize('ratio', [0.0, 0.25])
@pytest.mark.parametrize('family', FAMILIES)
def test_removed_and_replaced_pixels_do_not_reach_the_prediction(family, ratio):
    model = nano(family, vis_mask_ratio=ratio)
    by_hand.perturb(model)
    images, removed, drawn = pictures(model), uniform_masks(model), recorded(model)

    def outputs(images):
        paddle.seed(3)
        latent, _, ids_restore = model.forward_encoder(
            paddle.to_tensor(images), 0.75, noise_of(removed)
        )
        return latent.numpy(), model.forward_decoder(latent, ids_restore).numpy()

    before = outputs(images)
    unseen = removed | replaced_units(drawn[0], removed) if ratio else removed
    unseen = by_hand.spread(unseen, 4).transpose(0, 3, 1, 2)
    for ours, expected in zip(outputs(images + 9 * unseen.astype('float32')), before):
        np.testing.assert_array_equal(ours, expected)
    for ours, expected in zip(outputs(images + 9 * (~unseen).astype('float32')), before):
        assert np.abs(ours - expected).max() > 1e-2


def assert_equals_full_grid(model, images, removed, depths, heads, window):
    """Compare the compacted map after each block with the whole grid in windows of double side.

    In the whole grid no query attends to removed units. The last stage is left out.
    """
    weights = by_hand.perturb(model)
    unit, stages, worst = 4, len(depths) - 1, []
    visible, *_ = model.uniform_masking(len(images), noise_of(removed))
    x = model.embed(
        model.compact(paddle.to_tensor(images).transpose([0, 2, 3, 1]), visible).transpose(
            [0, 3, 1, 2]
        )
    )
    ours = model.outputs(x, model.compact(model.positions(), visible))[: sum(depths[:stages])]
    whole = by_hand.embed(weights, images, removed, None, unit, 1e-6)
    expected = by_hand.swin_blocks(
        whole,
        by_hand.coordinates(1, *whole.shape[1:3]),
        weights,
        depths[:stages],
        heads,
        2 * window,
        hidden=by_hand.spread(removed, unit),
    )
    for block, full in zip(ours, expected, strict=True):
        side = full.shape[1] // removed.shape[1]
        worst.append(
            np.abs(block.numpy() - by_hand.compact(full, removed, side)).max() / np.abs(full).max()
        )
    print('largest difference after each block', ' '.join(f'{value:.1e}' for value in worst))
    assert max(worst) <= 1e-5


def test_compacted_blocks_equal_those_of_the_whole_grid_at_the_kept_tokens():
    model = nano('swin', img_size=(32, 64))
    assert_equals_full_grid(model, pictures(model), uniform_masks(model), DEPTHS['swin'], HEADS, 8)


@pytest.mark.full
def test_compacted_blocks_of_swin_tiny_equal_those_of_the_whole_grid_at_the_kept_tokens():
    model = models_zoo.autoencoder('mae_swin_tiny_256')
    assert_equals_full_grid(
        model, pictures(model, 1), uniform_masks(model, 1), (2, 2, 6, 2), (3, 6, 12, 24), 8
    )


@pytest.mark.parametrize('kept, side', [(49, 56), (64, 64), (16, 32)])
def test_secondary_masking_of_a_vit_keeps_positions_and_three_quarters_of_the_patches(kept, side):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=side, vis_mask_ratio=0.25)
    weights, images, drawn = by_hand.perturb(model), pictures(model), recorded(model)
    removed = uniform_masks(model)
    latent, mask, ids_restore = model.forward_encoder(
        paddle.to_tensor(images), 0.75, noise_of(removed)
    )
    np.testing.assert_array_equal(mask.numpy(), removed.reshape(2, -1))
    order = np.stack([np.flatnonzero(~mask) for mask in removed])
    replaced = np.take_along_axis(drawn[0].numpy(), order, axis=1)
    assert order.shape[1] == kept and not (drawn[0].numpy() & removed.reshape(2, -1)).any()
    assert replaced.sum(1).tolist() == 2 * [{49: 13, 64: 16, 16: 4}[kept]]
    expected = by_hand.vit_latent(weights, images, order, replaced, 3)
    assert_close(latent, expected)
    expected = by_hand.vit_decode(weights, expected, removed.reshape(2, -1), 2)
    assert_close(model.forward_decoder(latent, ids_restore), expected)


def test_a_vit_given_a_uniform_mask_is_the_ordinary_masked_autoencoder():
    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=True)
    weights, images, removed = by_hand.perturb(model), pictures(model), uniform_masks(model)
    loss, predicted, _ = model(paddle.to_tensor(images), 0.75, noise_of(removed))
    flat = removed.reshape(2, -1)
    latent = by_hand.vit_latent(
        weights, images, np.stack([np.flatnonzero(~mask) for mask in flat]), None, 3
    )
    expected = by_hand.vit_decode(weights, latent, flat, 2)
    assert_close(predicted, expected)
    assert loss.item() == pytest.approx(by_hand.loss(images, expected, removed, 4, True), rel=1e-5)


def test_secondary_masking_is_drawn_anew_and_evenly():
    model = nano('swin', vis_mask_ratio=0.25)
    drawn = model.secondary_masking(paddle.zeros([2000, 16]), 16).numpy()
    assert (drawn.sum(1) == 4).all()
    np.testing.assert_allclose(drawn.mean(0), 0.25, atol=0.05)
    assert (drawn != model.secondary_masking(paddle.zeros([2000, 16]), 16).numpy()).any()


@pytest.mark.parametrize('family', FAMILIES)
def test_the_token_of_secondary_masking_exists_only_where_it_is_used(family):
    names = set(dict(nano(family, vis_mask_ratio=0.25).named_parameters())) - set(
        dict(nano(family).named_parameters())
    )
    assert names == {'vis_mask_token'}


@pytest.mark.parametrize('family', FAMILIES)
def test_every_trainable_parameter_gets_a_gradient(family):
    model = nano(family, vis_mask_ratio=0.25)
    model(paddle.to_tensor(pictures(model)))[0].backward()
    without = [
        name for name, p in model.named_parameters() if not p.stop_gradient and p.grad is None
    ]
    frozen = {name for name, p in model.named_parameters() if p.stop_gradient}
    assert without == []
    assert frozen == (
        {'pos_embed', 'decoder_pos_embed'} if family == 'pvt' else {'decoder_pos_embed'}
    )


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('kind', ['mae_', 'simmim_', ''])
def test_every_parameter_starts_from_the_distribution_of_um_mae(kind, family):
    model = (models_zoo.CLASSIFIERS | models_zoo.AUTOENCODERS)[f'{kind}{family}_nano_32']()
    for name, parameter in model.named_parameters():
        value, shape, spread = parameter.numpy(), parameter.shape, None
        if name.endswith('pos_embed'):
            continue
        if name.endswith('mask_token'):
            assert value.std() == pytest.approx(0.02, rel=0.5)
        elif len(shape) == 1:
            assert (value == (1 if 'norm' in name and name.endswith('weight') else 0)).all(), name
        elif len(shape) == 2 or (kind and name == 'patch_embed.proj.weight'):
            spread = (6 / (shape[0] + np.prod(shape[1:]))) ** 0.5  # Xavier over the matrix
            assert np.abs(value).max() <= spread * (1 + 1e-6), name
            assert value.std() == pytest.approx(spread / 3**0.5, rel=0.25), name
        else:  # convolutions: normal, by their fan-out
            spread = (2 / (shape[0] * shape[2] * shape[3])) ** 0.5
            assert value.std() == pytest.approx(spread, rel=0.5 if value.size < 200 else 0.15), name


@pytest.mark.parametrize('family', FAMILIES)
def test_what_uniform_masking_cannot_do_is_named(family):
    with pytest.raises(InputError, match='image width 40 is no multiple of 16'):
        nano(family, img_size=(32, 40))
    model = nano(family)
    with pytest.raises(InputError, match='mask ratio 0.7.* three of every 2 x 2'):
        model(paddle.randn([1, 3, 32, 32]), 0.7)
    with pytest.raises(InputError, match=r'\[3, 32, 32\].*\[1, 32, 32\]'):
        model(paddle.randn([1, 1, 32, 32]))


def test_windows_that_would_cut_what_is_kept_into_parts_are_refused():
    with pytest.raises(InputError, match='windows of 4 x 4 tokens.* multiple of 8'):
        models_um.mae_swin_nano_32(window=4)
