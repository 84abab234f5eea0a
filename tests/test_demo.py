"""The tour's programs, and a guard against trivial results: a trained model must beat baselines."""

import importlib
import itertools
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT, slow
from PIL import Image
from sklearn.metrics import jaccard_score

import main_pretrain
import models_zoo
from demo import score, visualize
from util import panels
from util.errors import InputError
from util.weights import paddle_file


@pytest.fixture(scope='module')
def digits1797(tmp_path_factory):
    """The tour's data set."""
    folder = tmp_path_factory.mktemp('tour') / 'digits'
    subprocess.run(
        [sys.executable, 'demo/make_digits.py', '--out', folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


@pytest.fixture(scope='module')
def pretrain(digits1797, tmp_path_factory):
    """pretrain(model, flags ...) -> weights after a short form of the tour's, at 16 x 16 pixels."""

    def pretrain(model, *flags, epochs=4):
        out = tmp_path_factory.mktemp('out')
        recipe = (
            f'--model {model} --epochs {epochs} --input_size 16 --in_chans 1 --hflip 0 '
            '--batch_size 64 --warmup_epochs 1 --blr 8e-3 --num_workers 0 --log_dir= --device cpu'
        ).split()
        here(main_pretrain, *recipe, '--data_path', digits1797, '--output_dir', out, *flags)
        return out / f'checkpoint-{epochs - 1}.pd'

    return pretrain


@pytest.fixture(scope='module')
def tour(digits1797, pretrain):
    """Data set and weights of a short version of the tour."""
    return digits1797, pretrain('mae_vit_nano_patch4', epochs=6)


def here(program, *flags):
    """Run a program within this process."""
    program.main(program.PARSER.parse_args(list(map(str, flags))))


def test_the_digits_are_an_image_folder_of_all_scans(tour):
    digits, _ = tour
    assert (
        len(list(digits.glob('train/*/*.png'))) == 1442
        and len(list(digits.glob('val/*/*.png'))) == 355
    )
    assert sorted(path.name for path in (digits / 'val').iterdir()) == list('0123456789')
    with Image.open(next(digits.glob('train/0/*.png'))) as scan:
        assert scan.size == (32, 32) and scan.getextrema()[1] > 200


@pytest.fixture
def error(run_program, digits1797):
    """error(weights) -> demo/score.py's error, relative to the better one of the two baselines."""

    def error(weights):
        result = run_program(
            'demo/score.py', '--resume', weights, '--data_path', digits1797, '--device', 'cpu'
        )
        assert result.returncode == 0, result.stderr
        _, first, *rows = result.stdout.splitlines()  # after the line of the device
        assert first.startswith('355 images')
        found = {name: float(value) for name, value in (row.rsplit(maxsplit=1) for row in rows)}
        return found['autoencoder'] / min(found['mean patch'], found['nearest visible'])

    return error


def test_masked_patches_are_predicted_better_than_by_both_baselines(tour, error):
    assert error(tour[1]) < 0.8


@pytest.mark.parametrize(
    'plain, average', [('model', 'model_ema'), ('state_dict', 'state_dict_ema')]
)
def test_the_score_says_which_weights_it_takes(encoder, digits, tmp_path, capsys, plain, average):
    checkpoint = paddle_file.read(encoder)
    first = checkpoint['model']
    second = {**first, 'decoder_pred.weight': first['decoder_pred.weight'] * 2}
    file = tmp_path / 'x.pd'

    def scored(tensors, *flags):
        paddle_file.write(file, {'args': checkpoint['args'], **tensors})
        here(score, '--resume', file, '--data_path', digits, '--device', 'cpu', *flags)
        return capsys.readouterr()

    alone = {plain: scored({'model': first}).out, average: scored({'model': second}).out}
    assert alone[plain] != alone[average]
    both = {plain: first, average: second}
    for flags, taken, other in (([], plain, average), (['--use_ema'], average, plain)):
        printed = scored(both, *flags)
        assert printed.out == alone[taken]
        assert f"holds '{taken}' and '{other}'; '{taken}' is taken" in printed.err


@pytest.mark.slow
def test_much_better_at_the_tours_own_size(pretrain, error):
    flags = ['--input_size', 32, '--hflip', 0.5, '--num_workers', 1]
    assert error(pretrain('mae_vit_nano_patch4', *flags, epochs=8)) < 0.6


@pytest.mark.parametrize(
    'model, flags',
    [
        slow('mae_swin_nano_32', ['--mask_regular']),
        slow('mae_pvt_nano_32', ['--mask_regular', '--vis_mask_ratio', 0.25]),
        slow('simmim_pvt_nano_32', []),
        pytest.param('simmim_swin_nano_32', [], marks=pytest.mark.full),
    ],
)
def test_so_do_pyramids_after_a_short_training(pretrain, error, model, flags):
    assert error(pretrain(model, *flags)) < 0.9


def test_visualize_writes_four_panels_a_picture(tour, run_program, tmp_path):
    digits, weights = tour
    flags = ['--device', 'cpu', '--resume', weights]
    flags += ['--img_path', digits / 'val/3', '--out', tmp_path / 'x.png']
    result = run_program('demo/visualize.py', *flags)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / 'x.png') as panels:
        assert panels.width == 4 * (128 + 4) + 4 and panels.height > 8 * 128
        first = np.asarray(panels)
    here(visualize, *flags)
    assert (np.asarray(Image.open(tmp_path / 'x.png')) == first).all()
    here(visualize, *flags, '--seed', '2')
    assert (np.asarray(Image.open(tmp_path / 'x.png')) != first).any()


def save(path, tensors, **args):
    paddle.save({'model': tensors, **({'args': args} if args else {})}, str(path))
    return path


def test_weights_that_do_not_say_what_they_are_must_be_told(tmp_path):
    file = save(tmp_path / 'x.pd', models_zoo.autoencoder('mae_vit_nano_patch4').state_dict())
    Image.new('RGB', (40, 30)).save(tmp_path / 'x.png')
    flags = ['--device', 'cpu', '--resume', file]
    flags += ['--img_path', tmp_path / 'x.png', '--out', tmp_path / 'y.png']
    with pytest.raises(InputError, match='--no_norm_pix_loss'):
        here(visualize, *flags)  # the model follows from the shapes
    here(visualize, *flags, '--norm_pix_loss')
    assert (tmp_path / 'y.png').exists()


@pytest.mark.parametrize(
    'trained, alias, other',
    [
        ('mae_vit_nano_patch4_dec64d2b', 'mae_vit_nano_patch4', 'mae_vit_nano_patch4_dec64d4b'),
        ('mae_swin_nano_32', 'mae_swin_nano_32_dec64d2b', 'simmim_swin_nano_32'),
    ],
)
def test_a_model_may_be_asked_for_by_its_other_name(tmp_path, trained, alias, other):
    file = save(
        tmp_path / 'x.pd',
        models_zoo.autoencoder(trained, img_size=32).state_dict(),
        model=trained,
        input_size=32,
    )
    for name in (trained, alias):
        model, _ = models_zoo.autoencoder_from(str(file), name, norm_pix_loss=True)
        assert type(model) is type(models_zoo.autoencoder(alias, img_size=32))
    with pytest.raises(InputError, match=f'{trained}, but model {other} was asked for'):
        models_zoo.autoencoder_from(str(file), other, norm_pix_loss=True)


@pytest.mark.parametrize(
    'case, message',
    [
        ('encoder', 'has no decoder'),
        ('contradiction', 'was trained with norm_pix_loss True, but norm_pix_loss False'),
        ('no picture', 'cannot be read as a picture'),
        ('nowhere', 'no such file or folder'),
        ('empty', 'no picture in this folder'),
        ('out', 'cannot write this picture'),
    ],
)
def test_what_cannot_be_shown_is_named(tmp_path, case, message):
    model = models_zoo.autoencoder('mae_vit_nano_patch4')
    tensors = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if case != 'encoder' or not name.startswith(('decoder', 'mask'))
    }
    file = save(
        tmp_path / 'x.pd',
        tensors,
        model='mae_vit_nano_patch4',
        norm_pix_loss=True,
        input_size=32,
        in_chans=3,
    )
    Image.new('RGB', (40, 30)).save(tmp_path / 'x.png')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'x.txt').write_text('text')
    image = tmp_path / {'no picture': 'x.txt', 'nowhere': 'y', 'empty': 'empty'}.get(case, 'x.png')
    out = tmp_path / ('no/folder.png' if case == 'out' else 'out.png')
    flags = ['--device', 'cpu', '--resume', file, '--img_path', image, '--out', out]
    if case == 'contradiction':
        flags += ['--no_norm_pix_loss']
    with pytest.raises(InputError, match=message) as error:
        here(visualize, *flags)
    assert '\n' not in str(error.value)


