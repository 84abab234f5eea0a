"""The programs as a user runs them, from another folder, over a made-up ADE20K and a tiny model."""

import importlib.util
import os
import shutil
import struct
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml
from conftest import ROOT, slow
from paddleseg.core import evaluate
from paddleseg.cvlibs import Config, SegBuilder
from paddleseg.datasets import Dataset
from PIL import Image
from test_seg_dataset import LABELS, SIZES, write_pair, write_scene

import seg
import seg.export
import seg.predict
import seg.val
from util import weights as weight_files
from util.errors import InputError
from util.weights import paddle_file

TINY = str(ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml')
PYRAMIDS = ROOT / 'seg/configs/upernet_um_mae'
HAS_ONNX = importlib.util.find_spec('onnxruntime') and importlib.util.find_spec('paddle2onnx')
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason='needs requirements/export.txt')


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    """A folder with ADE20K, weights.pdparams, and the model exported for its labels."""
    root = tmp_path_factory.mktemp('scene')
    write_scene(root / 'ade')
    paddle.seed(1)
    model = SegBuilder(Config(TINY)).model
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    paddle.save(model.state_dict(), str(root / 'weights.pdparams'))
    onnx = ['--onnx'] if HAS_ONNX else []
    run_here(seg.export, *model_of(root), '--save_dir', root / 'exported', *onnx)
    return root


