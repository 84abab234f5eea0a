import numpy as np
import numpy_um as by_hand
import paddle
import pytest

import models_pvt
import models_zoo
from util import optim
from util.errors import InputError

DIMS, DEPTHS, MLPS = (64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)


def block(i, dim, mlp, previous=None):
    """Names and shapes of a block; `previous` is the width before the first one of a stage."""
    name, merge = f'blocks.{i}', []
    if previous:
        merge = [
            (f'{name}.downsample.proj.weight', [dim, previous, 2, 2]),
            (f'{name}.downsample.proj.bias', [dim]),
        ]
    return [
        *merge,
        (f'{name}.norm1.weight', [dim]),
        (f'{name}.norm1.bias', [dim]),
        (f'{name}.attn.q.weight', [dim, dim]),
        (f'{name}.attn.q.bias', [dim]),
        (f'{name}.attn.kv.weight', [dim, 2 * dim]),
        (f'{name}.attn.kv.bias', [2 * dim]),
        (f'{name}.attn.sr.weight', [dim, dim, 1, 1]),
        (f'{name}.attn.sr.bias', [dim]),
        (f'{name}.attn.norm.weight', [dim]),
        (f'{name}.attn.norm.bias', [dim]),
        (f'{name}.attn.proj.weight', [dim, dim]),
        (f'{name}.attn.proj.bias', [dim]),
        (f'{name}.norm2.weight', [dim]),
        (f'{name}.norm2.bias', [dim]),
        (f'{name}.mlp.fc1.weight', [dim, mlp * dim]),
        (f'{name}.mlp.fc1.bias', [mlp * dim]),
        (f'{name}.mlp.fc2.weight', [mlp * dim, dim]),
        (f'{name}.mlp.fc2.bias', [dim]),
    ]


def encoder():
    names = [
        ('patch_embed.proj.weight', [64, 3, 4, 4]),
        ('patch_embed.proj.bias', [64]),
        ('pos_embed', [1, 4096, 64]),
    ]
    for stage, depth in enumerate(DEPTHS):
        for i in range(depth):
            previous = DIMS[stage - 1] if stage and not i else None
            names += block(sum(DEPTHS[:stage]) + i, DIMS[stage], MLPS[stage], previous)
    return names


def outline(create, name, **kwargs):
    """A model without values, so that even large ones are made at once."""
    with paddle.LazyGuard():
        return create(name, **kwargs)


def shapes(model):
    return {name: list(p.shape) for name, p in model.named_parameters()}


def millions(model, name):
    return round(
        sum(p.size for key, p in model.named_parameters() if not p.stop_gradient and key != name)
        / 1e6,
        2,
    )


def test_the_classifier_has_the_parameters_of_um_mae():
    model = outline(models_zoo.classifier, 'pvt_small_256')
    assert shapes(model) == dict(
        encoder()
        + [
            ('fc_norm.weight', [512]),
            ('fc_norm.bias', [512]),
            ('head.weight', [512, 1000]),
            ('head.bias', [1000]),
        ]
    )
    assert millions(model, 'pos_embed') == 21.28
    assert model.pos_embed.size == 262_144


def test_the_masked_autoencoder_has_the_parameters_of_um_mae():
    model = outline(models_zoo.autoencoder, 'mae_pvt_small_256', vis_mask_ratio=0.25)
    decoder = [
        (name, shape)
        for name, shape in shapes(model).items()
        if name.startswith(('decoder_', 'mask_token'))
    ]
    assert len(decoder) == 2 + 2 + 2 * 12 + 4
    assert shapes(model) == dict(
        encoder()
        + decoder
        + [('norm.weight', [512]), ('norm.bias', [512]), ('vis_mask_token', [1, 1, 64])]
    )
    assert dict(decoder)['decoder_embed.weight'] == [512, 4 * 512]
    assert dict(decoder)['decoder_pos_embed'] == [1, 256, 512]
    assert millions(model, 'vis_mask_token') == 28.52


@pytest.mark.parametrize('name', ['mae_pvt_nano_32', 'simmim_pvt_nano_32'])
def test_positions_are_fixed_in_pre_training_and_learnt_from_zeros_in_fine_tuning(name):
    model = models_zoo.autoencoder(name)
    row, column, omega = 5, 9, 10000 ** -(1 / 4)
    place = model.pos_embed.numpy()[0, row * 32 + column]
    np.testing.assert_allclose(
        place[1::4],
        [np.sin(column * omega), np.cos(column * omega), np.sin(row * omega), np.cos(row * omega)],
        atol=1e-6,
    )
    assert model.pos_embed.stop_gradient
    tuned = models_zoo.classifier('pvt_nano_32')
    assert not tuned.pos_embed.stop_gradient and not tuned.pos_embed.numpy().any()