def test_what_cannot_be_shown_is_one_line_and_exit_code_2(run_program, tmp_path):
    file = save(
        tmp_path / 'x.pd',
        models_zoo.autoencoder('mae_vit_nano_patch4').state_dict(),
        norm_pix_loss=True,
    )
    result = run_program(
        'demo/visualize.py', '--resume', file, '--img_path', tmp_path / 'y', '--device', 'cpu'
    )
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1, result.stderr
    assert (
        result.stderr.startswith('visualize.py: error: ')
        and 'no such file or folder' in result.stderr
    )


def test_visualize_shows_pictures_as_a_person_sees_them(tmp_path):
    """A 16-bit picture with a transparent level, and behind a link one whose EXIF is damaged."""
    tensors = models_zoo.autoencoder('mae_vit_nano_patch4').state_dict()
    file = save(
        tmp_path / 'x.pd',
        tensors,
        model='mae_vit_nano_patch4',
        norm_pix_loss=True,
        input_size=32,
        in_chans=3,
    )
    levels = np.arange(32 * 32).reshape(32, 32).astype('uint16') * 64
    hole = np.where(levels == 64 * 300, 255, (levels / 257).round()).astype('uint8')
    (tmp_path / 'odd').mkdir()
    (tmp_path / 'plain').mkdir()
    Image.fromarray(levels).save(tmp_path / 'odd/a.png', transparency=64 * 300)
    Image.fromarray(hole).save(tmp_path / 'plain/a.png')
    entries = struct.pack('<HHIIHHII', 0x010F, 5, 1, 50, 0x0112, 3, 1, 6)  # the maker is a fraction
    exif = b'II*\0\x08\0\0\0\x02\0' + entries + bytes(30)
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'odd/linked').symlink_to(tmp_path / 'elsewhere')
    Image.fromarray(hole).save(tmp_path / 'odd/linked/b.webp', exif=exif, lossless=True)
    (tmp_path / 'odd/._a.png').write_bytes(b'\0\5\x16\7')  # as macOS leaves it
    Image.fromarray(np.rot90(hole, -1)).save(tmp_path / 'plain/b.webp', lossless=True)
    for name in ('odd', 'plain'):
        flags = ['--resume', file, '--img_path', tmp_path / name, '--out', tmp_path / f'{name}.png']
        flags = [*map(str, flags), '--device', 'cpu']
        visualize.main(visualize.PARSER.parse_args(flags))
    panels = [np.asarray(Image.open(tmp_path / f'{name}.png')) for name in ('odd', 'plain')]
    assert panels[0].std() > 20 and (panels[0] == panels[1]).all()


