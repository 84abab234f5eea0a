"""demo/visualize.py: attention, rollout, components, neighbours and own masks, against NumPy."""

import itertools
import types

import numpy as np
import own_mask
import paddle
import pytest
import show_attention
import show_neighbours
import show_pca
import show_reconstruction
from PIL import Image
from scipy.spatial.distance import cosine

import models_attention
import models_features
import models_zoo
from demo import visualize
from util import panels
from util.errors import InputError

AUTOENCODERS = ('mae_vit_nano_patch4', 'mae_swin_nano_32', 'simmim_pvt_nano_32')


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """weights(name of an autoencoder) -> a file of random weights for grey images of 32 x 32."""
    folder = tmp_path_factory.mktemp('weights')

    def weights(name):
        file = folder / f'{name}.pd'
        if not file.exists():
            model = models_zoo.autoencoder(name, img_size=32, in_chans=1)
            args = {'model': name, 'norm_pix_loss': False, 'input_size': 32, 'in_chans': 1}
            paddle.save({'model': model.state_dict(), 'args': args}, str(file))
        return file

    return weights


@pytest.fixture
def show(digits, tmp_path):
    """show(weights, '--flag', value, ...) -> the written picture as an array."""

    def show(file, *flags, img_path=digits / 'val/1'):
        out = tmp_path / 'x.png'
        flags = ['--resume', file, '--img_path', img_path, '--out', out, *flags]
        visualize.main(visualize.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))
        with Image.open(out) as picture:
            return np.asarray(picture)

    return show


@pytest.fixture
def masked(show, monkeypatch):
    """masked(weights, '--flag', ...) -> which patches the model did not see, bool [L]."""
    seen = []

    def spy(model, images, ratio, noise, reconstruct=show_reconstruction.reconstruct):
        shown, masks = reconstruct(model, images, ratio, noise)
        seen.append(model.patchify(masks).numpy()[0].mean(-1))
        return shown, masks

    def masked(*flags, **paths):
        seen.clear()
        show(*flags, **paths)
        assert {*seen[0]} <= {0, 1} and all((mask == seen[0]).all() for mask in seen)
        return seen[0] == 1

    monkeypatch.setattr(show_reconstruction, 'reconstruct', spy)
    return masked


# attention


def vit():
    """A small ViT whose blocks attend unevenly, and two images for it."""
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, in_chans=1, num_classes=3, global_pool=True
    )
    model.eval()
    for block in model.blocks:
        block.attn.qkv.weight.set_value(block.attn.qkv.weight * 20)
    return model, paddle.randn([2, 1, 16, 16])


def attention_by_hand(block, tokens):
    """Attention weights [N, H, T, T] in float64, one head after the other."""
    x = tokens.numpy().astype('float64')
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * block.norm1.weight.numpy() + block.norm1.bias.numpy()
    x = x @ block.attn.qkv.weight.numpy() + block.attn.qkv.bias.numpy()
    queries, keys, _ = np.split(x, 3, axis=-1)
    heads = []
    for q, k in zip(np.split(queries, 3, axis=-1), np.split(keys, 3, axis=-1)):
        scores = np.einsum('nqd,nkd->nqk', q, k) / np.sqrt(q.shape[-1])
        weights = np.exp(scores)
        heads.append(weights / weights.sum(-1, keepdims=True))
    return np.stack(heads, axis=1)


@paddle.no_grad()
def test_attention_is_the_softmax_of_queries_times_keys():
    model, images = vit()
    found = models_attention.weights_of(model, images)
    tokens = [model.embed(images), *model.block_features(images)]
    assert len(found) == 4 and found[0].shape == (2, 3, 17, 17)
    for block, before, weights in zip(model.blocks, tokens, found):
        expected = attention_by_hand(block, before)
        assert expected.max() > 0.3  # uneven: else any mean would pass
        np.testing.assert_allclose(weights, expected, atol=2e-5)


