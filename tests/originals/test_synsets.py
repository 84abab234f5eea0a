"""ImageNet's ids by the package that the table has to agree with."""

import subprocess

from imagenet_classes import SYNSETS

from .conftest import PYTHON


def test_the_table_of_ids_is_timms():
    script = "from timm.data import ImageNetInfo; print(*ImageNetInfo('imagenet-1k').label_names())"
    result = subprocess.run([PYTHON, '-c', script], check=True, capture_output=True, text=True)
    assert result.stdout.split() == SYNSETS
