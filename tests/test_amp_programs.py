"""--amp where nothing is trained: programs compute in the precision that they are asked for."""

import contextlib

import paddle
import pytest
import toy_detector
import yaml
from test_readme import TINY_SEGMENTOR
from test_seg_train import NORMALIZE, scenes  # noqa: F401  (a fixture)

import det.config
import det.eval
import layer
import main_finetune
import main_infer
import main_linprobe
import seg.predict
import seg.val
from util import amp, device


@pytest.fixture
def used(monkeypatch):
    """The precision of each forward pass through an Mlp; a stand-in for a device that has all."""
    current, used = ['off'], []

    @contextlib.contextmanager
    def autocast(precision, *rest, **lists):
        current.append(precision)
        yield
        current.pop()

    own = layer.Mlp.forward

    def forward(self, x):
        used.append(current[-1])
        return own(self, x)

    monkeypatch.setattr(amp, 'autocast', autocast)
    monkeypatch.setattr(device, 'precision', lambda asked: asked or 'off')
    monkeypatch.setattr(layer.Mlp, 'forward', forward)
    return used


def run(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--device', 'cpu']))


@pytest.mark.parametrize('program', [main_finetune, main_linprobe], ids=['finetune', 'linprobe'])
def test_evaluating_and_inferring_classifiers(classify, program, digits, used):
    _, out = classify(program, '--epochs', 1, '--warmup_epochs', 0)
    assert {*used} == {'off'}
    file = out / 'checkpoint-0.pd'
    for asked in ('float16', 'bfloat16'):
        used.clear()
        classify(program, '--resume', file, '--eval', '--amp', asked)
        run(main_infer, '--resume', file, '--img_path', digits / 'val', '--amp', asked)
        assert {*used} == {asked}


@pytest.fixture
def segmentor(scenes, tmp_path):  # noqa: F811
    """Flags of the tiny segmentor with random weights."""
    said = {
        '_base_': str(TINY_SEGMENTOR),
        'val_dataset': {'dataset_root': str(scenes), 'transforms': [NORMALIZE]},
        'test_config': {'is_slide': False},
        'model': {'backbone': {'img_size': 32}},
    }
    (tmp_path / 'seg.yml').write_text(yaml.safe_dump(said))
    config = seg.val.flags.configuration(str(tmp_path / 'seg.yml'), [])
    model = seg.val.SegBuilder(config).model
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    return ['--config', tmp_path / 'seg.yml', '--model_path', tmp_path / 'model.pdparams']


def test_evaluating_and_applying_segmentors(segmentor, scenes, tmp_path, used):  # noqa: F811
    picture = min((scenes / 'images/validation').iterdir())
    flags = ['--image_path', picture, '--save_dir', tmp_path / 'out', '--amp', 'float16']
    for program, more in ((seg.val, flags[-2:]), (seg.predict, flags)):
        used.clear()
        run(program, *segmentor, *more)
        assert {*used} == {'float16'}


def test_evaluating_detectors(tmp_path, used):
    squares = toy_detector.write_squares(tmp_path / 'squares', pictures=2)
    file = toy_detector.write_config(tmp_path / 'det.yml', squares)
    model = det.config.build(det.config.load(str(file)), str(file))
    paddle.save(model.state_dict(), str(tmp_path / 'model.pdparams'))
    weights = f'weights={tmp_path / "model.pdparams"}'
    run(det.eval, '-c', file, '-o', weights, '--amp', 'bfloat16')
    assert {*used} == {'bfloat16'}
