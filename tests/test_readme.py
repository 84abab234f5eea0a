"""What the READMEs say exists: the matrix of formats is the tests' own; programs, their flags and files are there."""

import importlib
import re
import shlex
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT
from paddle.distributed.launch.context import args_envs
from test_convert import KINDS, MATRIX

import models_zoo

READMES = pytest.mark.parametrize('name', ['README.md', 'README_cn.md'])
CHINESE = {'无损': 'exact', '有损': 'lossy', '拒绝': 'refused', '-': '-'}
LAUNCHER = 'paddle.distributed.launch'
PROGRAMS = [
    'main_pretrain.py',
    'main_finetune.py',
    'main_linprobe.py',
    'main_infer.py',
    'main_export.py',
    'main_parity.py',
    'demo/visualize.py',
    'demo/make_scenes.py',
    'demo/reproduce.py',
    'util.convert',
    'recipes',
    'reports',
    'seg/train.py',
    'seg/val.py',
    'seg/predict.py',
    'seg/export.py',
]
# Not in the repository: the reader's own (capitals, <class>, Chinese), what programs write, and what others publish
ELSEWHERE = re.compile(
    r"""[A-Z_]+\b.*|.*[<\u4e00-\u9fff].*|(train|val)\.txt|\.\w+|\*\.old|log/|log\.txt(\.old)?|panels\.png
    |(output_dir/)?checkpoint-[\w{}-]+\.pd|model\.pth|mae_(pretrain|finetuned|linprobed|visualize)_[\w*]+\.(pth|pd)|reports/mine
    |\.venv(-parity)?(/bin/[\w-]+)?|gpu(/bin/pip)?|data/ADEChallengeData2016|export\.yaml|demo/data/scenes|demo/output/reproduce
    |(output|exported)(/.*)?|console\.txt|reports/NAME\..*|model\.backbone\.pretrained=.*""",
    re.X,
)
FILE = re.compile(r'[^\s`]+(?:\.(?:py|sh|md|txt|toml|pd|pth|png|yaml)|/)|[\w.-]+/[\w./*-]+')


def read(name):
    """(whole text, code spans, commands) of a README; a command is a list of words, its lines and comments joined."""
    text = (ROOT / name).read_text()
    lines = re.findall(r'^ {4}(?=\S).*', text.replace('\\\n', ' '), re.M)
    prose = re.sub(r'^ {4}.*', '', text, flags=re.M)
    commands = [shlex.split(line, comments=True) for line in lines]
    spans = re.findall(r'`([^`]+)`', prose)
    commands += [span.split() for span in spans if re.match('(python|bash) ', span)]
    return SimpleNamespace(text=text, spans=spans, commands=[words for words in commands if words])


def parser_of(program):
    module = (
        program.removesuffix('.py').replace('/', '.')
        if program.endswith('.py')
        else f'{program}.__main__'
    )
    return importlib.import_module(module).PARSER


@pytest.fixture(scope='module', autouse=True)
def flags():
    """All flags that exist, of any program."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (ROOT, ROOT / 'tests/benchmarks'):
            # as where these programs run, their neighbours are found
            patch.syspath_prepend(folder)
        yield {flag for program in PROGRAMS for flag in parser_of(program)._option_string_actions}


def accepted(program, words):
    """Check the words behind a program's name with its own parser; '...' stands for what the reader adds."""
    known = parser_of(program)._option_string_actions
    assert not [word for word in words if word.startswith('--') and word not in known], (
        f'{program} {words}'
    )
    if '...' not in words and '--help' not in words:
        parser_of(program).parse_args(words)


def launched(words, monkeypatch):
    """What the launcher, by its own parser, would start: the program and what is behind it. The rest are its flags."""
    monkeypatch.setattr(sys, 'argv', ['launch', *words])
    args, unknown = args_envs.parse_args()
    assert not unknown, words
    return [args.training_script, *args.training_script_args]


def table(text, corner):
    """Rows of the table whose first cell is `corner`, the header among them."""
    start = text.index(f'\n| {corner} |') + 1
    rows = [
        line.strip('|').split('|') for line in text[start : text.index('\n\n', start)].splitlines()
    ]
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def test_the_matrix_of_formats_is_what_the_tests_prove():
    header, *rows = table(read('README.md').text, 'format')
    assert header == ['format', *KINDS]
    assert {row: cells for row, *cells in rows} == MATRIX and len(rows) == len(MATRIX)


def test_the_chinese_matrix_has_the_same_words():
    header, *rows = table(read('README_cn.md').text, '格式')
    assert len(header) == 1 + len(KINDS)
    assert [
        [' / '.join(CHINESE[word] for word in cell.split(' / ')) for cell in row[1:]]
        for row in rows
    ] == list(MATRIX.values())


@READMES
def test_every_command_line_is_one_that_its_program_takes(name, monkeypatch):
    seen = set()
    for words in read(name).commands:
        words = [word for word in words if word != '&']
        if words[:3] == ['python', '-m', LAUNCHER]:
            words = ['python', *launched(words[3:], monkeypatch)]
        if words[:2] == ['python', '-m']:
            words = ['python', *words[2:]]
        if words[0] == 'python':
            accepted(words[1], words[2:])
            seen.add(words[1])
        elif words[0] == 'bash':
            script = (ROOT / words[1]).read_text()
            assert all(word in script for word in words[2:] if word.startswith('--')), words
        else:
            assert words[:3] == ['python3', '-m', 'venv'], words
    assert seen >= set(PROGRAMS)


@READMES
def test_every_flag_in_the_text_exists(name, flags):
    spans = [span for span in read(name).spans if not re.match('(python|bash|visualdl) ', span)]
    named = {flag for span in spans for flag in re.findall(r'--\w+', span)}
    assert len(named) > 20 and named <= flags, named - flags


@pytest.mark.parametrize('name', ['README.md', 'README_cn.md', 'CONTRIBUTING.md'])
def test_every_file_exists(name):
    readme = read(name)
    words = [word for span in readme.spans for word in span.split()] + [
        word for words in readme.commands for word in words
    ]
    files = {word for word in words if FILE.fullmatch(word) and not ELSEWHERE.fullmatch(word)}
    files |= {
        target for target in re.findall(r'\]\(([^)#]+)[^)]*\)', readme.text) if '://' not in target
    }
    assert len(files) > 10
    for file in files:
        assert any([*ROOT.glob(file), *(ROOT / 'demo').glob(file)]), file


def test_contributing_names_every_tier_of_the_tests():
    named = re.findall(r'run\.sh (--\w+)', (ROOT / 'CONTRIBUTING.md').read_text())
    tiers = re.findall(r'^ +(--\w+)\)', (ROOT / 'tests/run.sh').read_text(), re.M)
    assert set(named) == set(tiers)


@READMES
def test_every_model_exists(name):
    pattern = r'(?:mae_|simmim_)?(?:vit|swin|pvt)_[a-z]+_(?:patch\d+|\d+(?!\d|ep))(?:_dec\w+)?'
    named = set(re.findall(pattern, read(name).text))
    known = models_zoo.AUTOENCODERS | models_zoo.CLASSIFIERS
    assert len(named) > 15 and named <= known.keys(), named - known.keys()