def run_here(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--device', 'cpu']))


@pytest.fixture
def run(scene, tmp_path):
    """run('val', flag, ...) -> the ended process, started in an empty folder."""

    def run(program, *flags, timeout=120):
        environ = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
        return subprocess.run(
            [sys.executable, str(ROOT / f'seg/{program}.py'), *map(str, flags)],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=timeout,
            env=environ,
        )

    return run


def model_of(scene):
    """The flags for the tiny model with the weights of the scene's folder."""
    return ['--config', TINY, '--model_path', scene / 'weights.pdparams']


def root_of(scene):
    return f'val_dataset.dataset_root={scene / "ade"}'


def test_val_prints_mmsegmentations_figures(run, scene, tmp_path):
    result = run('val', *model_of(scene), '--num_workers', 2, '--opts', root_of(scene))
    assert result.returncode == 0, result.stdout + result.stderr
    assert (
        '3/3 [====' in result.stderr
        and 'Environment Information' in result.stdout
        and '143 tensors' in result.stdout
    )

    images = scene / 'ade/images/validation'
    run_here(seg.predict, *model_of(scene), '--save_dir', tmp_path, '--image_path', images)
    pred = np.concatenate(
        [
            np.array(Image.open(tmp_path / f'pseudo_color_prediction/{n:03}.png')).ravel()
            for n in range(3)
        ]
    )
    label = np.concatenate([raw.ravel() for raw in LABELS]).astype(int) - 1
    pred, label = pred[(label >= 0) & (label < 254)], label[(label >= 0) & (label < 254)]
    iou = [
        ((pred == c) & (label == c)).sum() / ((pred == c) | (label == c)).sum()
        for c in np.union1d(pred, label)
    ]
    recall = [(pred[label == c] == c).mean() for c in np.unique(label)]
    assert (
        f'aAcc: {(pred == label).mean():.4f} mIoU: {np.mean(iou):.4f} mAcc: {np.mean(recall):.4f} '
        f'({150 - len(iou)} of 150 classes'
    ) in result.stdout
    assert f'#Images: 3 mIoU: {np.mean(iou):.4f}' in result.stdout


def predicted(folder):
    files = sorted((folder / 'pseudo_color_prediction').rglob('*.png'))
    return {
        str(file.relative_to(folder / 'pseudo_color_prediction')): np.array(Image.open(file))
        for file in files
    }


@pytest.mark.parametrize(
    'engine, flags',
    [
        ('inference', ''),
        slow('inference', '--aug_pred --scales 0.5 1.5 --flip_horizontal'),
        pytest.param('onnx', '', marks=needs_onnx),
    ],
    ids=['one', 'several', 'onnx'],
)
def test_the_exported_model_gives_the_same_labels(scene, tmp_path, engine, flags):
    images = ['--image_path', scene / 'ade/images/validation', *flags.split()]
    exported = ['--engine', engine, '--model_path', scene / 'exported']
    run_here(seg.predict, *model_of(scene), '--save_dir', tmp_path / 'a', *images)
    run_here(seg.predict, *exported, '--save_dir', tmp_path / 'b', *images)
    first, second = predicted(tmp_path / 'a'), predicted(tmp_path / 'b')
    assert [labels.shape for labels in first.values()] == SIZES and first.keys() == second.keys()
    for name, labels in first.items():
        np.testing.assert_array_equal(labels, second[name])
        assert len(np.unique(labels)) > 1


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize('config', ['upernet_um_mae_swin_nano.yml', 'upernet_um_mae_pvt_nano.yml'])
def test_segmentors_over_pyramids_have_the_live_scores_in_onnx(tmp_path, config):
    model = SegBuilder(Config(str(PYRAMIDS / config))).model
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    paddle.save(model.state_dict(), str(tmp_path / 'weights.pdparams'))
    flags = ['--config', PYRAMIDS / config, '--model_path', tmp_path / 'weights.pdparams']
    run_here(seg.export, *flags, '--save_dir', tmp_path / 'exported', '--onnx')

    images = np.random.default_rng(5).standard_normal([1, 3, 32, 32], dtype='float32')
    model.eval()
    (expected,) = model(paddle.to_tensor(images))
    labels, scores = seg.infer.Exported(tmp_path / 'exported', 'onnx').outputs(images)
    largest = float(expected.abs().max())
    np.testing.assert_allclose(scores, expected.numpy(), atol=1e-5 * largest)
    np.testing.assert_array_equal(labels, scores.argmax(1))


def test_export_and_predict_run_from_another_folder(run, scene, tmp_path):
    result = run('export', *model_of(scene), '--output_op', 'none')
    assert result.returncode == 0 and 'scores differ from' in result.stdout, (
        result.stdout + result.stderr
    )
    deploy = yaml.safe_load((tmp_path / 'output/inference_model/deploy.yaml').read_text())['Deploy']
    assert (deploy['model'], deploy['params']) == ('model.json', 'model.pdiparams')
    assert (deploy['output_op'], deploy['output_dtype']) == ('none', 'float32')
    assert deploy['input_shape'] == [-1, 3, 32, 32]
    names = {file.name for file in (tmp_path / 'output/inference_model').iterdir()}
    assert names == {'deploy.yaml', 'model.json', 'model.pdiparams'}
    image = scene / 'ade/images/validation/002.jpg'
    exported = '--engine inference --model_path output/inference_model'.split()
    result = run('predict', *exported, '--image_path', image)
    assert result.returncode == 0, result.stderr
    run_here(seg.predict, *model_of(scene), '--save_dir', tmp_path, '--image_path', image)
    np.testing.assert_array_equal(
        predicted(tmp_path)['002.png'], predicted(tmp_path / 'output/result')['002.png']
    )


def test_importing_seg_is_enough_in_a_program_of_ones_own(scene):
    builder = SegBuilder(Config(TINY, opts=[root_of(scene)]))
    miou, *_ = evaluate(
        builder.model,
        builder.val_dataset,
        aug_eval=True,
        scales=[0.5, 1.0],
        print_detail=False,
        **builder.config.test_config,
    )
    assert 0 <= miou < 0.2


def test_a_picture_is_segmented_as_it_was_taken(scene, tmp_path):
    pixels = Image.open(scene / 'ade/images/validation/000.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels.save(tmp_path / 'turned.png', exif=exif)
    Image.fromarray(np.rot90(np.asarray(pixels), -1)).save(tmp_path / 'upright.png')
    damaged = struct.pack('<HHIIHHII', 0x010F, 5, 1, 50, 0x0112, 3, 1, 6)  # the maker is a fraction
    damaged = b'II*\0\x08\0\0\0\x02\0' + damaged + bytes(30)
    pixels.save(tmp_path / 'damaged.webp', exif=damaged, lossless=True)
    levels = np.asarray(pixels.convert('L')).astype('uint16') * 257
    # equal in 8 bits, but the second is opaque
    levels[3:9, 5:20], levels[3:9, 20:25] = 20000, 20001
    Image.fromarray(levels).save(tmp_path / 'hole.png', transparency=20000)
    seen = (levels / 257).round().astype('uint8')
    seen[3:9, 5:20] = 255
    Image.fromarray(seen).save(tmp_path / 'seen.png')
    (tmp_path / '._seen.png').write_bytes(b'\0\5\x16\7')  # as macOS leaves it
    (tmp_path / 'linked').symlink_to(scene / 'ade/images/training')
    (tmp_path / 'loop').symlink_to(tmp_path)
    out = tmp_path / 'out'
    run_here(seg.predict, *model_of(scene), '--save_dir', out, '--image_path', tmp_path)
    labels = predicted(out)
    names = 'damaged hole linked/000 linked/001 linked/002 seen turned upright'.split()
    assert sorted(labels) == [f'{name}.png' for name in names]
    for odd, plain in (('turned', 'upright'), ('damaged', 'upright'), ('hole', 'seen')):
        np.testing.assert_array_equal(labels[f'{odd}.png'], labels[f'{plain}.png'])


@pytest.mark.parametrize(
    'program, flags, message',
    [
        ('val', ['--config', 'nowhere.yml'], '--config nowhere.yml: no such file'),
        ('val', [], '--config is needed'),
        ('val', ['--config', TINY], 'ADE20K is not at dataset_root demo/data/scenes'),
        (
            'predict',
            ['--config', TINY, '--image_path', 'nowhere'],
            '--image_path nowhere: no such picture, folder or list',
        ),
        (
            'predict',
            ['--config', TINY, '--image_path', 'x', '--custom_color', '1', '2'],
            '--custom_color takes three numbers',
        ),
        (
            'predict',
            ['--config', TINY, '--image_path', TINY],
            "tiny.yml, line 1: '#' does not end in",
        ),
        ('predict', ['--engine', 'inference', '--image_path', 'nowhere.png'], 'needs --model_path'),
        (
            'predict',
            ['--engine', 'inference', '--model_path', TINY, '--image_path', 'x.png'],
            'is no deploy.yaml',
        ),
        ('predict', ['--engine', 'onnx', '--image_path', 'x.png'], 'onnx needs --model_path'),
        (
            'export',
            ['--config', TINY, '--input_shape', '1', '3', '96', '96'],
            'takes windows of 32 x 32 pixels',
        ),
        ('export', ['--config', TINY, '--input_shape', '96'], '--input_shape takes four numbers'),
        ('export', ['--config', TINY, '--save_dir', TINY], 'cannot write there'),
    ],
)
def test_what_a_user_can_put_right_is_said(program, flags, message):
    with pytest.raises(InputError, match=message):
        run_here(getattr(seg, program), *flags)


@pytest.mark.parametrize(
    'change, message',
    [
        (
            ['model.backbone.embed_dim=48'],
            'does not fit the model: backbone.cls_token is .1, 1, 96. there, .1, 1, 48. here',
        ),
        (['model.channels=16'], 'does not fit the model'),
    ],
)
def test_weights_of_another_width_are_refused(scene, change, message):
    with pytest.raises(InputError, match=message):
        run_here(seg.val, *model_of(scene), '--opts', root_of(scene), *change)


def test_every_program_takes_the_average_where_it_is_asked_for(scene, tmp_path, capsys):
    """The average is empty, which each program notices."""
    plain = weight_files.read(scene / 'weights.pdparams')
    paddle_file.write(tmp_path / 'both.pdparams', {'model': plain, 'model_ema': {}})
    common = ['--config', TINY, '--model_path', tmp_path / 'both.pdparams']
    picture = scene / 'ade/images/validation/000.jpg'
    runs = (
        (seg.val, ['--opts', root_of(scene)]),
        (seg.predict, ['--image_path', picture, '--save_dir', tmp_path / 'out']),
        (seg.export, ['--save_dir', tmp_path / 'exported']),
    )
    for program, flags in runs:
        with pytest.raises(InputError, match="holds no weights: its 'model_ema' holds nothing"):
            run_here(program, *common, '--use_ema', *flags)
    capsys.readouterr()
    run_here(*runs[1][:1], *common, *runs[1][1])
    assert "'model' is taken" in capsys.readouterr().err


@needs_onnx
def test_an_export_without_a_usable_onnx_model_is_named(scene, tmp_path):
    for name in ('deploy.yaml', 'model.json', 'model.pdiparams'):
        shutil.copy(scene / 'exported' / name, tmp_path / name)
    with pytest.raises(InputError, match='has no model.onnx; export the model with --onnx'):
        seg.infer.Exported(tmp_path, 'onnx')
    (tmp_path / 'model.onnx').write_bytes(b'no model')
    with pytest.raises(InputError, match='ONNX Runtime cannot load it'):
        seg.infer.Exported(tmp_path, 'onnx')


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--config', TINY], '--use_ema chooses among the weights of --model_path'),
        (['--engine', 'inference', '--model_path', 'x'], 'give --use_ema to seg/export.py'),
    ],
)
def test_an_average_without_a_file_to_take_it_from_is_refused(scene, tmp_path, flags, message):
    picture = scene / 'ade/images/validation/000.jpg'
    with pytest.raises(InputError, match=message):
        run_here(seg.predict, '--image_path', picture, '--use_ema', *flags)


