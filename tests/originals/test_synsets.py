"""ImageNet's ids agree with timm's table."""

import subprocess

from imagenet_classes import SYNSETS

from .conftest import PYTHON

# timm.data would import torchvision, which fails with a CPU-only torch; the table is a text file
SCRIPT = """
import importlib.util, pathlib
folder = pathlib.Path(importlib.util.find_spec('timm').origin).parent
print((folder / 'data/_info/imagenet_synsets.txt').read_text())
"""


def test_the_table_of_ids_is_timms():
    result = subprocess.run([PYTHON, '-c', SCRIPT], check=True, capture_output=True, text=True)
    assert result.stdout.split() == SYNSETS
