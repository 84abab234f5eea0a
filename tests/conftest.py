"""Shared by the tests: small real data, and programs run as a user runs them."""
import os
import subprocess
import sys
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import paddle
import pytest
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parent.parent


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
        Image.fromarray((scan * 255 / 16).astype('uint8')).resize((32, 32), Image.BICUBIC).save(file)
    return root


@pytest.fixture
def run_program():
    """run_program('main_pretrain.py', '--flag', value, ...) -> the finished process, output as text."""
    def run(program, *flags, timeout=240, launcher=(), **environ):
        command = [sys.executable, *launcher, str(ROOT / program), *map(str, flags)]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT,
                              env={**os.environ, 'PYTHONWARNINGS': 'ignore', **environ})
    return run
