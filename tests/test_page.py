"""demo/page.py without a browser: its masks, errors and models, and what it refuses."""

import json
import os
import shlex
import tempfile

import numpy as np
import paddle
import page_guard
import page_html
import page_models
import page_reconstruct
import page_text
import pytest
from conftest import ROOT
from page_reconstruct import Mask
from PIL import Image
from scipy.special import softmax
from show_reconstruction import Painter

import models_zoo
from demo import visualize
from util.errors import InputError

WEIGHTS = ROOT / 'demo/weights'
THREE = ROOT / 'demo/three.png'
DIGITS = WEIGHTS / 'mae_vit_nano_patch4_digits.pd'
SCENES = WEIGHTS / 'mae_swin_nano_64_scenes.pd'


@pytest.fixture(scope='module')
def painter():
    return Painter(*models_zoo.autoencoder_from(str(DIGITS)))


@pytest.fixture(scope='module')
def uniform():
    """A painter that needs one visible patch in every 2 x 2."""
    return Painter(*models_zoo.autoencoder_from(str(SCENES)))


# the mask, and what the model makes of it


@pytest.mark.parametrize(
    'mask',
    [
        Mask(),
        Mask(0.4, 'block', 7),
        Mask(0.75, 'grid', 2),
        Mask(0.75, 'uniform', 3),
        Mask(visible='3,12, 60'),
    ],
)
def test_the_shown_command_writes_the_same_picture(painter, tmp_path, mask):
    found = page_reconstruct.reconstruction(painter, THREE, mask, normalised=False)
    words = shlex.split(page_reconstruct.command(str(DIGITS), THREE, mask, ''))
    assert words[:2] == ['python', 'demo/visualize.py']
    flags = [*words[2:], '--img_path', str(THREE), '--out', str(tmp_path / 'x.png')]
    visualize.main(visualize.PARSER.parse_args(flags))
    with Image.open(tmp_path / 'x.png') as written:
        assert (np.asarray(written) == found.sheet.drawn()).all()
    if mask.visible:
        assert found.visible == [3, 12, 60]


def test_the_error_is_that_of_the_hidden_pixels(painter):
    mask = Mask(0.5, 'random', 5)
    found = page_reconstruct.reconstruction(painter, THREE, mask, normalised=False)
    image = painter.read(THREE)
    noise = mask.noise(painter)[1]
    _, shown, _ = painter.paint(image, 0.5, noise)
    is_hidden = (np.argsort(np.argsort(noise, kind='stable')) >= 32).reshape(8, 8)
    assert found.visible == np.flatnonzero(~is_hidden).tolist()
    hidden = is_hidden.repeat(4, 0).repeat(4, 1)
    expected = np.square(shown[0, 0] - image[0])[hidden].mean()
    assert found.errors['model'] == pytest.approx(expected, rel=1e-5)
    filled = image[0][~hidden].mean()
    expected = np.square(filled - image[0])[hidden].mean()
    assert found.errors['mean of the visible pixels'] == pytest.approx(expected, rel=1e-5)


def test_the_switch_puts_the_mean_and_spread_of_true_patches_back(painter):
    plain, normalised = (
        page_reconstruct.reconstruction(painter, THREE, Mask(), switch).sheet
        for switch in (False, True)
    )
    assert 'put back with the mean and spread' in normalised.note
    original, _, shown, _ = normalised.rows[0]
    blank = np.ptp(original.reshape(8, 4, 8, 4, 3), axis=(1, 3)).max(-1) == 0  # [8, 8]
    off = np.abs(shown.astype(int) - original).reshape(8, 4, 8, 4, 3).max((1, 3, 4))
    assert blank.any() and off[blank].max() <= 1  # a patch of one colour has no spread
    assert (plain.rows[0][2] != shown).any()


def test_a_click_hides_or_shows_a_patch(painter, uniform):
    assert page_reconstruct.toggled([0, 5], 5, painter) == [0]
    assert page_reconstruct.toggled([0, 5], 9, painter) == [0, 5, 9]
    # 0, 1, 8 and 9 are a cell
    assert uniform.model.grid == (8, 8)
    for clicked in (0, 1, 8, 9):
        assert page_reconstruct.toggled([9, 19], clicked, uniform) == sorted([clicked, 19])
    assert painter.kinds == ('random', 'block', 'grid', 'uniform')
    assert set(uniform.kinds) == {'grid', 'uniform'}


