"""Runs that are killed or asked to stop at random moments, also while they save, and resume.

They end as undisturbed runs do.
"""

import json
import random
import signal
import time

import numpy as np
import pytest

from faults.harness import Run
from util import weights

SMALL = (
    '--input_size 16 --in_chans 1 --warmup_epochs 1 --device cpu --log_dir= --blr 0.05 '
    '--print_freq 1'
).split()
OFTEN = ['--save_every', '1', '--save_every_iters', '1', '--keep', '3', '--resume', 'auto']
pytestmark = pytest.mark.processes
LAST = 'ema_model.pdparams'  # the last file that PaddleSeg saves with --use_ema
PROGRAMS = {
    'main_pretrain.py': ['--model', 'mae_vit_nano_patch4'],
    'main_finetune.py': ['--model', 'vit_nano_patch4', '--nb_classes', '3', '--reprob', '0.25'],
}


class Classic:
    """A training by main_*.py, which resumes by --resume auto and logs to log.txt."""

    def __init__(self, program, data, folder, epochs, processes, workers):
        self.folder, self.options = folder, {'processes': processes, 'logs': folder / 'launch'}
        flags = f'--batch_size {6 // processes} --epochs {epochs} --num_workers {workers}'.split()
        self.flags = [program, *PROGRAMS[program], *SMALL, *flags, '--data_path', data]
        self.last, self.begun, self.beat = epochs - 1, 'effective batch', '/5]'

    def start(self, out, resume):
        more = OFTEN if resume else []
        return Run(*self.flags, '--output_dir', self.folder / out, *more, **self.options)

    def log(self, out):
        return [
            json.loads(line) for line in (self.folder / out / 'log.txt').read_text().splitlines()
        ]

    def state(self, out):
        return {**weights.read(self.folder / out / f'checkpoint-{self.last}.pd'), 'args': None}


class Segmentation:
    """A training by seg/train.py, which resumes from --resume_model and keeps no log."""

    def __init__(self, config, folder, iters, processes, workers):
        self.folder, self.iters, self.begun, self.beat = folder, iters, '[TRAIN]', '[TRAIN]'
        self.options, self.refused = {'processes': processes, 'logs': folder / 'launch'}, 0
        flags = (
            f'--iters {iters} --batch_size {4 // processes} --num_workers {workers} '
            '--save_interval 2 --log_iters 1 --device cpu --use_ema --keep_checkpoint_max 3'
        )
        self.flags = ['seg/train.py', *flags.split(), '--config', config]

    def start(self, out, resume):
        """Start from the newest whole checkpoint; count checkpoints that are refused as partial."""
        newest = sorted((self.folder / out).glob('iter_*'), key=lambda path: -int(path.name[5:]))
        for place in [*newest, None] if resume else [None]:
            more = ['--resume_model', place] if place else []
            run = Run(*self.flags, '--save_dir', self.folder / out, *more, **self.options)
            while self.begun not in run.output and run.process.poll() is None:
                time.sleep(0.02)
            if self.begun in run.output or run.process.poll() == 0:
                return run
            run.end()
            assert place and str(place) in run.output.partition('error: ')[2], run.output
            self.refused += 1
        raise AssertionError(run.output)

    def log(self, out):
        return None

    def state(self, out):
        return {
            name: weights.read(self.folder / out / f'iter_{self.iters}' / name)
            for name in ('model.pdparams', 'model.pdopt', LAST)
        }


def same(ours, theirs, where=''):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for key, value in theirs.items():
            same(ours[key], value, f'{where}.{key}')
    else:
        np.testing.assert_array_equal(ours, theirs, err_msg=where)


def at_random(training, run, draw):
    """A random moment within twelve iterations."""
    enough = draw.randint(0, 12)
    while run.output.count(training.beat) < enough and run.process.poll() is None:
        time.sleep(0.01)
    time.sleep(draw.random() * 0.1)


def while_saving(training, run, draw):
    """The moment when a segmentation's folder lacks the file that is written last."""

    def partial():
        return {
            place
            for place in (training.folder / 'out').glob('iter_*')
            if not (place / LAST).exists()
        }

    before = partial()
    while partial() <= before and run.process.poll() is None:
        time.sleep(0.001)


