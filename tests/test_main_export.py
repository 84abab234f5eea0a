"""Exported models against the live ones, and what main_infer.py makes of them."""
import hashlib
import importlib.util
import json
import shutil
import sys

import numpy as np
import paddle
import pytest
import yaml
from conftest import classifier
from test_main_infer import infer, trained  # noqa: F401  fixtures

import main_export
import models_zoo
from engine_pretrain import reconstruct
from util import exported, weights
from util.errors import InputError

HAS_ONNX = importlib.util.find_spec('onnxruntime') and importlib.util.find_spec('paddle2onnx')


def export(*flags):
    main_export.main(main_export.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))


def written(folder, *arrays):
    """What Paddle's own loader makes of the exported files."""
    outputs = paddle.jit.load(str(folder / 'model'))(*map(paddle.to_tensor, arrays))
    return [output.numpy() for output in (outputs if isinstance(outputs, list | tuple) else [outputs])]


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
def folder(trained, tmp_path_factory):  # noqa: F811
    """The classifier of three digits, exported."""
    folder = tmp_path_factory.mktemp('exported')
    export('--resume', trained, '--out', folder)
    return folder


# what is written

@pytest.mark.parametrize('name, probe', [('vit_nano_patch4', False), ('vit_nano_patch4', True), ('swin_nano_32', False),
                                         ('pvt_nano_32', False), ('pvt_nano_32', True)])
def test_an_exported_classifier_gives_the_scores_of_the_live_one_for_any_number_of_images(saved, tmp_path, capsys, name, probe):
    model = models_zoo.classifier(name, num_classes=10, global_pool=not (probe and name.startswith('vit')))
    model.reset_head(std=0.5)
    if probe:
        model.probe()
        model.head[0]._mean.set_value(paddle.randn(model.head[0]._mean.shape))
    export('--resume', saved(model), '--out', tmp_path / 'out')
    for count in (1, 2, 5):
        scores, = written(tmp_path / 'out', images(count))
        assert scores.shape == (count, 10)
        assert_close(scores, model(paddle.to_tensor(images(count))))
    line = capsys.readouterr().out
    assert line.startswith(f'classify, {name}: {tmp_path / "out"} differs') and float(line.split(' by ')[1].split()[0]) < 1e-5


@pytest.mark.parametrize('name, kwargs', [
    ('mae_vit_nano_patch4', {'norm_pix_loss': True}), ('mae_vit_nano_patch4', {'norm_pix_loss': False}),
    ('mae_vit_nano_patch4', {'norm_pix_loss': True, 'mask_ratio': 0.5}), ('mae_swin_nano_32', {'norm_pix_loss': True}),
    ('mae_pvt_nano_32', {'norm_pix_loss': True}), ('simmim_swin_nano_32', {'norm_pix_loss': False})])
def test_an_exported_autoencoder_reconstructs_as_the_live_one(saved, tmp_path, name, kwargs):
    ratio, norm_pix_loss = kwargs.get('mask_ratio', 0.75), kwargs['norm_pix_loss']
    model = models_zoo.autoencoder(name, norm_pix_loss=norm_pix_loss)
    file = saved(model, args={'model': name, 'norm_pix_loss': norm_pix_loss})
    export('--resume', file, '--out', tmp_path / 'out', '--mask_ratio', ratio)
    for count in (1, 4):
        noise = np.random.default_rng(3).random([count, model.num_patches], dtype='float32')
        found = written(tmp_path / 'out', images(count), noise)
        expected = reconstruct(model, paddle.to_tensor(images(count)), ratio, paddle.to_tensor(noise))
        assert found[0].shape == (count, 3, 32, 32)
        assert_close(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1].numpy())
        assert found[1].mean() == ratio
    about = yaml.safe_load((tmp_path / 'out/export.yaml').read_text())
    assert about['inputs']['noise'] == [None, model.num_patches] and about['outputs'] == ['pixels', 'mask']
    assert (about['mask_ratio'], about['norm_pix_loss']) == (ratio, norm_pix_loss)


def test_secondary_masking_is_left_out_of_reconstructions(saved, tmp_path):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=False, vis_mask_ratio=0.25)
    model.vis_mask_token.set_value(paddle.ones_like(model.vis_mask_token))
    file = saved(model, args={'model': 'mae_vit_nano_patch4', 'norm_pix_loss': False, 'vis_mask_ratio': 0.25})
    export('--resume', file, '--out', tmp_path / 'out')
    noise = np.random.default_rng(3).random([2, 64], dtype='float32')
    model.vis_mask_ratio = 0
    expected = reconstruct(model, paddle.to_tensor(images(2)), 0.75, paddle.to_tensor(noise))[0]
    for _ in range(2):
        assert_close(written(tmp_path / 'out', images(2), noise)[0], expected)


