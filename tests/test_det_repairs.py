"""Repairs of PaddleDetection: each is needed as long as the library does what it mends."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # starts Python twice

# What `import ppdet` alone does, and what is left of it after `import det`
CASES = {
    'truncated pictures': 'from PIL import ImageFile; print(ImageFile.LOAD_TRUNCATED_IMAGES)',
    'warnings': (
        'import warnings; print(any(f[:3] == ("ignore", None, Warning) for f in warnings.filters))'
    ),
}


def printed(code):
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def outputs():
    """What two processes print: with `import ppdet` alone, and with `import det`."""
    code = '; '.join(CASES.values())
    return printed(f'import util, ppdet; {code}'), printed(f'import det; {code}')


@pytest.mark.parametrize('number', range(len(CASES)), ids=CASES)
def test_the_effect_of_an_import_is_undone(outputs, number):
    alone, repaired = (output.splitlines()[-len(CASES) :] for output in outputs)
    assert alone[number] == 'True', 'PaddleDetection no longer needs this repair'
    assert repaired[number] == 'False'


def test_only_the_lines_about_trackers_are_dropped(outputs):
    alone, repaired = outputs
    assert 'Unable to use' in alone, 'PaddleDetection no longer needs this repair'
    assert repaired.splitlines() == ['False'] * len(CASES)
