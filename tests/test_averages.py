"""Files with plain weights and an average of them: which is loaded, and how to load the other."""

import numpy as np
import pytest

import hubconf
import main_export
import main_finetune
import main_infer
import main_linprobe
import main_parity
import models_features
import models_zoo
from util import convert, weights
from util.convert import __main__ as converter
from util.convert import names
from util.errors import InputError
from util.weights import paddle_file, torch_file

PAIRS = pytest.mark.parametrize(
    'plain, average', [('model', 'model_ema'), ('state_dict', 'state_dict_ema')]
)


@PAIRS
def test_the_plain_weights_are_taken_with_a_line_unless_asked(
    official, tmp_path, capsys, plain, average
):
    model = official(names.ENCODER)['model']
    twice = {f'module.{name}': array * 2 for name, array in model.items()}
    torch_file.write(tmp_path / 'x.pth', {plain: model, average: twice})
    for flags, factor, taken, other in (
        ([], 1, plain, average),
        (['--use_ema'], 2, average, plain),
    ):
        converter.main(
            converter.PARSER.parse_args([str(tmp_path / 'x.pth'), str(tmp_path / 'y.pd'), *flags])
        )
        for name, array in weights.read(tmp_path / 'y.pd')['model'].items():
            np.testing.assert_array_equal(
                array, convert.read(tmp_path / 'x.pth')[0]['model'][name] * factor
            )
        assert f"holds '{taken}' and '{other}'; '{taken}' is taken" in capsys.readouterr().err


@PAIRS
def test_an_average_alone_is_read(official, tmp_path, capsys, plain, average):
    model = official(names.ENCODER)['model']
    torch_file.write(tmp_path / 'x.pth', {average: model, 'epoch': 3})
    state, report = convert.read(tmp_path / 'x.pth')
    assert (
        state['model'].keys() == model.keys()
        and state['epoch'] == 3
        and 'averaged weights' in report.format
    )
    assert 'is taken' not in capsys.readouterr().err


@pytest.mark.parametrize(
    'read',
    [
        lambda file: models_zoo.classifier_from(file)[0],
        lambda file: models_features.model_from(file)[0],
        lambda file: hubconf.vit_nano_patch4(weights=file),
    ],
)
def test_a_classifier_is_read_once(tmp_path, capsys, monkeypatch, read):
    model = models_zoo.classifier('vit_nano_patch4', img_size=8, num_classes=3, global_pool=True)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    flags = {'model': 'vit_nano_patch4', 'input_size': 8}
    paddle_file.write(tmp_path / 'x.pd', {'model': tensors, 'model_ema': tensors, 'args': flags})
    reading = []
    once = weights.read
    monkeypatch.setattr(weights, 'read', lambda path: reading.append(path) or once(path))
    assert read(str(tmp_path / 'x.pd')).head.bias.shape == [3]
    assert len(reading) == 1
    assert capsys.readouterr().err.count("'model' is taken") == 1


def test_an_average_that_is_not_there_is_missed(official, tmp_path):
    torch_file.write(tmp_path / 'x.pth', {'model': official(names.ENCODER)['model']})
    with pytest.raises(InputError, match='--use_ema: .*x.pth holds no average'):
        convert.read(tmp_path / 'x.pth', use_ema=True)


def test_every_program_takes_the_average_where_it_is_asked(classify, encoder, digits, tmp_path):
    """Each program finds by itself that the average is empty."""
    file = classify(main_finetune, '--epochs', 1)[1] / 'checkpoint-0.pd'
    for source, runs in (
        (
            file,
            (
                (main_infer, ['--img_path', digits, '--resume']),
                (main_export, ['--out', tmp_path / 'out', '--resume']),
                (main_parity, ['--python', '/bin/sh']),
            ),
        ),
    ):
        paddle_file.write(
            tmp_path / 'x.pd', {'model': weights.read(source)['model'], 'model_ema': {}}
        )
        for program, flags in runs:
            flags = [*map(str, flags), str(tmp_path / 'x.pd'), '--use_ema', '--device', 'cpu']
            with pytest.raises(InputError, match='holds no weights'):
                program.main(program.PARSER.parse_args(flags))
    for program, flags in (
        (main_finetune, ['--finetune', tmp_path / 'x.pd']),
        (main_linprobe, ['--finetune', tmp_path / 'x.pd']),
        (main_finetune, ['--eval', '--resume', tmp_path / 'x.pd']),
    ):
        with pytest.raises(InputError, match='holds no weights'):
            classify(program, *flags, '--use_ema')
