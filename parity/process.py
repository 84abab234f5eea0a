"""Run the original in its own process.

Two frameworks in one process starve each other of threads, and ViT-H would not fit twice.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from util.errors import InputError

PROGRAM = Path(__file__).with_name('original')  # a folder that Python runs and puts on its path
INSTALL = 'bash requirements/install.sh .venv-parity requirements/parity.txt'
OUR_SWITCHES = ('OMP_', 'FLAGS_', 'MKL_')  # environment variables that are set for Paddle
OFFLINE = {
    'HF_HUB_OFFLINE': '1',
    'TRANSFORMERS_VERBOSITY': 'error',
    'HF_HUB_DISABLE_PROGRESS_BARS': '1',
}


class Results:
    """What the original wrote, read tensor by tensor."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.about = json.loads((folder / 'about.json').read_text())

    def shapes(self, part: str) -> dict[str, list[int]]:
        """The shapes of a part's tensors by name."""
        return {name: list(array.shape) for name, array in self.items(part)}

    def items(self, part: str) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of a part in the order of writing, each with its name.

        Parts are 'weights', 'blocks', 'outputs', 'gradients' and 'after'.
        """
        with np.load(self.folder / f'{part}.npz') as arrays:
            for name in arrays.files:
                yield name, arrays[name]


def check(python: str) -> None:
    """InputError where there is no such interpreter, before anything takes time."""
    if not Path(python).is_file():
        raise InputError(
            f'--python {python}: no such interpreter. The original runs in PyTorch, '
            f'in an environment of its own: {INSTALL}'
        )


def run(python: str, folder: Path, **given) -> Results:
    """What the original computes from these values; InputError with its message if it fails."""
    check(python)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / 'given.npz', **given)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(OUR_SWITCHES)}
    # abspath, because resolving the link would lead to an interpreter without the packages
    command = [os.path.abspath(python), '-I', str(PROGRAM), str(folder / 'given.npz'), str(folder)]
    process = subprocess.run(
        command, env=environ | OFFLINE, cwd=folder, capture_output=True, text=True
    )
    if process.returncode:
        raise InputError(_failure(process))
    return Results(folder)


def _failure(process: subprocess.CompletedProcess) -> str:
    """The last line of a failed process, with advice."""
    lines = process.stderr.strip().splitlines()
    last = lines[-1] if lines else 'it said nothing; was there enough memory?'
    advice = ''
    if 'ModuleNotFoundError' in last:
        advice = f'. Is the environment whole? {INSTALL}'
    return f'the original failed (exit code {process.returncode}): {last}{advice}'


def scores(python: str, folder: Path, given: dict, pixels: np.ndarray) -> np.ndarray:
    """The original's scores of images [N, C, S, S] -> [N, K]; both go through files in `folder`.

    given: source, use_ema and heads of the original.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / 'pixels.npy'
    np.save(file, pixels)
    run(python, folder, **given, pixels=str(file))
    return np.load(folder / 'scores.npy')
