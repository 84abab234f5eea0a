"""Run the original in its own process: two frameworks in one starve each other, and at ViT-H there is no room for both."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from util.errors import InputError

PROGRAM = Path(__file__).with_name('original')  # a folder, which Python puts on its path and runs
INSTALL = 'bash requirements/install.sh .venv-parity requirements/parity.txt'


class Results:
    """What the original wrote, read tensor by tensor."""

    def __init__(self, folder: Path):
        self.folder, self.about = folder, json.loads((folder / 'about.json').read_text())

    def shapes(self, part: str) -> dict[str, list[int]]:
        return {name: list(array.shape) for name, array in self.items(part)}

    def items(self, part: str) -> Iterator[tuple[str, np.ndarray]]:
        """Each tensor of a part ('weights', 'blocks', 'outputs', 'gradients', 'after'), in the order of writing."""
        with np.load(self.folder / f'{part}.npz') as arrays:
            for name in arrays.files:
                yield name, arrays[name]


def check(python: str) -> None:
    """InputError where there is no interpreter, before anything takes time."""
    if not Path(python).is_file():
        raise InputError(
            f'--python {python}: no such interpreter. The original runs in PyTorch, in an environment of its '
            f'own: {INSTALL}'
        )


def run(python: str, folder: Path, **given) -> Results:
    """The original over arrays and values; InputError with its last words where it fails."""
    check(python)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / 'given.npz', **given)
    # Our own threads and switches are for Paddle. The interpreter keeps its path as it is: behind the link is another
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(('OMP_', 'FLAGS_', 'MKL_'))
    }
    environ |= {
        'HF_HUB_OFFLINE': '1',
        'TRANSFORMERS_VERBOSITY': 'error',
        'HF_HUB_DISABLE_PROGRESS_BARS': '1',
    }
    process = subprocess.run(
        [os.path.abspath(python), '-I', str(PROGRAM), str(folder / 'given.npz'), str(folder)],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        words = process.stderr.strip().splitlines() or ['it said nothing; was there enough memory?']
        advice = (
            f'. Is the environment whole? {INSTALL}' if 'ModuleNotFoundError' in words[-1] else ''
        )
        raise InputError(
            f'the original failed (exit code {process.returncode}): {words[-1]}{advice}'
        )
    return Results(folder)


def scores(python: str, folder: Path, source: str, heads: int, pixels: np.ndarray) -> np.ndarray:
    """The original's scores [N, K] of images [N, C, S, S], which go through files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / 'pixels.npy', pixels)
    run(python, folder, source=source, heads=heads, pixels=str(folder / 'pixels.npy'))
    return np.load(folder / 'scores.npy')
