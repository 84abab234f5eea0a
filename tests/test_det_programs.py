"""The programs of det, from training to inference by an exported model, on a tiny detector."""

import importlib.util
import json
import shutil
import signal

import numpy as np
import paddle
import pytest
from conftest import ROOT, assert_same_tree, log_of
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from toy_detector import detection, squares, write_config  # noqa: F401

import det  # noqa: F401  first of all: it prepares the machine

# isort: split
from det import config, export, infer, train
from det import eval as evaluating
from util import dist, weights
from util import exported as running
from util.errors import STOPPED, InputError, NonFiniteLoss
from util.progress import Progress

HAS_ONNX = importlib.util.find_spec('onnxruntime') and importlib.util.find_spec('paddle2onnx')
EPOCHS = 3


def run(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--device', 'cpu']))


def run_training(config, folder, *flags, **values):
    """Train with flags and further values of the config; the folder of the results."""
    values = {'save_dir': folder, 'epoch': EPOCHS} | values
    options = [f'{key}={value}' for key, value in values.items()]
    run(train, '-c', config, *flags, '-o', *options)
    return folder / config.stem


@pytest.fixture(scope='module')
def straight(detection, tmp_path_factory):  # noqa: F811
    """The folder of a training that nothing disturbed: three epochs of two iterations."""
    folder = tmp_path_factory.mktemp('straight')
    flags = ['--eval', '--use_vdl', '--vdl_log_dir', folder / 'curves', '--keep', 0, '--seed', 3]
    return run_training(detection, folder, *flags)


@pytest.fixture(scope='module')
def model_of(detection, straight):  # noqa: F811
    """The flags of the trained model; its scores are low, so that every box remains."""
    options = [f'weights={straight}/model_final.pdparams', 'MAEGFL.score_threshold=0.02']
    return ['-c', detection, '-o', *options]


@pytest.fixture(scope='module')
def exported(model_of, tmp_path_factory):
    """The folder of the exported model, for pictures as the live one sees them."""
    folder = tmp_path_factory.mktemp('exported')
    run(export, *model_of, '--output_dir', folder, '--input_shape', 32, 64)
    return folder / 'tiny'


def state(folder, name):
    """A checkpoint without where it was made."""
    whole = weights.read(folder / name)
    return {key: value for key, value in whole.items() if key not in ('args', 'environment')}


# Training


def test_what_a_training_leaves(straight):
    last = EPOCHS - 1
    names = {path.name for path in straight.iterdir()}
    weight_files = {'best_model.pdparams', 'model_final.pdparams', 'categories.json'}
    checkpoints = {f'checkpoint-{name}.pd' for name in (*range(EPOCHS), 'best')}
    assert names == {*weight_files, *checkpoints, 'log.txt'}
    assert list((straight.parent / 'curves').iterdir())

    records = log_of(straight)
    assert [record['epoch'] for record in records] == list(range(EPOCHS))
    assert all(record['train_loss_dfl'] > 0 for record in records)
    final = state(straight, f'checkpoint-{last}.pd')
    assert final['categories'] == {'ids': [3, 7], 'names': ['red', 'blue']}
    assert final['best'] == {'AP': records[last]['bbox_AP'], 'epoch': last}
    assert records[last]['bbox_AP'] > max(record['bbox_AP'] for record in records[:last])
    for name in ('best_model.pdparams', 'model_final.pdparams'):
        assert_same_tree(weights.read(straight / name), final['model'])


@pytest.mark.slow  # the next test shows the same with a checkpoint within an epoch
def test_a_resumed_training_equals_an_undisturbed_one(detection, straight, tmp_path):  # noqa: F811
    flags = ['--eval', '--keep', 0, '--seed', 3, '-r', straight / 'checkpoint-0.pd']
    resumed = run_training(detection, tmp_path, *flags)
    for name in ('checkpoint-2.pd', 'checkpoint-best.pd'):
        assert_same_tree(state(resumed, name), state(straight, name))
    assert log_of(resumed) == log_of(straight)[1:]


def stop_at(monkeypatch, epoch, iteration):
    """Send SIGTERM before an iteration of the next training in this process."""
    follow = Progress.follow

    def wrapped(self, batches):
        for batch in follow(self, batches):
            if (self.epoch, self.iteration) == (epoch, iteration):
                signal.raise_signal(signal.SIGTERM)
            yield batch

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(Progress, 'follow', wrapped)
    monkeypatch.setattr(dist, 'leave', leave)


def test_a_training_that_a_signal_stops_resumes_within_the_epoch(
    detection,  # noqa: F811
    straight,
    tmp_path,
):
    flags = ['--eval', '--keep', 0, '--seed', 3, '-r', 'auto']
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, epoch=1, iteration=0)
        with pytest.raises(SystemExit) as stopped:
            run_training(detection, tmp_path, *flags)
    assert stopped.value.code == STOPPED
    assert (tmp_path / 'tiny/checkpoint-1-4.pd').exists()
    out = run_training(detection, tmp_path, *flags)
    for name in ('checkpoint-2.pd', 'checkpoint-best.pd'):
        assert_same_tree(state(out, name), state(straight, name))
    assert log_of(out) == log_of(straight)


