"""What every program does around its work: begin, report errors in one line, keep records."""
import json
import math
import os
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle

from util import atomic, dist, kernels
from util.errors import InputError


class NonFiniteLoss(RuntimeError):
    """The loss is NaN or infinite, on all processes: each learns of it in the same iteration."""


def check_finite(loss: float, epoch: int, iteration: int, named: str = '') -> None:
    """NonFiniteLoss where training cannot go on. named: where the files of the batch are named."""
    if not math.isfinite(loss):
        raise NonFiniteLoss(f'the loss is {loss} in epoch {epoch}, iteration {iteration}; training stops. '
                            + (f'{named} names the images of the batch. ' if named else '') + 'Earlier checkpoints are '
                            'untouched: resume with a lower rate, or without mixed precision')


def seed_step(seed: int, epoch: int, iteration: int) -> np.random.Generator:
    """Seed Paddle for one step and return a generator for it: both depend on these numbers and the rank alone, so that
    a run that resumes draws what the undisturbed one would have drawn."""
    sequence = np.random.SeedSequence([seed, epoch, iteration, dist.rank()])
    paddle.seed(int(sequence.generate_state(1)[0]))
    return np.random.default_rng(sequence)


def program(main: Callable, parser: ArgumentParser) -> None:
    """Run main(args). Exit code 2 and one line for what the user can put right, 1 for a loss that is not finite."""
    args = parser.parse_args()
    if sys.stdout.errors == 'strict':
        sys.stdout.reconfigure(errors='backslashreplace')  # a file's name in letters that a terminal lacks ends no run
    try:
        main(args)
        sys.stdout.flush()
    except (InputError, NonFiniteLoss) as error:
        dist.fail(str(error))
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # Paddle's handler raises when loader workers end after this
        print(f'{parser.prog}: error: {error}', file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        dist.fail('interrupted')
        print(f'{parser.prog}: interrupted', file=sys.stderr, flush=True)
        sys.exit(130)
    except BrokenPipeError:
        dist.fail('nobody reads its output any more')
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        sys.exit(141)
    except Exception as error:
        dist.fail(f'{type(error).__name__}: {error}')
        raise


def begin(device: str | None, seed: int, output_dir: str = '', log_dir: str = '') -> None:
    """Choose the device, join the other processes, seed Paddle (differently on each rank), make the output folders.

    device: 'gpu' or its synonym 'cuda', 'cpu', or None for the GPU where Paddle was built for one.
    """
    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device in ('gpu', 'cuda') and not has_gpu:
        raise InputError(f'--device {device}: ' + (
            'Paddle finds no GPU on this machine' if paddle.device.is_compiled_with_cuda() else
            'this Paddle was built for CPUs only; install requirements/gpu.txt in an environment of its own'))
    if device == 'cpu' or not has_gpu:
        paddle.set_device('cpu')
        # Copies between strided views are slow on CPUs; without them small models train twice as fast, to the same loss
        paddle.set_flags({'FLAGS_use_stride_kernel': False})
        kernels.install()
        # Mixed precision is switched off here by ourselves, which auto_cast and GradScaler need not say again
        warnings.filterwarnings('ignore', message='.*(auto_cast|GradScaler).*')
    else:
        paddle.set_device(f'gpu:{dist.device_id()}')
    dist.begin()
    paddle.seed(seed + dist.rank())
    for flag, folder in (('--output_dir', output_dir), ('--log_dir', log_dir)):
        if folder:
            make_folder(flag, folder)


def make_folder(flag: str, folder: str) -> None:
    """Make a folder for what the program writes, on the main process; InputError where it cannot write there."""
    if dist.is_main():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            atomic.clean(Path(folder))
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise InputError(f'{flag} {folder}: cannot write into this folder ({error.strerror})') from None


def say(text: str) -> None:
    """Print on the main process."""
    if dist.is_main():
        print(text, flush=True)


def announce(name: str, model: paddle.nn.Layer, data, lr: float, epochs: int, resumed: str | None, start) -> None:
    """Say what is about to happen, on the main process, once all processes are ready for it."""
    dist.wait()
    dist.agree('where training begins', [start.epoch, start.samples])
    trainable = sum(parameter.size for parameter in model.parameters() if not parameter.stop_gradient)
    say(f'{name} with {trainable:,} trainable parameters, {len(data.samples)} images, '
        f'effective batch {data.effective_batch}, rate {lr:.3g}, {epochs} epochs of {len(data)} iterations')
    if resumed:
        say(f'resumed from {resumed}: epoch {start.epoch}, {start.samples} samples into it')


class Recorder:
    """log.txt, one JSON line an epoch, and VisualDL records; only the main process writes.

    An empty folder name leaves that record out. A run that begins at `first_epoch` moves the lines from there on, which
    belong to epochs that it does again, or to another run, to log.txt.old. Scalars stand on upstream's axis: 1000 steps
    are one epoch, so that runs with different batch sizes can be laid over each other.
    """

    def __init__(self, output_dir: str, log_dir: str, first_epoch: int = 0):
        self.log = Path(output_dir) / 'log.txt' if output_dir and dist.is_main() else None
        if self.log and self.log.exists():
            lines = self.log.read_text().splitlines(keepends=True)
            kept = [line for line in lines if _epoch(line) < first_epoch]
            if kept != lines:
                with open(self.log.with_name('log.txt.old'), 'a') as file:
                    file.writelines(line for line in lines if line not in kept)
                with atomic.writing(self.log) as file:
                    file.write(''.join(kept).encode())
        self.counts = {}  # what else belongs into the next line
        self.writer = None
        if log_dir and dist.is_main():
            from visualdl import LogWriter  # takes a second, which programs without records need not wait
            self.writer = LogWriter(log_dir)

    def scalars(self, epoch: float, **values: float) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, int(epoch * 1000))

    def picture(self, name: str, epoch: float, pixels: np.ndarray) -> None:
        """pixels: uint8 [height, width, 3]."""
        if self.writer:
            self.writer.add_image(name, pixels, int(epoch * 1000))
            self.writer.flush()

    def epoch(self, **values: float) -> None:
        """One line of log.txt; what VisualDL has buffered goes to the disk as well."""
        if self.writer:
            self.writer.flush()
        if self.log:
            try:
                with open(self.log, 'a', encoding='utf-8') as file:
                    file.write(json.dumps({**values, **self.counts}) + '\n')
            except OSError as error:
                raise atomic.refused(self.log, error) from None


def _epoch(line: str) -> float:
    """The epoch of a line of log.txt; infinity for the half of a line that a killed process leaves."""
    try:
        return json.loads(line)['epoch']
    except (json.JSONDecodeError, KeyError, TypeError):
        return float('inf')
