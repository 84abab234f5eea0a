"""Config files of detection: PaddleDetection's form, without its traps."""

import pytest

from det import config, schedule
from util.errors import InputError

BASE = """
architecture: MAEGFL
num_classes: 3
TrainReader:
  batch_size: 2
  sample_transforms: [{RandomFlip: {prob: 0.5}}]
"""


@pytest.fixture
def write(tmp_path):
    def writer(text, name='config.yml'):
        path = tmp_path / name
        path.write_text(text, encoding='utf-8')
        return str(path)

    return writer


def test_two_overrides_below_one_key_are_both_kept(write):
    values = config.load(write(BASE), ['MAEGFL.neck.a=1', 'MAEGFL.neck.b=[2, 3]', 'epoch=7'])
    assert values['MAEGFL']['neck'] == {'a': 1, 'b': [2, 3]}
    assert values['epoch'] == 7


def test_a_later_file_replaces_lists_and_keeps_neighbours(write):
    write(BASE, 'base.yml')
    child = '_BASE_: [base.yml]\nTrainReader: {sample_transforms: [Decode: {}]}\n'
    values = config.load(write(child))
    assert values['TrainReader'] == {'batch_size': 2, 'sample_transforms': [{'Decode': {}}]}


def test_a_tag_of_paddledetection_is_a_name(write):
    values = config.load(write(BASE + 'TrainDataset: !COCODataSet {image_dir: a}\n'))
    assert values['TrainDataset'] == {'name': 'COCODataSet', 'image_dir': 'a'}


def test_numbers_without_a_point_are_numbers(write):
    values = config.load(write(BASE + 'LearningRate: {base_lr: 1e-4}\n'), ['log_iter=1e2'])
    assert values['LearningRate']['base_lr'] == 1e-4
    assert values['log_iter'] == 100


def test_a_file_runs_no_code(write, tmp_path):
    target = tmp_path / 'made'
    path = write(f'architecture: !!python/object/apply:os.mkdir ["{target}"]')
    with pytest.raises(InputError, match='cannot be read as YAML'):
        config.load(path)
    values = config.load(write(BASE), [f'weights=!!python/object/apply:os.mkdir ["{target}"]'])
    assert isinstance(values['weights'], str)
    assert not target.exists()


@pytest.mark.parametrize(
    ('text', 'overrides', 'message'),
    [
        (BASE + 'typo: 1\n', [], 'unknown key typo'),
        (BASE + 'epoch: 2.5\n', [], 'epoch is a whole number from 1, not 2.5'),
        (BASE + 'TrainReader: 3\n', [], 'TrainReader holds keys and values, not 3'),
        ('num_classes: 3\n', [], 'architecture names the class'),
        (BASE + 'metric: VOC\n', [], 'metric is COCO here'),
        (BASE + '_BASE_: nowhere.yml\n', [], r'its _BASE_ .*nowhere.yml: no such file'),
        (BASE + '_BASE_: config.yml\n', [], 'leads back to itself'),
        ('[1, 2]', [], 'expected keys and values'),
        (BASE, ['epoch'], '-o epoch: expected KEY=VALUE'),
        (BASE, ['epoch.a=1'], 'epoch of the config holds no keys'),
    ],
)
def test_a_fault_is_one_line(write, text, overrides, message):
    if 'epoch.a' in str(overrides):
        text += 'epoch: 3\n'
    with pytest.raises(InputError, match=message) as caught:
        config.load(write(text), overrides)
    assert '\n' not in str(caught.value)


def test_no_file_is_named():
    with pytest.raises(InputError, match='-c is needed'):
        config.load(None)
    with pytest.raises(InputError, match='-c nowhere.yml: no such file'):
        config.load('nowhere.yml')


# UM-MAE's rates: mmcv's cosine by epoch to 1 %, times its warm-up over 2000 iterations from 1e-3


def test_rates_of_um_mae_s_detector():
    section = {
        'base_lr': 1e-4,
        'schedulers': [
            {'name': 'CosineByEpoch', 'min_ratio': 0.01},
            {'name': 'LinearWarmup', 'steps': 2000, 'start_factor': 0.001},
        ],
    }
    rate = schedule.build(section, per_epoch=7330, epochs=25)
    assert rate(0) == pytest.approx(1e-7)
    assert rate(1000 / 7330) == pytest.approx(1e-4 * (1 - 0.5 * 0.999))
    assert rate(2000 / 7330) == pytest.approx(1e-4)
    assert rate(7329 / 7330) == pytest.approx(1e-4)  # constant within an epoch
    assert rate(24.5) == pytest.approx(1.39e-6, rel=3e-3)  # the published log's last rate


def test_rates_of_vitdet():
    section = {
        'base_lr': 1e-4,
        'schedulers': [
            {'name': 'PiecewiseDecay', 'milestones': [163889, 177546], 'by_epoch': False},
            {'name': 'LinearWarmup', 'steps': 250, 'start_factor': 0.001},
        ],
    }
    rate = schedule.build(section, per_epoch=1844, epochs=100)
    at = {i: rate(i / 1844) for i in (0, 125, 250, 163888, 163889, 177546)}
    expected = [1e-7, 1e-4 * (0.001 + 0.999 / 2), 1e-4, 1e-4, 1e-5, 1e-6]
    assert list(at.values()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({}, 'base_lr is a number from 0, not None'),
        ({'base_lr': 1, 'schedulers': [{'name': 'Exponential'}]}, "'Exponential' is unknown"),
        ({'base_lr': 1, 'schedulers': [{'name': 'LinearWarmup', 'step': 1}]}, 'LinearWarmup'),
        (
            {
                'base_lr': 1,
                'schedulers': [{'name': 'PiecewiseDecay', 'milestones': [1], 'gamma': [1, 2]}],
            },
            '1 milestones, but 2 gammas',
        ),
    ],
)
def test_a_wrong_schedule_is_named(section, message):
    with pytest.raises(InputError, match=message):
        schedule.build(section, 10, 10)
