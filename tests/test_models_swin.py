import numpy as np
import numpy_um as by_hand
import paddle
import pytest

import models_swin
import models_zoo
from util import optim
from util.errors import InputError


def block(i, dim, heads, hidden, previous=None, mlp=4):
    """Names and shapes of a block; `previous` is the width before the first one of a stage."""
    name, merge = f'blocks.{i}', []
    if previous:
        merge = [
            (f'{name}.downsample.norm.weight', [previous]),
            (f'{name}.downsample.norm.bias', [previous]),
            (f'{name}.downsample.proj.weight', [dim, previous, 2, 2]),
            (f'{name}.downsample.proj.bias', [dim]),
        ]
    return [
        *merge,
        (f'{name}.norm1.weight', [dim]),
        (f'{name}.norm1.bias', [dim]),
        (f'{name}.attn.posmlp.0.weight', [hidden, 2, 1, 1]),
        (f'{name}.attn.posmlp.0.bias', [hidden]),
        (f'{name}.attn.posmlp.2.weight', [heads, hidden, 1, 1]),
        (f'{name}.attn.posmlp.2.bias', [heads]),
        (f'{name}.attn.qkv.weight', [dim, 3 * dim]),
        (f'{name}.attn.qkv.bias', [3 * dim]),
        (f'{name}.attn.proj.weight', [dim, dim]),
        (f'{name}.attn.proj.bias', [dim]),
        (f'{name}.norm2.weight', [dim]),
        (f'{name}.norm2.bias', [dim]),
        (f'{name}.mlp.fc1.weight', [dim, mlp * dim]),
        (f'{name}.mlp.fc1.bias', [mlp * dim]),
        (f'{name}.mlp.fc2.weight', [mlp * dim, dim]),
        (f'{name}.mlp.fc2.bias', [dim]),
    ]


def encoder(dim, depths, heads, hidden):
    names = [
        ('patch_embed.proj.weight', [dim, 3, 4, 4]),
        ('patch_embed.proj.bias', [dim]),
        ('patch_embed.norm.weight', [dim]),
        ('patch_embed.norm.bias', [dim]),
    ]
    number = 0
    for stage, depth in enumerate(depths):
        for i in range(depth):
            width = dim * 2**stage
            names += block(
                number, width, heads[stage], hidden, width // 2 if stage and not i else None
            )
            number += 1
    return names


def decoder(dim, depth, width=512):
    """Names and shapes of the decoder: MAE's, but a token stands for four visible patches."""
    names = [
        ('mask_token', [1, 1, width]),
        ('decoder_pos_embed', [1, 256, width]),
        ('decoder_embed.weight', [dim, 4 * width]),
        ('decoder_embed.bias', [4 * width]),
        ('decoder_norm.weight', [width]),
        ('decoder_norm.bias', [width]),
        ('decoder_pred.weight', [width, 768]),
        ('decoder_pred.bias', [768]),
    ]
    for i in range(depth):
        names += [
            (f'decoder_{name}', shape)
            for name, shape in block(i, width, 1, 1)
            if 'posmlp' not in name
        ]
    return names


SIZES = {
    'swin_tiny_256': (96, (2, 2, 6, 2), (3, 6, 12, 24), 32),
    'swin_large_256': (192, (2, 2, 18, 2), (6, 12, 24, 48), 64),
}


def outline(create, name, **kwargs):
    """A model without values, so that even large ones are made at once."""
    with paddle.LazyGuard():
        return create(name, **kwargs)


def shapes(model):
    return {name: list(p.shape) for name, p in model.named_parameters()}


def millions(model, trainable=False):
    return round(
        sum(p.size for p in model.parameters() if not (trainable and p.stop_gradient)) / 1e6, 2
    )


@pytest.mark.parametrize('name, count', [('swin_tiny_256', 28.27), ('swin_large_256', 196.47)])
def test_the_classifier_has_the_parameters_of_um_mae(name, count):
    model, width = outline(models_zoo.classifier, name), 8 * SIZES[name][0]
    assert shapes(model) == dict(
        encoder(*SIZES[name])
        + [
            ('fc_norm.weight', [width]),
            ('fc_norm.bias', [width]),
            ('head.weight', [width, 1000]),
            ('head.bias', [1000]),
        ]
    )
    assert millions(model) == count


@pytest.mark.parametrize(
    'name, depth, count', [('swin_tiny_256', 2, 35.77), ('swin_large_256', 8, 223.70)]
)
def test_the_masked_autoencoder_has_the_parameters_of_um_mae(name, depth, count):
    model, width = outline(models_zoo.autoencoder, f'mae_{name}'), 8 * SIZES[name][0]
    assert shapes(model) == dict(
        encoder(*SIZES[name])
        + decoder(width, depth)
        + [('norm.weight', [width]), ('norm.bias', [width])]
    )
    assert millions(model, trainable=True) == count


