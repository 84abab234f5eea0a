import os
import subprocess
import sys
from pathlib import Path

import pytest

from util import machine

ROOT = Path(__file__).parents[1]
AMD, AMD_OLD, INTEL = (
    f'vendor_id : {vendor}\nflags : fpu sse2 {flags} ht\n'
    for vendor, flags in (
        ('AuthenticAMD', 'avx2 avx512f'),
        ('AuthenticAMD', 'avx2'),
        ('GenuineIntel', 'avx2 avx512f'),
    )
)


def test_all_cores_are_used_where_nothing_is_set():
    assert machine.threads({}, cores=8) == 8


def test_what_the_user_has_set_stays():
    assert machine.threads({'OMP_NUM_THREADS': '3'}, cores=8) is None
    assert machine.threads({'OMP_NUM_THREADS': '1'}, cores=8) is None


def test_workers_of_the_launcher_share_the_cores_despite_its_1():
    launched = {'PADDLE_TRAINERS_NUM': '4', 'PADDLE_LOCAL_SIZE': '2', 'OMP_NUM_THREADS': '1'}
    assert machine.threads(launched, cores=8) == 4
    assert machine.threads(launched | {'OMP_NUM_THREADS': '3'}, cores=8) is None
    assert machine.threads(launched | {'MAE_NUM_THREADS': '1'}, cores=8) == 1


def test_the_blas_switch_is_for_amd_alone():
    assert [machine.blas_path(cpu) for cpu in (AMD, AMD_OLD, INTEL, '')] == [7, 5, None, None]


def seen_by_a_worker(tmp_path, **environ):
    script = tmp_path / 'script.py'
    script.write_text('import util, os; print("threads", os.environ["OMP_NUM_THREADS"])')
    command = ['-m', 'paddle.distributed.launch', '--log_dir', str(tmp_path / 'log'), str(script)]
    result = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environ)
    assert result.returncode == 0, result.stdout + result.stderr
    return int(result.stdout.split('threads ')[-1].split()[0])


@pytest.mark.slow
@pytest.mark.processes
def test_the_launchers_workers_get_the_threads(tmp_path):
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ('OMP_NUM_THREADS', 'MAE_NUM_THREADS')
    }
    assert seen_by_a_worker(tmp_path, **clean) == len(os.sched_getaffinity(0))
    assert seen_by_a_worker(tmp_path, **clean, MAE_NUM_THREADS='5') == 5


HOLES = """
import numpy as np
from util import machine

def resident():
    return int(open('/proc/self/status').read().partition('VmRSS:')[2].split()[0])

def given_back():
    blocks = [np.ones(2**18) for _ in range(64)]  # of 2 MB
    blocks = blocks[1::2]
    before = resident()
    machine.give_back_once()
    return before - resident()

print(given_back(), given_back())
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='/proc and glibc')
def test_memory_between_what_lives_on_is_given_back_once():
    command = [sys.executable, '-c', HOLES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = map(int, done.stdout.split())  # KB
    assert first > 48 * 1024 and second < 1024  # of 64 MB