def test_features_of_an_autoencoder_are_its_class_token_with_nothing_removed(saved, tmp_path):
    model = models_zoo.autoencoder('mae_vit_nano_patch4', norm_pix_loss=True)
    export('--resume', saved(model), '--out', tmp_path / 'out', '--what', 'features')
    found, = written(tmp_path / 'out', images(2))
    latent = model.forward_encoder(paddle.to_tensor(images(2)), 0.0, paddle.arange(64, dtype='float32').expand([2, 64]))[0]
    assert_close(found, latent[:, 0])


@pytest.mark.parametrize('name', ['vit_nano_patch4', 'swin_nano_32'])
def test_features_of_a_classifier_are_what_its_head_sees(saved, tmp_path, name):
    model = models_zoo.classifier(name, num_classes=10, global_pool=True)
    model.reset_head(std=0.5)
    export('--resume', saved(model), '--out', tmp_path / 'out', '--what', 'features')
    found, = written(tmp_path / 'out', images(3))
    np.testing.assert_allclose(found @ model.head.weight.numpy() + model.head.bias.numpy(),
                               model(paddle.to_tensor(images(3))).numpy(), atol=1e-5)


def test_an_encoder_alone_gives_features(official_encoder, tmp_path):
    export('--resume', official_encoder, '--out', tmp_path / 'out')
    about = yaml.safe_load((tmp_path / 'out/export.yaml').read_text())
    assert about['what'] == 'features' and written(tmp_path / 'out', images(2, 1, 16))[0].shape == (2, 96)


@pytest.fixture
def official_encoder(encoder, tmp_path):
    """The encoder of a checkpoint, without its decoder."""
    tensors = {name: tensor for name, tensor in weights.read(encoder)['model'].items()
               if not name.startswith('decoder_') and name != 'mask_token'}
    paddle.save(tensors, str(tmp_path / 'encoder.pd'))
    return tmp_path / 'encoder.pd'


def test_the_description_says_what_goes_in_and_where_it_comes_from(folder, trained):  # noqa: F811
    about = yaml.safe_load((folder / 'export.yaml').read_text())
    assert {name: about[name] for name in ('what', 'model', 'input_size', 'in_chans', 'resize', 'mean', 'std', 'classes')} == {
        'what': 'classify', 'model': 'vit_nano_patch4', 'input_size': 16, 'in_chans': 1, 'resize': 18, 'mean': [0.3],
        'std': [0.4], 'classes': [['0'], ['1'], ['2']]}
    assert about['inputs'] == {'images': [None, 1, 16, 16]} and about['outputs'] == ['scores']
    assert about['source'] == {'file': trained.name, 'sha256': hashlib.sha256(trained.read_bytes()).hexdigest()}
    assert {file.name for file in folder.iterdir()} == {'model.json', 'model.pdiparams', 'export.yaml'}


def test_the_kept_numbers_are_the_live_models(folder, trained):  # noqa: F811
    known = exported.known_input({'images': [None, 1, 16, 16]})[0]
    assert abs(known).max() < 1 and known.std() > 0.5 and len(np.unique(known)) == known.size
    scores = classifier(trained, 'ema')(paddle.to_tensor(known)).numpy()
    kept, = yaml.safe_load((folder / 'export.yaml').read_text())['probe']
    np.testing.assert_allclose(kept['first'], scores[0], atol=1e-5)
    assert kept['largest'] == pytest.approx(abs(scores).max(), rel=1e-5)


def test_a_model_that_differs_is_not_kept_and_what_was_there_stays(folder, trained, tmp_path, monkeypatch):  # noqa: F811
    shutil.copytree(folder, tmp_path / 'out')
    before = {file.name: file.read_bytes() for file in (tmp_path / 'out').iterdir()}
    true = exported.outputs
    monkeypatch.setattr(exported, 'outputs', lambda *args: [1.001 * output for output in true(*args)])
    with pytest.raises(RuntimeError, match='differs from the live one by 1.0e-03'):
        export('--resume', trained, '--out', tmp_path / 'out')
    assert {file.name: file.read_bytes() for file in (tmp_path / 'out').iterdir()} == before


# ONNX

