"""How every program starts and ends: device, processes, folders; one-line errors, exit codes."""

import os
import signal
import socket
import sys
import tempfile
import time
import uuid
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import paddle

from util import atomic, bfloat16, dist, hosts, kernels, maps
from util import device as devices
from util.errors import BAD_INPUT, INTERRUPTED, OUTPUT_CLOSED, InputError, NonFiniteLoss

APPEARS = 5.0  # seconds in which a file of one machine is seen by another


def run(main: Callable, parser: ArgumentParser) -> None:
    """Run main(args) and end with an exit code of util/errors.py.

    InputError and NonFiniteLoss are printed in one line; any other exception with its traceback.
    """
    args = parser.parse_args()
    if sys.stdout.errors == 'strict':
        # a file name with letters that the terminal cannot show must not end the run
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        main(args)
        sys.stdout.flush()
    except (InputError, NonFiniteLoss) as error:
        dist.fail(str(error))
        # Paddle's handler would raise when the loader's workers end after this
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        print(f'{parser.prog}: error: {error}', file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except MemoryError as error:  # also what Paddle raises where a GPU's memory ends
        reason = ' '.join(str(error).split())
        dist.fail(f'out of memory: {reason}')
        print(
            f'{parser.prog}: error: out of memory; choose smaller images, a smaller batch or a '
            f'smaller model: {reason}',
            file=sys.stderr,
            flush=True,
        )
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        dist.fail('interrupted')
        print(f'{parser.prog}: interrupted', file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        dist.fail('nobody reads its output any more')
        # Python flushes stdout when it ends; that must not fail again
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        sys.exit(OUTPUT_CLOSED)
    except Exception as error:
        dist.fail(f'{type(error).__name__}: {error}')
        raise


def start(
    device: str | None,
    seed: int,
    output_dir: str = '',
    log_dir: str = '',
    *,
    amp: str | None = 'off',
    deterministic: bool = False,
    unfixed: str = '',
    tf32: bool = True,
    to: TextIO | None = None,
) -> None:
    """Choose the device, join the other processes, seed Paddle and make the output folders.

    device, amp, deterministic: the flags --device, --amp and --deterministic, which util/device.py
    explains; `amp` is 'off' for programs without mixed precision. Each rank gets a seed of its own.
    unfixed: what the program computes by kernels that are not deterministic on GPUs, whatever the
    flags. tf32: False for programs that compare results in float32.
    to: where the line about all this is printed, by default stdout.
    """
    if not tf32:
        devices.without_tf32()
    if deterministic:
        devices.make_deterministic()
    if devices.choose(device) == 'cpu':
        _prepare_cpu()
    precision = devices.precision(amp)
    dist.begin()
    if dist.is_main():
        print(devices.summary(precision, deterministic, unfixed), file=to, flush=True)
    paddle.seed(seed + dist.rank())
    if output_dir:
        make_folder('--output_dir', output_dir)
    if log_dir:
        make_folder('--log_dir', log_dir)


def _prepare_cpu() -> None:
    # Strided views are slow on CPUs; without them small models train twice as fast to the same loss
    paddle.set_flags({'FLAGS_use_stride_kernel': False})
    kernels.install()
    maps.install()
    bfloat16.install()
    # auto_cast and GradScaler warn that mixed precision is off on CPUs, which is intended here
    warnings.filterwarnings('ignore', message='.*(auto_cast|GradScaler).*')


def make_folder(flag: str, folder: str) -> None:
    """Make a folder for the program's output, on the main process.

    InputError where the program cannot write into it, or where other machines do not see it.
    """
    if dist.is_main():
        _make_writable(flag, folder)
    if hosts.machines() > 1:
        dist.barrier()  # ends when the main process has failed; a collective operation may not
        _require_shared(flag, folder)


def _make_writable(flag: str, folder: str) -> None:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        atomic.clean(path)
        tempfile.TemporaryFile(dir=folder).close()  # can we write there?
    except OSError as error:
        message = f'{flag} {folder}: cannot write into this folder ({error.strerror})'
        raise InputError(message) from None


def _require_shared(flag: str, folder: str) -> None:
    """InputError on every rank if one does not see a file that the main process has made."""
    mark = dist.gather(uuid.uuid4().hex)[0]
    path = Path(folder) / f'.shared.{mark}{atomic.SUFFIX}'
    if dist.is_main():
        path.touch()
    dist.barrier()

    # A network file system may take a moment
    begun = time.monotonic()
    while not path.exists() and time.monotonic() - begun < APPEARS:
        time.sleep(0.1)
    names = dist.gather('' if path.exists() else socket.gethostname())
    if dist.is_main():
        path.unlink()
    blind = sorted({name for name in names if name})
    if blind:
        raise InputError(
            f'{flag} {folder} is not shared: {", ".join(blind)} cannot see what rank 0 has written '
            'there; name a folder that all machines share'
        )