def test_panels_show_pixels_as_they_were():
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=[1, 128, 128, 3], dtype='uint8')
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    images = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).astype('float32')
    masks = np.zeros_like(images)
    masks[:, :, :64] = 1
    shown = panels.reconstructions(images, np.zeros_like(images), masks, mean, std).drawn()
    parts = [shown[22:150, 4 + i * 132 : 132 + i * 132] for i in range(4)]
    grey = np.round(np.array(mean) * 255)
    assert (
        (parts[0] == pixels[0]).all()
        and (parts[1][64:] == pixels[0, 64:]).all()
        and (parts[1][:64] == 128).all()
    )
    assert (
        (parts[2] == grey).all()
        and (parts[3][:64] == grey).all()
        and (parts[3][64:] == pixels[0, 64:]).all()
    )


def test_normalised_predictions_are_put_back_with_the_true_statistics():
    from engine_pretrain import reconstruct

    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=True)
    images, noise = paddle.randn([2, 3, 32, 32]) * 5 + 3, paddle.rand([2, 64])
    shown, masks = reconstruct(model, images, 0.75, noise)
    patches, pred = model.patchify(images).numpy(), model(images, 0.75, noise)[1].numpy()
    expected = pred * np.sqrt(patches.var(-1, ddof=1, keepdims=True) + 1e-6) + patches.mean(
        -1, keepdims=True
    )
    np.testing.assert_allclose(model.patchify(shown).numpy(), expected, atol=1e-4)
    assert masks.mean().item() == 0.75


