"""Checkpoints of an earlier commit resume, and reach the same losses as that commit."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

BEFORE = ROOT / 'tests/data/before'


@pytest.fixture(scope='module')
def losses(tmp_path_factory):
    """The losses that the present code reaches from the checkpoints."""
    out = tmp_path_factory.mktemp('before') / 'out'
    result = subprocess.run(
        [sys.executable, str(BEFORE / 'train.py'), str(out), str(BEFORE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONWARNINGS': 'ignore', 'PYTHONPATH': str(ROOT)},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((out / 'losses.json').read_text())


@pytest.mark.parametrize(
    'program, first',
    [
        pytest.param('pretrain', 1, id='an autoencoder, in the middle of epoch 1'),
        pytest.param('finetune', 1, id='a classifier, in the middle of epoch 1'),
        pytest.param('seg', 5, id='a segmentor, after iteration 4'),
    ],
)
def test_it_reaches_the_losses_of_the_earlier_commit(losses, program, first):
    expected = json.loads((BEFORE / 'losses.json').read_text())[program]
    to_come = {place: values for place, values in expected.items() if int(place) >= first}
    assert len(to_come) >= 3
    assert losses[program].keys() == to_come.keys()  # it began where the checkpoint stands
    for place, values in to_come.items():
        assert losses[program][place] == pytest.approx(values, rel=1e-4), place
