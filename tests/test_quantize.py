"""INT8 models against float32 ones, and main_export.py --int8 as a user types it."""

# ruff: noqa: F811  fixtures of other files
import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
import yaml
from conftest import classifier, pixels
from test_main_export import export, folder  # noqa: F401
from test_main_infer import infer, trained  # noqa: F401

from util import exported, onnx_file, quantize
from util.errors import InputError

needs_onnx = pytest.mark.skipif(
    not importlib.util.find_spec('onnxruntime') or not importlib.util.find_spec('paddle2onnx'),
    reason='needs requirements/export.txt',
)


@pytest.fixture(scope='module')
def quantised(trained, digits, tmp_path_factory):
    """The classifier of three digits, exported with --int8, and what the program printed last."""
    folder = tmp_path_factory.mktemp('quantised')
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr('builtins.print', lambda *words, **_: lines.append(' '.join(words)))
        flags = ['--int8', '--calibration', digits / 'train']
        export('--resume', trained, '--out', folder, *flags)
    return folder, lines[-1]


@needs_onnx
def test_the_printed_agreement_is_that_of_the_pictures_that_did_not_calibrate(
    quantised, trained, digits
):
    """Every second picture judges; the live model and ONNX Runtime run one picture at a time."""
    folder, line = quantised
    judging = sorted((digits / 'train').rglob('*.png'))[1::2]
    live = classifier(trained, 'ema')
    run = onnx_file.session(folder / 'model_int8.onnx', ['images'])
    images = [pixels(file, mean=(0.3,), std=(0.4,)) for file in judging]
    expected = np.concatenate([live(image).numpy() for image in images])
    found = np.concatenate([run([image.numpy()])[0] for image in images])

    same = (found.argmax(1) == expected.argmax(1)).mean()
    departs = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert line.startswith(f'{folder}/model_int8.onnx, 15 other pictures: {same:.1%} keep their ')
    assert f'differ by {departs:.1%} (root mean square)' in line
    assert 0 < departs < 0.05
    assert re.search(r'[\d.]+ times as fast as float32 \([\d.]+ to [\d.]+ in 10 runs', line)
    told = yaml.safe_load((folder / 'export.yaml').read_text())['int8']
    assert told['same_label'] == pytest.approx(same, abs=1e-5) and told['pictures'] == 15
    assert told['rms_difference'] == pytest.approx(departs, abs=1e-4)


@needs_onnx
def test_every_linear_layer_has_the_weights_of_the_live_one_in_7_bits(quantised, trained):
    """Each output of a layer has its own scale, and no weight is farther off than half a step."""
    import onnx

    graph = onnx.load(str(quantised[0] / 'model_int8.onnx')).graph
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    stored = []
    for node in graph.node:
        if node.op_type == 'DequantizeLinear' and node.input[0] in arrays:
            whole, scale, _ = (arrays[name] for name in node.input)
            if whole.ndim == 2:
                stored.append((whole, scale))
    model = classifier(trained, 'ema')
    layers = [part for part in model.sublayers() if type(part).__name__ == 'Linear']
    assert len(layers) == 4 * len(model.blocks) + 1
    left = [layer.weight.numpy() for layer in layers]
    for whole, scale in stored:
        assert whole.dtype == np.int8 and np.abs(whole.astype(int)).max() <= 64
        for number, weight in enumerate(left):
            if weight.shape == whole.shape and np.all(abs(whole * scale - weight) <= 0.51 * scale):
                del left[number]
                break
    assert not left and len(stored) == len(layers)


@needs_onnx
def test_infer_runs_it_and_finds_the_labels_of_float32(infer, quantised, digits):
    flags = ['--resume', quantised[0], '--img_path', digits / 'val', '--json', '--engine', 'onnx']
    whole = [json.loads(line) for line in infer(*flags)]
    small = [json.loads(line) for line in infer(*flags, '--precision', 'int8')]
    best = [[one['labels'][0]['id'] for one in lines] for lines in (whole, small)]
    assert np.mean(np.equal(*best)) >= 0.8
    assert whole != small


@needs_onnx
def test_a_damaged_int8_model_is_refused_when_it_is_loaded(quantised, tmp_path):
    for file in quantised[0].iterdir():
        shutil.copy(file, tmp_path)
    about = yaml.safe_load((tmp_path / 'export.yaml').read_text())
    about['int8']['probe'][0]['first'][0] += 10 * about['int8']['probe'][0]['largest']
    exported.describe(tmp_path, about)
    with pytest.raises(InputError, match='its scores differ by'):
        exported.Exported(tmp_path, 'onnx', 'int8')


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--int8', '--int8 needs --calibration PICTURES, a folder of pictures'),
        ('--calibration {digits}', '--calibration is for --int8; give both or none'),
        ('--int8 --calibration /no', '--calibration /no: 0 pictures there; give at least 10'),
        ('--int8 --calibration {digits}/val/1', '--calibration .*pictures there; give at least 10'),
    ],
)
def test_a_wrong_calibration_is_one_line_before_anything_is_written(
    trained, digits, tmp_path, flags, message
):
    if '--int8 ' in flags and not importlib.util.find_spec('onnxruntime'):
        pytest.skip('needs requirements/export.txt')
    asked = flags.format(digits=digits).split()
    with pytest.raises(InputError, match=message) as error:
        export('--resume', trained, '--out', tmp_path / 'out', *asked)
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--resume {folder} --engine inference', 'only --engine onnx offers it'),
        ('--resume {folder} --engine onnx', 'has no model_int8.onnx; export the model with --int8'),
        ('--resume {trained}', '--precision int8 needs a folder of main_export.py --int8'),
    ],
)
def test_int8_elsewhere_is_one_line(infer, folder, trained, digits, flags, message):
    asked = flags.format(folder=folder, trained=trained).split()
    with pytest.raises(InputError, match=message):
        infer(*asked, '--img_path', digits / 'val', '--precision', 'int8')


def test_at_most_so_many_pictures_are_taken_evenly_and_none_twice(tmp_path):
    for number in range(600):
        (tmp_path / f'{number:03}.png').touch()
    calibrating, judging = quantize.halves(str(tmp_path), 3)
    assert len(calibrating) == len(judging) == quantize.MOST // 2
    numbers = sorted(int(file.stem) for file in (*calibrating, *judging))
    assert set(np.diff(numbers)) <= {2, 3} and (numbers[0], numbers[-1]) == (0, 599)
