"""The names of segmentation's classes agree with mmsegmentation's."""

import json
import subprocess

from seg import classes

from .conftest import PYTHON

# mmseg cannot be imported without a compiled mmcv; the names stand in a file
SCRIPT = """
import ast, importlib.util, json, pathlib
folder = pathlib.Path(importlib.util.find_spec('mmseg').origin).parent
tree = ast.parse((folder / 'datasets/ade.py').read_text())
(found,) = [node.value for node in ast.walk(tree) if getattr(node, 'arg', None) == 'classes']
print(json.dumps([name.strip() for name in ast.literal_eval(found)]))
"""


def test_the_names_of_ade20k_are_mmsegmentations():
    result = subprocess.run([PYTHON, '-c', SCRIPT], check=True, capture_output=True, text=True)
    assert json.loads(result.stdout) == list(classes.ADE20K)
