"""The project's programs, started as a user starts them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpu.report import Settings, one_line

ROOT = Path(__file__).resolve().parents[2]
EXACT = {'NVIDIA_TF32_OVERRIDE': '0'}  # float32 products in float32; has to be set before Paddle
SAME = {'FLAGS_cudnn_deterministic': '1', 'FLAGS_embedding_deterministic': '1'}
# main_pretrain.py with something changed; its first argument says what
CHANGED = 'tests/programs/pretrain.py'
LIMIT = 300.0  # seconds
_started: list[subprocess.Popen] = []


def start(settings: Settings, *words, processes: int = 1, **environ: str) -> subprocess.Popen:
    """Start a program, by Paddle's launcher if it takes several processes."""
    command = [sys.executable]
    if processes > 1:
        logs = settings.folder / 'launch'
        command += ['-m', 'paddle.distributed.launch', '--log_level', 'ERROR', '--log_dir', logs]
        if settings.flag == 'gpu':
            command += ['--gpus', ','.join(map(str, range(processes)))]
        else:
            command += ['--nproc_per_node', processes]
    command += [ROOT / words[0], *words[1:]]
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors='replace',
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT), **environ, **settings.environment},
    )
    _started.append(process)
    return process


def end(process: subprocess.Popen, limit: float = LIMIT) -> tuple[int, str]:
    """The exit code and the output; after `limit` seconds the program and its children are killed.

    TimeoutError then.
    """
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        kill(process)
        raise TimeoutError(f'it had not ended after {limit:g} s') from None
    return process.returncode, output


def kill(process: subprocess.Popen) -> None:
    """Kill a program with all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def kill_all() -> None:
    """Kill all programs that still run."""
    for process in _started:
        if process.poll() is None:
            kill(process)


def run(settings: Settings, *words, **options) -> str:
    """The output of a program; RuntimeError with its last line if its exit code is not 0."""
    code, output = end(start(settings, *words, **options))
    if code:
        raise RuntimeError(f'{words[0]} ended with {code}: {one_line(output)}')
    return output


def until(process: subprocess.Popen, text: str, limit: float = 300.0) -> None:
    """Read the output up to a line that holds the text."""
    begun = time.monotonic()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return
        if time.monotonic() - begun > limit:
            break
    raise RuntimeError(f'{text!r} was not printed: {one_line("".join(lines))}')


def digits(settings: Settings) -> Path:
    """Scanned digits: 1442 images, and in the folder digits100 lists of 100."""
    folder = settings.folder / 'digits'
    if not folder.exists():
        command = [sys.executable, ROOT / 'demo/make_digits.py', '--out', folder]
        subprocess.run(command, check=True, capture_output=True)
    return folder


def pretraining(settings: Settings, out: Path, model: str = 'mae_vit_nano_patch4') -> list:
    """Flags of a pre-training of five iterations an epoch."""
    words = (
        f'--model {model} --input_size 32 --in_chans 1 --batch_size 20 --epochs 3 '
        '--warmup_epochs 1 --save_every 1 --num_workers 2 --print_freq 1 --log_dir='
    ).split()
    if '_swin_' in model:
        words.append('--mask_regular')
    data = digits(settings).with_name('digits100')
    return [*words, '--device', settings.flag, '--data_path', data, '--output_dir', out]


def finetuning(settings: Settings, out: Path) -> list:
    """Flags of a fine-tuning of one epoch."""
    words = (
        '--model vit_nano_patch4 --input_size 32 --in_chans 1 --nb_classes 10 --batch_size 20 '
        '--epochs 1 --warmup_epochs 0 --num_workers 2 --print_freq 1 --log_dir='
    ).split()
    data = digits(settings).with_name('digits100')
    return [*words, '--device', settings.flag, '--data_path', data, '--output_dir', out]
