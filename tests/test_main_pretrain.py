"""The program as a user runs it, and the effect of each of its flags."""

import json
import os

import numpy as np
import paddle
import pytest
from conftest import slow
from PIL import Image
from visualdl import LogReader

import main_pretrain
from util import program, weights
from util.data import pictures
from util.errors import InputError

TINY = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --batch_size 8 --epochs 2 '
    '--warmup_epochs 1 --num_workers 0 --device cpu --log_dir='
).split()


def run_here(digits, out, *flags):
    flags = [*TINY, '--data_path', digits, '--output_dir', out, *flags]
    main_pretrain.main(main_pretrain.PARSER.parse_args(list(map(str, flags))))
    log = out / 'log.txt'
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else None


@pytest.fixture
def pretrain(digits, tmp_path):
    """pretrain('--flag', value, ...) -> (log as a list, output folder), within this process."""

    def pretrain(*flags, out='out'):
        return run_here(digits, tmp_path / out, *flags), tmp_path / out

    return pretrain


@pytest.fixture(scope='module')
def reference(digits, tmp_path_factory):
    """The log of a run without further flags."""
    return run_here(digits, tmp_path_factory.mktemp('reference'))


def test_output_is_as_the_official_program_writes_it(run_program, digits, tmp_path):
    flags = [*TINY, '--data_path', digits, '--output_dir', tmp_path, '--epochs', '3']
    launcher = ('-m', 'paddle.distributed.launch', '--log_dir', str(tmp_path / 'launch'))
    result = run_program('main_pretrain.py', *flags, launcher=launcher)
    assert result.returncode == 0, result.stdout + result.stderr
    log = [json.loads(line) for line in (tmp_path / 'log.txt').read_text().splitlines()]
    assert [list(line) for line in log] == [['train_lr', 'train_loss', 'epoch']] * 3
    assert [line['epoch'] for line in log] == [0, 1, 2]
    assert sorted(tmp_path.glob('*.pd')) == [
        tmp_path / 'checkpoint-0.pd',
        tmp_path / 'checkpoint-2.pd',
    ]
    saved = paddle.load(str(tmp_path / 'checkpoint-2.pd'))
    assert saved['epoch'] == 2 and type(saved['args']) is dict and saved['args']['batch_size'] == 8
    lines = [line for line in result.stdout.splitlines() if line.startswith('epoch ')]
    assert len(lines) == 6  # the first and last iteration of each epoch
    for word in ('loss', 'lr', 'time', 'data', 'mem', 'left'):
        assert f'  {word} ' in lines[0]


def test_visualdl_has_curves_on_the_epoch_1000_axis_and_pictures(pretrain, tmp_path):
    pretrain('--log_dir', tmp_path / 'vdl')
    (file,) = (tmp_path / 'vdl').glob('vdlrecords*')
    reader = LogReader(file_path=str(file))
    assert sorted(reader.get_tags()['scalar']) == ['lr', 'train_loss']
    losses = reader.get_data('scalar', 'train_loss')
    assert [record.id for record in losses] == [0, 333, 666, 1000, 1333, 1666]
    assert all(np.isfinite(record.value) for record in losses)
    assert [record.id for record in reader.get_data('image', 'reconstruction')] == [0, 1000]


CHANGES = (
    '--mask_ratio 0.5, --masking block, --masking grid, --norm_pix_loss, --blr 1e-2, --lr 0.1, '
    '--min_lr 0.1, --warmup_epochs 0, --weight_decay 50 --lr 0.01, --accum_iter 3, --seed 1, '
    '--batch_size 10, --input_size 32, --in_chans 3, --mean 0.1, --std 0.5, --clip_grad 1e-3, '
    '--beta2 0.5, --decoder_depth 1, --decoder_dim 32, --encoder_mask_tokens, --pca_target 2, '
    '--augmentation fixed_crop, --augmentation none, --color_jitter 0.4'
)


