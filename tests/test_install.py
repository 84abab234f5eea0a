"""requirements/install.sh: what it asks pip for. Nothing is installed."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

PIP = """#!/bin/bash
[ "$1" = install ] && echo "$@" >> {calls}
"""  # it shows no package


@pytest.fixture
def install(tmp_path):
    """install(file, ...) -> the arguments of each call of pip, in a copy of the project's files."""
    (tmp_path / 'requirements').mkdir()
    shutil.copy(ROOT / 'requirements/install.sh', tmp_path / 'requirements')
    (tmp_path / 'pyproject.toml').write_text('')
    (tmp_path / 'env/bin').mkdir(parents=True)
    (tmp_path / 'env/bin/python').symlink_to(sys.executable)
    shutil.copy(tmp_path / 'pyproject.toml', tmp_path / 'env/pyproject.installed')
    pip = tmp_path / 'env/bin/pip'
    pip.write_text(PIP.format(calls=tmp_path / 'calls'))
    pip.chmod(0o755)

    def run(*files):
        calls = tmp_path / 'calls'
        calls.write_text('')
        subprocess.run(
            ['bash', 'requirements/install.sh', 'env', *files],
            cwd=tmp_path,
            check=True,
            env={**os.environ, 'PYTHON': sys.executable},
        )
        lines = [line.split() for line in calls.read_text().splitlines()]
        return [line[3:] for line in lines]  # after install, --quiet and the like

    return run


@pytest.fixture
def files(tmp_path, install):
    (tmp_path / 'requirements/a.txt').write_text('x==1\n')
    (tmp_path / 'requirements/b.txt').write_text('y==1\n')
    (tmp_path / 'requirements/b.nodeps.txt').write_text('z==1\n')
    return tmp_path / 'requirements'


B = [
    ['-r', 'requirements/b.txt'],
    ['--no-deps', '-r', 'requirements/b.nodeps.txt'],
]


def test_packages_beside_a_file_are_installed_without_dependencies(install, files):
    assert install('requirements/a.txt', 'requirements/b.txt') == [['-r', 'requirements/a.txt'], *B]


def test_only_what_changed_is_installed_again(install, files):
    both = ('requirements/a.txt', 'requirements/b.txt')
    install(*both)
    assert install(*both) == []
    (files / 'b.nodeps.txt').write_text('z==2\n')
    assert install(*both) == B
    (files / 'a.txt').write_text('x==2\n')
    assert install(*both) == [['-r', 'requirements/a.txt']]