def disturb(training, tally, name, times, by=signal.SIGKILL, seed=0, moment=at_random):
    """Kill `times` times, let the run finish, and compare it with an undisturbed one."""
    draw = random.Random(seed)
    code, output = training.start('straight', resume=False).end(600)
    assert code == 0, output
    for _ in range(times):
        with tally(name):
            run = training.start('out', resume=True).until(training.begun)
            trainers = run.trainers()
            moment(training, run, draw)
            assert run.process.poll() is None, f'too late: make the run longer\n{run.output}'
            victims = (
                [run.process.pid, *trainers.values()] if moment is at_random else [trainers[0]]
            )
            run.kill(*(victims[-1:] if by != signal.SIGKILL else [draw.choice(victims)]), by=by)
            code, output = run.end(60)
            assert code != 0, output
            assert by == signal.SIGKILL or len(victims) > 2 or code == 75, output
    with tally(f'{name}: the end equals the undisturbed run'):
        code, output = training.start('out', resume=True).end(600)
        assert code == 0, output
        same(training.state('out'), training.state('straight'))
        assert training.log('out') == training.log('straight')
        assert not list((training.folder / 'out').glob('.*')), 'temporary files are left'


@pytest.mark.slow
def test_a_fine_tuning_with_workers_that_is_killed_ends_as_an_undisturbed_one(
    digits, tmp_path, tally
):
    disturb(
        Classic('main_finetune.py', digits, tmp_path, 4, 1, 2),
        tally,
        'kill -9, fine-tune, 1 process',
        1,
    )


@pytest.mark.slow
def test_two_processes_that_are_killed_end_as_undisturbed_ones(digits, tmp_path, tally):
    disturb(
        Classic('main_pretrain.py', digits, tmp_path, 4, 2, 0),
        tally,
        'kill -9, pre-train, 2 processes',
        1,
    )


@pytest.mark.slow
@pytest.mark.parametrize('processes, workers', [(1, 2), (2, 1)])
def test_a_segmentation_that_is_killed_leaves_no_workers_and_no_batches(
    config, tmp_path, tally, processes, workers
):
    training = Segmentation(config(), tmp_path, 1000, processes, workers)
    with tally(f'kill -9, seg/train.py, {processes} processes, what is left'):
        run = training.start('out', resume=False).until(training.begun)
        assert len(run.workers()) == 2
        run.kill(run.process.pid)
        assert run.end(20)[0] == -signal.SIGKILL


@pytest.mark.slow
def test_a_segmentation_that_is_asked_to_stop_ends_as_an_undisturbed_one(config, tmp_path, tally):
    disturb(
        Segmentation(config(), tmp_path, 20, 1, 1),
        tally,
        'SIGUSR1, seg/train.py, 1 process',
        1,
        by=signal.SIGUSR1,
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    'program, processes, workers, times',
    [
        ('main_pretrain.py', 1, 0, 25),
        ('main_pretrain.py', 2, 2, 15),
        ('main_finetune.py', 1, 2, 25),
        ('main_finetune.py', 2, 0, 15),
    ],
)
def test_kill_9(digits, tmp_path, tally, program, processes, workers, times):
    what = f'kill -9, {program}, {processes} processes, {workers} workers'
    disturb(
        Classic(program, digits, tmp_path, 2 * times + 5, processes, workers), tally, what, times
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    'program, processes, workers, times',
    [
        ('main_pretrain.py', 1, 2, 5),
        ('main_pretrain.py', 2, 0, 5),
        ('main_finetune.py', 1, 0, 5),
        ('main_finetune.py', 2, 2, 5),
    ],
)
def test_sigterm(digits, tmp_path, tally, program, processes, workers, times):
    what = f'SIGTERM, {program}, {processes} processes, {workers} workers'
    disturb(
        Classic(program, digits, tmp_path, 3 * times + 2, processes, workers),
        tally,
        what,
        times,
        by=signal.SIGTERM,
    )


@pytest.mark.faults
@pytest.mark.parametrize(
    'processes, workers, times', [(1, 0, 10), (1, 2, 10), (2, 0, 10), (2, 2, 10)]
)
def test_kill_9_of_segmentation(config, tmp_path, tally, processes, workers, times):
    what = f'kill -9, seg/train.py, {processes} processes, {workers} workers'
    disturb(
        Segmentation(config(), tmp_path, 8 * times + 16, processes, workers), tally, what, times
    )


@pytest.mark.faults
@pytest.mark.parametrize('processes', [1, 2])
def test_kill_9_of_segmentation_while_it_saves(config, tmp_path, tally, processes):
    training = Segmentation(config(), tmp_path, 60, processes, 0)
    disturb(
        training,
        tally,
        f'kill -9, seg/train.py, {processes} processes, while it saves',
        10,
        moment=while_saving,
    )
    assert training.refused, 'no kill has met a save'


@pytest.mark.faults
@pytest.mark.parametrize('processes, workers, times', [(1, 2, 5), (2, 0, 5)])
def test_sigterm_of_segmentation(config, tmp_path, tally, processes, workers, times):
    what = f'SIGTERM, seg/train.py, {processes} processes, {workers} workers'
    disturb(
        Segmentation(config(), tmp_path, 16 * times + 16, processes, workers),
        tally,
        what,
        times,
        by=signal.SIGTERM,
    )