@pytest.mark.parametrize(
    'flags',
    [
        *CHANGES.split(', '),
        slow('--model mae_vit_small_patch16 --input_size 32'),
    ],
)
def test_a_flag_that_changes_training_changes_the_losses(pretrain, reference, flags):
    changed, _ = pretrain(*flags.split())
    assert [line['train_loss'] for line in changed] != [line['train_loss'] for line in reference]


@pytest.mark.parametrize(
    'flags',
    [
        *'--num_workers 2, --no_pin_mem, --print_freq 1, --save_every 1, --amp off'.split(', '),
        '--world_size 8 --local_rank 3 --dist_on_itp --dist_url tcp://nowhere',
    ],
)
def test_a_flag_that_should_not_change_training_does_not(pretrain, reference, flags):
    assert pretrain(*flags.split())[0] == reference


def test_recompute_reaches_the_model(pretrain, monkeypatch):
    calls = []
    monkeypatch.setattr(
        'layer.recompute', lambda block, *inputs: calls.append(block) or block(*inputs)
    )
    pretrain('--epochs', '1', '--recompute')
    assert len(calls) == 3 * (4 + 2)


def test_cadence_of_lines_and_checkpoints(pretrain, capsys):
    _, out = pretrain('--epochs', '4', '--print_freq', '1', '--save_every', '2')
    assert sum(line.startswith('epoch ') for line in capsys.readouterr().out.splitlines()) == 4 * 3
    names = sorted(path.name for path in out.glob('*.pd'))
    assert names == ['checkpoint-0.pd', 'checkpoint-2.pd', 'checkpoint-3.pd']


def test_rates_in_the_log_are_those_of_the_recipe(pretrain):
    log, _ = pretrain('--blr', '0.01', '--accum_iter', '3', '--epochs', '4', '--warmup_epochs', '2')
    # one optimizer step an epoch: its rate is that of the first iteration
    peak = 0.01 * 8 * 3 / 256
    assert [line['train_lr'] for line in log] == pytest.approx([0, peak / 2, peak, peak / 2])


def test_start_epoch_and_resume_go_on_where_they_say(pretrain):
    straight, out = pretrain('--epochs', '4', '--save_every', '1')
    assert [line['epoch'] for line in pretrain('--start_epoch', '1', out='later')[0]] == [1]
    resumed, _ = pretrain('--epochs', '4', '--resume', out / 'checkpoint-1.pd', out='resumed')
    assert resumed == straight[2:]


def test_empty_folder_names_leave_records_out(pretrain):
    pretrain('--output_dir', '')


def test_many_channels_come_from_arrays(pretrain, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'train/a').mkdir(parents=True)
    for i in range(8):
        np.save(tmp_path / f'train/a/{i}.npy', rng.normal(size=[20, 24, 5]).astype('float32'))
    flags = ['--in_chans', '5', '--data_path', tmp_path]
    log, out = pretrain(*flags, '--mean', *'00000', '--std', *'11111')
    assert np.isfinite(log[-1]['train_loss'])
    model = weights.read(out / 'checkpoint-1.pd')['model']
    assert model['patch_embed.proj.weight'].shape == (96, 5, 4, 4)
    with pytest.raises(InputError, match='--in_chans 5 needs --mean and --std'):
        pretrain(*flags)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_checkpoint(
    run_program, digits, tmp_path
):
    flags = '--lr 1e30 --warmup_epochs 0 --epochs 4 --save_every 1'.split()
    result = run_program(
        'main_pretrain.py', *TINY, *flags, '--data_path', digits, '--output_dir', tmp_path
    )
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if 'error' in line]
    assert len(errors) == 1 and 'the loss is' in errors[0] and 'Traceback' not in result.stderr
    for file in tmp_path.glob('*.pd'):
        weights.read(file)


