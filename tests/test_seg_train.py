"""seg/train.py: learning, two processes, records, bad input. test_seg_checkpoints.py resumes."""

import importlib
import inspect
import os
import re
import shutil
import sys
import time

import numpy as np
import paddle
import pytest
import toy
import yaml
from conftest import ROOT
from readings import Readings

import seg  # noqa: F401

# isort: split
from seg import train, val
from seg.backbone import MAEViT
from seg.model import UPerNetMAE
from seg.optimizer import LayerDecayAdamW
from seg.progress import Lines
from util import weights
from util.errors import InputError, NonFiniteLoss

sys.path.append(str(ROOT / 'demo'))
import make_scenes

TINY = ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml'
NORMALIZE = {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Eight scenes of 32 x 32 pixels in ADE20K's layout, for training and validation alike."""
    root = tmp_path_factory.mktemp('data') / 'scenes'
    make_scenes.main(root, 0, {'training': 8, 'validation': 1}, 1, (32, 32))
    for kind in ('images', 'annotations'):
        shutil.rmtree(root / kind / 'validation')
        shutil.copytree(root / kind / 'training', root / kind / 'validation')
    return root


@pytest.fixture
def config(scenes, tmp_path):
    """config(key=value ...) -> file: the tiny model on windows of 32 pixels, with such changes."""

    def write(**changes):
        said = {
            '_base_': str(TINY),
            'batch_size': 4,
            'test_config': {'is_slide': False},
            'train_dataset': {
                'dataset_root': str(scenes),
                'transforms': [
                    {'type': 'RandomCropWithCategoryLimit', 'crop_size': [32, 32]},
                    {'type': 'RandomHorizontalFlip'},
                    {'type': 'PhotoMetricDistortion'},
                    NORMALIZE,
                ],
            },
            'val_dataset': {'dataset_root': str(scenes), 'transforms': [NORMALIZE]},
            'model': {'backbone': {'img_size': 32}},
            **changes,
        }
        (tmp_path / 'config.yml').write_text(yaml.safe_dump(said))
        return tmp_path / 'config.yml'

    return write


def run(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--device', 'cpu']))


def state(folder):
    return {name: weights.read(folder / name) for name in ('model.pdparams', 'model.pdopt')}


@pytest.mark.slow
def test_it_overfits_eight_scenes(config, scenes, tmp_path, capsys):
    file = config(
        batch_size=8,
        lr_scheduler={'learning_rate': 3e-3},
        optimizer={'layer_decay': 0.9},
        model={'dropout_ratio': 0.0, 'backbone': {'img_size': 32, 'drop_path_rate': 0.0}},
    )
    flags = '--iters 300 --save_interval 1000 --do_eval'.split()
    flags += ['--config', file, '--save_dir', tmp_path / 'out']
    run(train, *flags, '--opts', f'train_dataset.transforms={[NORMALIZE]}')
    printed = capsys.readouterr().out
    miou = float(printed.rpartition('mIoU: ')[2].split()[0])
    assert miou > 0.9
    run(val, '--config', file, '--model_path', tmp_path / 'out/best_model/model.pdparams')
    assert f'mIoU: {miou:.4f}' in capsys.readouterr().out


def test_a_step_that_logs_nothing_reads_nothing_from_the_device(config, tmp_path, monkeypatch):
    readings = Readings(monkeypatch)
    flags = ['--config', config(), '--save_dir', tmp_path / 'out', '--use_ema']
    run(train, *flags, '--iters', 5, '--log_iters', 2)
    assert readings.of(5) == [0, 1, 0, 1, 0]  # the last loss is read before the checkpoint


def test_another_seed_is_another_run(config, tmp_path):
    for seed in (0, 1):
        flags = ['--config', config(), '--save_dir', tmp_path / str(seed)]
        run(train, *flags, '--iters', 1, '--seed', seed)
    ours, theirs = (state(tmp_path / f'{seed}/iter_1')['model.pdparams'] for seed in (0, 1))
    assert not np.array_equal(
        ours['neck.upsample_2x.0.weight'], theirs['neck.upsample_2x.0.weight']
    )


@pytest.mark.parametrize(
    'flags, message',
    {
        'batch': (
            '--batch_size 9',
            'batch_size 9 on 1 processes is more than the 8 training images',
        ),
        'checkpoint': (
            '--resume_model {tmp}/nowhere',
            'expected a folder iter_N that this program has written',
        ),
        'gone': ('--resume_model {tmp}/iter_3', 'iter_3/model.pdparams: no such file'),
        'precision': ('--precision fp16', '--amp float16 needs a GPU'),
        'taken': (
            '--save_dir {tmp}/config.yml',
            '--save_dir .*config.yml: cannot write into this folder',
        ),
        'no number': ('--opts batch_size=abc', 'batch_size is a whole number from 1'),
        'maps': (
            '--opts model.backbone.out_indices=[0,1,2,9]',
            'out_indices are numbers of its 4 blocks',
        ),
        'fewer maps': ('--opts model.backbone.out_indices=[0,1]', 'four maps of one width'),
        'rate': ('--opts lr_scheduler.learnin_rate=1', 'lr_scheduler'),
        'transform': (
            "--opts train_dataset.transforms=[{{'type':'RandomResise'}}]",
            'RandomResise',
        ),
        'coefficients': (
            '--opts loss.coef=[1]',
            'the model gives 2 maps of scores .* loss.types are 1 and loss.coef 1',
        ),
        'weights': ('--opts model.backbone.pretrained=/nowhere.pth', '/nowhere.pth: no such file'),
    }.values(),
)
def test_bad_input_is_named(config, tmp_path, flags, message):
    with pytest.raises(InputError, match=message):
        run(
            train,
            '--config',
            config(),
            '--save_dir',
            tmp_path / 'out',
            *flags.format(tmp=tmp_path).split(),
        )


@pytest.mark.processes
@pytest.mark.slow
def test_two_processes_equal_one_with_the_doubled_batch(
    config, run_program, two_processes, tmp_path
):
    """The comparison uses group normalisation, no drop path and plain SGD.

    Batch normalisation over processes needs GPUs, drop path is drawn for each rank, and Adam would
    turn gradients that are only rounding into full steps.
    """
    file = config(
        optimizer={'_inherited_': False, 'type': 'SGD', 'weight_decay': 0.0},
        lr_scheduler={'learning_rate': 0.1, 'warmup_iters': 1},
        model={'dropout_ratio': 0.0, 'backbone': {'img_size': 32, 'drop_path_rate': 0.0}},
    )
    script = tmp_path / 'grouped.py'
    script.write_text(
        'import seg.model, paddle\n'
        'seg.model.SyncBatchNorm = lambda width: paddle.nn.GroupNorm(1, width)\n'
        'from seg import train\n'
        'from util import program\n'
        'program.run(train.main, train.PARSER)\n'
    )
    for batch, before in ((4, []), (2, two_processes)):
        flags = f'--iters 3 --device cpu --batch_size {batch}'.split()
        flags += ['--config', file, '--save_dir', tmp_path / f'by{batch}']
        result = run_program(script, *flags, launcher=before)
        assert result.returncode == 0, result.stdout + result.stderr
    one, two = (weights.read(tmp_path / f'by{batch}/iter_3/model.pdparams') for batch in (4, 2))
    # the bias was 0 before the training
    assert one.keys() == two.keys() and np.abs(one['decode_head.conv_seg.bias']).max() > 1e-3
    for name, array in one.items():
        np.testing.assert_allclose(two[name], array, atol=2e-6, err_msg=name)


def test_what_does_not_go_on_is_named(config, tmp_path):
    run(train, '--config', config(), '--save_dir', tmp_path, '--iters', 2)
    checkpoint = ['--save_dir', tmp_path / 'again', '--resume_model', tmp_path / 'iter_2']
    with pytest.raises(
        InputError, match='--iters 2 is not beyond the 2 iterations of --resume_model'
    ):
        run(train, '--config', config(), '--iters', 2, *checkpoint)
    with pytest.raises(
        InputError, match=r'iter_2 has no ema_model.pdparams, which --use_ema needs'
    ):
        run(train, '--config', config(), '--iters', 3, '--use_ema', *checkpoint)
    with pytest.raises(
        InputError,
        match='iter_2 does not fit the model: neck.upsample_4x.0.weight|does not fit the model',
    ):
        run(
            train,
            '--config',
            config(model={'channels': 24, 'backbone': {'img_size': 32}}),
            '--iters',
            3,
            *checkpoint,
        )


def test_mixed_precisions_way_to_step_is_the_same_step():
    """In mixed precision PaddleSeg calls minimize, which knows no groups of parameters."""
    ends = []
    for way in ('step', 'minimize'):
        paddle.seed(0)
        model = UPerNetMAE(
            3,
            MAEViT(32, 8, embed_dim=24, depth=2, num_heads=3, out_indices=[0, 0, 1, 1]),
            4,
            2,
            0.0,
        )
        optimizer = LayerDecayAdamW()(model, 0.1)
        model.eval()
        loss = model(paddle.ones([1, 3, 32, 32]))[0].square().mean()
        loss.backward()
        optimizer.step() if way == 'step' else optimizer.minimize(loss)
        ends.append({name: p.numpy() for name, p in model.named_parameters()})
    assert not np.array_equal(
        ends[0]['backbone.pos_embed'], np.zeros_like(ends[0]['backbone.pos_embed'])
    )
    for name, array in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], array, err_msg=name)