def test_each_model_of_uniform_masking_can_be_clicked(uniform):
    drawn = page_reconstruct.reconstruction(uniform, THREE, Mask(0.75, 'grid', 1), True)
    named = page_reconstruct.toggled(drawn.visible, 1, uniform)
    mask = Mask(visible=','.join(map(str, named)))
    assert page_reconstruct.reconstruction(uniform, THREE, mask, True).visible == named


@pytest.mark.parametrize('visible', ['', 'x', '1,,2', '-1'])
def test_what_names_no_patches_is_a_message(painter, visible):
    with pytest.raises(InputError, match='is no list of patches; give their numbers'):
        page_reconstruct.reconstruction(painter, THREE, Mask(visible=visible), False)


# models


def test_each_file_brings_what_its_kind_can_do():
    files = [str(WEIGHTS / 'digits.pd'), str(DIGITS), str(SCENES)]
    models = page_models.load(files, [])
    assert list(models.painters) == [DIGITS.name, SCENES.name]
    assert models.said == {DIGITS.name: False, SCENES.name: True}
    assert list(models.classifiers) == ['digits.pd']
    assert list(models.viewers) == ['digits.pd', DIGITS.name, SCENES.name]
    assert list(models.attentive) == ['digits.pd', DIGITS.name]
    assert not models.segmentors and not models.detectors
    viewer = models.viewers['digits.pd']
    logits = viewer.model(paddle.to_tensor(viewer.read(THREE)[None])).numpy()[0]
    expected = softmax(logits.astype('float64'))
    found = page_models.classify(viewer, THREE)
    assert len(found) == 5 and next(iter(found)) == '3'
    for label, probability in found.items():
        assert probability == pytest.approx(expected[int(label)], abs=1e-6)


@pytest.fixture
def cat(tmp_path):
    """A photograph that is large enough to be shown as it is."""
    with Image.open(ROOT / 'demo/photographs/cat_011.png') as picture:
        picture.resize((330, 340)).save(tmp_path / 'cat.png')
    return tmp_path / 'cat.png'


@pytest.mark.slow
def test_a_segmentor_is_that_of_the_config_that_fits(cat, tmp_path):
    from paddleseg.cvlibs import SegBuilder

    from seg import flags, predict

    config = str(ROOT / 'seg/configs/upernet_mae/upernet_mae_scenes.yml')
    model = SegBuilder(flags.configuration(config)).model
    file = str(tmp_path / 'segmentor.pdparams')
    paddle.save(model.state_dict(), file)
    models = page_models.load([file], [])
    found = page_models.segment(models.segmentors['segmentor.pdparams'], cat)

    asked = ['--config', config, '--model_path', file, '--image_path', cat, '--save_dir', tmp_path]
    predict.main(predict.PARSER.parse_args([*map(str, asked), '--device', 'cpu']))
    with Image.open(tmp_path / 'added_prediction' / cat.name) as picture:
        assert (np.asarray(picture) == np.asarray(found)).all()


@pytest.mark.slow
def test_a_detector_is_that_of_the_config_that_fits(cat, tmp_path):
    from det import config, infer

    path = str(ROOT / 'det/configs/gfl_um_mae/gfl_um_mae_swin_nano_digits.yml')
    model = config.build(config.load(path), path)
    file = str(tmp_path / 'detector.pdparams')
    paddle.save(model.state_dict(), file)
    models = page_models.load([file], [])
    found = page_models.detect(models.detectors['detector.pdparams'], cat, 0.0)

    asked = [
        '-c',
        path,
        '--infer_img',
        cat,
        '--output_dir',
        tmp_path / 'found',
        '--draw_threshold',
        0,
    ]
    asked += ['-o', f'weights={file}']
    infer.main(infer.PARSER.parse_args([*map(str, asked), '--device', 'cpu']))
    with Image.open(tmp_path / 'found' / cat.name) as picture:
        assert (np.asarray(picture) == np.asarray(found)).all()


@pytest.mark.slow
def test_weights_that_fit_no_config_are_one_line(tmp_path):
    from det import config

    path = str(ROOT / 'det/configs/gfl_um_mae/gfl_um_mae_swin_nano_digits.yml')
    values = config.load(path, ['num_classes=7'])
    file = str(tmp_path / 'detector.pdparams')
    paddle.save(config.build(values, path).state_dict(), file)
    with pytest.raises(InputError, match='detector.pdparams fits none of .*; give its own with --'):
        page_models.load([file], [])
    with pytest.raises(InputError, match=r'\[.*\]'):  # the shapes of both
        page_models.load([file], [path])


def test_files_of_one_name_keep_their_folders():
    files = ['a/x.pd', 'b/x.pd', 'b/y.pd']
    shown = [page_models.shown_name(file, files) for file in files]
    assert shown == ['a/x.pd', 'b/x.pd', 'y.pd']


