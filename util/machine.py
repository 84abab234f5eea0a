"""Use the whole CPU: threads and the BLAS switch, which Paddle reads when it is imported, and so before that; memory.

Paddle and its launcher export OMP_NUM_THREADS=1 when nothing is set, and the bundled MKL takes a slow path on AMD
processors (32 against some 450 GFLOP/s in sgemm). Whatever the user has set stays; MAE_NUM_THREADS is the way to ask
for a number of threads under the launcher, where a 1 may come from the launcher itself.
"""

import contextlib
import ctypes
import io
import os
import sys


def threads(environ: dict, cores: int) -> int | None:
    """Number of OpenMP threads to set for this process; None leaves the environment as it is."""
    if 'MAE_NUM_THREADS' in environ:
        wish = environ['MAE_NUM_THREADS']
        if not wish.isdecimal() or int(wish) < 1:
            sys.exit(f'MAE_NUM_THREADS={wish}: expected a number of threads, at least 1')
        return int(wish)
    if 'PADDLE_TRAINERS_NUM' in environ and environ.get('OMP_NUM_THREADS') in (None, '1'):
        return max(1, cores // int(environ.get('PADDLE_LOCAL_SIZE', 1)))
    return cores if 'OMP_NUM_THREADS' not in environ else None


def blas_path(cpuinfo: str) -> int | None:
    """Value of MKL_DEBUG_CPU_TYPE that gives an AMD processor MKL's fast kernels; None for every other processor."""
    if 'AuthenticAMD' not in cpuinfo:
        return None
    flags = cpuinfo.partition('flags')[2].partition('\n')[0].split()
    return 7 if 'avx512f' in flags else 5 if 'avx2' in flags else None


def _cpuinfo() -> str:
    try:
        with open('/proc/cpuinfo') as f:
            return f.read()
    except OSError:  # not Linux
        return ''


def retain_memory() -> bool:
    """Have glibc keep what it has freed, up to its limit of 32 MB a block: Paddle frees and takes the same blocks in every
    step, and each time the system would have to fill them with zeros again. False where the C library is another."""
    mmap_threshold, trim_threshold = -3, -1  # of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(mmap_threshold, 32 << 20) and mallopt(trim_threshold, 2**31 - 1))


def prepare() -> None:
    """Set the environment of this process, then import Paddle. Once that has happened elsewhere it is too late: nothing."""
    if 'paddle' in sys.modules:
        return
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
    count = threads(os.environ, cores)
    if count is not None:
        os.environ['OMP_NUM_THREADS'] = str(count)
    path = blas_path(_cpuinfo())
    if path is not None:
        os.environ.setdefault('MKL_DEBUG_CPU_TYPE', str(path))
    retain_memory()
    # Paddle's import warns of more than one thread, which was just chosen, and of a missing compiler cache, which only
    # those need who compile operators of their own
    with contextlib.redirect_stderr(io.StringIO()):
        import paddle  # noqa: F401
