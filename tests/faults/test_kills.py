"""Runs that are killed or asked to stop at random moments, also while they save, and resume.

They end as undisturbed runs do.
"""

import json
import random
import re
import signal
import time

import pytest
from conftest import assert_same_tree

from faults.harness import Run
from util import weights

SMALL = (
    '--input_size 16 --in_chans 1 --warmup_epochs 1 --device cpu --log_dir= --blr 0.05 '
    '--print_freq 1'
).split()
OFTEN = ['--save_every', '1', '--save_every_iters', '1', '--keep', '3', '--resume', 'auto']
pytestmark = pytest.mark.processes
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
        self.last, self.begun = epochs - 1, 'effective batch'
        self.iterations = 5 * epochs

    def start(self, out, resume):
        more = OFTEN if resume else []
        return Run(*self.flags, '--output_dir', self.folder / out, *more, **self.options)

    def done(self, line):
        """The iterations that a line of the output says are done, 0 if it says nothing."""
        found = re.search(r'epoch (\d+)/\d+  \[(\d+)/5\]', line)
        return 5 * (int(found[1]) - 1) + int(found[2]) if found else 0

    def log(self, out):
        return [
            json.loads(line) for line in (self.folder / out / 'log.txt').read_text().splitlines()
        ]

    def state(self, out):
        return {**weights.read(self.folder / out / f'checkpoint-{self.last}.pd'), 'args': None}


class Segmentation:
    """A training by seg/train.py, which resumes by --resume_model auto and keeps no log."""

    def __init__(self, config, folder, iters, processes, workers):
        self.folder, self.iterations, self.begun = folder, iters, '[TRAIN]'
        self.options = {'processes': processes, 'logs': folder / 'launch'}
        flags = (
            f'--iters {iters} --batch_size {4 // processes} --num_workers {workers} '
            '--save_interval 2 --log_iters 1 --device cpu --use_ema --keep_checkpoint_max 3 '
            '--do_eval'
        )
        self.flags = ['seg/train.py', *flags.split(), '--config', config]

    def start(self, out, resume):
        more = ['--resume_model', 'auto'] if resume else []
        return Run(*self.flags, '--save_dir', self.folder / out, *more, **self.options)

    def done(self, line):
        """The iterations that a line of the output says are done, 0 if it says nothing."""
        found = re.search(r'iter: (\d+)/', line)
        return int(found[1]) if found else 0

    def log(self, out):
        return None

    def state(self, out):
        """All files of the last checkpoint, but for where it was made."""
        folder = self.folder / out / f'iter_{self.iterations}'
        files = {path.name: weights.read(path) for path in folder.iterdir()}
        assert len(files) == 4
        return files | {'training.pd': files['training.pd'] | {'args': None}}


class Detection:
    """A training by det/train.py, which resumes by -r auto and logs to log.txt."""

    def __init__(self, config, folder, epochs, processes, workers):
        self.folder = folder
        self.options = {'processes': processes, 'logs': folder / 'launch'}
        self.last, self.begun = epochs - 1, 'effective batch'
        self.iterations = 2 * epochs
        self.config = config
        self.values = f'epoch={epochs} worker_num={workers} TrainReader.batch_size={4 // processes}'

    def start(self, out, resume):
        more = ['-r', 'auto', '--save_every_iters', '1'] if resume else []
        values = [*self.values.split(), f'save_dir={self.folder / out}']
        flags = ['-c', self.config, '--device', 'cpu', '--eval', *more, '-o', *values]
        return Run('det/train.py', *flags, **self.options)

    def done(self, line):
        """The iterations that a line of the output says are done, 0 if it says nothing."""
        found = re.search(r'epoch (\d+)/\d+  \[(\d+)/2\]', line)
        return 2 * (int(found[1]) - 1) + int(found[2]) if found else 0

    def log(self, out):
        file = self.folder / out / self.config.stem / 'log.txt'
        return [json.loads(line) for line in file.read_text().splitlines()]

    def state(self, out):
        file = self.folder / out / self.config.stem / f'checkpoint-{self.last}.pd'
        return {**weights.read(file), 'args': None}