@pytest.mark.skipif(not HAS_ONNX, reason='needs requirements/export.txt')
@pytest.mark.parametrize('name', ['vit_nano_patch4', 'swin_nano_32', 'pvt_nano_32', 'mae_vit_nano_patch4'])
def test_onnx_equals_the_live_model(saved, tmp_path, name):
    if name.startswith('mae_'):
        model = models_zoo.autoencoder(name, norm_pix_loss=True)
    else:
        model = models_zoo.classifier(name, num_classes=10, global_pool=True)
        model.reset_head(std=0.5)
    export('--resume', saved(model, args={'model': name, 'norm_pix_loss': True}), '--out', tmp_path / 'out', '--onnx')
    loaded = exported.Exported(tmp_path / 'out', 'onnx')
    for count in (1, 2, 5):
        if name.startswith('mae_'):
            noise = np.random.default_rng(3).random([count, 64], dtype='float32')
            found = loaded(images(count), noise)[0]
            expected = reconstruct(model, paddle.to_tensor(images(count)), 0.75, paddle.to_tensor(noise))[0]
        else:
            found, expected = loaded(images(count))[0], model(paddle.to_tensor(images(count)))
        assert_close(found, expected)


@pytest.mark.skipif(not HAS_ONNX, reason='needs requirements/export.txt')
@pytest.mark.parametrize('name, node', [('mae_swin_nano_32', 'DepthToSpace'), ('simmim_pvt_nano_32', 'Tile')])
def test_what_paddle2onnx_cannot_convert_is_said_in_one_line(saved, tmp_path, name, node):
    file = saved(models_zoo.autoencoder(name, norm_pix_loss=False), args={'model': name, 'norm_pix_loss': False})
    with pytest.raises(InputError, match=f'cannot convert this model .*{node}.*Paddle Inference needs is in') as error:
        export('--resume', file, '--out', tmp_path / 'out', '--onnx')
    assert '\n' not in str(error.value)
    assert {file.name for file in (tmp_path / 'out').iterdir()} == {'model.json', 'model.pdiparams', 'export.yaml'}


