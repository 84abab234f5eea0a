"""The weights in the box, demo/weights: they are what their record says, and work as they are."""

import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import paddle
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import jaccard_score

import main_finetune
import main_infer
import main_pretrain
import models_zoo
from demo import (
    make_detection,
    make_digits,
    make_photographs,
    make_scenes,
    score,
    score_detection,
    score_photographs,
    visualize,
)
from det import eval as det_eval
from det import infer as det_infer
from seg import dataset, flags, inference, predict
from util import weights
from util.augment import transform
from util.errors import InputError

BOX = ROOT / 'demo/weights'
RECORD = (BOX / 'README.md').read_text()
DIGITS = BOX / 'mae_vit_nano_patch4_digits.pd'
PHOTOGRAPHS = BOX / 'mae_vit_nano_patch8_photographs.pd'
SWIN = BOX / 'mae_swin_nano_32_digits.pd'
SEGMENTOR = BOX / 'segmentor.pd'
OF_SEGMENTOR = str(ROOT / 'seg/configs/upernet_mae/upernet_mae_scenes.yml')
DETECTOR = BOX / 'detector.pd'
OF_DETECTOR = str(ROOT / 'det/configs/gfl_um_mae/gfl_um_mae_swin_nano_digits.yml')
HASHES = dict(re.findall(r'^\| (\w+\.pd) \|.*\| ([0-9a-f]{64}) \|$', RECORD, re.M))


def recorded(title):
    """{row: figures} of a table of the record; title: the first cell of its header."""
    start = RECORD.index(f'| {title} |')
    _, _, *rows = RECORD[start : RECORD.index('\n\n', start)].splitlines()
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
    return {name: [float(figure) for figure in figures] for name, *figures in cells}


def run(program, *flags):
    program.main(program.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))


def printed(capsys):
    """The figures in the lines that a score program prints, by name."""
    lines = capsys.readouterr().out.splitlines()
    pairs = [line.rsplit(maxsplit=1) for line in lines]
    return {name: float(value) for name, value in pairs if re.fullmatch(r'\d\.\d{4}', value)}