def at_random(training, run, place, draw):
    """A random moment of the iteration after `place`, by the run's own lines.

    The clock of a machine plays no part, so a fast one is not over too early.
    """
    read, stamps = 0, []
    while run.process.poll() is None:
        for line in run.lines[read:]:
            read += 1
            if training.done(line):
                stamps.append(time.monotonic())
            if training.done(line) >= place:
                pace = (stamps[-1] - stamps[0]) / max(len(stamps) - 1, 1)
                time.sleep(draw.random() * min(pace, 0.1))
                return
        time.sleep(0.001)


def while_saving(training, run, place, draw):
    """The moment when a segmentation writes its first folder after `place`."""
    at_random(training, run, place, draw)
    while not list((training.folder / 'out').glob('.iter_*')) and run.process.poll() is None:
        time.sleep(0.0005)


def disturb(training, tally, name, times, by=signal.SIGKILL, seed=0, moment=at_random):
    """Kill `times` times, let the run finish, and compare it with an undisturbed one.

    Returns how many kills left a folder half written. The kills are spread over the first four
    fifths of the iterations.
    """
    draw = random.Random(seed)
    code, output = training.start('straight', resume=False).end(600)
    assert code == 0, output
    partial = 0
    for number in range(times):
        with tally(name):
            place = int(0.8 * training.iterations * (number + draw.random()) / times)
            run = training.start('out', resume=True).until(training.begun)
            trainers = run.trainers()
            moment(training, run, place, draw)
            assert run.process.poll() is None, f'over before {place} iterations\n{run.output}'
            victims = (
                [run.process.pid, *trainers.values()] if moment is at_random else [trainers[0]]
            )
            run.kill(*(victims[-1:] if by != signal.SIGKILL else [draw.choice(victims)]), by=by)
            code, output = run.end(60)
            assert code != 0, output
            assert by == signal.SIGKILL or len(victims) > 2 or code == 75, output
            partial += len(list((training.folder / 'out').glob('.iter_*')))
    with tally(f'{name}: the end equals the undisturbed run'):
        code, output = training.start('out', resume=True).end(600)
        assert code == 0, output
        assert_same_tree(training.state('out'), training.state('straight'))
        assert training.log('out') == training.log('straight')
        assert not list((training.folder / 'out').glob('.*')), 'temporary files are left'
    return partial


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
        assert len(run.workers()) >= 2  # an evaluation has one more
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


@pytest.mark.slow
@pytest.mark.parametrize('by', [signal.SIGKILL, signal.SIGTERM])
def test_a_detection_that_is_killed_ends_as_an_undisturbed_one(detection, tmp_path, tally, by):
    training = Detection(detection, tmp_path, 6, processes=1, workers=1)
    disturb(training, tally, f'{by.name}, det/train.py, 1 process', 1, by=by)


@pytest.mark.faults
@pytest.mark.parametrize('processes, workers, times', [(1, 0, 10), (1, 2, 10), (2, 2, 10)])
def test_kill_9_of_detection(detection, tmp_path, tally, processes, workers, times):
    what = f'kill -9, det/train.py, {processes} processes, {workers} workers'
    training = Detection(detection, tmp_path, 2 * times + 5, processes, workers)
    disturb(training, tally, what, times)


@pytest.mark.faults
@pytest.mark.parametrize('processes, workers, times', [(1, 2, 5), (2, 0, 5)])
def test_sigterm_of_detection(detection, tmp_path, tally, processes, workers, times):
    what = f'SIGTERM, det/train.py, {processes} processes, {workers} workers'
    training = Detection(detection, tmp_path, 4 * times + 5, processes, workers)
    disturb(training, tally, what, times, by=signal.SIGTERM)


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
    what = f'kill -9, seg/train.py, {processes} processes, while it saves'
    assert disturb(training, tally, what, 10, moment=while_saving), 'no kill has met a save'


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
