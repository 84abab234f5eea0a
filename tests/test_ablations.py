"""What the paper's table 1 varies: decoder, mask tokens in the encoder, targets, augmentation."""

import numpy as np
import paddle
import pytest
from conftest import TINY_VIT
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import main_pretrain
import models_sizes
import models_zoo
from util import pca, weights
from util.augment import crop, transform
from util.errors import InputError

TINY = [flag for flag in TINY_VIT if flag not in ('--nb_classes', '3')]
TINY[1] = 'mae_vit_nano_patch4'
PCA_FLAGS = ['--pca_target', '5', '--encoder_mask_tokens', '--decoder_depth', '3']


def nano(**kwargs):
    return models_zoo.autoencoder('mae_vit_nano_patch4', img_size=16, in_chans=1, **kwargs)


def images(count=3):
    return paddle.to_tensor(np.random.default_rng(1).normal(size=[count, 1, 16, 16]), 'float32')


def pretrain(digits, out, *flags):
    flags = [*TINY, '--data_path', digits, '--output_dir', out, '--batch_size', 8, *flags]
    flags += ['--warmup_epochs', '1', '--save_every', '1']
    main_pretrain.main(main_pretrain.PARSER.parse_args(list(map(str, flags))))


@pytest.mark.parametrize('depth, width', [(1, 32), (3, 128), (2, 64)])
def test_a_decoder_of_another_size_has_heads_of_the_usual_width(depth, width):
    model = nano(decoder_depth=depth, decoder_embed_dim=width)
    assert len(model.decoder_blocks) == depth
    assert {block.attn.head_dim for block in model.decoder_blocks} == {64 // 2}
    counted = sum(
        parameter.size
        for name, parameter in model.named_parameters()
        if 'decoder' in name and not parameter.stop_gradient
    )
    linears = (96 + 1) * width + (width + 1) * 16  # embedding and prediction
    block = 12 * width**2 + 13 * width
    assert counted == linears + depth * block + 2 * width


def test_the_paper_widths_divide_into_heads_of_32():
    for width in (128, 256, 512, 768, 1024):
        assert models_sizes.SIZES['large_patch16'].heads_of_decoder(width) == width // 32


def test_the_encoder_sees_a_token_in_the_place_of_each_removed_patch():
    """The classifier's encoder computes the same if the token is a black patch's embedding."""
    model = nano(encoder_mask_tokens=True)
    model.encoder_mask_token.set_value(model.patch_embed.proj.bias.reshape([1, 1, -1]))
    noise = paddle.rand([3, 16])
    latent, mask, ids_restore = model.forward_encoder(images(), 0.75, noise)
    assert latent.shape == [3, 17, 96]

    encoder = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, in_chans=1, num_classes=2, global_pool=False
    )
    own = model.state_dict()
    shared = {name: own.get(name, tensor) for name, tensor in encoder.state_dict().items()}
    encoder.set_state_dict(shared)
    black = images().numpy().copy()
    for image, removed in zip(black[:, 0], mask.numpy().reshape(3, 4, 4)):
        for row, column in np.argwhere(removed):
            image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0
    expected = encoder.norm(encoder.block_features(paddle.to_tensor(black))[-1])
    np.testing.assert_allclose(latent.numpy(), expected.numpy(), atol=1e-5)

    # the decoder sees them in the image's order and adds no token of its own
    decoded = model.decode(model.decoder_embed(latent) + model.decoder_pos_embed)[:, 1:]
    pred = model.forward_decoder(latent, ids_restore)
    np.testing.assert_array_equal(pred.numpy(), decoded.numpy())