def test_the_box_holds_what_is_recorded_and_small_files():
    assert {file.name for file in BOX.glob('*.pd')} == HASHES.keys()
    for name, expected in HASHES.items():
        data = (BOX / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == expected and len(data) < 3e6, name


@pytest.fixture(scope='module')
def commands(tmp_path_factory):
    """The commands of demo/weights.sh, as lists of words. None is run."""
    folder = tmp_path_factory.mktemp('rehearsal')
    stub = f"""#!{sys.executable}
import json, sys
print(json.dumps(sys.argv[1:]), file=open('said', 'a'))
"""
    for file, text in {
        'demo/weights.sh': (ROOT / 'demo/weights.sh').read_text(),
        'requirements/install.sh': '',
        '.venv/bin/activate': f'PATH={folder}/.venv/bin:$PATH\n',
        '.venv/bin/python': stub,
        '.venv/bin/sha256sum': '#!/bin/sh\n',
    }.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
        (folder / file).chmod(0o755)
    environ = {**os.environ, 'PYTHONPATH': ''}
    subprocess.run(['bash', 'demo/weights.sh'], cwd=folder, check=True, env=environ)
    wrong = subprocess.run(
        ['bash', 'demo/weights.sh', 'x'], cwd=folder, capture_output=True, text=True
    )
    assert wrong.returncode == 2 and 'not x' in wrong.stderr
    return [json.loads(line) for line in (folder / 'said').read_text().splitlines()]


def test_each_file_was_trained_by_the_command_of_the_script(commands):
    parsers = {'main_pretrain.py': main_pretrain.PARSER, 'main_finetune.py': main_finetune.PARSER}
    given = {}  # output folder -> flags
    for program, *words in commands:
        if program in parsers and '--eval' not in words:
            asked = vars(parsers[program].parse_args(words))
            given[asked['output_dir']] = asked
    kept = [words[2:4] for words in commands if words[:2] == ['-m', 'util.convert']]
    assert {written.split('/')[-1] for _, written in kept} == HASHES.keys()

    # what does not change the weights, and what newer programs have
    free = {
        'output_dir',
        'log_dir',
        'resume',
        'print_freq',
        'save_every',
        'save_every_iters',
        'keep',
    }
    for checkpoint, written in kept:
        folder = checkpoint.rsplit('/', 1)[0]
        if folder not in given:  # trained by a config
            continue
        trained = weights.read(BOX / written.split('/')[-1])['args']
        asked = given[folder]
        for name in (trained.keys() & asked.keys()) - free:
            # older files hold a single data path, not a list
            assert np.array_equal(np.ravel(trained[name]), np.ravel(asked[name])), (written, name)


@paddle.no_grad()
def test_the_classifier_of_digits_has_the_accuracy_of_its_record():
    model, about = models_zoo.classifier_from(str(BOX / 'digits.pd'))
    scans = load_digits()
    counts, chosen = dict.fromkeys(range(10), 0), []
    for number, digit in enumerate(scans.target):
        if counts[digit] % 5 == 4:  # every fifth of a class is held out
            chosen.append(number)
        counts[digit] += 1
    prepare = transform.Evaluate(32, (0.449,), (0.226,))
    pictures = [make_digits.enlarged(scans.images[number]) for number in chosen]
    scores = model(paddle.to_tensor(np.stack([prepare(picture) for picture in pictures]))).numpy()
    hits = (scores.argmax(1) == scans.target[chosen]).mean()
    assert len(chosen) == 355 and about['labels'][3] == ['3']
    assert round(100 * hits, 1) == recorded('classifier')['accuracy of digits.pd, %'][0]


def test_the_first_minute(capsys, tmp_path):
    run(main_infer, '--resume', BOX / 'digits.pd', '--img_path', ROOT / 'demo/three.png')
    assert capsys.readouterr().out.splitlines()[2].startswith("['3']: ")
    for file in sorted(BOX.glob('mae_*.pd')):
        colour = 'digits' not in file.name
        picture = ROOT / ('demo/photographs/cat_011.png' if colour else 'demo/three.png')
        out = tmp_path / f'{file.stem}.png'
        run(visualize, '--resume', file, '--img_path', picture, '--out', out)
        with Image.open(out) as drawn:
            assert drawn.width > 500


def test_the_first_minute_of_the_segmentor_and_the_detector(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no scenes
    scenes = ROOT / 'demo/scenes'
    flags = ['--config', OF_SEGMENTOR, '--model_path', SEGMENTOR, '--save_dir', tmp_path]
    run(predict, *flags, '--image_path', scenes / 'segment.jpg')
    with Image.open(tmp_path / 'pseudo_color_prediction/segment.png') as classes:
        assert set(np.unique(classes)) >= {0, 1}  # the digits zero and one

    capsys.readouterr()
    flags = ['-c', OF_DETECTOR, '--output_dir', tmp_path, '-o', f'weights={DETECTOR}']
    run(det_infer, *flags, '--infer_img', scenes / 'detect.jpg')
    found = re.findall(r'detect.jpg: (\w+) ', capsys.readouterr().out)
    assert set(found) >= {'zero', 'two'}


@pytest.mark.slow
def test_the_segmentor_has_the_mean_iou_of_its_record(tmp_path):
    make_scenes.main(tmp_path / 'scenes', seed=0, unlabelled=0)
    config = flags.configuration(OF_SEGMENTOR)
    segment = inference.from_config(config, OF_SEGMENTOR, str(SEGMENTOR))
    truth, found = [], []
    for picture, label in dataset.pairs(tmp_path / 'scenes', 'validation'):
        truth.append(np.asarray(Image.open(label)).flatten() - 1)
        found.append(segment(np.asarray(Image.open(picture))).flatten())
    iou = jaccard_score(np.concatenate(truth), np.concatenate(found), average='macro')
    assert iou == pytest.approx(recorded('segmentor')['mean IoU'][0], abs=1e-3)


@pytest.mark.slow
def test_the_detector_has_the_average_precision_of_its_record(tmp_path):
    make_detection.main(tmp_path / 'scenes', seed=0, unlabelled=0)
    values = ['worker_num=0', f'weights={DETECTOR}', f'EvalDataset.dataset_dir={tmp_path}/scenes']
    run(det_eval, '-c', OF_DETECTOR, '--output_eval', tmp_path, '-o', *values)
    truth = score_detection.read(tmp_path / 'scenes/annotations/instances_val2017.json')
    found = score_detection.read(tmp_path / score_detection.FILES['bbox'])
    precision = score_detection.figures(truth, found, 'bbox')[0]  # by pycocotools
    assert precision == pytest.approx(recorded('detector')['AP of boxes'][0], abs=1e-3)


def test_reconstructions_of_photographs_have_the_error_of_their_record(capsys, tmp_path):
    flags = ['--data_path', ROOT / 'demo/photographs', '--out', tmp_path / 'x.png']
    run(score_photographs, '--resume', PHOTOGRAPHS, *flags)
    found = printed(capsys)
    expected = {name: row[1] for name, row in recorded('photographs').items()}
    assert found == pytest.approx(expected, abs=2e-3)
    assert found['autoencoder'] < found['mean of visible']


def test_photographs_may_be_taller_than_wide_and_the_folder_of_the_picture_must_exist(
    capsys, tmp_path
):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=(32, 16))
    about = {'model': 'mae_vit_nano_patch4', 'norm_pix_loss': False, 'input_size': [32, 16]}
    paddle.save({'model': model.state_dict(), 'args': about}, str(tmp_path / 'x.pd'))
    flags = ['--resume', tmp_path / 'x.pd', '--data_path', ROOT / 'demo/photographs']
    run(score_photographs, *flags, '--out', tmp_path / 'x.png')
    assert len(printed(capsys)) == 4
    with Image.open(tmp_path / 'x.png') as drawn:
        assert drawn.width == 8 * (16 * 4 + 4) + 4  # enlarged to a height of 128
    with pytest.raises(InputError, match='--out .*no/x.png: cannot write this picture'):
        run(score_photographs, *flags, '--out', tmp_path / 'no/x.png')


@pytest.mark.slow
@pytest.mark.parametrize('column, file', [(0, DIGITS), (1, SWIN)])
def test_reconstructions_of_digits_have_the_error_of_their_record(column, file, capsys, tmp_path):
    make_digits.main(tmp_path / 'digits')
    run(score, '--resume', file, '--data_path', tmp_path / 'digits')
    expected = {name: row[column] for name, row in recorded('digits').items()}
    assert printed(capsys) == pytest.approx(expected, abs=2e-3)


def test_training_touches_no_pixel_that_is_held_out():
    columns = np.arange(200, dtype='uint8')[None, :, None].repeat(150, 0).repeat(3, 2)
    parts = make_photographs.split_parts(columns)
    held_out = set(parts['val'][0][0, :, 0])
    assert held_out == set(range(110, 160))
    for part in parts['train']:
        crop = make_photographs.square(np.random.default_rng(0), part, (30, 200), 40)
        assert not held_out & set(part[0, :, 0]) and crop.size == (40, 40)


def test_the_other_ways_to_fill_a_picture():
    rng = np.random.default_rng(0)
    removed = rng.random([16, 16]) < 0.6
    removed[0, 0] = removed[0, -1] = removed[-1, 0] = removed[-1, -1] = False  # hull: everything
    rows, columns = np.mgrid[:16, :16].astype('float32')
    image = np.stack([rows + 2 * columns, 5 - rows])
    np.testing.assert_allclose(score_photographs.cubic(image, removed), image, atol=1e-4)

    image = rng.normal(size=[2, 16, 16]).astype('float32')
    near = score_photographs.nearest(image, removed)
    places = np.argwhere(~removed)
    for row, column in np.argwhere(removed):
        squared = np.square(places - [row, column]).sum(1)
        closest = places[squared == squared.min()]
        assert any((near[:, row, column] == image[:, r, c]).all() for r, c in closest)
    mean = score_photographs.mean_visible(image, removed)
    assert mean[1][removed] == pytest.approx(image[1][~removed].mean(), abs=1e-6)
    found = score_photographs.error(image[None], mean[None], removed[None])
    assert found == pytest.approx([np.square(image - mean)[:, removed].mean()], rel=1e-5)
