"""Exported models against the live ones."""

# ruff: noqa: F811  fixtures of another file
import hashlib
import importlib.util
import shutil
import sys

import numpy as np
import paddle
import pytest
import yaml
from conftest import classifier, slow
from test_main_infer import trained  # noqa: F401

import layer
import main_export
import models_features
import models_zoo
from engine_pretrain import reconstruct
from util import exported, weights
from util.errors import InputError

HAS_ONNX = importlib.util.find_spec('onnxruntime') and importlib.util.find_spec('paddle2onnx')


def export(*flags):
    main_export.main(main_export.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))


def written(folder, *arrays):
    """The outputs of the exported files by Paddle's own loader."""
    outputs = paddle.jit.load(str(folder / 'model'))(*map(paddle.to_tensor, arrays))
    return [
        output.numpy() for output in (outputs if isinstance(outputs, list | tuple) else [outputs])
    ]


def test_a_paddle_for_gpus_writes_what_onnx_knows(monkeypatch, tmp_path):
    """There a linear layer is traced as linear_v2, for which paddle2onnx has no mapper."""
    monkeypatch.setattr(paddle, 'is_compiled_with_cuda', lambda: True)
    exported.save(layer.Mlp(4, 8), {'x': [None, 4]}, tmp_path)
    program = (tmp_path / exported.PROGRAM).read_text()
    assert 'linear_v2' not in program and 'matmul' in program
    assert paddle.get_flags('FLAGS_use_legacy_linear') == {'FLAGS_use_legacy_linear': False}


def images(count, channels=3, side=32):
    return np.random.default_rng(7).standard_normal([count, channels, side, side], dtype='float32')


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6 * float(expected.abs().max()))


@pytest.fixture
def saved(tmp_path):
    """saved(model) -> a file of its weights, and the model for inference."""

    def saved(model, **more):
        file = tmp_path / 'weights.pd'
        paddle.save({'model': model.state_dict(), **more}, str(file))
        model.eval()
        return file

    return saved


@pytest.fixture(scope='module')
def folder(trained, tmp_path_factory):
    """The classifier of three digits, exported."""
    folder = tmp_path_factory.mktemp('exported')
    export('--resume', trained, '--out', folder)
    return folder


# the files


@pytest.mark.parametrize(
    'name, probe',
    [
        ('vit_nano_patch4', False),
        ('vit_nano_patch4', True),
        slow('swin_nano_32', False),
        ('pvt_nano_32', False),
        slow('pvt_nano_32', True),
    ],
)
def test_an_exported_classifier_scores_any_number_of_images_as_the_live_one(
    saved, tmp_path, capsys, name, probe
):
    model = models_zoo.classifier(
        name, num_classes=10, global_pool=not (probe and name.startswith('vit'))
    )
    model.reset_head(std=0.5)
    if probe:
        model.probe()
        model.head[0]._mean.set_value(paddle.randn(model.head[0]._mean.shape))
    export('--resume', saved(model), '--out', tmp_path / 'out')
    for count in (1, 2, 5):
        (scores,) = written(tmp_path / 'out', images(count))
        assert scores.shape == (count, 10)
        assert_close(scores, model(paddle.to_tensor(images(count))))
    _, line, *_ = capsys.readouterr().out.splitlines()  # after the line of the device
    assert line.startswith(f'classify, {name}: {tmp_path / "out"} differs from the live model by ')
    assert float(line.split(' by ')[1].split()[0]) < 1e-5


@pytest.mark.parametrize(
    'name, kwargs',
    [
        ('mae_vit_nano_patch4', {'norm_pix_loss': True}),
        slow('mae_vit_nano_patch4', {'norm_pix_loss': False}),
        ('mae_vit_nano_patch4', {'norm_pix_loss': True, 'mask_ratio': 0.5}),
        slow('mae_swin_nano_32', {'norm_pix_loss': True}),
        slow('mae_pvt_nano_32', {'norm_pix_loss': True}),
        slow('simmim_swin_nano_32', {'norm_pix_loss': False}),
    ],
)
def test_an_exported_autoencoder_reconstructs_as_the_live_one(saved, tmp_path, name, kwargs):
    ratio, norm_pix_loss = kwargs.get('mask_ratio', 0.75), kwargs['norm_pix_loss']
    model = models_zoo.autoencoder(name, norm_pix_loss=norm_pix_loss)
    file = saved(model, args={'model': name, 'norm_pix_loss': norm_pix_loss})
    export('--resume', file, '--out', tmp_path / 'out', '--mask_ratio', ratio)
    for count in (1, 4):
        noise = np.random.default_rng(3).random([count, model.num_patches], dtype='float32')
        found = written(tmp_path / 'out', images(count), noise)
        expected = reconstruct(
            model, paddle.to_tensor(images(count)), ratio, paddle.to_tensor(noise)
        )
        assert found[0].shape == (count, 3, 32, 32)
        assert_close(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1].numpy())
        assert found[1].mean() == ratio
    about = yaml.safe_load((tmp_path / 'out/export.yaml').read_text())
    assert about['inputs']['noise'] == [None, model.num_patches]
    assert about['outputs'] == ['pixels', 'mask']
    assert (about['mask_ratio'], about['norm_pix_loss']) == (ratio, norm_pix_loss)


