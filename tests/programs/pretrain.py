"""main_pretrain.py with something changed or broken on purpose; the first argument says what.

sgd                    plain SGD in place of AdamW
slow_save SECONDS      saving takes so much longer
fail RANK ITERATION    that rank raises there
nan RANK ITERATION     that rank's loss is NaN there
late RANK ITERATION SECONDS  that rank comes so much later there
raise INDEX            the sample of that index raises
silence SECONDS        machines notice sooner that one of them is lost
join SECONDS           processes wait no longer for each other to start
signal NAME ITERATION  every rank gets the signal during that iteration of the second epoch
waits REST             REST, and figures are read as seldom as on a GPU
linger RANK REST       REST, and that rank is slow to end, when Python catches signals no more
"""

import os
import signal
import sys
import time

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import paddle

import main_pretrain
from util import dist, figures, heartbeat, optim, program
from util.data import loader
from util.progress import Progress
from util.weights import paddle_file


def sgd():
    optim.adamw = lambda groups, beta2: paddle.optimizer.SGD(0.0, parameters=groups)


def slow_save(seconds):
    write = paddle_file.write
    paddle_file.write = lambda path, tree: (time.sleep(float(seconds)), write(path, tree))


def at_iteration(action):
    """Call action(progress, batch) before each iteration; its result replaces the batch."""
    follow = Progress.follow

    def wrapped(self, batches):
        for batch in follow(self, batches):
            changed = action(self, batch)
            yield batch if changed is None else changed

    Progress.follow = wrapped


def fail(rank, iteration):
    def action(progress, batch):
        if dist.rank() == int(rank) and progress.iteration == int(iteration):
            raise RuntimeError('failed on purpose')

    at_iteration(action)


def nan(rank, iteration):
    def action(progress, batch):
        if dist.rank() == int(rank) and progress.iteration == int(iteration):
            return batch[0] * float('nan'), batch[1]

    at_iteration(action)


def late(rank, iteration, seconds):
    def action(progress, batch):
        if dist.rank() == int(rank) and progress.iteration == int(iteration):
            time.sleep(float(seconds))

    at_iteration(action)


def raising(index):
    read = loader.TrainSet.__getitem__

    def changed(self, key):
        if key[1] == int(index):
            raise KeyError(key[1])
        return read(self, key)

    loader.TrainSet.__getitem__ = changed


def join(seconds):
    dist.JOIN = float(seconds)


def silence(seconds):
    heartbeat.SILENCE = float(seconds)
    heartbeat.BEAT = float(seconds) / 5


def signalled(name, iteration):
    def action(progress, batch):
        if progress.epoch == 1 and progress.iteration == int(iteration):
            os.kill(os.getpid(), getattr(signal, name))

    at_iteration(action)


class Lingering:
    """An object in a module, which is deleted after the handlers of signals."""

    def __del__(self, sleep=time.sleep):
        sleep(2)


def linger(rank, *rest):
    global lingering
    lingering = Lingering() if dist.rank() == int(rank) else None
    change(*rest)


def waits(*rest):
    figures.reading_waits = lambda: True
    change(*rest)


def change(what='', *arguments):
    if what:
        {
            'sgd': sgd,
            'slow_save': slow_save,
            'fail': fail,
            'nan': nan,
            'signal': signalled,
            'late': late,
            'raise': raising,
            'join': join,
            'silence': silence,
            'waits': waits,
            'linger': linger,
        }[what](*arguments)


what, sys.argv[1:] = sys.argv[1].split(), sys.argv[2:]
change(*what)
program.run(main_pretrain.main, main_pretrain.PARSER)