BAD = {
    'no such folder': (['--data_path', '/nowhere'], '--data_path /nowhere: no such folder'),
    'model name': (
        ['--model', 'mae_vit_bass'],
        "no model 'mae_vit_bass'; choose from mae_pvt_nano_32,",
    ),
    'batch': (['--batch_size', '31'], '--batch_size 31 is larger than the data set of 30 images'),
    'accumulation': (['--accum_iter', '4'], '--accum_iter 4 is more than the 3 iterations'),
    'size': (['--input_size', '18'], 'image height 18 is no multiple of the patch size 4'),
    'ratio': (['--mask_ratio', '0.99'], '--mask_ratio 0.99 keeps 0 of 16 patches'),
    'two kinds of masks': (
        ['--masking', 'block', '--mask_regular'],
        '--masking block and --mask_regular are two kinds',
    ),
    'grid': (
        ['--masking', 'grid', '--mask_ratio', '.5'],
        '--mask_ratio 0.5: --masking grid removes three of every 2 x 2',
    ),
    'nothing removed': (['--mask_ratio', '0'], '--mask_ratio 0.0 keeps 16 of 16 patches'),
    'no GPU': (['--device', 'gpu'], '--device gpu: this Paddle was built for CPUs only'),
    'precision': (['--amp', 'float16'], '--amp float16 needs a GPU'),
    'resume': (['--resume', '/nowhere.pd'], '/nowhere.pd: no such file'),
    'output': (['--output_dir', '/proc/x'], '--output_dir /proc/x: cannot write into this folder'),
}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_bad_input_is_named(pretrain, flags, message):
    with pytest.raises(InputError) as error:
        pretrain(*flags)
    assert message in str(error.value)


def test_bad_input_is_one_line_and_exit_code_2(run_program, tmp_path):
    (tmp_path / 'train').mkdir()
    result = run_program(
        'main_pretrain.py', *TINY, '--data_path', tmp_path, '--output_dir', tmp_path / 'out'
    )
    assert result.returncode == 2
    (line,) = result.stdout.splitlines()
    assert line.startswith('device: cpu (')
    assert [line for line in result.stderr.splitlines() if line] == [
        f'main_pretrain.py: error: --data_path {tmp_path}/train: no image '
        f'({" ".join(pictures.PICTURES)}) in this folder, at any depth'
    ]


def test_the_defaults_of_the_gpu_follow_the_build(monkeypatch):
    monkeypatch.setattr(paddle.device, 'is_compiled_with_cuda', lambda: True)
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: 0)
    with pytest.raises(InputError, match='Paddle finds no GPU'):
        program.start('cuda', 0)
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: 8)
    monkeypatch.setattr('util.dist.device_id', lambda: 3)
    chosen = []
    monkeypatch.setattr(paddle, 'set_device', chosen.append)
    for device in (None, 'gpu', 'cuda', 'cpu'):
        program.start(device, 0)
    assert chosen == ['gpu:3'] * 3 + ['cpu']


def test_every_rank_draws_differently(monkeypatch):
    drawn = []
    for rank in '01':
        monkeypatch.setenv('PADDLE_TRAINER_ID', rank)
        program.start('cpu', 0)
        drawn.append(paddle.rand([4]).tolist())
    assert drawn[0] != drawn[1]


def test_leftover_temporaries_are_removed_at_the_start(pretrain, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/.checkpoint-0.pd.999999999.tmp').write_bytes(b'half')
    assert '.checkpoint-0.pd.999999999.tmp' not in os.listdir(pretrain('--epochs', '1')[1])


def test_an_unreadable_image_does_not_stop_training(pretrain, digits, tmp_path, capsys):
    for i in range(120):
        file = tmp_path / f'data/train/a/{i}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (16, 16), i).save(file)
    file.write_bytes(b'\x89PNG broken')
    log, _ = pretrain('--data_path', tmp_path / 'data', '--batch_size', '40')
    assert len(log) == 2 and '119.png' in capsys.readouterr().err
