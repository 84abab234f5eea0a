"""One thought a statement: how dense the code outside tests may read.

A statement's nodes are those of its syntax tree, without the statements inside it and without
Python's marks for reading and writing a name. Tables of a module (a literal assigned at its top
level) do not count, nor do import statements, docstrings and the heads of functions and classes.
"""

import ast
import functools
import itertools

import pytest
from test_layering import SOURCES, TREES, name_of

FILES = [path for path in SOURCES if path.name != 'imagenet_classes.py']  # a table
ENOUGH = 30  # statements, for the mean of a file to say something
LITERALS = (ast.Dict, ast.List, ast.Tuple, ast.Set)
HEADS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def nodes(node):
    """The number of nodes below `node`, without statements inside it."""
    marks = (ast.Load, ast.Store, ast.Del)
    blocks = (ast.stmt, ast.ExceptHandler, ast.match_case)
    inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, marks + blocks)]
    return sum(1 + nodes(child) for child in inner)


def sizes(tree):
    """The nodes of each statement of a file that counts."""
    found = []
    for node in ast.walk(tree):
        is_table = node in tree.body and isinstance(getattr(node, 'value', None), LITERALS)
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not isinstance(node, ast.stmt) or isinstance(node, HEADS) or is_table or is_docstring:
            continue
        found.append(1 + nodes(node))
    return found


@functools.cache
def sizes_of_files():
    return {name_of(path): sizes(TREES[path]) for path in FILES}


def public_functions(tree):
    """The functions and methods that others may use; `forward` and `main` need no sentence."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for owner in [tree, *classes]:
        for node in owner.body:
            is_public = isinstance(node, ast.FunctionDef) and not node.name.startswith('_')
            if is_public and node.name not in ('forward', 'main'):
                yield node


@pytest.mark.parametrize(
    'code, expected',
    [
        ('x = 1', [3]),  # the assignment, the name, the number
        ('x = a + b', [6]),  # and the sum, its sign, its two names
        ('if a:\n    b()', [2, 3]),  # the condition; the call
        ('"""Words."""\nimport os\nTABLE = [1, 2, 3]', []),
        ('def f(x: int):\n    """Words."""\n    return [x]', [3]),
    ],
)
def test_nodes_are_counted(code, expected):
    assert sizes(ast.parse(code)) == expected


def test_a_statement_is_one_thought():
    statements = sorted(itertools.chain(*sizes_of_files().values()))
    mean = sum(statements) / len(statements)
    assert mean <= 9.5
    assert statements[int(0.95 * len(statements))] <= 20


def test_no_file_is_dense():
    dense = {}
    for name, statements in sizes_of_files().items():
        if len(statements) >= ENOUGH:
            mean = sum(statements) / len(statements)
            if mean > 11:
                dense[name] = round(mean, 1)
    assert not dense


def test_public_functions_say_in_a_sentence_what_they_do():
    silent = []
    for path in FILES:
        for function in public_functions(TREES[path]):
            first, *_ = (ast.get_docstring(function) or '').split('\n\n')
            if not first.endswith(('.', ':')):
                silent.append(f'{name_of(path)}:{function.lineno} {function.name}: {first!r}')
    assert not silent, '\n'.join(silent)


def test_calls_name_what_they_pass():
    crowded = []
    for path in FILES:
        calls = [node for node in ast.walk(TREES[path]) if isinstance(node, ast.Call)]
        crowded += [
            f'{name_of(path)}:{call.lineno} {ast.unparse(call.func)}'
            for call in calls
            if len(call.args) > 5
        ]
    assert not crowded, '\n'.join(crowded)