def test_secondary_masking_is_left_out_of_reconstructions(saved, tmp_path):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=False, vis_mask_ratio=0.25)
    model.vis_mask_token.set_value(paddle.ones_like(model.vis_mask_token))
    file = saved(
        model, args={'model': 'mae_vit_nano_patch4', 'norm_pix_loss': False, 'vis_mask_ratio': 0.25}
    )
    export('--resume', file, '--out', tmp_path / 'out')
    noise = np.random.default_rng(3).random([2, 64], dtype='float32')
    model.vis_mask_ratio = 0
    expected = reconstruct(model, paddle.to_tensor(images(2)), 0.75, paddle.to_tensor(noise))[0]
    for _ in range(2):
        assert_close(written(tmp_path / 'out', images(2), noise)[0], expected)


def test_features_of_an_autoencoder_are_its_class_token_with_nothing_removed(saved, tmp_path):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=True)
    export('--resume', saved(model), '--out', tmp_path / 'out', '--what', 'features')
    (found,) = written(tmp_path / 'out', images(2))
    latent = model.forward_encoder(
        paddle.to_tensor(images(2)), 0.0, paddle.arange(64, dtype='float32').expand([2, 64])
    )[0]
    assert_close(found, latent[:, 0])


@pytest.mark.parametrize('name', ['vit_nano_patch4', slow('swin_nano_32')])
def test_features_of_a_classifier_are_what_its_head_sees(saved, tmp_path, name):
    model = models_zoo.classifier(name, num_classes=10, global_pool=True)
    model.reset_head(std=0.5)
    export('--resume', saved(model), '--out', tmp_path / 'out', '--what', 'features')
    (found,) = written(tmp_path / 'out', images(3))
    np.testing.assert_allclose(
        found @ model.head.weight.numpy() + model.head.bias.numpy(),
        model(paddle.to_tensor(images(3))).numpy(),
        atol=1e-5,
    )


def test_an_encoder_alone_gives_features(official_encoder, tmp_path):
    export('--resume', official_encoder, '--out', tmp_path / 'out')
    about = yaml.safe_load((tmp_path / 'out/export.yaml').read_text())
    assert about['what'] == 'features'
    assert written(tmp_path / 'out', images(2, 1, 16))[0].shape == (2, 96)


@pytest.fixture
def official_encoder(encoder, tmp_path):
    """The encoder of a checkpoint, without its decoder."""
    tensors = {
        name: tensor
        for name, tensor in weights.read(encoder)['model'].items()
        if not name.startswith('decoder_') and name != 'mask_token'
    }
    paddle.save(tensors, str(tmp_path / 'encoder.pd'))
    return tmp_path / 'encoder.pd'


def test_the_description_says_what_goes_in_and_where_it_comes_from(folder, trained):
    about = yaml.safe_load((folder / 'export.yaml').read_text())
    expected = {
        'what': 'classify',
        'model': 'vit_nano_patch4',
        'input_size': 16,
        'in_chans': 1,
        'resize': 18,
        'mean': [0.3],
        'std': [0.4],
        'classes': [['0'], ['1'], ['2']],
    }
    assert {name: about[name] for name in expected} == expected
    assert about['inputs'] == {'images': [None, 1, 16, 16]} and about['outputs'] == ['scores']
    assert about['source'] == {
        'file': trained.name,
        'sha256': hashlib.sha256(trained.read_bytes()).hexdigest(),
    }
    names = {file.name for file in folder.iterdir()}
    assert names == {'model.json', 'model.pdiparams', 'export.yaml'}


def test_the_kept_numbers_are_the_live_models(folder, trained):
    known = exported.known_input({'images': [None, 1, 16, 16]})[0]
    assert abs(known).max() < 1 and known.std() > 0.5 and len(np.unique(known)) == known.size
    scores = classifier(trained, 'ema')(paddle.to_tensor(known)).numpy()
    (kept,) = yaml.safe_load((folder / 'export.yaml').read_text())['probe']
    np.testing.assert_allclose(kept['first'], scores[0], atol=1e-5)
    assert kept['largest'] == pytest.approx(abs(scores).max(), rel=1e-5)


def test_a_model_that_differs_is_not_kept_and_what_was_there_stays(
    folder, trained, tmp_path, monkeypatch
):
    shutil.copytree(folder, tmp_path / 'out')
    before = {file.name: file.read_bytes() for file in (tmp_path / 'out').iterdir()}
    true = exported.outputs
    monkeypatch.setattr(
        exported, 'outputs', lambda *args: [1.001 * output for output in true(*args)]
    )
    with pytest.raises(RuntimeError, match='differs from the live one by 1.0e-03'):
        export('--resume', trained, '--out', tmp_path / 'out')
    assert {file.name: file.read_bytes() for file in (tmp_path / 'out').iterdir()} == before


