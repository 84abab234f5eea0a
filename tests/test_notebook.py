"""demo/mae_visualize.ipynb: it runs from top to bottom, and git holds it without results."""

import base64
import importlib.util
import io
import re
import subprocess
import sys
import tempfile

import nbformat
import numpy as np
import pytest
from conftest import ROOT
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from PIL import Image
from test_readme import anchors

from demo import visualize

FILE = ROOT / 'demo/mae_visualize.ipynb'


@pytest.fixture(scope='module')
def cells():
    """The cells by their ids, as git holds them."""
    book = nbformat.read(FILE, as_version=4)
    nbformat.validate(book)
    return {cell.id: cell for cell in book.cells}


def code_of(cells):
    return [cell for cell in cells.values() if cell.cell_type == 'code']


def test_the_notebook_is_stored_without_results(cells):
    for cell in code_of(cells):
        stripped = cell.outputs == [] and cell.execution_count is None
        assert stripped, f'{cell.id}: clear all outputs before you commit'
    assert not any(cell.metadata for cell in cells.values())


def test_its_cells_are_short(cells):
    for name, cell in cells.items():
        assert len(cell.source.splitlines()) <= 40, name


def test_its_links_lead_to_files_and_headings(cells):
    text = '\n'.join(cell.source for cell in cells.values() if cell.cell_type == 'markdown')
    links = re.findall(r'\]\(([^)\s]+)\)', text)
    for link in links:
        if link.startswith('https://'):
            continue
        file, _, anchor = link.partition('#')
        target = (FILE.parent / file).resolve()
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.relative_to(ROOT.resolve())), link
    assert len(links) > 5


def test_the_cell_that_installs_clones_and_leaves_segmentation_out(cells, monkeypatch, tmp_path):
    commands = []

    class Shell:
        """What IPython calls for a line that begins with an exclamation mark."""

        def system(self, command):
            commands.append(command.format(REPOSITORY='ADDRESS', sys=sys))

    (tmp_path / 'mae').symlink_to(ROOT)
    code = TransformerManager().transform_cell(cells['install'].source)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(sys, 'path', [])
    exec(code, {'get_ipython': Shell})
    assert sys.path == ['mae']
    clone, choose, install, project = commands
    assert clone == 'git clone --quiet --depth 1 ADDRESS mae'
    assert install.startswith(f'{sys.executable} -m pip install')
    assert install.endswith('-r needed.txt')
    assert project.endswith('--no-deps --editable mae')

    subprocess.run(choose, shell=True, cwd=tmp_path, check=True)
    needed = (tmp_path / 'needed.txt').read_text()
    assert 'paddlepaddle==' in needed
    assert 'paddleseg==' not in needed and 'opencv' not in needed


@pytest.fixture(scope='module')
def executed(cells, tmp_path_factory):
    """What each cell has printed, and its picture, by the cell's id."""
    folder = tmp_path_factory.mktemp('notebook')
    book = nbformat.read(FILE, as_version=4)
    with tempfile.TemporaryDirectory() as short, pytest.MonkeyPatch.context() as patch:
        patch.setenv('IPYTHONDIR', str(folder))
        patch.delenv('PYTHONWARNINGS', raising=False)  # the kernel has warnings of its own
        # Sockets beside this file instead of ports; their paths have at most 107 characters
        manager = AsyncKernelManager(
            kernel_name='python3', transport='ipc', connection_file=f'{short}/kernel.json'
        )
        resources = {'metadata': {'path': str(folder)}}
        client = NotebookClient(book, km=manager, timeout=300, resources=resources)
        client.execute(cleanup_kc=True)  # and shut the kernel down
    return {cell.id: cell.outputs for cell in code_of({cell.id: cell for cell in book.cells})}


def printed(outputs):
    return ''.join(one.text for one in outputs if one.output_type == 'stream')


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(executed, tmp_path):
    assert executed['install'] == []
    assert printed(executed['classify']).startswith('this is a 3\n')
    by_model, by_hand = re.findall(r'\d\.\d+', printed(executed['loss']))
    assert float(by_model) == pytest.approx(float(by_hand), rel=1e-5)
    pretrained, random = re.findall(r'(\S+) %', printed(executed['train-probe']))
    assert float(pretrained) > float(random) + 15

    # One of every 2 x 2 patches stays
    uniform = np.array(re.findall(r'[01]', printed(executed['swin']))).astype(int).reshape(8, 8)
    assert (uniform.reshape(4, 2, 4, 2).sum((1, 3)) == 3).all()


def picture_of(outputs):
    """The first picture that a cell has shown."""
    (data, *_) = [one.data['image/png'] for one in outputs if 'image/png' in one.get('data', {})]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.slow
def test_its_steps_draw_the_picture_of_the_program(executed, tmp_path):
    resume = ROOT / 'demo/weights/mae_vit_nano_patch8_photographs.pd'
    cat = ROOT / 'demo/photographs/cat_011.png'
    flags = ['--resume', resume, '--img_path', cat, '--seed', 1, '--out', tmp_path / 'x.png']
    visualize.main(visualize.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))
    with Image.open(tmp_path / 'x.png') as drawn:
        theirs = np.asarray(drawn)
    ours = picture_of(executed['reconstruct'])
    np.testing.assert_array_equal(ours, theirs[: len(ours)])  # a note follows there
    shown = [name for name, outputs in executed.items() if 'image/png' in str(outputs)]
    assert len(shown) == 9