def test_mixed_precision_moves_nothing_at_an_overflow(monkeypatch):
    backbone = MAEViT(32, 8, embed_dim=24, depth=2, num_heads=3, out_indices=[0, 0, 1, 1])
    model = UPerNetMAE(3, backbone, 4, 2, 0.0)
    model.eval()
    toy.overflow(
        monkeypatch,
        model,
        LayerDecayAdamW()(model, 0.1),
        lambda: model(paddle.ones([1, 3, 32, 32]))[0].square().mean(),
        backbone.blocks[1].attn.qkv.bias,
        precision='float16',
    )


def test_paddlesegs_command_line_is_understood():
    args = train.PARSER.parse_args(
        '--config C --device cpu --save_dir S --num_workers 2 --do_eval --use_vdl --use_ema '
        '--resume_model R --iters 9 --batch_size 3 --learning_rate 0.01 --save_interval 5 '
        '--log_iters 2 --keep_checkpoint_max 1 --seed 4 --precision fp16 --amp_level O2 '
        '--data_format NCHW --repeats 2 --opts a.b=1 c=2'.split()
    )
    assert vars(args) == {
        'config': 'C',
        'device': 'cpu',
        'save_dir': 'S',
        'num_workers': 2,
        'data_timeout': 600.0,
        'do_eval': True,
        'use_vdl': True,
        'use_ema': True,
        'resume_model': 'R',
        'iters': 9,
        'batch_size': 3,
        'learning_rate': 0.01,
        'save_interval': 5,
        'log_iters': 2,
        'keep_checkpoint_max': 1,
        'seed': 4,
        'amp': 'float16',
        'deterministic': False,
        'amp_level': 'O2',
        'data_format': 'NCHW',
        'repeats': 2,
        'opts': ['a.b=1', 'c=2'],
        'profiler_options': None,
        'profile': '',
    }


