"""The tour's programs, and the guard against a toy: a trained model must see more than the obvious."""
import numpy as np
import paddle
import pytest
from PIL import Image

import models_zoo
from util import picture


@pytest.fixture(scope='module')
def tour(tmp_path_factory):
    """Data set and weights of a short version of the tour."""
    import subprocess
    import sys

    from conftest import ROOT
    root = tmp_path_factory.mktemp('tour')
    commands = [['demo/make_digits.py', '--out', root / 'digits'],
                ['main_pretrain.py', '--data_path', root / 'digits', '--model', 'mae_vit_nano_patch4', '--input_size', 32,
                 '--in_chans', 1, '--batch_size', 64, '--epochs', 8, '--warmup_epochs', 1, '--blr', '8e-3',
                 '--num_workers', 1, '--output_dir', root / 'out', '--log_dir', root / 'out', '--device', 'cpu']]
    for command in commands:
        subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, check=True, capture_output=True)
    return root / 'digits', root / 'out/checkpoint-7.pd'


def test_the_digits_are_an_image_folder_of_all_scans(tour):
    digits, _ = tour
    assert len(list(digits.glob('train/*/*.png'))) == 1442 and len(list(digits.glob('val/*/*.png'))) == 355
    assert sorted(path.name for path in (digits / 'val').iterdir()) == list('0123456789')
    with Image.open(next(digits.glob('train/0/*.png'))) as scan:
        assert scan.size == (32, 32) and scan.getextrema()[1] > 200


def test_masked_patches_are_predicted_better_than_by_both_baselines(tour, run_program):
    digits, weights = tour
    result = run_program('demo/score.py', '--resume', weights, '--data_path', digits, '--device', 'cpu')
    assert result.returncode == 0, result.stderr
    first, *rows = result.stdout.splitlines()
    assert first.startswith('355 images')
    score = {name: float(value) for name, value in (row.rsplit(maxsplit=1) for row in rows)}
    assert score['autoencoder'] < 0.6 * min(score['mean patch'], score['nearest visible']), score


def test_visualize_writes_four_panels_a_picture(tour, run_program, tmp_path):
    digits, weights = tour
    flags = ['--resume', weights, '--img_path', digits / 'val/3', '--device', 'cpu', '--out', tmp_path / 'x.png']
    assert run_program('demo/visualize.py', *flags).returncode == 0
    with Image.open(tmp_path / 'x.png') as panels:
        assert panels.width == 4 * (128 + 4) + 4 and panels.height > 8 * 128
        first = np.asarray(panels)
    run_program('demo/visualize.py', *flags)
    assert (np.asarray(Image.open(tmp_path / 'x.png')) == first).all()
    run_program('demo/visualize.py', *flags, '--seed', '2')
    assert (np.asarray(Image.open(tmp_path / 'x.png')) != first).any()


def save(path, tensors, **args):
    paddle.save({'model': tensors, **({'args': args} if args else {})}, str(path))
    return path


def test_weights_that_do_not_say_what_they_are_must_be_told(run_program, tmp_path):
    file = save(tmp_path / 'x.pd', models_zoo.autoencoder('mae_vit_nano_patch4').state_dict())
    Image.new('RGB', (40, 30)).save(tmp_path / 'x.png')
    flags = ['--resume', file, '--img_path', tmp_path / 'x.png', '--out', tmp_path / 'y.png', '--device', 'cpu']
    result = run_program('demo/visualize.py', *flags)  # the model follows from the shapes
    assert result.returncode == 2 and '--no_norm_pix_loss' in result.stderr
    assert run_program('demo/visualize.py', *flags, '--norm_pix_loss').returncode == 0


@pytest.mark.parametrize('case, message', [
    ('encoder', 'has no decoder'), ('contradiction', 'was trained with norm_pix_loss True, but norm_pix_loss False'),
    ('no picture', 'cannot be read as a picture'), ('nowhere', 'no such file or folder'),
    ('empty', 'no picture in this folder'), ('out', 'cannot write this picture')])
def test_what_cannot_be_shown_is_named(run_program, tmp_path, case, message):
    model = models_zoo.autoencoder('mae_vit_nano_patch4')
    tensors = {name: tensor for name, tensor in model.state_dict().items()
               if case != 'encoder' or not name.startswith(('decoder', 'mask'))}
    file = save(tmp_path / 'x.pd', tensors, model='mae_vit_nano_patch4', norm_pix_loss=True, input_size=32, in_chans=3)
    Image.new('RGB', (40, 30)).save(tmp_path / 'x.png')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'x.txt').write_text('text')
    image = tmp_path / {'no picture': 'x.txt', 'nowhere': 'y', 'empty': 'empty'}.get(case, 'x.png')
    out = tmp_path / ('no/folder.png' if case == 'out' else 'out.png')
    result = run_program('demo/visualize.py', '--resume', file, '--img_path', image, '--out', out, '--device', 'cpu',
                         *(['--no_norm_pix_loss'] if case == 'contradiction' else []))
    assert result.returncode == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr


def test_panels_show_pixels_as_they_were():
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=[1, 128, 128, 3], dtype='uint8')
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype('float32')
    masks = np.zeros_like(images)
    masks[:, :, :64] = 1
    shown = picture.panels(images, np.zeros_like(images), masks, mean, std)
    panels = [shown[22:150, 4 + i * 132:132 + i * 132] for i in range(4)]
    grey = np.round(np.array(mean) * 255)
    assert (panels[0] == pixels[0]).all() and (panels[1][64:] == pixels[0, 64:]).all() and (panels[1][:64] == 128).all()
    assert (panels[2] == grey).all() and (panels[3][:64] == grey).all() and (panels[3][64:] == pixels[0, 64:]).all()


def test_normalised_predictions_are_put_back_with_the_true_statistics():
    from engine_pretrain import reconstruct
    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=True)
    images, noise = paddle.randn([2, 3, 32, 32]) * 5 + 3, paddle.rand([2, 64])
    shown, masks = reconstruct(model, images, 0.75, noise)
    patches, pred = model.patchify(images).numpy(), model(images, 0.75, noise)[1].numpy()
    expected = pred * np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6) + patches.mean(-1, keepdims=True)
    np.testing.assert_allclose(model.patchify(shown).numpy(), expected, atol=1e-4)
    assert masks.mean().item() == 0.75