def test_the_best_of_before_a_resume_is_kept(detection, straight, tmp_path):  # noqa: F811
    """With a rate of 0 nothing changes any more, so that no later epoch is better."""
    out = tmp_path / 'tiny'
    shutil.copytree(straight, out)
    later = {'epoch': EPOCHS + 1, 'LearningRate.base_lr': 0.0}
    run_training(detection, tmp_path, '--eval', '-r', 'auto', '--seed', 3, **later)
    newest = state(out, f'checkpoint-{EPOCHS}.pd')
    assert newest['best'] == state(straight, 'checkpoint-best.pd')['best']
    assert_same_tree(state(out, 'checkpoint-best.pd'), state(straight, 'checkpoint-best.pd'))


def test_checkpoints_within_an_epoch_and_no_more_than_asked_for(detection, tmp_path):  # noqa: F811
    flags = ['--save_every_iters', 1, '--keep', 2]
    out = run_training(detection, tmp_path, *flags, epoch=2, worker_num=1)
    names = {path.name for path in out.glob('checkpoint-*')}
    assert names == {'checkpoint-1-8.pd', 'checkpoint-1.pd'}
    assert not (out / 'best_model.pdparams').exists()


def test_a_loss_that_is_not_finite_names_the_files_of_its_batch(
    detection,  # noqa: F811
    squares,  # noqa: F811
    tmp_path,
):
    with pytest.raises(NonFiniteLoss, match='the loss is nan in .*; training stops') as error:
        run_training(detection, tmp_path, **{'LearningRate.base_lr': 1e30})
    assert error.value.exit_code not in (0, 2)
    (listed,) = (tmp_path / 'tiny').glob('non_finite-*-rank0.txt')
    lines = listed.read_text().splitlines()
    assert len(lines) == 4
    assert set(lines) <= {str(path) for path in (squares / 'train').iterdir()}


@pytest.mark.slow
def test_a_damaged_picture_is_replaced_and_too_many_end_the_training(
    squares,  # noqa: F811
    tmp_path,
    capfd,
):
    """One of 104 pictures is less than 1 %, two are more."""
    data = tmp_path / 'data'
    shutil.copytree(squares, data)
    content = json.loads((data / 'train.json').read_text())
    images = [{**image, 'id': 100 * copy + image['id']} for copy in range(13) for image in IMAGES]
    objects = []
    for copy in range(13):
        for entry in content['annotations']:
            moved = {'id': len(objects) + 1, 'image_id': 100 * copy + entry['image_id']}
            objects.append({**entry, **moved})
    for number, image in enumerate(images):
        source = data / 'train' / image['file_name']
        image['file_name'] = f'copy_{number:03}.png'
        shutil.copy(source, data / 'train' / image['file_name'])
    content |= {'images': images, 'annotations': objects}
    (data / 'train.json').write_text(json.dumps(content))
    file = write_config(tmp_path / 'many.yml', data)
    batch = {'TrainReader.batch_size': 26}

    damaged = [data / 'train/copy_040.png', data / 'train/copy_050.png']
    damaged[0].write_bytes(b'no picture')
    run_training(file, tmp_path / 'one', epoch=2, **batch)
    warned = capfd.readouterr().err
    assert warned.count('cannot be read as a picture') == 1
    assert str(damaged[0]) in warned and 'a neighbour takes its place' in warned

    damaged[1].write_bytes(b'no picture')
    with pytest.raises(InputError, match='2 of 104 images cannot be read, more than 1%'):
        run_training(file, tmp_path / 'two', epoch=1, **batch)