# ONNX


@pytest.mark.skipif(not HAS_ONNX, reason='needs requirements/export.txt')
@pytest.mark.parametrize(
    'name',
    ['vit_nano_patch4', slow('swin_nano_32'), slow('pvt_nano_32'), slow('mae_vit_nano_patch4')],
)
def test_onnx_equals_the_live_model(saved, tmp_path, name):
    if name.startswith('mae_'):
        model = models_zoo.autoencoder(name, norm_pix_loss=True)
    else:
        model = models_zoo.classifier(name, num_classes=10, global_pool=True)
        model.reset_head(std=0.5)
    export(
        '--resume',
        saved(model, args={'model': name, 'norm_pix_loss': True}),
        '--out',
        tmp_path / 'out',
        '--onnx',
    )
    loaded = exported.Exported(tmp_path / 'out', 'onnx')
    for count in (1, 2, 5):
        if name.startswith('mae_'):
            noise = np.random.default_rng(3).random([count, 64], dtype='float32')
            found = loaded(images(count), noise)[0]
            expected = reconstruct(
                model, paddle.to_tensor(images(count)), 0.75, paddle.to_tensor(noise)
            )[0]
        else:
            found, expected = loaded(images(count))[0], model(paddle.to_tensor(images(count)))
        assert_close(found, expected)


@pytest.mark.skipif(not HAS_ONNX, reason='needs requirements/export.txt')
def test_what_paddle2onnx_cannot_convert_is_said_in_one_line(trained, tmp_path, monkeypatch):
    def fail(file):
        raise RuntimeError('Tile.0: wrong length\n  [Hint: a stack]')

    monkeypatch.setattr(exported.onnx_file, 'repair', fail)
    expected = (
        r'cannot convert this model .Tile.0: wrong length.; what Paddle Inference needs is in'
    )
    with pytest.raises(InputError, match=expected) as error:
        export('--resume', trained, '--out', tmp_path / 'out', '--onnx')
    assert '\n' not in str(error.value)
    names = {file.name for file in (tmp_path / 'out').iterdir()}
    assert names == {'model.json', 'model.pdiparams', 'export.yaml'}


def test_onnx_without_its_packages_is_said(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(InputError, match='ONNX needs the packages in requirements/export.txt'):
        export('--resume', trained, '--out', tmp_path, '--onnx')
    (tmp_path / 'model.onnx').touch()
    with pytest.raises(InputError, match='ONNX needs the packages in requirements/export.txt'):
        exported.Exported(tmp_path, 'onnx')
    export('--resume', trained, '--out', tmp_path)
    assert not (tmp_path / 'model.onnx').exists()  # it belonged to the model before


# errors


@pytest.mark.parametrize(
    'flags, message',
    [
        (
            '--resume {encoder} --what classify',
            '{encoder} holds a masked autoencoder, which has no classes',
        ),
        (
            '--resume {trained} --what reconstruct',
            '{trained} holds .* has no decoder and cannot reconstruct',
        ),
        (
            '--resume {trained} --input_size 32',
            '{trained} has input_size 16, but input_size 32 was asked for',
        ),
        ('--resume {encoder} --mask_ratio 0', '--mask_ratio 0.0 keeps 16 of 16 patches'),
        ('--resume {segmentor}', 'holds a .*seg/export.py is for that'),
        ('--resume /nowhere', '/nowhere: no such file'),
    ],
)
def test_bad_input_is_named(encoder, trained, models, tmp_path, flags, message):
    named = {'encoder': encoder, 'trained': trained, 'segmentor': models / 'mmseg_upernet.pth'}
    with pytest.raises(InputError, match=message.format(**named)) as error:
        export('--out', tmp_path / 'out', *flags.format(**named).split())
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_2(run_program, trained):
    result = run_program('main_export.py', '--resume', trained, '--out', trained, '--device', 'cpu')
    (error,) = (line for line in result.stderr.splitlines() if 'error' in line)
    assert result.returncode == 2
    assert error.startswith(f'main_export.py: error: --out {trained}: cannot write')
    assert 'Traceback' not in result.stderr


@pytest.mark.parametrize('what', ['classify', 'features', 'reconstruct', 'live'])
def test_a_weight_file_is_read_once(encoder, trained, monkeypatch, what):
    files = []
    read = weights.read
    monkeypatch.setattr(weights, 'read', lambda path: files.append(path) or read(path))
    file = encoder if what == 'reconstruct' else trained
    if what == 'live':
        models_features.model_from(str(file))
    else:
        flags = ['--device', 'cpu', '--resume', str(file), '--out', 'unused', '--what', what]
        main_export.build(main_export.PARSER.parse_args(flags))
    assert files == [file]