def test_onnx_without_its_packages_is_said(trained, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(InputError, match='ONNX needs what is in requirements/export.txt'):
        export('--resume', trained, '--out', tmp_path, '--onnx')
    (tmp_path / 'model.onnx').touch()
    with pytest.raises(InputError, match='ONNX needs what is in requirements/export.txt'):
        exported.Exported(tmp_path, 'onnx')
    export('--resume', trained, '--out', tmp_path)
    assert not (tmp_path / 'model.onnx').exists()  # it was of the model before


# main_infer.py

@pytest.mark.parametrize('precision, tolerance', [('fp32', 1e-5), ('bf16', 0.03)])
def test_an_exported_folder_infers_as_its_weights(infer, folder, trained, digits, precision, tolerance):  # noqa: F811
    flags = ['--img_path', digits / 'val', '--json', '--topk', '3']
    live = [json.loads(line) for line in infer('--resume', trained, *flags)]
    found = [json.loads(line) for line in infer('--resume', folder, '--precision', precision, '--batch_size', 3, *flags)]
    assert [one['file'] for one in found] == [one['file'] for one in live]
    for ours, theirs in zip(found, live):
        of = {label['id']: label for label in theirs['labels']}
        assert ours['labels'] == [{'id': label['id'], 'names': of[label['id']]['names'], 'probability': pytest.approx(
            of[label['id']]['probability'], abs=tolerance)} for label in ours['labels']] and len(ours['labels']) == 3


def failing(message):
    def predictor(program, params, onednn=False, bf16=False):
        if onednn:
            raise ValueError(message)
        return true(program, params)
    true = exported.predictor
    return predictor


def departing(arrays_of):
    def predictor(program, params, onednn=False, bf16=False):
        return onednn, true(program, params)
    true, outputs = exported.predictor, exported.outputs
    return predictor, lambda model, arrays: [arrays_of(output) if model[0] else output for output in outputs(model[1], arrays)]


def test_where_onednn_fails_it_is_said_and_done_without(folder, monkeypatch):
    monkeypatch.setattr(exported, 'predictor', failing('the reason\nand more'))
    said = []
    model = exported.Exported(folder, precision='bf16', warn=said.append)
    assert model.how == 'Paddle Inference, fp32' and len(said) == 2
    assert 'oneDNN, bf16 does not run this model (the reason and more); Paddle Inference with oneDNN, fp32 instead' in said[0]
    assert_close(model(images(2, 1, 16))[0], paddle.to_tensor(written(folder, images(2, 1, 16))[0]))


@pytest.mark.parametrize('change', [lambda scores: 1.01 * scores, lambda scores: scores * np.nan], ids=['other', 'nan'])
def test_where_onednn_computes_something_else_it_is_done_without(folder, monkeypatch, change):
    predictor, outputs = departing(change)
    monkeypatch.setattr(exported, 'predictor', predictor)
    monkeypatch.setattr(exported, 'outputs', outputs)
    said = []
    assert exported.Exported(folder, warn=said.append).how == 'Paddle Inference, fp32'
    assert 'its scores differ by' in said[0]


def test_a_pyramid_runs_whatever_onednn_makes_of_it(saved, tmp_path):
    """Paddle 3.3.1 has no bfloat16 for these; should it have one day, this holds as well."""
    model = models_zoo.classifier('swin_nano_32', num_classes=10, global_pool=True)
    model.reset_head(std=0.5)
    export('--resume', saved(model), '--out', tmp_path / 'out')
    said = []
    loaded = exported.Exported(tmp_path / 'out', precision='bf16', warn=said.append)
    assert ('bf16' in loaded.how) == (not said)
    expected = model(paddle.to_tensor(images(5))).numpy()
    assert abs(loaded(images(5))[0] - expected).max() < 0.05 * abs(expected).max()


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
    else:
        file.write_text('what: classify')


@pytest.mark.parametrize('name, message', [
    ('model.pdiparams', 'does not run this model as it was exported .its scores differ'), ('cut', 'is it damaged'),
    ('model.json', 'is it damaged'), ('export.yaml', 'is no folder that main_export.py wrote')])
def test_a_damaged_folder_is_noticed(folder, tmp_path, name, message):
    shutil.copytree(folder, tmp_path / 'out')
    damage(tmp_path / 'out', name)
    with pytest.raises(InputError, match=message) as error:
        exported.Exported(tmp_path / 'out', warn=lambda text: None)
    assert '\n' not in str(error.value)


BAD = {
    'weights': ('--resume {trained} --engine inference', '--engine inference takes a folder that main_export.py has written'),
    'live': ('--resume {folder} --engine live', 'is an exported model; --engine live takes the weights'),
    'no onnx': ('--resume {folder} --engine onnx', 'has no model.onnx; export the model with --onnx'),
    'onnx bf16': ('--resume {folder} --engine onnx --precision bf16', '--precision bf16: with --engine onnx there is fp32'),
    'live bf16': ('--resume {trained} --precision bf16', '--precision bf16: on a CPU the live model has float32 alone'),
    'size': ('--resume {folder} --input_size 32', 'has input_size 16, but input_size 32 was asked for'),
    'classes': ('--resume {folder} --nb_classes 4', 'has nb_classes 3, but nb_classes 4 was asked for'),
    'no params': ('--resume {cut}', 'has no model.pdiparams; export the model again'),
    'features': ('--resume {features}', 'was exported to features, which gives no classes')}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_what_main_infer_cannot_do_is_said(infer, folder, trained, digits, tmp_path, flags, message):  # noqa: F811
    for name in ('cut', 'features'):
        shutil.copytree(folder, tmp_path / name)
    (tmp_path / 'cut/model.pdiparams').unlink()
    about = (tmp_path / 'features/export.yaml').read_text()
    (tmp_path / 'features/export.yaml').write_text(about.replace('what: classify', 'what: features'))
    named = {'trained': trained, 'folder': folder, 'cut': tmp_path / 'cut', 'features': tmp_path / 'features'}
    with pytest.raises(InputError) as error:
        infer('--img_path', digits / 'val/1/30.png', *flags.format(**named).split())
    assert message in str(error.value) and '\n' not in str(error.value)


# errors

@pytest.mark.parametrize('flags, message', [
    ('--resume {encoder} --what classify', '{encoder} holds a masked autoencoder, which has no classes'),
    ('--resume {trained} --what reconstruct', '{trained} holds .* has no decoder and cannot reconstruct'),
    ('--resume {trained} --input_size 32', '{trained} has input_size 16, but input_size 32 was asked for'),
    ('--resume {encoder} --mask_ratio 0', '--mask_ratio 0.0 keeps 16 of 16 patches'),
    ('--resume {segmentor}', 'holds a .*seg/export.py is for that'),
    ('--resume /nowhere', '/nowhere: no such file')])
def test_bad_input_is_named(encoder, trained, models, tmp_path, flags, message):  # noqa: F811
    named = {'encoder': encoder, 'trained': trained, 'segmentor': models / 'mmseg_upernet.pth'}
    with pytest.raises(InputError, match=message.format(**named)) as error:
        export('--out', tmp_path / 'out', *flags.format(**named).split())
    assert '\n' not in str(error.value) and not (tmp_path / 'out').exists()


def test_an_output_that_cannot_be_written_is_one_line_and_exit_code_2(run_program, trained):  # noqa: F811
    result = run_program('main_export.py', '--resume', trained, '--out', trained, '--device', 'cpu')
    error, = (line for line in result.stderr.splitlines() if 'error' in line)
    assert result.returncode == 2 and error.startswith(f'main_export.py: error: --out {trained}: cannot write')
    assert 'Traceback' not in result.stderr