def test_checkpoints_are_kept_averaged_and_recorded(config, tmp_path):
    flags = (
        '--iters 3 --save_interval 1 --keep_checkpoint_max 2 --use_ema --use_vdl --do_eval '
        '--repeats 2'
    ).split()
    run(train, *flags, '--config', config(), '--save_dir', tmp_path)
    assert sorted(path.name for path in tmp_path.glob('iter_*')) == ['iter_2', 'iter_3']
    assert {path.name for path in (tmp_path / 'iter_3').iterdir()} == {
        'model.pdparams',
        'model.pdopt',
        'ema_model.pdparams',
        'training.pd',
    }
    assert (tmp_path / 'best_model/model.pdparams').exists() and list(tmp_path.glob('vdlrecords.*'))


def test_lines_have_paddlesegs_form_and_the_means_since_the_line_before(config, tmp_path, capsys):
    source = inspect.getsource(importlib.import_module('paddleseg.core.train'))
    form = re.search(r'"(\[TRAIN\] epoch: .*?)"', source)[1]
    number = r'([\d.:e+-]+)'
    pattern = number.join(re.escape(part) for part in re.split(r'{[^}]*}', form))

    flags = ['--config', config(), '--iters', 5, '--seed', 3]
    run(train, *flags, '--save_dir', tmp_path / 'each', '--log_iters', 1)
    each = re.findall(pattern, capsys.readouterr().out)
    run(train, *flags, '--save_dir', tmp_path / 'some', '--log_iters', 2)
    some = re.findall(pattern, capsys.readouterr().out)
    # epoch, iteration, of how many: eight images make two batches of four
    assert [line[:3] for line in each] == [
        ('1', '1', '5'),
        ('1', '2', '5'),
        ('2', '3', '5'),
        ('2', '4', '5'),
        ('3', '5', '5'),
    ]
    assert [line[1] for line in some] == ['2', '4']
    losses = [float(line[3]) for line in each]
    means = [float(line[3]) for line in some]
    assert means == pytest.approx([sum(losses[:2]) / 2, sum(losses[2:4]) / 2], abs=2e-4)
    assert [line[4] for line in some] == [each[1][4], each[3][4]]  # the rate of the last iteration


