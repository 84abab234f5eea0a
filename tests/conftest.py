"""Fixtures that tests share: small real data, and programs run as a user runs them."""

import fcntl
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

if 'PYTEST_XDIST_WORKER' in os.environ:  # workers share the cores
    os.environ.setdefault('MAE_NUM_THREADS', '1')
import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import main_finetune
import main_linprobe
import main_pretrain
import models_zoo
from util import convert, program, weights
from util.convert import names
from util.weights import torch_file

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / 'demo'))  # its programs import their neighbours
# The first mostly waits for its processes; beside it the second has the cores.
LONGEST = ('test_processes.py', 'test_det_tour.py', 'test_tour.py', 'test_machines.py')
# slow(value, ...): parameters too slow for the default suite
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
TINY_VIT = (
    '--model vit_nano_patch4 --input_size 16 --in_chans 1 --nb_classes 3 --num_workers 0 '
    '--device cpu --log_dir='
).split()
ARCHIVE = Path(__file__).parent / 'data/models/files.tar.xz'
KINDS = {
    'encoder': names.ENCODER,
    'masked autoencoder': names.AUTOENCODER,
    'fine-tuned, global pool': names.POOLED,
    'fine-tuned, class token': names.CLASS_TOKEN,
    'linear probe': names.PROBE,
    'segmentor': names.SEGMENTOR,
}
OFFICIAL = dict(
    zip(
        KINDS.values(),
        (
            'official_encoder.pth',
            'official_autoencoder.pth',
            'official_pooled.pth',
            'official_token.pth',
            'official_probe.pth',
            'mmseg_upernet.pth',
        ),
    )
)


def pytest_configure(config):
    """Programs that tests start obey the warning filters of pyproject.toml as well."""
    os.environ['PYTHONWARNINGS'] = ','.join(config.getini('filterwarnings'))


def pytest_collection_modifyitems(items):
    """Mark the tests that start several processes; files that take longest are first.

    Otherwise one worker of pytest-xdist would be alone with them at the end, or both would wait for
    each other's turn (one_at_a_time).
    """
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))
    for item in items:
        if 'on_two_processes' in item.fixturenames:
            item.add_marker(pytest.mark.processes)


@pytest.fixture(autouse=True)
def one_at_a_time(request, tmp_path_factory):
    """Tests that start several processes run one at a time, over all workers of pytest-xdist.

    The groups of pytest-xdist (xdist_group) have no effect in version 3.8 with pytest 9.2.
    """
    if not request.node.get_closest_marker('processes'):
        yield
        return
    with open(tmp_path_factory.getbasetemp().parent / 'processes.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope='session', autouse=True)
def begun():
    """Tests compute with the same settings as the programs."""
    program.start('cpu', seed=0)


@pytest.fixture(autouse=True)
def seeded():
    paddle.set_device('cpu')
    paddle.seed(0)


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """Forty scanned digits of three classes, 32 x 32: train (30) and val (10)."""
    root = tmp_path_factory.mktemp('digits')
    scans = load_digits(n_class=3)
    for number, (scan, digit) in enumerate(zip(scans.images[:40], scans.target)):
        file = root / ('train' if number < 30 else 'val') / str(digit) / f'{number:02}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((scan * 255 / 16).astype('uint8')).resize((32, 32), Image.BICUBIC).save(
            file
        )
    return root


@pytest.fixture
def run_program():
    """run_program('main_pretrain.py', '--flag', value, ...) -> the ended process and its output."""

    def run(program, *flags, timeout=240, launcher=(), **environ):
        command = [sys.executable, *launcher, str(ROOT / program), *map(str, flags)]
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            env={**os.environ, **environ},
        )

    return run