def test_components_are_those_of_scikit_learn():
    rows = load_digits().images[:300].reshape(-1, 16)
    mean, basis = pca.components(np.array_split(rows, 7), 6)
    expected = PCA(6).fit(rows)
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-5)
    signs = np.sign((basis.T * expected.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(basis.T, signs * expected.components_, atol=1e-4)
    with pytest.raises(InputError, match='a PCA of 3 components: the data vary in 2 directions'):
        pca.components([np.eye(3)], 3)


def test_a_pca_target_is_the_projection_of_the_patches():
    """Loss and picture against scikit-learn's transform and its inverse."""
    model = nano(pca_target=5)
    patches = model.patchify(images()).numpy()
    fitted = PCA(5).fit(patches.reshape(-1, 16))
    assert model.needs_pca
    model.pca_mean.set_value(fitted.mean_.astype('float32'))
    model.pca_basis.set_value(fitted.components_.T.astype('float32'))
    assert not model.needs_pca

    loss, pred, mask = model(images())
    assert pred.shape == [3, 16, 5]
    target = fitted.transform(patches.reshape(-1, 16)).reshape(3, 16, 5)
    errors = ((pred.numpy() - target) ** 2).mean(-1)
    assert loss.item() == pytest.approx(
        (errors * mask.numpy()).sum() / mask.numpy().sum(), rel=1e-4
    )
    shown, _ = model.pictures(images(), pred, mask)
    pixels = fitted.inverse_transform(pred.numpy().reshape(-1, 5)).reshape(3, 16, 16)
    np.testing.assert_allclose(model.patchify(shown).numpy(), pixels, atol=1e-4)


@pytest.fixture(scope='module')
def straight(digits, tmp_path_factory):
    """A run of two epochs without an interruption."""
    out = tmp_path_factory.mktemp('straight')
    pretrain(digits, out, *PCA_FLAGS, '--epochs', '2')
    return out


def test_the_basis_is_of_the_training_images_and_kept_in_the_checkpoint(straight, digits):
    saved = weights.read(straight / 'checkpoint-0.pd')['model']
    pixels = []
    for path in sorted(digits.glob('train/*/*.png')):
        with Image.open(path) as picture:
            pixels.append(np.asarray(picture) / 255)
    assert saved['pca_basis'].shape == (16, 5)
    # crops of other places and sizes, so only about the same mean
    mean = ((np.mean(pixels) - 0.449) / 0.226).item()
    assert saved['pca_mean'].mean() == pytest.approx(mean, abs=0.3)
    np.testing.assert_allclose(saved['pca_basis'].T @ saved['pca_basis'], np.eye(5), atol=1e-5)


def test_a_resumed_run_keeps_the_basis_and_repeats_the_weights(
    straight, digits, tmp_path, monkeypatch
):
    def fail(*_):
        raise AssertionError('the basis is in the checkpoint')

    monkeypatch.setattr(main_pretrain, 'fit_pca', fail)
    resume = ['--resume', straight / 'checkpoint-0.pd']
    pretrain(digits, tmp_path, *PCA_FLAGS, '--epochs', '2', *resume)
    resumed, expected = (
        weights.read(folder / 'checkpoint-1.pd')['model'] for folder in (tmp_path, straight)
    )
    assert resumed.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)


def test_weights_alone_tell_decoder_tokens_and_target(straight, tmp_path):
    state = weights.read(straight / 'checkpoint-1.pd')
    paddle.save({'model': state['model']}, str(tmp_path / 'weights.pd'))
    model, flags = models_zoo.autoencoder_from(str(tmp_path / 'weights.pd'), norm_pix_loss=False)
    assert flags == {} and len(model.decoder_blocks) == 3
    assert model.encoder_mask_tokens and model.pca_target == 5 and not model.needs_pca


def test_fine_tuning_takes_the_encoder_alone(straight):
    encoder = models_zoo.classifier('vit_nano_patch4', img_size=16, in_chans=1, num_classes=3)
    start = models_zoo.start_from(encoder, str(straight / 'checkpoint-1.pd'))
    assert {'encoder_mask_token', 'pca_mean', 'pca_basis'} <= set(start.dropped)
    assert all(name.startswith('head.') for name in start.fresh)


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--decoder_dim 100', '--decoder_dim 100 is no multiple of 32, the width of a head'),
        ('--pca_target 17', '--pca_target 17: a patch has only 16 pixel values'),
        ('--pca_target 4 --norm_pix_loss', '--pca_target and --norm_pix_loss are two targets'),
        (
            '--model mae_swin_nano_32 --input_size 32 --mask_regular --decoder_depth 1',
            '--decoder_depth is for the models mae_vit_*, not for mae_swin_nano_32',
        ),
        (
            '--model simmim_swin_nano_32 --input_size 32 --encoder_mask_tokens',
            '--encoder_mask_tokens is for the models mae_vit_*',
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(digits, tmp_path, flags, message):
    with pytest.raises(InputError) as error:
        pretrain(digits, tmp_path, *flags.split())
    assert str(error.value).startswith(message)


def test_crops_of_fixed_size_are_anywhere_and_all_of_one_size():
    rng = np.random.default_rng(0)
    boxes = np.array([crop.fixed_box(320, 256, rng, (0.2, 1)) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert set(right - left) == set(bottom - top) == {224}
    assert (left.min(), left.max(), top.min(), top.max()) == (0, 320 - 224, 0, 256 - 224)
    assert np.bincount(top).max() < 2 * 2000 / 33  # each place about as often


def test_crops_of_fixed_size_have_the_aspect_of_rectangles():
    cropping = crop.CropAndFlip((64, 128), scale=(0.2, 1), box=crop.BOXES['none'])
    box = cropping.box(400, 256, None, cropping.scale, cropping.ratio)
    assert box == (25, 40, 375, 215)  # 7/8 of 400 x 200, in the middle


def test_without_augmentation_training_sees_what_evaluation_sees():
    pixels = np.random.default_rng(0).integers(256, size=[256, 340, 3], dtype='uint8')
    picture = Image.fromarray(pixels)
    cropping = crop.CropAndFlip(224, scale=(0.2, 1), hflip=0, box=crop.BOXES['none'])
    mean, std = crop.statistics(3, None, None)
    train = transform.Train(cropping, mean, std)
    evaluate = transform.Evaluate(224, mean, std)
    np.testing.assert_array_equal(train(picture, np.random.default_rng(5)), evaluate(picture))


@pytest.mark.parametrize('augmentation, hflip', [('none', 0), ('fixed_crop', 0.5)])
def test_nothing_is_mirrored_without_augmentation(augmentation, hflip):
    args = main_pretrain.PARSER.parse_args(
        ['--data_path', 'x', '--augmentation', augmentation, '--color_jitter', '0.4']
    )
    augment = main_pretrain.augmentation(args, *crop.statistics(3, None, None))
    assert augment.crop_and_flip.hflip == hflip and augment.jitter.range == (0.6, 1.4)
