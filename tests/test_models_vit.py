import numpy as np
import paddle
import pytest
from conftest import slow

import models_classifier
import models_zoo
from util import optim, pos_embed
from util.errors import InputError


def nano(**kwargs):
    return models_zoo.classifier('vit_nano_patch4', **{'num_classes': 10, **kwargs})


@pytest.mark.parametrize(
    'name, size, count',
    [
        ('vit_base_patch16', 224, 86_567_656),
        slow('vit_large_patch16', 224, 304_326_632),
        slow('vit_huge_patch14', 224, 632_045_800),
        slow('vit_base_patch16', 448, 87_019_240),
    ],
)
@pytest.mark.parametrize('global_pool', [False, True])
def test_parameters_count_as_in_the_official_models(name, size, count, global_pool):
    if name != 'vit_base_patch16' and global_pool:
        return  # as many as without: one norm replaces the other
    model = models_zoo.classifier(name, img_size=size, global_pool=global_pool)
    assert sum(p.size for p in model.parameters()) == count


def test_layer_decay_scales_and_decays_of_vit_base_are_the_official_ones():
    model = models_zoo.classifier('vit_base_patch16', global_pool=True)
    found = {}
    for group in optim.layer_decay_groups(model, 0.05, 0.65):
        for parameter in group['params']:
            found[parameter.name] = (group['learning_rate'], group['weight_decay'])
    assert len(found) == 152
    for name, parameter in model.named_parameters():
        layer = int(name.split('.')[1]) + 1 if name.startswith('blocks') else 13
        layer = 0 if name.startswith(('cls_token', 'pos_embed', 'patch_embed')) else layer
        decay = 0.0 if parameter.ndim == 1 or name in ('cls_token', 'pos_embed') else 0.05
        assert found[parameter.name] == (pytest.approx(0.65 ** (13 - layer)), decay), name
    assert min(scale for scale, _ in found.values()) == pytest.approx(0.00369721, rel=1e-5)


def test_five_lars_steps_equal_a_calculation_by_hand():
    layer = paddle.nn.Linear(4, 3)
    weight, bias = layer.weight.numpy().astype('float64'), layer.bias.numpy().astype('float64')
    optimizer, rng = optim.Lars(layer.parameters(), weight_decay=0.0), np.random.default_rng(0)
    momenta = [np.zeros_like(weight), np.zeros_like(bias)]
    for lr in (0.64, 6.4, 3.2, 1.0, 0.5):
        gradients = [rng.normal(size=value.shape) for value in (weight, bias)]
        for parameter, gradient in zip((layer.weight, layer.bias), gradients):
            parameter.grad = paddle.to_tensor(gradient.astype('float32'))
        optimizer.set_lr(lr)
        optimizer.step()
        ratio = 0.001 * np.linalg.norm(weight) / np.linalg.norm(gradients[0])
        for value, momentum, update in zip(
            (weight, bias), momenta, (ratio * gradients[0], gradients[1])
        ):
            momentum[:] = 0.9 * momentum + update
            value -= lr * momentum
    np.testing.assert_allclose(layer.weight.numpy(), weight, rtol=1e-5)
    np.testing.assert_allclose(layer.bias.numpy(), bias, rtol=1e-5)


def test_the_probes_normalisation_keeps_the_unbiased_variance():
    norm = models_classifier.FeatureNorm(3)
    x = np.random.default_rng(0).normal(2, 3, size=[8, 3]).astype('float32')
    out = norm(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(out, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6), atol=1e-5)
    np.testing.assert_allclose(norm._variance.numpy(), 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-5)
    norm.eval()
    expected = (x - 0.1 * x.mean(0)) / np.sqrt(0.9 + 0.1 * x.var(0, ddof=1) + 1e-6)
    np.testing.assert_allclose(norm(paddle.to_tensor(x)).numpy(), expected, atol=1e-5)


def test_a_probe_trains_the_head_alone():
    model = nano()
    model.probe()
    trained = [name for name, p in model.named_parameters() if not p.stop_gradient]
    assert trained == ['head.1.weight', 'head.1.bias']


def test_pre_trained_weights_fill_all_but_the_head(tmp_path):
    mae = models_zoo.autoencoder('mae_vit_nano_patch4')
    paddle.save({'model': mae.state_dict()}, str(tmp_path / 'x.pd'))
    model = nano(global_pool=True, img_size=48)
    fresh = models_zoo.start_from(model, str(tmp_path / 'x.pd')).fresh
    assert set(fresh) == {'head.weight', 'head.bias', 'fc_norm.weight', 'fc_norm.bias'}
    np.testing.assert_array_equal(
        model.blocks[3].mlp.fc2.weight.numpy(), mae.blocks[3].mlp.fc2.weight.numpy()
    )
    np.testing.assert_array_equal(
        model.pos_embed.numpy(), pos_embed.interpolate(mae.pos_embed.numpy(), (12, 12))
    )


@pytest.mark.parametrize(
    'make, message',
    [
        (
            lambda: {
                name: tensor
                for name, tensor in nano().state_dict().items()
                if 'blocks.2' not in name and name[:4] != 'head'
            },
            '12 of its tensors are missing: blocks.2.norm1.weight',
        ),
        (
            lambda: nano(global_pool=False).state_dict(),
            'holds a classifier by class token; add --cls_token',
        ),
        (
            lambda: (lambda probe: (probe.probe(), probe.state_dict())[1])(nano()),
            'holds a linear probe',
        ),
    ],
)
def test_weights_of_another_kind_are_named(tmp_path, make, message):
    paddle.save({'model': make()}, str(tmp_path / 'x.pd'))
    with pytest.raises(InputError, match=message):
        models_zoo.start_from(nano(global_pool=True), str(tmp_path / 'x.pd'))


@pytest.mark.parametrize('global_pool', [False, True])
def test_features_of_all_blocks_lead_to_the_scores(global_pool):
    model, x = nano(global_pool=global_pool), paddle.randn([2, 3, 32, 32])
    model.eval()
    blocks = model.block_features(x)
    assert [list(tokens.shape) for tokens in blocks] == [[2, 65, 96]] * 4
    last = model.fc_norm(blocks[-1][:, 1:].mean(1)) if global_pool else model.norm(blocks[-1])[:, 0]
    np.testing.assert_allclose(model.head(last).numpy(), model(x).numpy(), atol=1e-6)
    np.testing.assert_allclose(model.blocks[1](blocks[0]).numpy(), blocks[1].numpy(), atol=1e-6)
