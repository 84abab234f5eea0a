"""Where a run took place and by which code."""

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import paddle

HERE = Path(__file__).parent


def environment() -> dict[str, str | int]:
    """Code, versions and processor of this process."""
    device = paddle.device.get_device()
    return {
        'commit': commit(),
        'python': platform.python_version(),
        'paddle': paddle.__version__,
        'numpy': np.__version__,
        'processor': _processor(),
        'threads': int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1)),
        'device': f'{device}, {paddle.device.cuda.get_device_name()}'
        if device.startswith('gpu')
        else device,
    }


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next(
        (line.partition(':')[2].strip() for line in lines if line.startswith('model name')),
        platform.machine(),
    )


def commit() -> str:
    """Of the code that runs, with `, changed` where files differ from it."""

    def git(*words):
        return subprocess.run(
            ['git', *words], cwd=HERE, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git('rev-parse', 'HEAD') + (
            ', changed' if git('status', '--porcelain', '--untracked-files=no') else ''
        )
    except (OSError, subprocess.SubprocessError):
        return 'unknown: git does not tell'
