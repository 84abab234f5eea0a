"""Programs load the files of other code bases as they load our own."""

import numpy as np
import pytest
from conftest import printed_figures

import main_finetune
import main_infer
import main_linprobe
import models_vit
import models_zoo
from util import convert, resume


@pytest.fixture(scope='module')
def pairs(encoder, classify, tmp_path_factory):
    """Our checkpoints and the same models as official PyTorch files: {name: (.pd, .pth)}."""
    folder = tmp_path_factory.mktemp('pairs')
    files = {
        'encoder': encoder,
        'classifier': classify(main_finetune, '--lr', '2e-3')[1] / 'checkpoint-latest.pd',
        'probe': classify(main_linprobe)[1] / 'checkpoint-latest.pd',
    }
    for name, file in files.items():
        convert.write(folder / f'{name}.pth', convert.read(file)[0], 'torch')
    return {name: (file, folder / f'{name}.pth') for name, file in files.items()}


@pytest.mark.parametrize('name', ['classifier', 'probe'])
def test_inference_is_the_same_from_an_official_file(pairs, digits, capsys, name):
    said = []
    for file in pairs[name]:
        main_infer.main(
            main_infer.PARSER.parse_args(
                ['--device', 'cpu', '--resume', str(file), '--img_path', str(digits), '--json']
            )
        )
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out and said[0].out.count('"probability"') == 40 * 3
    assert said[0].err == '' or 'PyTorch' not in said[0].err
    assert (
        f'{pairs[name][1]}: a ' in said[1].err and 'PyTorch, official or timm names' in said[1].err
    )


@pytest.mark.parametrize('program, name', [(main_finetune, 'classifier'), (main_linprobe, 'probe')])
def test_evaluation_is_the_same_from_an_official_file(pairs, classify, capsys, program, name):
    for file in pairs[name]:
        classify(program, '--eval', '--resume', file)
    ours, theirs = printed_figures(capsys.readouterr().out)[-2:]
    assert ours == theirs


@pytest.mark.parametrize('program', [main_finetune, main_linprobe])
def test_training_begins_the_same_from_an_official_file(pairs, classify, program):
    logs = [classify(program, '--finetune', file)[0] for file in pairs['encoder']]
    assert logs[0] == logs[1]


def test_a_masked_autoencoder_loads_from_an_official_file(pairs):
    (ours, said), (theirs, says) = (
        models_zoo.autoencoder_from(str(file)) for file in pairs['encoder']
    )
    assert said == says
    for name, tensor in ours.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), theirs.state_dict()[name].numpy())


def test_a_classifier_loads_from_a_folder_of_hugging_face(models):
    model = models_vit.VisionTransformer(32, 8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    models_zoo.assign_from(model, str(models / 'hf_token'))
    tensors = convert.read(models / 'official_token.pth')[0]['model']
    assert all(
        np.array_equal(tensor.numpy(), tensors[name]) for name, tensor in model.state_dict().items()
    )


def test_auto_resume_looks_at_our_own_checkpoints_alone(models, tmp_path):
    (tmp_path / 'checkpoint-3.pth').write_bytes((models / 'official_autoencoder.pth').read_bytes())
    assert resume.find('auto', str(tmp_path)) == {}