RECORD = """#!{python}
import json, os, sys
if sys.argv[1] == '-c':
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with open('commands', 'a') as file:
    file.write(json.dumps(sys.argv[1:]) + chr(10))
out = [after for flag, after in zip(sys.argv, sys.argv[1:]) if flag == '--output_dir']
if out:
    os.makedirs(out[0], exist_ok=True)
    with open(out[0] + '/log.txt', 'w') as file:
        file.write(json.dumps(dict(test_acc1=12.5)))
print('[EVAL] aAcc: 0.9 mIoU: 0.{{}}000 mAcc: 0.6 ('.format(6 if 'mae1' in str(sys.argv) else 5))
print('run by paddle.inference' + chr(10) + 'results go to x')
"""


@pytest.fixture
def rehearse(tmp_path):
    """rehearse(flags of demo/run.sh) -> (the tour's commands as lists of words, its output).

    No command is run.
    """

    def rehearse(*flags):
        for file in ('demo/run.sh', 'demo/segment.sh', 'demo/detect.sh'):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / file)
        for file, text in {
            'requirements/install.sh': '',
            '.venv/bin/activate': f'PATH={tmp_path}/.venv/bin:$PATH\n',
            '.venv/bin/python': RECORD.format(python=sys.executable),
            'demo/data/digits/val/3/x': '',
            'demo/data/digits/val/8/x': '',
        }.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        (tmp_path / '.venv/bin/python').chmod(0o755)
        result = subprocess.run(
            ['bash', 'demo/run.sh', *flags],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return [
            json.loads(line) for line in (tmp_path / 'commands').read_text().splitlines()
        ], result.stdout

    return rehearse


CLASSIFY = (
    'main_pretrain.py demo/visualize.py demo/score.py main_finetune.py main_linprobe.py '
    'main_frozen.py main_infer.py'
)
SEGMENT = (
    'demo/make_scenes.py main_pretrain.py demo/visualize.py seg/train.py seg/val.py seg/predict.py '
    'demo/score_scenes.py seg/export.py'
)
DETECT = (
    'demo/make_detection.py main_pretrain.py det/train.py det/eval.py demo/score_detection.py '
    'det/infer.py'
)


@pytest.mark.parametrize(
    'flags, programs',
    [
        ([], {*CLASSIFY.split()}),
        (['--seg', '2'], {*SEGMENT.split()}),
        (['--det', '2'], {*DETECT.split()}),
    ],
)
def test_every_flag_of_the_tour_is_one_that_its_program_takes(
    rehearse, monkeypatch, flags, programs
):
    monkeypatch.syspath_prepend(ROOT)
    seen = set()
    for words in rehearse(*flags)[0]:
        program = next(place for place, word in enumerate(words) if word.endswith('.py'))
        parser = importlib.import_module(
            words[program].removesuffix('.py').replace('/', '.')
        ).PARSER
        parser.parse_args(words[program + 1 :])
        seen.add(words[program])
    assert seen == programs


def test_the_tour_sums_up_what_its_seeds_gave(rehearse):
    commands, output = rehearse('--seg', '2')
    trained = [dict(itertools.pairwise(words)) for words in commands if 'seg/train.py' in words]
    assert [(flags['--seed'], flags['--save_dir'].rpartition('/')[2]) for flags in trained] == [
        ('0', 'scratch0'),
        ('0', 'mae0'),
        ('1', 'scratch1'),
        ('1', 'mae1'),
    ]
    assert 'from random weights       0.500 +- 0.000' in output
    assert 'from pre-trained weights  0.550 +- 0.071' in output
    assert 'from pre-trained weights  0.500 \n' in rehearse('--seg')[1]


def test_the_tour_of_detection_trains_each_seed_twice(rehearse):
    commands, output = rehearse('--det')
    trained = [words for words in commands if 'det/train.py' in words]
    assert len(trained) == 2 * 2 * 3
    folders = []
    for words in trained:
        assert words[words.index('--seed') + 1] == words[words.index('-o') + 1][-1]
        folders.append(words[words.index('-o') + 1].removeprefix('save_dir=demo/output/det/'))
    begun = [words for words in trained if words[-1].endswith('.pd')]
    assert [folder for folder, words in zip(folders, trained) if words in begun] == [
        f'{name}/pretrained{seed}' for name in ('gfl', 'mask_rcnn') for seed in range(3)
    ]
    pretrained = [
        dict(itertools.pairwise(words)) for words in commands if 'main_pretrain.py' in words
    ]
    for flags, start in zip(pretrained, (begun[0][-1], begun[3][-1])):
        last = int(flags['--epochs']) - 1
        assert start.partition('=')[2] == f'{flags["--output_dir"]}/checkpoint-{last}.pd'
    scored = [words for words in commands if 'demo/score_detection.py' in words]
    assert [words[-1] for words in scored] == [
        'demo/output/det/gfl.png',
        'demo/output/det/mask_rcnn.png',
    ]
    assert '3 seed(s)' in output


@pytest.mark.parametrize('script', ['segment', 'detect'])
def test_a_wrong_number_of_seeds_is_refused(script):
    result = subprocess.run(
        ['bash', f'demo/{script}.sh', 'two'], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (2, '')
    assert 'a number of seeds from 1, not two' in result.stderr


@pytest.mark.slow
def test_the_scenes_score_is_the_mean_jaccard_index(run_program, tmp_path):
    rng = np.random.default_rng(0)
    for kind in ('images', 'annotations', 'predictions'):
        (tmp_path / kind / 'validation').mkdir(parents=True)
    labels, predictions = rng.integers(0, 4, [2, 3, 6, 5]).astype('uint8')  # 0: no class
    for number, (label, prediction) in enumerate(zip(labels, predictions)):
        Image.fromarray(np.zeros([6, 5, 3], 'uint8')).save(
            tmp_path / f'images/validation/{number}.jpg'
        )
        Image.fromarray(label).save(tmp_path / f'annotations/validation/{number}.png')
        Image.fromarray(prediction).save(tmp_path / f'predictions/validation/{number}.png')
    flags = ['--data_path', tmp_path, '--predictions', tmp_path / 'predictions/validation']
    result = run_program('demo/score_scenes.py', *flags, '--out', tmp_path / 'x.png')
    assert result.returncode == 0, result.stderr
    first, *rows, last = result.stdout.splitlines()
    assert first.startswith('3 scenes') and '3 scenes written' in last
    known = labels > 0
    truth, guess, most = labels[known], predictions[known] + 1, np.bincount(labels[known]).argmax()
    expected = [
        jaccard_score(truth, guess, average='macro'),
        jaccard_score(truth, np.full_like(truth, most), average='macro'),
    ]
    assert [float(row.rsplit(maxsplit=1)[1]) for row in rows] == pytest.approx(expected, abs=1e-4)
    with Image.open(tmp_path / 'x.png') as shown:
        assert shown.size == (3 * (2 * 5 + 4) + 4, 3 * (2 * 6 + 4) + 4)
    Image.fromarray(labels[0, :5]).save(tmp_path / 'predictions/validation/1.png')
    result = run_program('demo/score_scenes.py', *flags)
    assert (
        result.returncode == 2
        and 'validation/1.png is 5 x 5 pixels, its label 5 x 6' in result.stderr
    )