def test_an_exported_model_that_differs_is_not_kept(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(
        seg.infer.Exported, 'outputs', lambda self, x: [x[:, 0], np.repeat(x[:, :1], 150, axis=1)]
    )
    with pytest.raises(RuntimeError, match='the exported model differs'):
        run_here(seg.export, *model_of(scene), '--save_dir', tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('num_workers', [slow(0), 2])
def test_a_bad_label_ends_val_in_one_line(run, scene, tmp_path, num_workers):
    write_scene(tmp_path / 'bad')
    label = tmp_path / 'bad/annotations/validation/001.png'
    Image.fromarray(np.full(SIZES[1], 200, 'uint8')).save(label)
    root = f'val_dataset.dataset_root={tmp_path / "bad"}'
    result = run('val', '--config', TINY, '--num_workers', num_workers, '--opts', root)
    assert result.returncode == 2 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f'val.py: error: {label} has the labels 200')


def test_the_users_own_pairs_are_evaluated_and_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pairs = {
        'type': 'Dataset',
        'dataset_root': str(tmp_path),
        'num_classes': 3,
        '_inherited_': False,
    }
    base = yaml.safe_load((ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml').read_text())
    (tmp_path / 'own.yml').write_text(
        yaml.safe_dump(
            {
                '_base_': TINY,
                'model': {'num_classes': 3},
                'train_dataset': pairs
                | {'mode': 'train', 'train_path': 'list.txt', 'transforms': []},
                'val_dataset': pairs
                | {
                    'mode': 'val',
                    'val_path': 'list.txt',
                    'transforms': base['val_dataset']['transforms'],
                },
            }
        )
    )
    (tmp_path / 'list.txt').write_text('a.png b.png\n')
    write_pair(
        tmp_path / 'a.png',
        tmp_path / 'b.png',
        np.random.default_rng(0).integers(0, 3, (20, 30)).astype('uint8'),
    )
    run_here(seg.val, '--config', 'own.yml')
    assert '(0 of 3 classes are absent' in capsys.readouterr().out
    write_pair(tmp_path / 'a.png', tmp_path / 'b.png', np.full([20, 30], 3, 'uint8'))
    with pytest.raises(InputError, match='b.png has the labels 3; its 3 classes are 0 to 2'):
        run_here(seg.val, '--config', 'own.yml')


@pytest.mark.parametrize(
    'second, message',
    [
        ([[0, 1, 2]], None),
        ([[0, 1]], 'needs labels of one size; .*1.png has 2 x 1 pixels, .*0.png has 3 x 1'),
        ([[0, 1, 255]], 'needs labels without ignored pixels; .*1.png has some'),
        ([[0, 1, 1]], 'needs every class in the labels; 1 of 3 are in none of them, such as 2'),
    ],
)
def test_the_area_under_the_curve_is_refused_before_evaluation(tmp_path, second, message):
    for number, label in enumerate(([[1, 1, 0]], second)):
        write_pair(
            tmp_path / f'{number}.png', tmp_path / f'label_{number}.png', np.array(label, 'uint8')
        )
    (tmp_path / 'list.txt').write_text('0.png label_0.png\n1.png label_1.png\n')
    samples = Dataset(
        mode='val',
        dataset_root=str(tmp_path),
        transforms=[],
        num_classes=3,
        val_path=str(tmp_path / 'list.txt'),
    )
    if message is None:
        return seg.val.check_auc_roc(samples)
    with pytest.raises(InputError, match=f'--auc_roc {message}'):
        seg.val.check_auc_roc(samples)
