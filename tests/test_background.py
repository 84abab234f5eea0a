"""Checkpoints are written while training goes on, and the earlier one stays whole meanwhile."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paddle
import pytest
import toy

from engine_loop import Run
from util import checkpoint, resume, weights
from util.background import Background
from util.errors import InputError
from util.weights import paddle_file


def test_work_is_done_in_order_and_the_first_failure_is_raised():
    done = []
    background = Background()
    background.add(lambda: done.append(1))
    background.add(lambda: 1 / 0)
    background.add(lambda: done.append(3))
    with pytest.raises(ZeroDivisionError):
        background.join()
    assert done == [1, 3]
    assert not background.has_failed
    background.join()


@pytest.fixture
def gate(monkeypatch):
    """Files are written once this event is set."""
    write, event = paddle_file.write, threading.Event()

    def slow(path, tree):
        assert event.wait(60)
        write(path, tree)

    monkeypatch.setattr(paddle_file, 'write', slow)
    yield event
    event.set()


def run_of(folder, epochs=3, **asked):
    model = toy.layer()
    batches = [paddle.to_tensor([[1.0, 2.0]])] * 2
    kept = {'best': {'acc1': 1.0}}
    flags = toy.flags(folder, **{'epochs': epochs} | asked)
    return model, Run(model, toy.adamw(model), toy.Data(batches), flags, kept=kept)


def train(run):
    return run.train(lambda batch: (run.network(batch) - 1).square().mean())


def test_training_goes_on_while_a_checkpoint_of_its_moment_is_written(tmp_path, gate):
    model, run = run_of(tmp_path)
    epochs = run.epochs()
    epoch = next(epochs)
    train(run)
    run.finish_epoch(epoch, {'epoch': epoch}, 'best')
    expected = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    next(epochs)
    train(run)  # the file is not there yet
    run.saver.kept['best']['acc1'] = 2.0
    assert checkpoint.ordered(tmp_path) == []

    gate.set()
    run.saver.join()
    state = weights.read(tmp_path / 'checkpoint-0.pd')
    for name, array in expected.items():
        np.testing.assert_array_equal(state['model'][name], array)
        assert (model.state_dict()[name].numpy() != array).any()
    assert state['best'] == {'acc1': 1.0} and state['position']['sums'] == {}
    assert (tmp_path / 'checkpoint-best.pd').samefile(tmp_path / 'checkpoint-0.pd')


def test_all_is_written_when_the_epochs_end(tmp_path, gate):
    _, run = run_of(tmp_path, save_every_iters=1)
    threading.Timer(0.2, gate.set).start()
    for epoch in run.epochs():
        train(run)
        run.finish_epoch(epoch, {'epoch': epoch})
    names = [path.name for path in checkpoint.ordered(tmp_path)]
    assert names == [
        f'checkpoint-{epoch}{part}.pd' for epoch in range(3) for part in ('-1', '-2', '')
    ]


def test_a_disk_that_is_full_ends_the_training_at_the_next_step(tmp_path, monkeypatch):
    _, run = run_of(tmp_path)
    epochs = run.epochs()
    epoch = next(epochs)
    train(run)
    run.finish_epoch(epoch, {'epoch': epoch})
    run.saver.join()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    epoch = next(epochs)
    train(run)
    monkeypatch.setattr(os, 'fsync', full)
    run.finish_epoch(epoch, {'epoch': epoch})
    while not run.saver.background.has_failed:
        pass
    next(epochs)
    said = re.escape(f'{tmp_path}/checkpoint-1.pd cannot be written (No space left on device)')
    with pytest.raises(InputError, match=f'{said}.* --resume auto continues'):
        train(run)
    assert run.progress.iteration == 1
    assert resume.find('auto', str(tmp_path))['epoch'] == 0


KILLED = """
import os, signal, sys
import util
from pathlib import Path
import test_background
from util.weights import paddle_file

folder, times = Path(sys.argv[1]), int(sys.argv[2])
_, run = test_background.run_of(folder, save_every_iters=1)


class Killing(paddle_file._Hashing):
    def write(self, data):
        global times
        times -= 1
        if not times:
            self._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)


for epoch in run.epochs():
    test_background.train(run)
    run.finish_epoch(epoch, {'epoch': epoch})
    paddle_file._Hashing = Killing  # from the second epoch on
"""


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_writes_leaves_the_earlier_checkpoint(tmp_path):
    command = [sys.executable, '-c', KILLED, tmp_path, '5']
    here = Path(__file__).parent
    path = f'{here}:{here.parent}'
    ended = subprocess.run(command, env={**os.environ, 'PYTHONPATH': path}, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert list(tmp_path.glob('.checkpoint-*.tmp'))  # it was within a file
    names = [path.name for path in checkpoint.ordered(tmp_path)]
    assert names[:2] == ['checkpoint-0-1.pd', 'checkpoint-0-2.pd']
    newest = resume.find('auto', str(tmp_path))
    assert Path(newest['path']).name == names[-1]