def test_rollout_follows_each_path_through_the_blocks():
    rng = np.random.default_rng(0)
    weights = [rng.dirichlet(np.ones(4), [2, 3, 4]).astype('float32') for _ in range(3)]
    found = models_attention.rollout(weights)
    mixed = [0.5 * w.mean(1) + 0.5 * np.eye(4) for w in weights]
    for image, start, end in itertools.product(range(2), range(4), range(4)):
        paths = itertools.product(range(4), repeat=2)  # the tokens between the blocks
        share = sum(
            mixed[2][image, end, b] * mixed[1][image, b, a] * mixed[0][image, a, start]
            for a, b in paths
        )
        assert found[2][image, end, start] == pytest.approx(share, abs=1e-6)
    np.testing.assert_allclose(found[2].sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(found[0], mixed[0], atol=1e-6)


def test_a_query_is_the_class_token_all_patches_or_one():
    weights = np.arange(2 * 25).reshape(2, 5, 5).astype(float)
    assert (models_attention.seen_by(weights, 'cls') == weights[:, 0, 1:]).all()
    assert (models_attention.seen_by(weights, 2) == weights[:, 3, 1:]).all()
    total = sum(weights[:, row, 1:] for row in (1, 2, 3, 4))
    assert (models_attention.seen_by(weights, 'mean') == total / 4).all()


def test_the_brightest_patch_is_the_one_that_is_looked_at_most():
    picture = np.full([12, 16, 3], 100, 'uint8')
    weights = np.arange(12).reshape(3, 4) / 66
    laid = show_attention.overlay(picture, weights)
    levels = laid.reshape(3, 4, 4, 4, 3).sum(-1).transpose(0, 2, 1, 3).reshape(12, 16)
    assert (levels == levels[:, :1]).all()  # one colour a patch
    assert (np.diff(levels[:, 0].astype(int)) > 0).all()
    framed = show_attention.marked(picture, (3, 4), 6)
    changed = np.argwhere((framed != picture).any(-1))
    assert changed.min(0).tolist() == [4, 8] and changed.max(0).tolist() == [7, 11]


def test_both_pictures_of_attention_have_a_panel_for_each_map(weights, show):
    file = weights('mae_vit_nano_patch4')
    heads = show(file, '--show', 'attention', '--block', 1, '--query', 5)
    assert heads.shape[1] == 5 * (128 + 4) + 4  # picture, three heads, mean
    assert show(file, '--show', 'rollout').shape == heads.shape  # picture, four blocks
    assert (show(file, '--show', 'attention') != heads).any()


# principal components


def test_colours_are_the_components_by_a_singular_value_decomposition():
    rng = np.random.default_rng(0)
    features = rng.normal(size=[2, 4, 4, 6]) * [9, 5, 3, 1, 1, 1] + 7
    colours, shares = show_pca.components(features.astype('float32'))
    flat = features.reshape(32, 6)
    U, S, _ = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    np.testing.assert_allclose(shares, (S**2 / (S**2).sum())[:3], rtol=1e-4)
    for part in range(3):
        projected = U[:, part] * S[part]
        low, high = np.percentile(projected, [1, 99])
        expected = ((projected - low) / (high - low)).clip(0, 1) * 255
        found = colours[..., part].reshape(32).astype(float)
        off = [np.abs(found - one).max() for one in (expected, 255 - expected)]  # either sign
        assert min(off) < 1


def test_three_components_need_four_patches():
    features = np.random.default_rng(0).normal(size=[1, 2, 2, 6]).astype('float32')
    colours, shares = show_pca.components(features)
    assert colours.shape == (1, 2, 2, 3) and shares.sum() == pytest.approx(1)
    with pytest.raises(InputError, match='2 patches of 6 features have no 3 principal comp'):
        show_pca.components(features[:, :1])
    with pytest.raises(InputError, match='3 patches of 6 .*; give more pictures'):
        show_pca.components(features.reshape(1, 1, 4, 6)[:, :, :3])


@pytest.mark.parametrize('model', AUTOENCODERS)
def test_all_models_have_components_and_neighbours(weights, show, digits, model):
    assert show(weights(model), '--show', 'pca', '--block', 0).shape[1] == 5 * (128 + 4) + 4
    flags = ['--show', 'neighbours', '--among', digits / 'train', '--count', 2]
    assert show(weights(model), *flags, '--feature', 'mean').shape[1] == 3 * (128 + 4) + 4


# neighbours


def test_neighbours_are_ranked_by_their_cosine():
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=[3, 5]), rng.normal(size=[8, 5]) * rng.random([8, 1])
    own = np.zeros([3, 8], bool)
    own[1, 4] = True
    order, cosines = show_neighbours.ranking(queries, candidates, own)
    for number, query in enumerate(queries):
        distances = np.array([cosine(query, candidate) for candidate in candidates])
        distances[own[number]] = np.inf
        assert order[number].tolist() == distances.argsort().tolist()
        np.testing.assert_allclose(1 - cosines[number], np.sort(distances), atol=1e-12)