IMAGES = [
    {'id': number + 1, 'file_name': f'{number:03}.png', 'height': 32, 'width': 64}
    for number in range(8)
]


def test_other_classes_than_before_are_refused(detection, squares, straight, tmp_path):  # noqa: F811
    """When a training resumes and in an evaluation, of each file that a training leaves."""
    data = tmp_path / 'data'
    shutil.copytree(squares, data)
    for part in ('train', 'val'):
        text = (data / f'{part}.json').read_text()
        (data / f'{part}.json').write_text(text.replace('"red"', '"green"'))
    roots = [f'{kind}Dataset.dataset_dir={data}' for kind in ('Train', 'Eval')]
    flags = ['-c', detection, '-r', straight / 'checkpoint-0.pd']
    with pytest.raises(InputError, match="category 3 'green', but .* has 3 as 'red'"):
        run(train, *flags, '-o', f'save_dir={tmp_path}', *roots)
    for name in ('checkpoint-1.pd', 'best_model.pdparams', 'model_final.pdparams'):
        with pytest.raises(InputError, match="category 3 'green', but .* has 3 as 'red'"):
            run(evaluating, '-c', detection, '-o', f'weights={straight / name}', *roots)


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one(
    detection,  # noqa: F811
    straight,
    on_two_processes,
    tmp_path,
):
    """With batches of half the size; group normalisation sees each image alone.

    They begin with a trained model: while the sum of its scores is below 1 on a rank, the losses
    are divided by 1 there, as in the original.
    """
    values = {'epoch': EPOCHS + 1, 'MAESwin.drop_path_rate': 0.0}
    flags = ['--eval', '-r', straight / 'checkpoint-2.pd']
    one = run_training(detection, tmp_path / 'one', *flags, **values)
    values |= {'TrainReader.batch_size': 2, 'save_dir': tmp_path / 'two'}
    options = [f'{key}={value}' for key, value in values.items()]
    on_two_processes('det.train', ['-c', detection, '--device', 'cpu', *flags, '-o', *options])
    (theirs,) = log_of(one)
    (ours,) = log_of(tmp_path / 'two/tiny')
    assert ours['train_loss'] == pytest.approx(theirs['train_loss'], rel=1e-3)
    assert ours['bbox_AP50'] == pytest.approx(theirs['bbox_AP50'], abs=0.02) and ours['bbox_AP50']


# Evaluation


def test_eval_prints_what_training_has_noted_and_pycocotools_finds(
    model_of,
    straight,
    squares,  # noqa: F811
    tmp_path,
    capsys,
):
    run(evaluating, *model_of[:2], '--output_eval', tmp_path, '--classwise', *model_of[2:-1])
    printed = capsys.readouterr().out
    noted = log_of(straight)[-1]
    (line,) = (line for line in printed.splitlines() if line.startswith('bbox') and '-' in line)
    assert line.split()[1] == f'{noted["bbox_AP"]:.3f}'
    assert 'red' in printed and 'blue' in printed

    truth = COCO(str(squares / 'val.json'))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / 'bbox.json')), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[:3].tolist() == [
        noted[f'bbox_{name}'] for name in ('AP', 'AP50', 'AP75')
    ]
    by_class = [
        float(row.split()[1]) for row in printed.splitlines() if row.endswith(('red', 'blue'))
    ]
    assert np.mean(by_class) == pytest.approx(noted['bbox_AP'], abs=1e-3)


def test_predictions_alone_need_no_figures(model_of, tmp_path, capsys):
    run(evaluating, *model_of, '--output_eval', tmp_path, '--save_prediction_only')
    assert json.loads((tmp_path / 'bbox.json').read_text())
    assert 'AP50' not in capsys.readouterr().out


# Inference, live and exported


def results(folder):
    """{name of the picture: its objects} of results.json."""
    found = json.loads((folder / 'results.json').read_text())
    return {entry['file'].rpartition('/')[2]: entry['objects'] for entry in found}