def free_port():
    """A port of this machine that nobody uses at this moment."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture
def two_processes(tmp_path):
    """What stands between `python` and a program to run it on two processes."""
    words = '-m paddle.distributed.launch --log_level ERROR --nproc_per_node 2'.split()
    return [*words, '--log_dir', str(tmp_path / 'launch')]


@pytest.fixture
def one_and_two(run_program, two_processes, tmp_path):
    """one_and_two(text of a script) -> the arrays that it wrote on one process, and on two.

    The script's argument is the .npz to write.
    """

    def run(text):
        script = tmp_path / 'steps.py'
        script.write_text(text)
        path = f'{ROOT}:{ROOT / "tests"}'
        found = []
        for name, launcher in (('one', []), ('two', two_processes)):
            file = tmp_path / f'{name}.npz'
            result = run_program(script, file, launcher=launcher, PYTHONPATH=path)
            assert result.returncode == 0, result.stdout + result.stderr
            found.append(dict(np.load(file)))
        one, two = found
        assert one.keys() == two.keys()
        return one, two

    return run


@pytest.fixture
def on_two_processes(run_program, two_processes, tmp_path):
    """on_two_processes('main_finetune', [flags of a run], ...) -> the main process's output.

    The runs follow each other in the same two processes.
    """

    def run(program, *runs):
        script = tmp_path / 'runs.py'
        script.write_text(
            f'import {program} as program\n'
            f'for flags in {[list(map(str, flags)) for flags in runs]}:\n'
            '    program.main(program.PARSER.parse_args(flags))\n'
        )
        result = run_program(script, launcher=two_processes, PYTHONPATH=str(ROOT))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


@pytest.fixture(scope='session')
def classify(digits, tmp_path_factory):
    """classify(program, '--flag', value, ...) -> log and output folder of a tiny classifier.

    It is trained within this process.
    """

    def classify(program, *flags, out=None):
        out = out or tmp_path_factory.mktemp('out')
        options = '--batch_size 10 --epochs 2 --warmup_epochs 1'.split()
        flags = [*TINY_VIT, *options, '--data_path', digits, '--output_dir', out, *flags]
        program.main(program.PARSER.parse_args(list(map(str, flags))))
        return log_of(out), out

    return classify


@pytest.fixture(scope='session')
def flawed(digits, encoder, classify, tmp_path_factory):
    """{name: input that programs should refuse}: other files, parts of models, folders, lists."""
    root = tmp_path_factory.mktemp('flawed')
    tensors = weights.read(encoder)['model']
    paddle.save(
        {name: tensor for name, tensor in tensors.items() if 'blocks.2.norm' not in name},
        str(root / 'part.pd'),
    )
    for name in ('missing', 'extra'):
        shutil.copytree(digits, root / name)
    shutil.rmtree(root / 'missing/val/2')
    shutil.copytree(digits / 'val/2', root / 'extra/val/9')
    (root / 'unlabelled').mkdir()
    (root / 'unlabelled/train.txt').write_text(
        ''.join(f'{file}\n' for file in (digits / 'train').glob('*/*'))
    )
    return {name: root / name for name in ('missing', 'extra', 'unlabelled')} | {
        'part': root / 'part.pd',
        'encoder': encoder,
        'list': root / 'unlabelled/train.txt',
        'probe': classify(main_linprobe)[1] / 'checkpoint-latest.pd',
        'class_token': classify(main_finetune, '--cls_token')[1] / 'checkpoint-latest.pd',
    }


@pytest.fixture(scope='session')
def listed(digits, tmp_path_factory):
    """The digits by lists instead of folders.

    One validation image is left out, so that two processes cannot share them evenly.
    """
    folder = tmp_path_factory.mktemp('listed')
    for split, end in (('train', None), ('val', -1)):
        files = sorted((digits / split).glob('*/*'))[:end]
        (folder / f'{split}.txt').write_text(
            ''.join(f'{file} {file.parent.name}\n' for file in files)
        )
    return folder


@pytest.fixture(scope='session')
def models(tmp_path_factory):
    """The folder of the producers' files, and of files like those of earlier Paddle ports."""
    folder = tmp_path_factory.mktemp('models')
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(folder, filter='data')
    whole = torch_file.read(folder / 'mmpretrain_autoencoder.pth')['state_dict']
    encoder = {name: array for name, array in whole.items() if name.startswith('backbone.')}
    torch_file.write(folder / 'mmpretrain_encoder.pth', {'state_dict': encoder})
    for column, kind in KINDS.items():
        tensors = convert.read(folder / OFFICIAL[kind])[0]['model']
        state = {name: paddle.to_tensor(array) for name, array in tensors.items()}
        if kind == names.PROBE:  # Paddle's BatchNorm has these even if they are switched off
            state |= {'head.0.weight': paddle.ones([24]), 'head.0.bias': paddle.zeros([24])}
        whole = {'model': state, 'optimizer': {}, 'epoch': 3, 'scaler': None}
        paddle.save(whole, str(folder / f'port_{column}.pd'))
    return folder