def test_a_picture_is_no_neighbour_of_itself_but_of_its_copy(
    weights, show, digits, tmp_path, monkeypatch
):
    files = sorted((digits / 'train/1').iterdir())
    (tmp_path / 'among').mkdir()
    for number, file in enumerate(files[:4]):
        (tmp_path / f'among/{number}.png').write_bytes(file.read_bytes())
    (tmp_path / 'among/copy.png').write_bytes(files[2].read_bytes())
    drawn = []
    monkeypatch.setattr(panels, 'sheet', lambda rows, *rest: drawn.append(rest) or rows[0][0])
    flags = ['--show', 'neighbours', '--among', tmp_path / 'among', '--count', 4]
    show(weights('mae_vit_nano_patch4'), *flags, img_path=tmp_path / 'among/2.png')
    ((_, _, titles),) = drawn
    own, nearest, *others = [title.split()[-1] for title in titles[0]]
    assert (own, nearest) == ('among/2.png', 'among/copy.png')
    assert sorted(others) == ['among/0.png', 'among/1.png', 'among/3.png']


# own masks


@pytest.mark.parametrize('model', ['mae_vit_nano_patch4', 'simmim_pvt_nano_32'])
@pytest.mark.parametrize('visible', [[0, 5, 9], [63], list(range(1, 64))])
def test_the_model_sees_just_the_patches_that_were_named(weights, masked, model, visible):
    patches = 64 if model.startswith('mae_vit') else 16
    visible = [number for number in visible if number < patches] or [patches - 1]
    removed = masked(weights(model), '--visible', ','.join(map(str, visible)))
    assert np.flatnonzero(~removed).tolist() == visible


@pytest.mark.parametrize('kind', ['random', 'block', 'grid', 'uniform'])
def test_a_kind_of_mask_is_drawn_from_the_seed(weights, masked, digits, kind):
    file = min((digits / 'val/1').iterdir())
    flags = ['--masking', kind, '--seed', 3]
    removed = masked(weights('mae_vit_nano_patch4'), *flags, img_path=file)
    counts = removed.reshape(4, 2, 4, 2).sum((1, 3))  # of each cell of 2 x 2 patches
    assert removed.sum() == 48 and (counts == 3).all() == (kind in ('grid', 'uniform'))
    places = np.argwhere(~removed.reshape(8, 8)) % 2
    assert (len(np.unique(places, axis=0)) == 1) == (kind == 'grid')


@pytest.mark.parametrize('scale', [1, 5])
def test_the_model_sees_just_the_patches_that_are_white(weights, masked, tmp_path, scale):
    drawn = np.random.default_rng(scale).random([8, 8]) < 0.3
    levels = np.where(drawn, 255, 0).astype('uint8').repeat(scale, 0).repeat(scale, 1)
    Image.fromarray(levels).save(tmp_path / 'mask.png')
    removed = masked(weights('mae_vit_nano_patch4'), '--mask_file', tmp_path / 'mask.png')
    assert (removed == ~drawn.flatten()).all()


