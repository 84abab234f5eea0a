"""The code, the versions and the machine of a run, for checkpoints and records."""

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import paddle

HERE = Path(__file__).parent


def environment() -> dict[str, str | int]:
    """Commit, versions, processor, threads and device of this process."""
    device = paddle.device.get_device()
    if device != 'cpu' and model_name():
        device = f'{device}, {model_name()}'

    return {
        'commit': commit(),
        'python': platform.python_version(),
        'paddle': paddle.__version__,
        'numpy': np.__version__,
        'processor': processor(),
        'threads': threads(),
        'device': device,
    }


def threads() -> int:
    """The number of threads with which this process computes on CPUs."""
    return int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1))


def model_name() -> str:
    """The model of the device in use, such as NVIDIA A100; '' where Paddle does not tell."""
    kind = paddle.device.get_device().partition(':')[0]
    if kind == 'cpu':
        return processor()
    return paddle.device.cuda.get_device_name() if kind == 'gpu' else ''


def processor() -> str:
    """The model of this machine's processor."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith('model name'):
            _, _, name = line.partition(':')
            return name.strip()
    return platform.machine()


def commit() -> str:
    """The commit of this code, followed by `, changed` where files differ from it."""
    try:
        head = _git('rev-parse HEAD')
        changes = _git('status --porcelain --untracked-files=no')
    except (OSError, subprocess.SubprocessError):
        return 'unknown: git does not tell'
    return f'{head}, changed' if changes else head


def _git(words: str) -> str:
    """The output of a git command in this repository."""
    command = ['git', *words.split()]
    ran = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True, timeout=10)
    return ran.stdout.strip()
