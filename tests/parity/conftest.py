"""PyTorch references run in .venv-parity, in a process of their own: two frameworks in one starve each other."""
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

PYTHON = ROOT / '.venv-parity/bin/python'
REFERENCES = Path(__file__).parent / 'references'


def pytest_collection_modifyitems(items):
    for item in items:
        if REFERENCES.parent in item.path.parents:
            item.add_marker(pytest.mark.parity)


@pytest.fixture
def reference(tmp_path):
    """reference('mae', name=array, ...) runs references/mae.py over the arrays and returns the arrays it writes."""
    def run(script, **arrays):
        given, computed = tmp_path / 'given.npz', tmp_path / 'computed.npz'
        np.savez(given, **arrays)
        environ = {key: value for key, value in os.environ.items() if not key.startswith(('OMP_', 'FLAGS_', 'MKL_'))}
        subprocess.run([PYTHON, REFERENCES / f'{script}.py', given, computed], check=True, env=environ, cwd=tmp_path)
        return dict(np.load(computed))
    return run


def report(name: str, **figures: float):
    """Print the figures that a closing note or a report needs; shown with `pytest -s`, and by -rA."""
    print(f'\n{name}: ' + '  '.join(f'{key} {value:.2g}' for key, value in figures.items()))