@pytest.mark.slow
def test_a_damaged_picture_is_passed_over_and_too_many_end_the_training(
    config, scenes, tmp_path, capfd
):
    """One of 104 is fewer than one in a hundred, two are more."""
    root = tmp_path / 'many'
    for kind in ('images', 'annotations'):
        (root / kind / 'training').mkdir(parents=True)
        for file in (scenes / kind / 'training').iterdir():
            for copy in range(13):
                os.link(file, root / kind / 'training' / f'{file.stem}_{copy}{file.suffix}')
    pictures = sorted((root / 'images/training').iterdir())
    flags = ['--config', config(), '--batch_size', 26]  # four iterations an epoch
    flags += ['--opts', f'train_dataset.dataset_root={root}']

    pictures[40].unlink()
    pictures[40].write_bytes(b'no picture')
    run(train, *flags, '--iters', 8, '--save_dir', tmp_path / 'one')  # two epochs
    warned = capfd.readouterr().err
    assert warned.count('cannot be read as a picture') == 1
    assert str(pictures[40]) in warned and 'a neighbour takes its place' in warned

    pictures[50].unlink()
    pictures[50].write_bytes(b'no picture')
    with pytest.raises(InputError, match='2 of 104 images cannot be read, more than 1%'):
        run(train, *flags, '--iters', 4, '--save_dir', tmp_path / 'two')


def test_a_loss_that_is_not_finite_names_the_files_of_its_batch(config, scenes, tmp_path):
    file = config(lr_scheduler={'learning_rate': 1e30, 'warmup_iters': 1})
    with pytest.raises(NonFiniteLoss, match=r'the loss is nan in iteration \d+; training stops'):
        run(train, '--config', file, '--save_dir', tmp_path / 'out')
    (listed,) = (tmp_path / 'out').glob('non_finite-0-*-rank0.txt')
    lines = listed.read_text().splitlines()
    assert len(lines) == 4
    for line in lines:
        image, label = line.split(' with label ')
        assert (scenes / 'images/training').as_posix() in image and label.endswith('.png')


def test_time_of_an_evaluation_is_in_no_cost_and_curves_have_paddlesegs_names(monkeypatch, capsys):
    points = []

    class Writer:
        def add_scalar(self, tag, value, step):
            points.append((tag, step, value))

        def close(self):
            points.append('closed')

    lines = Lines(4, 2, batch_size=8, per_epoch=4, save_dir=None)
    lines.writer = Writer()
    for iteration in range(4):
        time.sleep(0.01)
        lines.count()
        lines.update(loss=3.0, lr=0.5, loss_0=1.0, loss_1=2.0)
        lines.show()
        if iteration == 2:
            with lines.paused():
                time.sleep(0.5)
    lines.curves('Evaluate', mIoU=0.25, Acc=0.5)
    lines.close()
    source = inspect.getsource(importlib.import_module('paddleseg.core.train'))
    tags = {tag for tag, *_ in points[:-1]}
    known = set(re.findall(r"'((?:Train|Evaluate)/\w+)'", source)) | {
        'Train/loss_0',
        'Train/loss_1',
    }
    assert tags <= known and len(tags) == 8 and points[-1] == 'closed'
    costs = [value for tag, _, value in points[:-1] if tag == 'Train/batch_cost']
    assert len(costs) == 2 and max(costs) < 0.2
    assert capsys.readouterr().out.count('[TRAIN]') == 2


class OwnLoss(paddle.nn.Layer):
    """A model with a loss of its own, which takes images with their channels last."""

    data_format = 'NHWC'

    def forward(self, images):
        self.seen = images.shape
        return [images]

    def loss_computation(self, scores, losses, batch):
        return [scores[0].mean() * losses['factor'], batch['label'].mean()]


def test_a_models_own_loss_and_layout_are_used():
    model = OwnLoss()
    batch = {'img': paddle.ones([2, 3, 4, 5]), 'label': paddle.full([2], 7.0)}
    parts = train.Objective(model, {'factor': 2.0})(model, batch)
    assert model.seen == [2, 4, 5, 3]
    assert [part.item() for part in parts] == [2.0, 7.0]
