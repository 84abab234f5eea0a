"""PyTorch references run in .venv-parity, in a process of their own.

Two frameworks in one process starve each other.
"""

import functools
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT

from util import provenance
from util import record as records

PYTHON = ROOT / '.venv-parity/bin/python'
REFERENCES = Path(__file__).parent / 'references'
SIZES = {
    'nano': dict(
        image=32,
        patch=4,
        width=96,
        depth=4,
        heads=3,
        decoder_width=64,
        decoder_depth=2,
        decoder_heads=2,
    ),
    'base': dict(
        image=224,
        patch=16,
        width=768,
        depth=12,
        heads=12,
        decoder_width=512,
        decoder_depth=8,
        decoder_heads=16,
    ),
}


def pytest_collection_modifyitems(items):
    for item in items:
        if REFERENCES.parent in item.path.parents:
            item.add_marker(pytest.mark.parity)


WARM = {}  # the process of each script in use; see references/warm.py


@pytest.fixture(scope='module', autouse=True)
def cooled():
    """At the end of a file its references end."""
    yield
    while WARM:
        _, process = WARM.popitem()
        process.communicate()


def warm(script: str) -> subprocess.Popen:
    """The process that runs references/SCRIPT.py."""
    if script not in WARM:
        ours = ('OMP_', 'FLAGS_', 'MKL_', 'PYTHONWARNINGS')
        environ = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        if threads := os.environ.get('MAE_NUM_THREADS'):
            environ['OMP_NUM_THREADS'] = threads
        WARM[script] = subprocess.Popen(
            [PYTHON, REFERENCES / 'warm.py', REFERENCES / f'{script}.py'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ,
        )
    return WARM[script]


def run_reference(folder: Path, script: str, **arrays) -> dict:
    """Run references/SCRIPT.py on named arrays, in a folder, and return the arrays it computes."""
    given, computed = folder / 'given.npz', folder / 'computed.npz'
    np.savez(given, **arrays)
    computed.unlink(missing_ok=True)
    process = warm(script)
    print(json.dumps([str(folder), str(given), str(computed)]), file=process.stdin, flush=True)
    code = process.stdout.readline().strip()
    assert code == '0', f'{script}.py has ended with {code or "its imports"}; see stderr'
    return dict(np.load(computed))


@pytest.fixture
def reference(tmp_path):
    """reference('crop', name=array, ...) runs references/crop.py and returns its arrays."""
    return functools.partial(run_reference, tmp_path)


@pytest.fixture
def made(reference, tmp_path):
    """made('nano', 'full') -> a file of random weights, written by the code base of that kind."""

    def make(size, kind, classes=10):
        reference('make_files', size=json.dumps(SIZES[size]), kinds=[kind], classes=classes)
        return next(tmp_path.glob(f'{kind}.*'))

    return make


@pytest.fixture
def climbed(run_program, tmp_path):
    """climbed(SRC, '--flag' ...) -> (the finished process, the report's rungs by name)."""

    def climb(*flags):
        result = run_program('main_parity.py', *flags, '--report', tmp_path / 'report', timeout=380)
        assert result.returncode < 2, result.stderr
        return result, {
            rung['name']: rung
            for rung in yaml.safe_load((tmp_path / 'report.yaml').read_text())['parity']
        }

    return climb


def keep(name: str, record: dict, log: Path | None = None):
    """Write a record into the folder that MAE_REPORTS names, if it is set."""
    if folder := os.environ.get('MAE_REPORTS'):
        records.write(str(ROOT / folder / name), record, log)


def parity_record(
    claim: str, model: str, file: str, weights: dict, rungs: list, deviations: list[str]
) -> dict:
    """The record of a comparison made by the test `file`. weights: their place and sha256."""
    return {
        'claim': f'{claim} (random weights, every tensor perturbed)',
        'status': 'measured',
        'model': model,
        'run': f'python -m pytest -m full {Path(file).relative_to(ROOT)}',
        'environment': provenance.environment(),
        'weights': {**weights, 'licence': 'none, random numbers'},
        'parity': [rung.record() for rung in rungs],
        'deviations': deviations,
    }


def report(name: str, **figures: float):
    """Print figures for a closing note or a report; `pytest -s` and -rA show them."""
    print(f'\n{name}: ' + '  '.join(f'{key} {value:.2g}' for key, value in figures.items()))
