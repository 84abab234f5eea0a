"""ImageNet's ids, and the classes of ImageNet-A and -R, agree with timm's tables."""

import subprocess

import pytest

from imagenet_classes import IMAGENET_A, IMAGENET_R, SYNSETS

from .conftest import PYTHON

# timm.data would import torchvision, which fails with a CPU-only torch; the table is a text file
SCRIPT = """
import importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec('timm').origin).parent
print((folder / 'data/_info/{}.txt').read_text())
"""


@pytest.mark.parametrize(
    'file, ids',
    [
        ('imagenet_synsets', SYNSETS),
        ('imagenet_a_synsets', IMAGENET_A),
        ('imagenet_r_synsets', IMAGENET_R),
    ],
)
def test_the_table_of_ids_is_timms(file, ids):
    script = SCRIPT.format(file)
    result = subprocess.run([PYTHON, '-c', script], check=True, capture_output=True, text=True)
    assert result.stdout.split() == ids
