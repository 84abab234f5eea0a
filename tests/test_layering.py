"""The rules of the layout, held over the import statements."""
import ast

import pytest
from conftest import ROOT

SOURCES = sorted(path for path in ROOT.rglob('*.py')
                 if not any(part.startswith('.') or part == 'tests' for part in path.relative_to(ROOT).parts))
LEVELS = ('util', 'layer', 'models_', 'engine_', 'seg', 'main_')
PROGRAMS = ('main_', 'demo.', 'seg.train', 'seg.val', 'seg.predict', 'seg.export')


def level(name):
    """Place in the one direction of imports; demo, like a main, is imported by nobody. None for foreign modules."""
    head = name.split('.')[0]
    if head == 'demo':
        return LEVELS.index('main_')
    if head in ('parity', 'recipes', 'reports'):  # they came out of util, and still import what it may
        return LEVELS.index('util')
    return next((i for i, prefix in enumerate(LEVELS)
                 if head == prefix or (prefix.endswith('_') and head.startswith(prefix))), None)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def name_of(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_a_file_imports_only_from_its_left(path):
    own = level(name_of(path))
    for name in imports(path):
        theirs = level(name)
        if theirs is None:
            continue
        assert theirs < LEVELS.index('main_'), f'{path.name} imports the program {name}'
        if own == 0:
            assert theirs == 0, f'util imports {name}'
        elif LEVELS[own] == 'engine_':
            assert theirs == 0 or LEVELS[theirs] == 'engine_', f'an engine is handed its model; {path.name} imports {name}'
        else:
            assert theirs <= own, f'{path.name} imports {name}'
            assert (LEVELS[own], LEVELS[theirs]) != ('seg', 'engine_'), f'{path.name} imports {name}'


def test_paddle_distributed_is_used_in_one_place():
    def uses(path):
        attributes = (ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute))
        return any(name.startswith('paddle.distributed') for name in (*imports(path), *attributes))
    assert {name_of(path) for path in SOURCES if uses(path)} == {'util.dist'}


def test_only_programs_read_args():
    readers = {name_of(path) for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))
               if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'args'}
    assert all(name.startswith(PROGRAMS) or name.endswith('.__main__') for name in readers), readers


def test_functions_fit_a_screen_and_files_stay_short():
    lengths = {f'{name_of(path)}.{node.name}': node.end_lineno - node.lineno + 1 for path in SOURCES
               for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert max(lengths.values()) < 60, max(lengths, key=lengths.get)
    assert sorted(lengths.values())[int(0.95 * len(lengths))] <= 35
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 300 or path.name == 'imagenet_classes.py', path  # a table
