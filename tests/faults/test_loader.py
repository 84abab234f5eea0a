"""Killed loader workers, samples that raise, files that never answer: one line names the cause."""

import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image
from toy_detector import write_config, write_squares

import main_finetune
from faults.harness import Run
from util.augment import crop, transform
from util.data import folder, loader, pictures
from util.errors import InputError, NonFiniteLoss

SMALL = (
    '--input_size 16 --in_chans 1 --batch_size 4 --device cpu --log_dir= --print_freq 1 --epochs 2'
).split()
VIT = [*'--model vit_nano_patch4 --nb_classes 3'.split(), *SMALL]


@pytest.fixture
def many(digits, tmp_path):
    """The digits a hundred times over, so that an epoch lasts."""
    for split in ('train', 'val'):
        lines = [f'{file} {file.parent.name}\n' for file in sorted((digits / split).glob('*/*'))]
        (tmp_path / f'{split}.txt').write_text(''.join(lines * (100 if split == 'train' else 1)))
    return tmp_path


@pytest.mark.processes
@pytest.mark.parametrize('times', [1, pytest.param(20, marks=pytest.mark.faults)])
def test_a_killed_worker_ends_the_run_within_seconds(many, tmp_path, tally, times):
    draw = random.Random(0)
    for _ in range(times):
        with tally('a loader worker that is killed'):
            flags = ['--data_path', many, '--output_dir', tmp_path / 'out', '--num_workers', 3]
            run = Run('main_finetune.py', *VIT, *flags)
            run.until(f'[{draw.randint(2, 20)}/750]')
            begun = time.monotonic()
            run.kill(draw.choice(run.workers()))
            code, output = run.end()
            assert code == 2 and time.monotonic() - begun < 20, output
            (error,) = (line for line in output.splitlines() if 'error' in line)
            assert (
                'a loader worker was killed by SIGKILL (out of memory?), at ' in error
                and error.endswith('.png')
            )
            assert 'Traceback' not in output


def failing(digits, index, error):
    """The digits, with an augmentation that fails for one of them."""
    images = folder.find(str(digits), 'train', pictures.PICTURES)
    plain = transform.Train(crop.CropAndFlip(16, (0.2, 1)), *crop.statistics(1, None, None))

    def target(source, rng):
        if source == index:
            raise error
        return np.int64(0)

    return images.paths[index], loader.TrainSet(images, 1, plain, target, 0)


@pytest.mark.parametrize('workers', [0, 1, 4])
def test_a_sample_that_raises_is_named(digits, tally, workers, capfd):
    path, samples = failing(digits, 17, KeyError('the seventeenth'))
    begun = time.monotonic()
    with tally(f'a sample that raises, {workers} workers'):
        with pytest.raises(InputError) as error:
            list(loader.TrainLoader(samples, 3, num_workers=workers).batches(0))
        assert str(error.value) == f"{path} cannot be prepared (KeyError: 'the seventeenth')"
        assert 'Traceback' in capfd.readouterr().err and time.monotonic() - begun < 10


@pytest.mark.processes
@pytest.mark.slow
def test_a_sample_that_raises_ends_every_rank(digits, tmp_path, tally):
    with tally('a sample that raises, 2 processes'):
        begun = time.monotonic()
        flags = ['--model', 'mae_vit_nano_patch4', *SMALL, '--num_workers', 2]
        flags += ['--data_path', digits, '--output_dir', tmp_path / 'out']
        run = Run(
            'tests/programs/pretrain.py',
            'raise 17',
            *flags,
            processes=2,
            logs=tmp_path / 'launch',
        )
        code, _ = run.end()
        assert code != 0 and time.monotonic() - begun < 60
        for rank in (0, 1):  # one rank has the sample, and tells the other
            said = (tmp_path / f'launch/workerlog.{rank}').read_text()
            assert (
                f'{sorted(digits.glob("train/*/*"))[17]} cannot be prepared (KeyError: 17)' in said
            ), said