def test_the_vit_of_um_mae_has_its_parameters():
    model = outline(models_zoo.autoencoder, 'mae_vit_base_patch16_dec512d2b', vis_mask_ratio=0.25)
    assert millions(model, 'vis_mask_token') == 92.74
    assert list(model.vis_mask_token.shape) == [1, 1, 768]


@pytest.mark.parametrize('name', ['pvt_nano_32', 'mae_pvt_nano_32', 'simmim_pvt_nano_32'])
def test_norms_of_the_encoders_blocks_have_epsilon_1e_5_and_all_others_1e_6(name):
    model = (models_zoo.CLASSIFIERS | models_zoo.AUTOENCODERS)[name]()
    found = {
        name: part._epsilon
        for name, part in model.named_sublayers()
        if isinstance(part, paddle.nn.LayerNorm)
    }
    small = {
        'pvt_nano_32': ['fc_norm'],
        'simmim_pvt_nano_32': ['norm'],
        'mae_pvt_nano_32': [
            'norm',
            'decoder_norm',
            *(f'decoder_blocks.{i}.norm{j}' for i in (0, 1) for j in (1, 2)),
        ],
    }[name]
    blocks = [f'blocks.{i}.{norm}' for i in range(5) for norm in ('norm1', 'attn.norm', 'norm2')]
    assert found == {**dict.fromkeys(small, 1e-6), **dict.fromkeys(blocks, 1e-5)}


def test_layer_decay_and_weight_decay_are_those_of_um_mae():
    model = outline(models_zoo.classifier, 'pvt_small_256')
    found = {
        p.name: (group['learning_rate'], group['weight_decay'])
        for group in optim.layer_decay_groups(model, 0.05, 0.85)
        for p in group['params']
    }
    assert len(found) == len(model.parameters())
    for name, parameter in model.named_parameters():
        layer = int(name.split('.')[1]) + 1 if name.startswith('blocks') else 17
        layer = 0 if name.startswith(('patch_embed', 'pos_embed')) else layer
        decay = 0.0 if parameter.ndim == 1 or name == 'pos_embed' else 0.05
        assert found[parameter.name] == (pytest.approx(0.85 ** (17 - layer)), decay), name


def test_keys_are_averaged_over_8_4_2_1_tokens_a_side_and_half_as_many_when_compacted():
    def ratios(model):
        return [block.attn.sr_ratio for block in model.blocks]

    assert (
        ratios(outline(models_zoo.classifier, 'pvt_small_256'))
        == [8] * 3 + [4] * 4 + [2] * 6 + [1] * 3
    )
    assert (
        ratios(outline(models_zoo.autoencoder, 'simmim_pvt_small_256'))
        == [8] * 3 + [4] * 4 + [2] * 6 + [1] * 3
    )
    assert (
        ratios(outline(models_zoo.autoencoder, 'mae_pvt_small_256')) == [4] * 3 + [2] * 4 + [1] * 9
    )


@pytest.mark.parametrize('size', [(32, 32), (32, 56)])
def test_scores_of_the_classifier_are_those_written_out_by_hand(size):
    model = models_zoo.classifier('pvt_nano_32', img_size=size, in_chans=2, num_classes=5)
    weights = by_hand.perturb(model)
    images = np.random.default_rng(1).normal(size=[2, 2, *size]).astype('float32')
    x = by_hand.embed(weights, images, None, None, 4, None)
    x = x + weights['pos_embed'].reshape(1, *x.shape[1:])
    *_, x = by_hand.pvt_blocks(x, weights, (1, 1, 2, 1), (1, 2, 4, 8), (8, 4, 2, 1))
    expected = by_hand.linear(
        by_hand.norm(x.mean((1, 2)), weights, 'fc_norm', 1e-6), weights, 'head'
    )
    ours = model(paddle.to_tensor(images)).numpy()
    print(f'largest difference {np.abs(ours - expected).max():.1e} of {np.abs(expected).max():.1f}')
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match='image width 30 is no multiple of the patch size 4'):
        models_zoo.classifier('pvt_small_256', img_size=(256, 30))
    with pytest.raises(InputError, match='image height 20 is no multiple of 8'):
        models_zoo.classifier('pvt_nano_32', img_size=20)
    with pytest.raises(
        InputError, match='--cls_token: a PyramidVisionTransformer has no class token'
    ):
        models_zoo.classifier('pvt_nano_32', global_pool=False)


@pytest.mark.parametrize('name', ['num_heads', 'sr_ratios', 'mlp_ratios', 'embed_dims'])
def test_values_of_more_stages_than_there_are_blocks_for_are_named(name):
    values = {'embed_dims': (8, 8), 'num_heads': (1, 1), 'sr_ratios': (2, 1), 'mlp_ratios': (2, 2)}
    values[name] = (8, 8, 8)
    with pytest.raises(InputError, match=rf'{name} has 3 values for 2 stages \(depths \[1, 1\]\)'):
        models_pvt.PVT(img_size=32, depths=(1, 1), **values)