def test_infer_finds_what_eval_finds(model_of, squares, tmp_path):  # noqa: F811
    run(evaluating, *model_of, '--output_eval', tmp_path)
    expected = {}
    for entry in json.loads((tmp_path / 'bbox.json').read_text()):
        expected.setdefault(f'{entry.pop("image_id") - 1:03}.png', []).append(entry)
    flags = ['--infer_dir', squares / 'val', '--output_dir', tmp_path / 'out', '--save_results']
    run(infer, *model_of, *flags, '--visualize', 'False')
    found = results(tmp_path / 'out')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['results.json']
    assert sum(map(len, found.values())) == sum(map(len, expected.values())) > 8
    for name, objects in expected.items():
        assert len(found[name]) == len(objects)
        for ours, theirs in zip(found[name], objects):
            names = {3: 'red', 7: 'blue'}
            assert ours.pop('category') == names[theirs['category_id']]
            assert_same_boxes([ours], [theirs], tolerance=1e-3)


def assert_same_boxes(ours, theirs, tolerance):
    """The same number of objects, classes and boxes, in pixels."""
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs):
        assert one['category_id'] == other['category_id']
        assert one['score'] == pytest.approx(other['score'], abs=1e-4)
        assert one['bbox'] == pytest.approx(other['bbox'], abs=tolerance)


def test_pictures_are_drawn_as_they_lie(model_of, squares, tmp_path, capsys):  # noqa: F811
    pictures = tmp_path / 'pictures'
    (pictures / 'deeper').mkdir(parents=True)
    shutil.copy(squares / 'val/001.png', pictures / 'deeper/é.png')
    shutil.copy(squares / 'val/000.png', pictures / 'a.png')
    flags = ['--output_dir', tmp_path / 'out', '--draw_threshold', 0.02]
    run(infer, *model_of, '--infer_dir', pictures, *flags)
    printed = capsys.readouterr().out
    assert 'a.png: red 0.' in printed or 'a.png: blue 0.' in printed
    drawn = np.asarray(Image.open(tmp_path / 'out/deeper/é.png'))
    assert drawn.shape[0] > 32  # with a legend below
    assert (drawn[:32, :64] != np.asarray(Image.open(pictures / 'deeper/é.png'))).any()

    flags[-1] = 1.0  # nothing is drawn
    run(infer, *model_of, '--infer_img', pictures / 'a.png', '--no_legend', *flags)
    plain, drawn = (
        np.asarray(Image.open(folder / 'a.png')) for folder in (pictures, tmp_path / 'out')
    )
    np.testing.assert_array_equal(drawn, plain)


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['inference', 'onnx'])
def test_an_exported_model_finds_the_boxes_of_the_live_one(
    model_of,
    exported,
    squares,  # noqa: F811
    tmp_path,
    engine,
):
    folder = exported
    if engine == 'onnx':
        if not HAS_ONNX:
            pytest.skip('needs requirements/export.txt')
        run(export, *model_of, '--output_dir', tmp_path, '--input_shape', 32, 64, '--onnx')
        folder = tmp_path / 'tiny'
    flags = ['--infer_dir', squares / 'val', '--save_results', '--output_dir']
    run(infer, *model_of, *flags, tmp_path / 'live')
    run(infer, '--engine', engine, '--model_dir', folder, *flags, tmp_path / 'exported')
    live, found = results(tmp_path / 'live'), results(tmp_path / 'exported')
    assert sum(map(len, live.values())) > 8
    for name, objects in live.items():
        assert_same_boxes(found[name], objects, tolerance=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('engine', ['inference', 'onnx'])
def test_an_exported_mask_rcnn_finds_boxes_and_masks_of_the_live_one(squares, tmp_path, engine):  # noqa: F811
    """Its three stages have boxes, their counts and rows as further inputs."""
    if engine == 'onnx' and not HAS_ONNX:
        pytest.skip('needs requirements/export.txt')
    file = ROOT / 'det/configs/mask_rcnn_mae/mask_rcnn_mae_nano_digits.yml'
    model = config.build(config.load(file), file)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.05)
    paddle.save(model.state_dict(), str(tmp_path / 'random.pdparams'))

    options = [f'weights={tmp_path}/random.pdparams', 'MAEMaskRCNN.score_threshold=0.02']
    model_flags = ['-c', file, '-o', *options]
    shape = ['--input_shape', 96, 128]
    onnx = ['--onnx'] if engine == 'onnx' else []
    run(export, *model_flags, '--output_dir', tmp_path, *shape, *onnx)
    flags = ['--infer_img', squares / 'val/001.png', '--save_results', '--output_dir']
    run(infer, *model_flags, *flags, tmp_path / 'live')
    folder = tmp_path / file.stem
    run(infer, '--engine', engine, '--model_dir', folder, *flags, tmp_path / 'exported')
    live, found = (results(tmp_path / name)['001.png'] for name in ('live', 'exported'))
    assert len(live) > 8
    assert_same_boxes(found, live, tolerance=1e-3)
    same = [ours['segmentation'] == theirs['segmentation'] for ours, theirs in zip(found, live)]
    assert np.mean(same) > 0.9  # a pixel on the edge may differ


