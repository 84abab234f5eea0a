"""The learning rate of each published segmentation recipe against its original's formula."""

import numpy as np
import pytest
from conftest import ROOT
from paddleseg.cvlibs import SegBuilder

import seg  # noqa: F401

# isort: split
from seg import train

CONFIGS = sorted((ROOT / 'seg/configs').glob('upernet_*/*_160k*.yml'))
PLACES = [0, 1, 749, 1499, 1500, 1501, 80000, 159999]
BASE, ITERS, WARMUP, FIRST = 1e-4, 160000, 1500, 1e-6


def configuration(file, flags=''):
    return train.configuration(train.PARSER.parse_args(f'--config {file} {flags}'.split()))


def older(i):
    """mmcv 1 (mmsegmentation 0.x, UM-MAE): the warm-up lies over a decay from iteration 0."""
    warmup = np.where(i < WARMUP, 1 - (1 - i / WARMUP) * (1 - FIRST), 1.0)
    return BASE * (1 - i / ITERS) * warmup


def newer(i):
    """mmengine (mmsegmentation 1.x): the decay begins where the warm-up ends."""
    warmup = BASE * (FIRST + (1 - FIRST) * i / WARMUP)
    decay = BASE * (1 - (i - WARMUP) / (ITERS - WARMUP))
    return np.where(i < WARMUP, warmup, decay)


def test_the_two_formulas_have_the_published_values():
    assert older(np.array(1500)) == pytest.approx(0.990625 * BASE)
    assert newer(np.array(1500)) == pytest.approx(BASE)


@pytest.mark.parametrize('file', CONFIGS, ids=lambda file: file.stem)
def test_the_rate_is_the_originals(file):
    schedule = SegBuilder(configuration(file)).lr_scheduler
    rates = []
    for place in PLACES:
        schedule.step(place)
        rates.append(schedule())
    is_older = 'um_mae' in file.stem or file.stem.endswith('mmseg0')
    formula = older if is_older else newer
    np.testing.assert_allclose(rates, formula(np.array(PLACES)), rtol=1e-6, atol=1e-13)


def test_both_formulas_are_met_by_some_config():
    assert len(CONFIGS) == 6
    names = [file.stem for file in CONFIGS]
    assert sum('um_mae' in name or name.endswith('mmseg0') for name in names) == 3


def test_the_rate_falls_to_the_end_of_a_shorter_training():
    file = next(file for file in CONFIGS if 'um_mae_swin' in file.stem)
    for flags in ('--iters 3000', '--opts iters=3000'):
        schedule = SegBuilder(configuration(file, flags)).lr_scheduler
        schedule.step(2250)
        assert schedule() == pytest.approx(BASE / 4)
    config = configuration(file, '--iters 3000 --opts lr_scheduler.decay_steps=9000')
    schedule = SegBuilder(config).lr_scheduler
    schedule.step(2250)
    assert schedule() == pytest.approx(BASE * 3 / 4)


def test_a_resumed_schedule_goes_on():
    file = next(file for file in CONFIGS if file.stem.endswith('mmseg0'))
    schedules = [SegBuilder(configuration(file)).lr_scheduler for _ in range(2)]
    schedules[0].step(1000)
    schedules[1].set_state_dict(schedules[0].state_dict())
    for schedule in schedules:
        schedule.step()
    assert schedules[0]() == schedules[1]() == pytest.approx(older(np.array(1001)))