def test_simmim_and_secondary_masking_add_a_token_of_the_first_width():
    assert shapes(outline(models_zoo.autoencoder, 'simmim_swin_tiny_256')) == dict(
        encoder(*SIZES['swin_tiny_256'])
        + [
            ('mask_token', [1, 1, 96]),
            ('norm.weight', [768]),
            ('norm.bias', [768]),
            ('decoder_pred.weight', [768, 4 * 768]),
            ('decoder_pred.bias', [4 * 768]),
        ]
    )
    secondary = shapes(outline(models_zoo.autoencoder, 'mae_swin_tiny_256', vis_mask_ratio=0.25))
    assert secondary['vis_mask_token'] == [1, 1, 96]


def epsilons(model):
    return {
        name: part._epsilon
        for name, part in model.named_sublayers()
        if isinstance(part, paddle.nn.LayerNorm)
    }


@pytest.mark.parametrize('name', ['swin_nano_32', 'mae_swin_nano_32', 'simmim_swin_nano_32'])
def test_norms_of_the_encoders_blocks_have_epsilon_1e_5_and_all_others_1e_6(name):
    found = epsilons((models_zoo.CLASSIFIERS | models_zoo.AUTOENCODERS)[name]())
    ends = {
        'swin_nano_32': ['fc_norm'],
        'simmim_swin_nano_32': ['norm'],
        'mae_swin_nano_32': [
            'norm',
            'decoder_norm',
            *(f'decoder_blocks.{i}.norm{j}' for i in (0, 1) for j in (1, 2)),
        ],
    }[name]
    small = ['patch_embed.norm', *(f'blocks.{i}.downsample.norm' for i in (2, 3, 5)), *ends]
    assert found == {
        **dict.fromkeys(small, 1e-6),
        **{f'blocks.{i}.norm{j}': 1e-5 for i in range(6) for j in (1, 2)},
    }


def test_layer_decay_and_weight_decay_are_those_of_um_mae():
    model = outline(models_zoo.classifier, 'swin_tiny_256')
    found = {
        p.name: (group['learning_rate'], group['weight_decay'])
        for group in optim.layer_decay_groups(model, 0.05, 0.85)
        for p in group['params']
    }
    assert len(found) == len(model.parameters())
    for name, parameter in model.named_parameters():
        layer = (
            int(name.split('.')[1]) + 1
            if name.startswith('blocks')
            else 0
            if name.startswith('patch_embed')
            else 13
        )
        decay = 0.0 if parameter.ndim == 1 else 0.05
        assert found[parameter.name] == (pytest.approx(0.85 ** (13 - layer)), decay), name


