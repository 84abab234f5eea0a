"""Files whose flags name an unknown model: the shapes, or --model, tell which model it is."""

import sys

import pytest
import yaml
from conftest import ROOT

import main_export
import main_finetune
import main_infer
from util import weights
from util.errors import InputError
from util.weights import paddle_file

sys.path.append(str(ROOT / 'demo'))
import visualize


@pytest.fixture
def renamed(tmp_path):
    """renamed(file) -> the file with another model's name among its flags."""

    def renamed(file):
        state = weights.read(file)
        state['args']['model'] = 'my_mae_v2'
        paddle_file.write(tmp_path / 'x.pd', state)
        return tmp_path / 'x.pd'

    return renamed


def run(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--device', 'cpu']))


@pytest.mark.parametrize('told', [[], ['--model', 'mae_vit_nano_patch4']], ids=['shapes', 'told'])
def test_pictures_are_reconstructed(renamed, encoder, digits, tmp_path, told):
    flags = ['--img_path', next(digits.glob('val/*/*')), '--out']
    run(visualize, '--resume', encoder, *flags, tmp_path / 'known.png')
    run(visualize, '--resume', renamed(encoder), *flags, tmp_path / 'x.png', *told)
    assert (tmp_path / 'x.png').read_bytes() == (tmp_path / 'known.png').read_bytes()


def test_a_model_of_other_shapes_is_still_refused(renamed, encoder, digits, tmp_path):
    flags = ['--img_path', next(digits.glob('val/*/*')), '--out', tmp_path / 'x.png']
    flags += ['--resume', renamed(encoder), '--model', 'mae_vit_base_patch16']
    with pytest.raises(
        InputError, match='model mae_vit_nano_patch4, but model mae_vit_base_patch16 was asked for'
    ):
        run(visualize, *flags)


@pytest.mark.parametrize('told', [[], ['--model', 'vit_nano_patch4']], ids=['shapes', 'told'])
def test_pictures_are_classified(renamed, classify, digits, capsys, told):
    file = classify(main_finetune, '--epochs', 1)[1] / 'checkpoint-0.pd'
    capsys.readouterr()
    for source, more in ((file, []), (renamed(file), told)):
        run(main_infer, '--resume', source, '--img_path', next(digits.glob('val/*/*')), *more)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and lines[1:5] == lines[6:]


def test_an_exported_model_has_a_name_that_is_known_here(renamed, encoder, tmp_path):
    run(main_export, '--resume', renamed(encoder), '--out', tmp_path / 'out')
    assert (
        yaml.safe_load((tmp_path / 'out/export.yaml').read_text())['model'] == 'mae_vit_nano_patch4'
    )