def test_uniform_masking_takes_an_own_mask_of_one_in_four(weights, masked):
    side = 8  # patches
    visible = [
        (row + (row + column) // 2 % 2) * side + column
        for row, column in itertools.product(range(0, side, 2), range(0, side, 2))
    ]
    removed = masked(weights('mae_swin_nano_32'), '--visible', ','.join(map(str, visible)))
    assert np.flatnonzero(~removed).tolist() == sorted(visible)


@pytest.mark.parametrize('count', [models_zoo.AUTOENCODERS[name] for name in AUTOENCODERS[::2]])
def test_every_number_of_patches_can_be_kept(count):
    rounding = count().num_visible
    for patches in (16, 49, 64, 196, 256):
        model = types.SimpleNamespace(num_visible=rounding)
        for visible in range(1, patches):
            noise, ratio = own_mask.for_model(np.arange(patches) < visible, model)
            assert rounding(patches, ratio) == visible == patches - noise.sum()


# what cannot be shown


@pytest.mark.parametrize(
    'model, flags, message',
    [
        (0, '--visible 64', r'--visible 64: the model has the patches 0 to 63, 8 in each of 8'),
        (0, '--mask_file {tmp}/none.png', 'none.png: no such file'),
        (0, '--mask_file {tmp}/odd.png', r'odd.png has 9 x 8 pixels .* a multiple of 8 x 8'),
        (0, '--mask_file {tmp}/black.png', 'shows 0 of 64 patches; at least one must be visible'),
        (0, '--mask_file {tmp}/text.png', 'cannot be read as a picture'),
        (1, '--visible 0,1', 'one visible patch in every 2 x 2; the mask shows 2 in rows 0 and 1'),
        (0, '--show pca --visible 0', '--visible belongs to --show reconstruction, not to pca'),
        (0, '--show rollout --block 1', '--block belongs to --show attention or pca or neighb'),
        (0, '--visible 0 --masking grid', '--masking draws masks; leave it out beside --vis'),
        (1, '--masking block', '--masking block: this model was trained by uniform masking'),
        (0, '--masking grid --mask_ratio .5', '--masking grid removes three of every 2 x 2'),
        (0, '--query 1', '--query belongs to --show attention or rollout, not to reconstruction'),
        (0, '--show neighbours', 'needs --among FOLDER'),
        (0, '--show neighbours --among {tmp}/no', '--among .*/no: no such file or folder'),
        (0, '--show neighbours --among {tmp} --count 9', '--count 9: there are only 3 other'),
        (0, '--show attention --block 4', '--block 4: the model has the blocks 0 to 3'),
        (0, '--show pca --block 4', '--blocks? 4: the model has the blocks 0 to 3'),
        (0, '--show attention --query 64', '--query 64: the model has the patches 0 to 63'),
        (1, '--show attention', 'SwinTransformer looks only at parts of its maps'),
        (2, '--show rollout', 'PyramidVisionTransformer looks only at .* use --show pca'),
    ],
)
def test_what_cannot_be_shown_is_one_line(weights, show, tmp_path, model, flags, message):
    for name, size in {'odd': (9, 8), 'black': (8, 8), 'white': (8, 8)}.items():
        Image.new('L', size, 255 if name == 'white' else 0).save(tmp_path / f'{name}.png')
    among = tmp_path / 'text.png'
    if 'text' in flags:
        among.write_text('text')
    with pytest.raises(InputError, match=message) as error:
        show(weights(AUTOENCODERS[model]), *flags.format(tmp=tmp_path).split())
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'flags',
    ['--visible 1,x', '--visible=-1', '--query head', '--visible 1 --mask_ratio .5', '--count 0'],
)
def test_flags_that_are_no_numbers_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        visualize.PARSER.parse_args(['--resume', 'x', '--img_path', 'y', *flags.split()])
    assert 'error: ' in capsys.readouterr().err


@paddle.no_grad()
def test_a_file_of_any_kind_gives_the_same_features(weights, digits):
    """A pre-training is read as linear probing reads it."""
    file = str(weights('mae_vit_nano_patch4'))
    model, about = models_features.model_from(file)
    direct, _ = models_zoo.autoencoder_from(file)
    assert about['input_size'] == 32 and not model.training
    images = paddle.randn([1, 1, 32, 32])
    # nothing removed, and in order
    tokens = direct.forward_encoder(images, 0.0, paddle.arange(64, dtype='float32')[None])[0]
    np.testing.assert_allclose(model.forward_features(images), tokens[:, 0], atol=1e-5)