@pytest.mark.processes
@pytest.mark.parametrize('split', ['val', pytest.param('train', marks=pytest.mark.faults)])
def test_a_file_that_never_answers_ends_the_run(digits, tmp_path, tally, split):
    """A pipe that nobody writes to acts like a mount whose server is gone."""
    for name in ('train', 'val'):
        for number in range(3):
            place = tmp_path / 'data' / name / str(number)
            place.mkdir(parents=True)
            for file in (digits / name / str(number)).iterdir():
                place.joinpath(file.name).symlink_to(file)
    pipe = tmp_path / 'data' / split / '1/stuck.png'
    os.mkfifo(pipe)
    with tally(f'a file that never answers, {split}'):
        flags = ['--data_path', tmp_path / 'data', '--output_dir', tmp_path / 'out']
        run = Run('main_finetune.py', *VIT, *'--num_workers 2 --data_timeout 3'.split(), *flags)
        code, output = run.end()
        assert code == 2 and f'{pipe}: not read within --data_timeout 3 s' in output, output
        assert ('holds what was trained before it' in output) == (split == 'val')


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    'split, place',
    [
        ('training', 'images'),
        pytest.param('training', 'annotations', marks=pytest.mark.faults),
        pytest.param('validation', 'images', marks=pytest.mark.faults),
    ],
)
def test_a_file_that_never_answers_ends_a_segmentation(
    config, scenes, tmp_path, tally, split, place
):
    data = tmp_path / 'data'
    shutil.copytree(scenes, data)
    pipe = sorted((data / place / split).iterdir())[3]
    pipe.unlink()
    os.mkfifo(pipe)
    with tally(f'a file that never answers, seg/train.py, {place} of {split}'):
        begun = time.monotonic()
        flags = '--iters 2 --do_eval --num_workers 1 --data_timeout 2 --device cpu'.split()
        flags += ['--config', config(), '--save_dir', tmp_path / 'out']
        roots = [f'{part}_dataset.dataset_root={data}' for part in ('train', 'val')]
        run = Run('seg/train.py', *flags, '--opts', *roots)
        code, output = run.end()
        (error,) = (line for line in output.splitlines() if 'error: ' in line)
        assert code == 2 and str(pipe) in error and 'not read within --data_timeout 2 s' in error, (
            output
        )
        assert time.monotonic() - begun < 60 and 'Traceback' not in output, output


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize('times', [1, pytest.param(10, marks=pytest.mark.faults)])
def test_a_killed_worker_ends_a_segmentation(config, tmp_path, tally, times):
    draw = random.Random(0)
    for _ in range(times):
        with tally('a loader worker that is killed, seg/train.py'):
            flags = '--iters 5000 --log_iters 1 --num_workers 2 --device cpu'.split()
            run = Run(
                'seg/train.py', *flags, '--config', config(), '--save_dir', tmp_path / 'out'
            ).until(f'iter: {draw.randint(1, 20)}/')
            begun = time.monotonic()
            run.kill(draw.choice(run.workers()))
            code, output = run.end()
            assert code == 2 and time.monotonic() - begun < 40, output
            (error,) = (line for line in output.splitlines() if 'error: ' in line)
            assert (
                'a loader worker was killed by SIGKILL (out of memory?), at ' in error
                and error.endswith('.png')
            )
            assert 'Traceback' not in output


def detect(file, out, **values):
    """A training of the tiny detector with two workers, started."""
    values = {'save_dir': out, 'worker_num': 2, 'epoch': 500} | values
    options = [f'{key}={value}' for key, value in values.items()]
    flags = '--eval --data_timeout 2 --device cpu'.split()
    return Run('det/train.py', '-c', file, *flags, '-o', *options)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize('part', ['train', pytest.param('val', marks=pytest.mark.faults)])
