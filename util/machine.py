"""Settings that let Paddle use the whole CPU: threads, MKL's code path, memory.

Paddle reads the first two when it is imported, so `prepare` must run before that. Without it,
Paddle and its launcher export OMP_NUM_THREADS=1, and the bundled MKL takes a slow path on AMD
processors (32 instead of about 450 GFLOP/s in sgemm). Values that the user has set stay.
MAE_NUM_THREADS sets the number of threads under the launcher, where OMP_NUM_THREADS=1 may come from
the launcher itself.
"""

import contextlib
import ctypes
import io
import os
import sys
from functools import lru_cache

ENVIRONMENT = dict(os.environ)  # before `prepare`, for programs that are started from this one

# of malloc.h
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

_is_prepared = False  # whether `prepare` came before Paddle


def threads(environ: dict, cores: int) -> int | None:
    """Number of OpenMP threads to set for this process; None leaves the environment as it is."""
    if 'MAE_NUM_THREADS' in environ:
        asked = environ['MAE_NUM_THREADS']
        if not asked.isdecimal() or int(asked) < 1:
            sys.exit(f'MAE_NUM_THREADS={asked}: expected a number of threads, at least 1')
        return int(asked)

    # the launcher's processes share the cores of this machine
    set_before = environ.get('OMP_NUM_THREADS')
    if 'PADDLE_TRAINERS_NUM' in environ and set_before in (None, '1'):
        processes = int(environ.get('PADDLE_LOCAL_SIZE', 1))
        return max(1, cores // processes)

    return cores if set_before is None else None


def blas_path(cpuinfo: str) -> int | None:
    """Value of MKL_DEBUG_CPU_TYPE for MKL's fast kernels; None unless the processor is an AMD.

    cpuinfo: the text of /proc/cpuinfo.
    """
    if 'AuthenticAMD' not in cpuinfo:
        return None
    _, _, after = cpuinfo.partition('flags')
    flags = after.partition('\n')[0].split()
    if 'avx512f' in flags:
        return 7
    if 'avx2' in flags:
        return 5
    return None


def _cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo() -> str:
    try:
        with open('/proc/cpuinfo') as f:
            return f.read()
    except OSError:  # not Linux
        return ''


def retain_memory() -> bool:
    """Have glibc keep freed memory, in blocks of up to 32 MB, which is its limit.

    Paddle frees and allocates the same blocks in every step. If they went back to the system each
    time, it would fill them with zeros before it hands them out again. Returns False where the C
    library is another one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    keeps_blocks = mallopt(M_MMAP_THRESHOLD, 32 << 20)
    return bool(keeps_blocks and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@lru_cache(maxsize=1)
def give_back_once() -> bool:
    """Give freed memory back to the system, in the first call; False where the C library cannot.

    For the end of a first step, which makes the optimizer's state among activations and gradients.
    The holes that these leave are too small for those of later steps and, with retain_memory, would
    stay: 220 MB for a ViT-B.
    """
    try:
        return bool(ctypes.CDLL(None).malloc_trim(0))
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False


def unset(environ: dict, cores: int, cpuinfo: str) -> str:
    """The settings that Paddle lacks if it was imported with this environment, as NAME=VALUE ...

    Paddle itself sets OMP_NUM_THREADS=1 where nobody has set it.
    """
    missing = []
    if cores > 1 and environ.get('OMP_NUM_THREADS') == '1':
        missing.append(f'OMP_NUM_THREADS={cores}')
    path = blas_path(cpuinfo)
    if path is not None and 'MKL_DEBUG_CPU_TYPE' not in environ:
        missing.append(f'MKL_DEBUG_CPU_TYPE={path}')
    return ' '.join(missing)


def too_late() -> str:
    """What `prepare` would have set if Paddle had not been imported before; '' if nothing."""
    return '' if _is_prepared else unset(os.environ, _cores(), _cpuinfo())


def prepare() -> None:
    """Set the environment of this process, then import Paddle.

    Does nothing where Paddle has been imported before, because it is too late then; `too_late`
    tells.
    """
    global _is_prepared
    if 'paddle' in sys.modules:
        return
    _is_prepared = True
    count = threads(os.environ, _cores())
    if count is not None:
        os.environ['OMP_NUM_THREADS'] = str(count)
    path = blas_path(_cpuinfo())
    if path is not None:
        os.environ.setdefault('MKL_DEBUG_CPU_TYPE', str(path))
    retain_memory()

    # Paddle's import warns of more than one thread, which is what we want, and of a missing
    # compiler cache, which matters only to people who compile their own operators
    with contextlib.redirect_stderr(io.StringIO()):
        import paddle  # noqa: F401
