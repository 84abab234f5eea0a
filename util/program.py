"""How every program starts and ends: device, processes, folders; errors in one line, exit codes."""

import os
import signal
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import paddle

from util import atomic, dist, kernels
from util.errors import INTERRUPTED, OUTPUT_CLOSED, InputError, NonFiniteLoss


def run(main: Callable, parser: ArgumentParser) -> None:
    """Run main(args) and end with the exit code that says how it went.

    2 and one line for what the user can put right, 1 for a loss that is not finite, 130 after
    Ctrl-C, 141 where nobody reads the output any more. Any other exception shows its traceback.
    """
    args = parser.parse_args()
    if sys.stdout.errors == 'strict':
        # A file's name in letters that the terminal lacks ends no run
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        main(args)
        sys.stdout.flush()
    except (InputError, NonFiniteLoss) as error:
        dist.fail(str(error))
        # Paddle's handler raises when loader workers end after this
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        print(f'{parser.prog}: error: {error}', file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        dist.fail('interrupted')
        print(f'{parser.prog}: interrupted', file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        dist.fail('nobody reads its output any more')
        # For what Python writes when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)
    except Exception as error:
        dist.fail(f'{type(error).__name__}: {error}')
        raise


def start(device: str | None, seed: int, output_dir: str = '', log_dir: str = '') -> None:
    """Choose the device, join the other processes, seed Paddle (differently on each rank), make the output folders.

    device: 'gpu' or its synonym 'cuda', 'cpu', or None for the GPU where Paddle was built for one.
    """
    has_gpu = paddle.device.is_compiled_with_cuda() and paddle.device.cuda.device_count() > 0
    if device in ('gpu', 'cuda') and not has_gpu:
        raise InputError(f'--device {device}: {_why_no_gpu()}')
    if device == 'cpu' or not has_gpu:
        _use_cpu()
    else:
        paddle.set_device(f'gpu:{dist.device_id()}')
    dist.begin()
    paddle.seed(seed + dist.rank())
    for flag, folder in (('--output_dir', output_dir), ('--log_dir', log_dir)):
        if folder:
            make_folder(flag, folder)


def _why_no_gpu() -> str:
    if paddle.device.is_compiled_with_cuda():
        return 'Paddle finds no GPU on this machine'
    return 'this Paddle was built for CPUs only; install requirements/gpu.txt in an environment of its own'


def _use_cpu() -> None:
    paddle.set_device('cpu')
    # Copies between strided views are slow on CPUs; without them small models train twice as fast, to the same loss
    paddle.set_flags({'FLAGS_use_stride_kernel': False})
    kernels.install()
    # Mixed precision is switched off here by ourselves, which auto_cast and GradScaler need not say again
    warnings.filterwarnings('ignore', message='.*(auto_cast|GradScaler).*')


def make_folder(flag: str, folder: str) -> None:
    """Make a folder for what the program writes, on the main process; InputError where it cannot write there."""
    if not dist.is_main():
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        atomic.clean(Path(folder))
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f'{flag} {folder}: cannot write into this folder ({error.strerror})'
        ) from None
