"""Exported models, alone and in main_infer.py: engines that fail or disagree, damaged folders."""

# ruff: noqa: F811  fixtures of other files
import json
import shutil

import numpy as np
import paddle
import pytest
from conftest import slow
from test_main_export import assert_close, export, folder, images, saved, written  # noqa: F401
from test_main_infer import infer, trained  # noqa: F401

import models_zoo
from engine_pretrain import reconstruct
from util import exported
from util.errors import InputError


@pytest.mark.parametrize('precision, tolerance', [('fp32', 1e-5), ('bf16', 0.03)])
def test_an_exported_folder_infers_as_its_weights(
    infer, folder, trained, digits, precision, tolerance
):
    flags = ['--img_path', digits / 'val', '--json', '--topk', '3']
    live = [json.loads(line) for line in infer('--resume', trained, *flags)]
    found = [
        json.loads(line)
        for line in infer('--resume', folder, '--precision', precision, '--batch_size', 3, *flags)
    ]
    assert [one['file'] for one in found] == [one['file'] for one in live]
    for ours, theirs in zip(found, live):
        of = {label['id']: label for label in theirs['labels']}
        assert (
            ours['labels']
            == [
                {
                    'id': label['id'],
                    'names': of[label['id']]['names'],
                    'probability': pytest.approx(of[label['id']]['probability'], abs=tolerance),
                }
                for label in ours['labels']
            ]
            and len(ours['labels']) == 3
        )


def test_nothing_but_json_goes_to_stdout(run_program, folder, digits):
    flags = '--json --device cpu'.split()
    result = run_program('main_infer.py', *flags, '--resume', folder, '--img_path', digits / 'val')
    assert (
        result.returncode == 0
        and len([json.loads(line) for line in result.stdout.splitlines()]) == 10
    )


def failing(message):
    def predictor(program, params, onednn=False, bf16=False):
        if onednn:
            raise ValueError(message)
        return true(program, params)

    true = exported.predictor
    return predictor


def departing(change):
    def predictor(program, params, onednn=False, bf16=False):
        return onednn, true(program, params)

    true, outputs = exported.predictor, exported.outputs
    return predictor, lambda model, arrays: [
        change(output) if model[0] else output for output in outputs(model[1], arrays)
    ]


@pytest.mark.parametrize('off, runs', [(0.005, True), (0.05, False)])
def test_products_in_tf32_are_no_damage(folder, monkeypatch, off, runs):
    """GPUs compute float32 so from Ampere on; a stand-in gives results that are off by as much."""
    true = exported.outputs
    model = exported.predictor(folder / exported.PROGRAM, folder / exported.PARAMS)
    monkeypatch.setattr(paddle.device, 'get_device', lambda: 'gpu:0')
    monkeypatch.setattr(exported, 'predictor', lambda *args, **kwargs: model)

    def outputs(model, arrays):
        return [output + off * np.abs(output).max() for output in true(model, arrays)]

    monkeypatch.setattr(exported, 'outputs', outputs)
    if runs:
        assert exported.Exported(folder).how == 'Paddle Inference on the GPU, fp32'
    else:
        with pytest.raises(InputError, match='is it damaged'):
            exported.Exported(folder)


def test_where_onednn_fails_it_is_said_and_done_without(folder, monkeypatch):
    monkeypatch.setattr(paddle.base.core, 'supports_bfloat16', lambda: True)
    monkeypatch.setattr(
        exported, 'predictor', failing('a stack\nSomeError: the reason\n  [Hint: some]')
    )
    said = []
    model = exported.Exported(folder, precision='bf16', warn=said.append)
    said = [text for text in said if 'this processor' not in text]
    assert model.how == 'Paddle Inference, fp32' and len(said) == 2
    assert (
        'oneDNN, bf16 does not run this model (SomeError: the reason); '
        'Paddle Inference with oneDNN, fp32 ins' in said[0]
    )
    assert_close(model(images(2, 1, 16))[0], paddle.to_tensor(written(folder, images(2, 1, 16))[0]))


@pytest.mark.parametrize(
    'change', [lambda scores: 1.01 * scores, lambda scores: scores * np.nan], ids=['other', 'nan']
)
def test_where_onednn_computes_something_else_it_is_done_without(folder, monkeypatch, change):
    predictor, outputs = departing(change)
    monkeypatch.setattr(exported, 'predictor', predictor)
    monkeypatch.setattr(exported, 'outputs', outputs)
    said = []
    assert exported.Exported(folder, warn=said.append).how == 'Paddle Inference, fp32'
    assert 'its scores differ by' in said[0]


@pytest.mark.parametrize(
    'supported, fast, how, words',
    [
        (False, False, 'oneDNN, fp32', 'fp32 instead'),
        (True, False, 'oneDNN, bf16', 'slower than fp32'),
        (True, True, 'oneDNN, bf16', ''),
    ],
)
def test_a_processor_without_bfloat16_is_said(folder, monkeypatch, supported, fast, how, words):
    predictor = exported.predictor
    monkeypatch.setattr(
        exported,
        'predictor',
        lambda program, params, onednn=False, bf16=False: predictor(program, params),
    )
    monkeypatch.setattr(paddle.base.core, 'supports_bfloat16', lambda: supported)
    monkeypatch.setattr(paddle.base.core, 'supports_bfloat16_fast_performance', lambda: fast)
    said = []
    assert exported.Exported(folder, precision='bf16', warn=said.append).how.endswith(how)
    assert words in ''.join(said) and bool(words) == bool(said)