def test_a_file_that_never_answers_ends_a_detection(squares, tmp_path, tally, part):
    data = tmp_path / 'data'
    shutil.copytree(squares, data)
    pipe = data / part / '003.png'
    with tally(f'a file that never answers, det/train.py, {part}'):
        # the data set looks for files, so that the pipe takes its place afterwards
        run = detect(write_config(tmp_path / 'tiny.yml', data), tmp_path / 'out')
        run.until('effective batch')
        pipe.unlink()
        os.mkfifo(pipe)
        code, output = run.end(120)
        (error,) = (line for line in output.splitlines() if 'error: ' in line)
        assert code == 2 and str(pipe) in error and 'not read within --data_timeout 2 s' in error, (
            output
        )
        assert 'Traceback' not in output, output


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize('times', [1, pytest.param(10, marks=pytest.mark.faults)])
def test_a_killed_worker_ends_a_detection(tmp_path, tally, times):
    """In an epoch of 150 iterations, so that the worker's batches are still missing."""
    draw = random.Random(0)
    data = write_squares(tmp_path / 'data', pictures=600)
    file = write_config(tmp_path / 'many.yml', data)
    for _ in range(times):
        with tally('a loader worker that is killed, det/train.py'):
            run = detect(file, tmp_path / 'out', snapshot_epoch=500)
            run.until(f'[{draw.randint(2, 10)}/150]')
            begun = time.monotonic()
            run.kill(draw.choice(run.workers()))
            code, output = run.end()
            assert code == 2 and time.monotonic() - begun < 40, output
            (error,) = (line for line in output.splitlines() if 'error: ' in line)
            assert 'a loader worker was killed by SIGKILL (out of memory?), at ' in error
            assert error.endswith('.png') and 'Traceback' not in output


@pytest.mark.processes
@pytest.mark.slow
def test_a_loss_that_is_nan_ends_a_detection_with_its_exit_code(detection, tmp_path, tally):
    with tally('a loss that is not finite, det/train.py'):
        code, output = detect(detection, tmp_path, **{'LearningRate.base_lr': 1e30}).end(120)
        assert code == NonFiniteLoss.exit_code, output
        assert 'the loss is nan in' in output and 'Traceback' not in output


@pytest.mark.processes
@pytest.mark.faults
@pytest.mark.parametrize('processes', [1, 2])
def test_a_worker_that_stands_still_ends_the_run(many, tmp_path, tally, processes):
    for _ in range(3):
        with tally(f'a worker that is stopped, {processes} processes'):
            flags = [*VIT, *'--num_workers 2 --data_timeout 5'.split(), '--data_path', many]
            flags += ['--output_dir', tmp_path / 'out']
            run = Run('main_finetune.py', *flags, processes=processes, logs=tmp_path / 'launch')
            run.until('[9/')
            begun = time.monotonic()
            run.kill(run.workers()[0], by=signal.SIGSTOP)
            code, output = run.end()
            assert (
                code != 0
                and 'not read within --data_timeout 5 s' in output
                and time.monotonic() - begun < 40
            ), output


def test_an_unreadable_validation_image_does_not_cost_the_epoch(digits, tmp_path, tally, capsys):
    """An epoch is saved if its evaluation fails; with a mended image only that is done again."""
    for name in ('train', 'val'):
        lines = ''.join(
            f'{file} {file.parent.name}\n' for file in sorted((digits / name).glob('*/*'))
        )
        (tmp_path / f'{name}.txt').write_text(lines)
    straight, out, bad = tmp_path / 'straight', tmp_path / 'out', tmp_path / 'bad.png'
    Image.new('L', (16, 16), 99).save(bad)
    with open(tmp_path / 'val.txt', 'a') as file:
        file.write(f'{bad} 1\n')

    def finetune(out, *flags):
        flags = [*VIT, '--data_path', tmp_path, '--num_workers', 0, '--output_dir', out, *flags]
        main_finetune.main(main_finetune.PARSER.parse_args(list(map(str, flags))))

    with tally('an unreadable validation image'):
        finetune(straight)
        whole = bad.read_bytes()
        bad.write_bytes(whole[:40])
        with pytest.raises(InputError, match=f'unreadable image {bad}'):
            finetune(out)
        assert 'checkpoint-0-28.pd holds what was trained before it' in capsys.readouterr().err
        bad.write_bytes(whole)
        finetune(out, '--resume', 'auto')
        assert (out / 'log.txt').read_text() == (straight / 'log.txt').read_text()