VIT = 'embed_dim=24 depth=4 num_heads=3 img_size=64 global_attn_indexes=[1,3] window_size=2'
PVT = 'embed_dims=[8,8,16,16] depths=[1,1,1,1] num_heads=[1,1,2,2] pretrain_size=64'


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason='needs requirements/export.txt')
@pytest.mark.parametrize(
    'name, backbone, stages',
    [
        ('gfl_um_mae/gfl_um_mae_pvt_small_25e_coco', f'MAEPVT {PVT}', ['maps']),
        (
            'mask_rcnn_mae/mask_rcnn_mae_base_100e_coco',
            f'MAEViT {VIT} out_indices=[0,1,2,3]',
            ['boxes', 'masks', 'trunk'],
        ),
    ],
)
def test_detectors_of_other_backbones_and_necks_equal_the_live_ones_in_onnx(
    tmp_path, name, backbone, stages
):
    """Narrow and shallow; the tests above have a Swin and the neck of ViTDet.

    The export itself compares with the live stages to 1e-4, and loading with their kept outputs.
    """
    file = ROOT / f'det/configs/{name}.yml'
    section, *settings = backbone.split()
    options = ['num_classes=2', *(f'{section}.{setting}' for setting in settings)]
    model = config.build(config.load(file, options), file)
    paddle.save(model.state_dict(), str(tmp_path / 'random.pdparams'))
    options.append(f'weights={tmp_path}/random.pdparams')
    flags = ['--output_dir', tmp_path, '--input_shape', 64, 64, '--onnx']
    run(export, '-c', file, '-o', *options, *flags)
    folder = tmp_path / file.stem
    assert sorted(path.parent.name for path in folder.glob('*/model.onnx')) == stages
    for stage in stages:  # a difference over 1e-3 of the largest output is an InputError
        running.Exported(folder / stage, 'onnx')


def test_an_export_takes_any_picture_into_one_size():
    steps = [{'Resize': {'target_size': [30, 50]}}, 'Permute', {'Pad': {'size_divisor': 32}}]
    assert export.canvas(steps) == (64, 64)
    made = export.fixed(steps, 64, 64)
    assert made == [{'Resize': {'target_size': [30, 50]}}, {'Pad': {'size': [64, 64]}}]
    assert export.fixed(steps, 32, 40)[0] == {'Resize': {'target_size': [30, 40]}}
    assert export.canvas([{'Pad': {'size': [32, 96]}}]) == (32, 96)


# Bad input