@pytest.mark.skipif(
    not paddle.base.core.supports_bfloat16(), reason='this processor has no bfloat16'
)
@pytest.mark.parametrize('name', ['vit_nano_patch4', slow('swin_nano_32'), slow('pvt_nano_32')])
def test_bfloat16_is_of_onednn_and_as_close_as_its_eight_bits(saved, tmp_path, name):
    model = models_zoo.classifier(name, num_classes=10, global_pool=True)
    model.reset_head(std=0.5)
    export('--resume', saved(model), '--out', tmp_path / 'out')
    loaded = exported.Exported(tmp_path / 'out', precision='bf16')
    assert loaded.how == 'Paddle Inference with oneDNN, bf16'
    expected = model(paddle.to_tensor(images(5))).numpy()
    assert 1e-4 < abs(loaded(images(5))[0] - expected).max() / abs(expected).max() < 0.05


@pytest.mark.slow
def test_a_model_that_onednn_cannot_run_runs(saved, tmp_path):
    """Paddle 3.3.1 computes its integers wrong; the test also holds for a Paddle that does not."""
    model = models_zoo.autoencoder('mae_swin_nano_32', norm_pix_loss=False)
    file = saved(model, args={'model': 'mae_swin_nano_32', 'norm_pix_loss': False})
    export('--resume', file, '--out', tmp_path / 'out')
    said, noise = [], np.random.default_rng(3).random([2, model.num_patches], dtype='float32')
    loaded = exported.Exported(tmp_path / 'out', warn=said.append)
    assert ('oneDNN' in loaded.how) == (not said)
    expected = reconstruct(model, paddle.to_tensor(images(2)), 0.75, paddle.to_tensor(noise))[0]
    assert_close(loaded(images(2), noise)[0], expected)


def damage(folder, name):
    file = folder / name
    if name == 'model.pdiparams':
        content = bytearray(file.read_bytes())
        content[-4000:] = bytes(4000)
        file.write_bytes(content)
    elif name == 'cut':
        file = folder / 'model.pdiparams'
        file.write_bytes(file.read_bytes()[:5000])
    elif name == 'model.json':
        file.write_text('{')
    elif name == 'classes':
        file = folder / 'export.yaml'
        file.write_text(file.read_text().replace('classes:', 'labels:'))
    else:
        file.write_text('what: classify')


@pytest.mark.parametrize(
    'name, message',
    [
        ('model.pdiparams', 'does not run this model as it was exported .its scores differ'),
        ('cut', 'is it damaged'),
        ('model.json', 'is it damaged'),
        ('export.yaml', 'is not a folder that main_export.py wrote'),
        ('classes', "is not a folder that main_export.py wrote: .*KeyError: 'classes'"),
    ],
)
def test_a_damaged_folder_is_noticed(folder, tmp_path, name, message):
    shutil.copytree(folder, tmp_path / 'out')
    damage(tmp_path / 'out', name)
    with pytest.raises(InputError, match=message) as error:
        exported.Exported(tmp_path / 'out', warn=lambda text: None)
    assert '\n' not in str(error.value)


BAD = {
    'weights': (
        '--resume {trained} --engine inference',
        '--engine inference takes a folder that main_export.py',
    ),
    'live': (
        '--resume {folder} --engine live',
        'is an exported model; --engine live takes the weights',
    ),
    'no onnx': (
        '--resume {folder} --engine onnx',
        'has no model.onnx; export the model with --onnx',
    ),
    'onnx bf16': (
        '--resume {folder} --engine onnx --precision bf16',
        '--precision bf16: --engine onnx offers fp32 and int8',
    ),
    'live bf16': (
        '--resume {trained} --precision bf16',
        '--precision bf16 is for folders of main_export.py',
    ),
    'size': (
        '--resume {folder} --input_size 32',
        'has input_size 16, but input_size 32 was asked for',
    ),
    'classes': (
        '--resume {folder} --nb_classes 4',
        'has nb_classes 3, but nb_classes 4 was asked for',
    ),
    'no params': ('--resume {cut}', 'has no model.pdiparams; export the model again'),
    'features': ('--resume {features}', 'was exported to features, which gives no classes'),
}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_what_main_infer_cannot_do_is_said(
    infer, folder, trained, digits, tmp_path, flags, message
):
    for name in ('cut', 'features'):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / 'cut/model.pdiparams').unlink()
    about = (tmp_path / 'features/export.yaml').read_text()
    (tmp_path / 'features/export.yaml').write_text(
        about.replace('what: classify', 'what: features')
    )
    named = {
        'trained': trained,
        'folder': folder,
        'cut': tmp_path / 'cut',
        'features': tmp_path / 'features',
    }
    with pytest.raises(InputError) as error:
        infer('--img_path', digits / 'val/1/30.png', *flags.format(**named).split())
    assert message in str(error.value) and '\n' not in str(error.value)
