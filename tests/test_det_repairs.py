"""Repairs of PaddleDetection: each is needed as long as the library does what it mends."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow  # starts Python twice

# What `import ppdet` alone does, and `import det` does not
EFFECTS = {
    'all models': 'import sys; print("ppdet.modeling.architectures" in sys.modules)',
    'truncated pictures': 'from PIL import ImageFile; print(ImageFile.LOAD_TRUNCATED_IMAGES)',
    'warnings': (
        'import warnings; print(any(f[:3] == ("ignore", None, Warning) for f in warnings.filters))'
    ),
}
BOTH = """
import det, ppdet
from ppdet.core.workspace import create
print(ppdet.modeling.ResNet.__name__, type(create('MAESwin')).__name__)
"""


def printed(code):
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def outputs():
    """What two processes print: with `import ppdet`, and with `import det` alone."""
    code = '; '.join(EFFECTS.values())
    return printed(f'import util, ppdet; {code}'), printed(f'import det; {code}')


@pytest.mark.parametrize('number', range(len(EFFECTS)), ids=EFFECTS)
def test_det_does_without_an_effect_of_importing_all(outputs, number):
    whole, parts = (output.splitlines()[-len(EFFECTS) :] for output in outputs)
    assert whole[number] == 'True', 'PaddleDetection no longer needs this repair'
    assert parts[number] == 'False'


def test_det_prints_nothing_about_trackers(outputs):
    whole, parts = outputs
    assert 'Unable to use' in whole, 'PaddleDetection no longer needs this repair'
    assert parts.splitlines() == ['False'] * len(EFFECTS)


def test_all_of_paddle_detection_can_be_imported_afterwards():
    """With both, its registry makes models of either."""
    assert printed(BOTH).splitlines()[-1] == 'ResNet MAESwin'