def test_a_picture_that_cannot_be_used_is_a_message(tmp_path, monkeypatch):
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG, or so')
    with pytest.raises(InputError, match=r'broken.png is no picture that can be read'):
        page_models.check(str(tmp_path / 'broken.png'))
    with pytest.raises(InputError, match='Choose a picture first'):
        page_models.check(None)
    monkeypatch.setattr(page_models, 'MOST_PIXELS', 1000)
    with pytest.raises(InputError, match=r'three.png has \d+ x \d+ pixels; at most 1,000'):
        page_models.check(str(THREE))


# HTML


def test_curves_are_those_of_the_logs(tmp_path):
    for name in ('a', 'b<i>'):
        (tmp_path / name).mkdir()
    lines = [json.dumps({'epoch': epoch, 'train_loss': 1 / (1 + epoch)}) for epoch in range(4)]
    (tmp_path / 'a/log.txt').write_text('\n'.join(lines))
    text = page_html.curves([str(tmp_path / 'a'), str(tmp_path / 'b<i>')])
    assert '<svg' in text and 'training loss' in text
    assert 'a: epoch 4, loss 0.2500' in text
    assert 'b&lt;i&gt;: no curve yet' in text and 'b<i>' not in text
    assert 'http://' not in text.replace('http://www.w3.org/', '')


def test_panels_are_in_the_page_itself():
    pixels = np.arange(27).reshape(3, 3, 3).astype('uint8')
    text = page_html.figures([pixels], ['a "b" <c>'])
    assert 'alt="a &quot;b&quot; &lt;c&gt;"' in text and 'src="data:image/png;base64,' in text


def test_the_three_reasons_are_those_of_the_documentation():
    text = page_text.reasons()
    assert text.startswith('There are three reasons') and text.count('\n1. ') == 1
    assert '\n3. ' in text and '#' not in text


# what the page refuses


@pytest.mark.parametrize(
    'path, host, allowed',
    [
        ('/', '127.0.0.1:7860', True),
        ('/', 'localhost:7860', True),
        ('/', 'localhost', True),
        ('/', 'evil.example:7860', False),
        ('/', '127.0.0.1.evil.example', False),
        ('/assets/index.js', '127.0.0.1:1', True),
        ('/gradio_api/queue/join', '127.0.0.1:1', True),
        ('/gradio_api/file=/tmp/x/y.png', '127.0.0.1:1', True),
        ('/gradio_api/file=https://example.com/', '127.0.0.1:1', False),
        ('/gradio_api/proxy=https://example.com/', '127.0.0.1:1', False),
        ('/docs', '127.0.0.1:1', False),
        ('/monitoring', '127.0.0.1:1', False),
        ('/gradio_api/run-history/connect', '127.0.0.1:1', False),
    ],
)
def test_only_parts_of_the_page_are_served_to_this_machine(path, host, allowed):
    scope = {'path': path, 'headers': [(b'host', host.encode())]}
    assert page_guard.is_allowed(scope) == allowed


@pytest.mark.parametrize(
    'event, arguments, refused',
    [
        ('socket.connect', (None, ('192.0.2.1', 443)), True),
        ('socket.connect', (None, ('127.0.0.1', 80)), False),
        ('socket.connect', (None, ('::1', 80, 0, 0)), False),
        ('socket.connect', (None, '/run/a_socket_of_the_machine'), False),
        ('socket.getaddrinfo', ('huggingface.co', 443, 0, 0, 0), True),
        ('socket.getaddrinfo', (b'api.gradio.app', 443, 0, 0, 0), True),
        ('socket.getaddrinfo', (None, 80, 0, 0, 0), False),
        ('open', ('x', 'r', 0), False),
    ],
)
def test_no_other_host_is_asked(event, arguments, refused):
    if not refused:
        page_guard._refuse(event, arguments)
        return
    with pytest.raises(InputError, match='the page asks no other host'):
        page_guard._refuse(event, arguments)


def test_settings_that_would_share_the_page_have_no_effect(monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', None)
    monkeypatch.setattr(os, 'environ', dict(os.environ, GRADIO_SHARE='True', GRADIO_X='1'))
    with page_guard.prepare() as folder:
        left = {name for name in os.environ if name.startswith('GRADIO_')}
        assert left == {'GRADIO_ANALYTICS_ENABLED', 'GRADIO_TEMP_DIR'}
        assert os.environ['GRADIO_TEMP_DIR'] == folder