def test_windows_are_cut_and_joined_in_row_major_order():
    x = np.random.default_rng(0).normal(size=[2, 8, 12, 3]).astype('float32')
    windows = models_swin.window_partition(paddle.to_tensor(x), 4)
    assert windows.shape == [2, 6, 16, 3]
    for n, row, column in np.ndindex(2, 2, 3):
        expected = x[n, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(16, 3)
        np.testing.assert_array_equal(windows[n, 3 * row + column].numpy(), expected)
    np.testing.assert_array_equal(models_swin.window_reverse(windows, (8, 12)).numpy(), x)


@pytest.mark.parametrize(
    'grid, window, shift', [((8, 8), 4, 2), ((16, 8), 4, 2), ((16, 24), 8, 4), ((9, 6), 3, 1)]
)
def test_the_shifted_mask_separates_tokens_that_the_roll_brought_together(grid, window, shift):
    """Places that were neighbours before the roll are at most window - 1 apart.

    All other pairs in a rolled window come from opposite ends.
    """
    rows, columns = np.indices(grid)
    rows, columns = (
        np.roll(part, (-shift, -shift), (0, 1))
        .reshape(grid[0] // window, window, grid[1] // window, window)
        .transpose(0, 2, 1, 3)
        .reshape(-1, window**2)
        for part in (rows, columns)
    )
    expected = np.zeros([rows.shape[0], 1, window**2, window**2])
    for w, i, j in np.ndindex(len(rows), window**2, window**2):
        if abs(rows[w, i] - rows[w, j]) >= window or abs(columns[w, i] - columns[w, j]) >= window:
            expected[w, 0, i, j] = -100
    np.testing.assert_array_equal(models_swin.shifted_window_mask(grid, window, shift), expected)


def attention(window, shift=0):
    return models_swin.WindowAttention(12, 3, True, posmlp_dim=8, window=window, shift=shift)


@pytest.mark.parametrize('window, stretch', [(4, 1), (4, 2), (2, 0.5), (8, 2)])
def test_the_bias_is_the_coordinate_mlp_of_every_pair(window, stretch):
    """Coordinates of the grid, of the kept patches of a compacted one, and halves."""
    part, rng = attention(window), np.random.default_rng(0)
    weights = {f'posmlp.{name}': value for name, value in by_hand.perturb(part.posmlp).items()}
    corners = rng.integers(0, 4 * window * min(stretch, 1), size=[2, 3, 1, 2])
    grid = by_hand.windows(by_hand.coordinates(1, window, window), window)
    places = corners + stretch * grid
    places = np.floor(2 * places) / 2
    bias = part.bias(paddle.to_tensor(places.astype('float32')))
    expected = by_hand.pair_bias(weights, 'posmlp', places, places)
    assert bias.shape == [2, 3, 3, window**2, window**2]
    np.testing.assert_allclose(bias.numpy(), expected, atol=3e-6)
    assert np.abs(expected - expected.swapaxes(-1, -2)).max() > 0.1  # the sign of a distance counts


def test_gradients_through_the_table_of_biases_are_those_of_every_pair():
    part = attention(4)
    by_hand.perturb(part)
    places = paddle.to_tensor(
        2 * by_hand.windows(by_hand.coordinates(2, 8, 8), 4).astype('float32')
    )
    towards = paddle.randn([2, 4, 3, 16, 16])

    def gradients(bias):
        part.clear_gradients()
        (bias * towards).sum().backward()
        return [p.grad.numpy() for p in part.posmlp.parameters()]

    apart = places.unsqueeze(2) - places.unsqueeze(3)  # [.., query, key, 2]
    logs = (apart.sign() * (1 + apart.abs()).log()).reshape([8, 16, 16, 2]).transpose([0, 3, 1, 2])
    for ours, expected in zip(
        gradients(part.bias(places)), gradients(part.posmlp(logs).reshape([2, 4, 3, 16, 16]))
    ):
        np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())


def test_blocks_shift_their_windows_by_turns_unless_one_window_is_the_whole_map():
    def windows(model):
        return [(block.attn.window, block.attn.shift) for block in model.blocks]

    tiny = outline(models_zoo.classifier, 'swin_tiny_256')
    assert windows(tiny) == [(16, 0), (16, 8)] * 2 + [(16, 0)] * 6 + [(8, 0)] * 2
    pretrained = outline(models_zoo.autoencoder, 'mae_swin_tiny_256')
    assert windows(pretrained) == [(8, 0), (8, 4)] * 2 + [(8, 0)] * 6 + [(4, 0)] * 2


def test_scores_of_the_classifier_are_those_written_out_by_hand():
    model = models_zoo.classifier('swin_nano_32', img_size=(32, 64), in_chans=2, num_classes=5)
    weights = by_hand.perturb(model)
    images = np.random.default_rng(1).normal(size=[2, 2, 32, 64]).astype('float32')
    x = by_hand.embed(weights, images, None, None, 4, 1e-6)
    *_, x = by_hand.swin_blocks(
        x, by_hand.coordinates(1, 32, 64), weights, (2, 1, 2, 1), (1, 2, 4, 8), 16
    )
    expected = by_hand.linear(
        by_hand.norm(x.mean((1, 2)), weights, 'fc_norm', 1e-6), weights, 'head'
    )
    ours = model(paddle.to_tensor(images)).numpy()
    print(f'largest difference {np.abs(ours - expected).max():.1e} of {np.abs(expected).max():.1f}')
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match='image height 30 is no multiple of the patch size 4'):
        models_zoo.classifier('swin_tiny_256', img_size=(30, 256))
    with pytest.raises(InputError, match='image height 20 is no multiple of 8'):
        models_zoo.classifier('swin_nano_32', img_size=20)
    with pytest.raises(InputError, match='windows of 16 x 16 do not divide a map of 40 x 40'):
        models_zoo.classifier('swin_nano_32', img_size=40)
    with pytest.raises(InputError, match='--cls_token: a SwinTransformer has no class token'):
        models_zoo.classifier('swin_nano_32', global_pool=False)
    with pytest.raises(InputError, match=r'\[3, 32, 32\].*\[3, 64, 64\]'):
        models_zoo.classifier('swin_nano_32')(paddle.randn([1, 3, 64, 64]))


def test_heads_of_more_stages_than_there_are_blocks_for_are_named():
    with pytest.raises(InputError, match=r'num_heads has 4 values for 2 stages \(depths \[1, 1\]'):
        models_swin.Swin(img_size=32, depths=(1, 1), window=8)