@pytest.fixture
def official(models):
    """official(kind) -> the state in the official file of that kind, under our names."""
    return lambda kind: convert.read(models / OFFICIAL[kind])[0]


def log_of(folder):
    file = folder / 'log.txt'
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else None


@pytest.fixture(scope='session')
def encoder(digits, tmp_path_factory):
    """A checkpoint of main_pretrain.py that fits the tiny classifiers."""
    out = tmp_path_factory.mktemp('encoder')
    flags = (
        '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --num_workers 0 --device cpu '
        '--log_dir= --batch_size 10 --epochs 1 --warmup_epochs 0'
    ).split()
    main_pretrain.main(
        main_pretrain.PARSER.parse_args(
            [*flags, '--data_path', str(digits), '--output_dir', str(out)]
        )
    )
    return out / 'checkpoint-0.pd'


def classifier(file, key='model', **kwargs):
    """The tiny classifier with the weights of a checkpoint, ready for evaluation."""
    model = models_zoo.classifier(
        'vit_nano_patch4',
        **{'img_size': 16, 'in_chans': 1, 'num_classes': 3, 'global_pool': True} | kwargs,
    )
    if 'head.1.weight' in weights.read(file)[key]:
        model.probe()
    model.set_state_dict(weights.read(file)[key])
    model.eval()
    return model


def pixels(file, mode='L', mean=(0.449,), std=(0.226,)):
    """The evaluation transform for 16 pixels, written out, of a square picture: [1, C, 16, 16]."""
    picture = Image.open(file).convert(mode).resize((18, 18), Image.BICUBIC).crop((1, 1, 17, 17))
    values = np.asarray(picture, dtype='float32').reshape(16, 16, -1) / 255
    normalised = ((values - mean) / std).transpose(2, 0, 1)[None]
    return paddle.to_tensor(normalised.astype('float32'))


def figures_by_hand(model, files, **how):
    """The figures that an evaluation should give, computed in NumPy, one picture at a time.

    Each picture is in a folder with its label's number.
    """
    losses, places = [], []
    for file in files:
        scores = model(pixels(file, **how)).numpy()[0].astype('float64')
        label = int(file.parent.name)
        losses.append(np.log(np.exp(scores).sum()) - scores[label])
        places.append((scores > scores[label]).sum())
    accuracies = {f'acc{k}': 100 * np.mean(np.array(places) < k) for k in (1, 5)}
    return {'loss': np.mean(losses), **accuracies}


def printed_figures(output):
    """The figures of each line that --eval prints."""
    lines = [line.split() for line in output.splitlines() if line.startswith('loss ')]
    return [{name: float(value) for name, value in zip(line[::2], line[1::2])} for line in lines]


def assert_same_tree(ours, theirs, where=''):
    """Assert that two nested dicts of arrays and values are equal bit for bit."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in theirs.items():
            assert_same_tree(ours[key], value, f'{where}.{key}')
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=where)


def assert_same_state(ours, theirs):
    """Assert that two checkpoints are equal bit for bit, except for the flags."""
    assert_same_tree(*({**weights.read(file), 'args': None} for file in (ours, theirs)))
