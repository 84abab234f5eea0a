"""main_parity.py over masked autoencoders: every rung, against Hugging Face's class."""

import numpy as np
import pytest

from util import convert, weights

from .conftest import SIZES, report

FIRST = ['keys and shapes', 'weights', 'blocks', 'prediction', 'mask']
LADDER = [*FIRST, 'loss', 'gradients', 'losses of the steps', 'weights after the steps']


@pytest.mark.parametrize(
    'size, kind, flags',
    [
        ('nano', 'full', []),
        ('nano', 'full', ['--no_norm_pix_loss', '--seed', 1]),
        ('nano', 'hf_full', []),
        ('base', 'full', []),
    ],
)
def test_masked_autoencoders_pass_every_rung(made, climbed, size, kind, flags):
    result, rungs = climbed(made(size, kind), *flags)
    report(f'{size} {kind} {flags}', **{name: rung['relative'] for name, rung in rungs.items()})
    assert result.returncode == 0, result.stdout
    assert list(rungs) == LADDER
    stacks = [(1 + SIZES[size]['depth']), (1 + SIZES[size]['decoder_depth'])]
    assert rungs['blocks']['compared'] == f'{sum(stacks)} tensors'


def test_one_weight_of_one_block_that_differs_is_found(made, climbed, tmp_path):
    source = made('nano', 'full')
    state, name = convert.read(source)[0], 'blocks.2.attn.proj.weight'
    state['model'][name] = state['model'][name] + np.eye(96, dtype='float32') / 100
    convert.write(tmp_path / 'ours.pd', state, 'paddle')
    result, rungs = climbed(source, tmp_path / 'ours.pd')
    assert result.returncode == 1
    assert rungs['blocks']['where'] == 'blocks.2' and rungs['weights']['where'] == name
    assert [name for name, rung in rungs.items() if rung['passed']] == ['keys and shapes', 'mask']


def test_weights_that_are_not_finite_on_both_sides_fail(made, climbed, tmp_path):
    state = dict(weights.read(made('nano', 'full')))
    state['model']['decoder_norm.bias'] = np.full(64, np.nan, 'float32')
    weights.torch_file.write(tmp_path / 'nan.pth', state)
    result, rungs = climbed(tmp_path / 'nan.pth')
    assert result.returncode == 1
    assert not rungs['weights']['passed'] and not rungs['weights']['finite']
    assert (
        rungs['blocks']['passed']
        and not rungs['prediction']['passed']
        and not rungs['loss']['passed']
    )