BAD = {
    'no config': (train, '', '-c is needed'),
    'no file': (train, '-c nowhere.yml', '-c nowhere.yml: no such file'),
    'override': (train, '-c {config} -o epoch', '-o epoch: expected KEY=VALUE'),
    'classes': (train, '-c {config} -o num_classes=3', 'num_classes is 3, but .* has 2 categories'),
    'batch': (train, '-c {config} -o TrainReader.batch_size=9', 'larger than the data set of 8'),
    'no batch': (train, '-c {config} -o TrainReader.batch_size=0', 'a whole number from 1, not 0'),
    'reader': (train, '-c {config} -o TrainReader.shuffle=True', 'TrainReader has no key shuffle'),
    'transform': (
        train,
        '-c {config} -o TrainReader.sample_transforms=[Mosaic]',
        "no transform 'Mosaic'",
    ),
    'rate': (train, '-c {config} -o LearningRate.base_lr=-1', 'base_lr is a number from 0, not -1'),
    'optimizer': (train, '-c {config} -o OptimizerBuilder.optimizer.type=SGD', "not 'SGD'"),
    'no optimizer': (
        train,
        '-c {config} -o OptimizerBuilder.optimizer=3',
        'keys and values, not 3',
    ),
    'schedulers': (train, '-c {config} -o LearningRate.schedulers=3', 'is a list, not 3'),
    'pretrained': (train, '-c {config} -o pretrain_weights=x', 'name the file in the backbone'),
    'no pretrained': (train, '-c {config} -o MAESwin.pretrained=/nowhere.pd', 'no such file'),
    'resume': (train, '-c {config} -r /nowhere.pd', '/nowhere.pd: no such file'),
    'folder': (train, '-c {config} -o save_dir={config}', 'cannot write into this folder'),
    'records': (train, '-c {config} --use_vdl --vdl_log_dir {config}', '--log_dir .*cannot write'),
    'amp': (train, '-c {config} --amp', 'float16'),
    'data': (evaluating, '-c {config} -o EvalDataset.dataset_dir=/no', '/no is no folder'),
    'data set': (evaluating, '-c {config} -o EvalDataset.name=VOC', "EvalDataset.name is 'VOC'"),
    'weights': (evaluating, '-c {config} -o weights=/no.pd', '/no.pd: no such file'),
    'other weights': (
        evaluating,
        '-c {config} -o weights={weights} MAEFPN.out_channels=64',
        'does not fit the model: neck.lateral_convs.0.conv.weight is .32, 32, 1, 1. there',
    ),
    'results': (
        evaluating,
        '-c {config} --output_eval {config}',
        '--output_eval .*cannot write into this folder',
    ),
    'nothing saved': (
        evaluating,
        '-c {config} --save_prediction_only',
        '--save_prediction_only needs --output_eval',
    ),
    'no picture': (infer, '-c {config}', 'give --infer_img FILE or --infer_dir DIR'),
    'picture': (infer, '-c {config} --infer_img /no.png', '--infer_img /no.png: no picture there'),
    'pictures': (infer, '-c {config} --infer_dir /no', '--infer_dir /no: no such folder'),
    'no image': (
        infer,
        '-c {config} --infer_img {config} --output_dir {out}',
        'cannot be read as a picture',
    ),
    'own pictures': (
        infer,
        '-c {config} --infer_img {picture} --output_dir {pictures}',
        'would replace the pictures, such as .*000.png; name another folder',
    ),
    'no model': (infer, '--engine inference --infer_img {picture}', 'needs --model_dir'),
    'model': (
        infer,
        '--engine onnx --model_dir {out} --infer_img {picture}',
        'is not a folder that det/export.py wrote',
    ),
    'both': (
        infer,
        '--engine inference --model_dir {out} --infer_img {picture} -c {config}',
        'leave out -c',
    ),
    'output': (
        infer,
        '-c {config} --infer_img {picture} --output_dir {config}',
        '--output_dir .*cannot write',
    ),
    'nothing to export': (export, '-c {config}', '-o weights=FILE is needed'),
    'size': (
        export,
        '-c {config} -o weights={weights} --output_dir {out} --input_shape 30 64',
        '32 must divide both sides',
    ),
    'place': (
        export,
        '-c {config} -o weights={weights} --output_dir {config}',
        '--output_dir .*cannot write',
    ),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_named_in_one_line(detection, straight, squares, tmp_path, case):  # noqa: F811
    program, flags, message = BAD[case]
    places = {
        'config': detection,
        'out': tmp_path,
        'picture': squares / 'val/000.png',
        'pictures': squares / 'val',
        'weights': straight / 'model_final.pdparams',
    }
    with pytest.raises(InputError, match=message) as error:
        run(program, *flags.format(**places).split(' ') if flags else ())
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'program, flags',
    [
        (train, '--seed -1'),
        (train, '--keep x'),
        (train, '--save_every_iters -1'),
        (evaluating, '--data_timeout x'),
        (infer, '--draw_threshold 2'),
        (infer, '--visualize maybe'),
        (infer, '--engine tensorrt'),
        (export, '--input_shape 0 32'),
    ],
)
def test_bad_values_of_flags_are_named(program, flags, capsys):
    with pytest.raises(SystemExit) as error:
        program.PARSER.parse_args(flags.split())
    assert error.value.code == 2
    assert flags.split()[0] in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_an_exported_model_that_differs_is_not_kept(model_of, tmp_path, monkeypatch):
    true = export.exporting.exported.outputs
    monkeypatch.setattr(
        export.exporting.exported, 'outputs', lambda *args: [1.01 * x for x in true(*args)]
    )
    with pytest.raises(RuntimeError, match='the exported maps differs from the live one by'):
        run(export, *model_of, '--output_dir', tmp_path, '--input_shape', 32, 64)
    assert not list(tmp_path.rglob('*.*'))
