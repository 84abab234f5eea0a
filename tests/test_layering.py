"""The rules of the layout, checked on the import statements."""

import ast

import pytest
from conftest import ROOT

SOURCES = sorted(
    path
    for path in ROOT.rglob('*.py')
    if not any(part.startswith('.') or part == 'tests' for part in path.relative_to(ROOT).parts)
)
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}
# A file imports from its own level and from those to its left
LEVELS = (
    'util',
    'layer',
    'models_',
    'hubconf',
    'parity',
    'engine_',
    'main_',
    'recipes',
    'reports',
    'demo',
)
BESIDE = ('seg', 'det')  # beside engine and main
PROGRAMS = (
    'main_',
    'demo.',
    'seg.train',
    'seg.val',
    'seg.predict',
    'seg.export',
    'det.train',
    'det.eval',
    'det.infer',
    'det.export',
    'util.data.check',
    'util.data.pack',
    'util.launch',
    'recipes.plan',
)
READERS_OF_PROGRAMS = ('recipes', 'reports')  # of their PARSER


def level(name):
    """The place of a module in the direction of imports; None for foreign modules.

    seg and det are as far as main.
    """
    head = name.split('.')[0]
    if head in BESIDE or name.startswith('util.convert.__main__'):
        # util.convert.__main__ is a program inside its package
        return LEVELS.index('main_')
    if head == 'imagenet_classes':  # a table of the models
        return LEVELS.index('models_')
    return next(
        (
            i
            for i, prefix in enumerate(LEVELS)
            if head == prefix or (prefix.endswith('_') and head.startswith(prefix))
        ),
        None,
    )


def imports(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def name_of(path):
    return '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')


def forbidden(importer, imported):
    """The reason why a file may not import another one of ours; empty if it may."""
    own, theirs = (name.split('.')[0] for name in (importer, imported))
    if theirs.startswith('main_') and own not in READERS_OF_PROGRAMS:
        return 'nobody imports a program but recipes and reports'
    if level(imported) > level(importer):
        return 'it lies to the right'
    if own.startswith('engine_') and not theirs.startswith(('util', 'engine_')):
        return 'an engine is handed its model'
    if own in BESIDE and theirs.startswith('engine_') and theirs != 'engine_loop':
        return 'of the engines, seg and det share the loop alone'
    if theirs in BESIDE and own != theirs and level(importer) == LEVELS.index('main_'):
        return 'seg, det and the programs stand beside each other'
    return ''


@pytest.mark.parametrize('path', SOURCES, ids=name_of)
def test_a_file_imports_only_from_its_left(path):
    assert level(name_of(path)) is not None, f'{path}: at which level does it stand?'
    ours = [name for name in imports(path) if level(name) is not None]
    wrong = {name: reason for name in ours if (reason := forbidden(name_of(path), name))}
    assert not wrong, f'{name_of(path)} imports {wrong}'


@pytest.mark.parametrize(
    'importer, imported',
    [
        ('util.log', 'layer.Attention'),
        ('util.record', 'parity.ladder'),
        ('models_zoo', 'parity.ours'),
        ('layer', 'models_vit'),
        ('parity.ladder', 'engine_pretrain.x'),
        ('engine_finetune', 'models_zoo'),
        ('main_infer', 'main_export'),
        ('main_parity', 'reports.front'),
        ('recipes.cost', 'reports'),
        ('demo.score', 'main_infer'),
        ('seg.train', 'main_infer'),
        ('seg.train', 'engine_pretrain'),
        ('seg.train', 'det.train'),
        ('det.train', 'seg.flags'),
        ('main_infer', 'seg.flags'),
        ('reports.front', 'demo.reproduce'),
        ('util.convert', 'models_sizes'),
        ('util.convert.__main__', 'reports.front'),
    ],
)
def test_what_lies_to_the_right_is_seen(importer, imported):
    assert forbidden(importer, imported)


@pytest.mark.parametrize(
    'importer, imported',
    [
        ('reports.training', 'main_pretrain'),
        ('recipes.cost', 'main_pretrain'),
        ('seg.train', 'engine_loop.Run'),
        ('main_parity', 'parity.ladder'),
        ('demo.score_scenes', 'seg.dataset'),
        ('util.convert.__main__', 'models_sizes'),
    ],
)
def test_what_lies_to_the_left_is_free(importer, imported):
    assert not forbidden(importer, imported)


def test_our_modules_are_imported_by_statements():
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ('import_module', '__import__')
            ):
                name = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
                assert name and level(name) is None, (
                    f'{name_of(path)}, line {node.lineno}: {ast.unparse(node)}'
                )


def test_paddle_distributed_is_used_in_one_place():
    def uses(path):
        attributes = (
            ast.unparse(node) for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)
        )
        return any(name.startswith('paddle.distributed') for name in (*imports(path), *attributes))

    assert {name_of(path) for path in SOURCES if uses(path)} == {'util.dist'}


def test_only_programs_and_their_loop_read_args():
    readers = {
        name_of(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == 'args'
    }
    readers -= {'engine_loop'}
    assert all(name.startswith(PROGRAMS) or name.endswith('.__main__') for name in readers), readers


def test_util_is_at_most_two_fifths_of_the_code():
    """Counted are all lines of all files except tests and the table of a thousand classes."""
    lines = {
        name_of(path): len(path.read_text().splitlines())
        for path in SOURCES
        if path.name != 'imagenet_classes.py'
    }
    util = sum(count for name, count in lines.items() if name.split('.')[0] == 'util')
    assert util <= 0.4 * sum(lines.values()), f'{util / sum(lines.values()):.1%}'


def declares_flags(function):
    """Whether a function only adds flags to a parser; such a function may be of any length."""
    first = function.args.args[:1]
    return (
        bool(first)
        and first[0].annotation is not None
        and ast.unparse(first[0].annotation) == 'argparse.ArgumentParser'
    )


def test_functions_fit_a_screen_and_files_stay_short():
    lengths = {}
    for path in SOURCES:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not declares_flags(node):
                lengths[f'{name_of(path)}:{node.lineno} {node.name}'] = (
                    node.end_lineno - node.lineno + 1
                )
        if path.name != 'imagenet_classes.py':  # a table
            assert len(text.splitlines()) <= 400, path
    longest = max(lengths, key=lengths.get)
    assert lengths[longest] <= 60, f'{longest} has {lengths[longest]} lines'
    assert sorted(lengths.values())[int(0.95 * len(lengths))] <= 40
