"""SimMIM, the baseline inside UM-MAE, against tests/numpy_um.py, which shares no code with it."""

import numpy as np
import numpy_um as by_hand
import paddle
import pytest

import models_zoo
from util.errors import InputError

DEPTHS, HEADS = {'swin': (2, 1, 2, 1), 'pvt': (1, 1, 2, 1)}, (1, 2, 4, 8)


def nano(family, **kwargs):
    return models_zoo.autoencoder(f'simmim_{family}_nano_32', **kwargs)


def predicted_by_hand(family, weights, images, removed):
    if family == 'swin':
        return by_hand.simmim_swin(weights, images, removed, DEPTHS['swin'], HEADS, 16)
    return by_hand.simmim_pvt(weights, images, removed, DEPTHS['pvt'], HEADS, (8, 4, 2, 1))


@pytest.mark.parametrize('family', ['swin', 'pvt'])
@pytest.mark.parametrize(
    'ratio, kwargs',
    [
        (0.75, {}),
        (0.6, {'in_chans': 1, 'img_size': (32, 64)}),
        (0.75, {'norm_pix_loss': True, 'img_size': (64, 32)}),
    ],
)
def test_predictions_and_loss_are_those_written_out_by_hand(family, ratio, kwargs):
    model, rng = nano(family, **kwargs), np.random.default_rng(1)
    weights = by_hand.perturb(model)
    images = rng.normal(size=[2, model.in_chans, *model.img_size]).astype('float32')
    noise = rng.random([2, model.num_patches]).astype('float32')
    kept = model.num_patches - int(model.num_patches * ratio)
    removed = (noise.argsort(1).argsort(1) >= kept).reshape(2, *model.grid)
    loss, predicted, mask = model(paddle.to_tensor(images), ratio, paddle.to_tensor(noise))
    np.testing.assert_array_equal(mask.numpy(), removed.reshape(2, -1))
    expected = predicted_by_hand(family, weights, images, removed)
    worst, largest = np.abs(predicted.numpy() - expected).max(), np.abs(expected).max()
    print(f'largest difference {worst:.1e} of {largest:.1f}')
    np.testing.assert_allclose(predicted.numpy(), expected, atol=1e-5 * largest)
    normalised = kwargs.get('norm_pix_loss', False)
    assert loss.item() == pytest.approx(
        by_hand.loss(images, expected, removed, 4, normalised, error=np.abs), rel=1e-5
    )


@pytest.mark.parametrize('family', ['swin', 'pvt'])
def test_removed_pixels_do_not_reach_the_prediction(family):
    model, images, noise = nano(family), paddle.randn([1, 3, 32, 32]), paddle.rand([1, 64])
    by_hand.perturb(model)
    _, before, mask = model(images, 0.75, noise)
    hidden = model.unpatchify(mask.unsqueeze(-1).expand([1, 64, 48]))
    np.testing.assert_array_equal(
        model(images + 9 * hidden, 0.75, noise)[1].numpy(), before.numpy()
    )
    assert np.abs((model(images + 9 * (1 - hidden), 0.75, noise)[1] - before).numpy()).max() > 1e-2


@pytest.mark.parametrize('family', ['swin', 'pvt'])
def test_every_trainable_parameter_gets_a_gradient(family):
    model = nano(family)
    model(paddle.randn([2, 3, 32, 32]), 0.75)[0].backward()
    trained = {name: p for name, p in model.named_parameters() if not p.stop_gradient}
    assert [name for name, p in trained.items() if p.grad is None] == []
    fixed = [name for name, p in model.named_parameters() if p.stop_gradient]
    assert fixed == (['pos_embed'] if family == 'pvt' else [])


def test_what_simmim_has_not_is_named():
    with pytest.raises(InputError, match='--vis_mask_ratio 0.25: SimMIM has no'):
        nano('swin', vis_mask_ratio=0.25)
    with pytest.raises(InputError, match='--fix_um_positions: .* simmim_swin_nano_32'):
        nano('swin', fix_um_positions=True)
