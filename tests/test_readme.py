"""README, README_cn and docs/ name only what exists: commands, flags, files, links, models."""

import importlib.util
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest
import toy_detector
import yaml
from conftest import ROOT
from gpu import suite
from paddle.distributed.launch.context import args_envs
from paddleseg.cvlibs import Config, SegBuilder
from test_convert import DETECTORS, KINDS, MATRIX

import det.config
import main_export
import main_finetune
import models_zoo
from util import launch

DOORS = ['README.md', 'README_cn.md']
DOCS = sorted(f'docs/{file.name}' for file in (ROOT / 'docs').glob('*.md'))
REPORTS = sorted(f'reports/{file.name}' for file in (ROOT / 'reports').glob('*.md'))
PAGES = [
    *DOORS,
    *DOCS,
    'reports/speed.md',
    'demo/weights/README.md',
]  # pages whose every command is checked
LINKING = [
    *DOORS,
    *DOCS,
    *REPORTS,
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    'requirements/README.md',
    'demo/weights/README.md',
]
TINY_SEGMENTOR = ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml'
LAUNCHER = 'paddle.distributed.launch'
PROGRAMS = [
    'main_pretrain.py',
    'main_finetune.py',
    'main_linprobe.py',
    'main_frozen.py',
    'main_infer.py',
    'main_export.py',
    'main_parity.py',
    'demo/visualize.py',
    'demo/make_scenes.py',
    'demo/make_detection.py',
    'demo/make_digits.py',
    'demo/reproduce.py',
    'util.convert',
    'util.data.check',
    'util.data.pack',
    'recipes',
    'recipes.plan',
    'util.launch',
    'reports',
    'seg/train.py',
    'seg/val.py',
    'seg/predict.py',
    'seg/export.py',
    'det/train.py',
    'det/eval.py',
    'det/infer.py',
    'det/export.py',
]
# Not in the repository: the reader's own (capitals, <class>, Chinese), what programs write, and
# what others publish
ELSEWHERE = re.compile(
    r"""https?:.*|[A-Z_]+\b.*|.*[<\u4e00-\u9fff].*|(train|val|names)\.txt|\.\w+|\*\.old|log/|log\.txt(\.old)?|panels\.png
    |(output_dir/)?checkpoint-[\w{}-]+\.(pd|pth)|model\.pth|mae_(pretrain|finetuned|linprobed|visualize)_[\w*]+\.(pth|pd)|reports/mine
    |\.venv(-parity)?(/bin/[\w-]+)?|gpu(/bin/pip)?|data/ADEChallengeData2016|export\.yaml|demo/data/(scenes|detection|digits/train)|demo/output/reproduce
    |(output|exported)(/.*)?|console\.txt|reports/(gpu-)?NAME\..*|[\w.]+\.pretrained=.*|/dev/shm
    |facebookresearch/mae|training\.pd|own\.yml|dataset/coco|annotations/|(train|val)2017/""",
    re.X,
)
FILE = re.compile(r'[^\s`]+(?:\.(?:py|sh|md|txt|toml|pd|pth|png|yaml)|/)|[\w.-]+/[\w./*-]+')
FENCED = re.compile(r'^```(\w+)\n(.*?)^```\n', re.M | re.S)


def read(name):
    """(whole text, code spans, commands) of a page; a command is a list of words."""
    text = (ROOT / name).read_text()
    unfenced = FENCED.sub('', text)
    lines = re.findall(r'^ {4}(?=\S).*', unfenced.replace('\\\n', ' '), re.M)
    prose = re.sub(r'^ {4}.*', '', unfenced, flags=re.M)
    commands = [shlex.split(line, comments=True) for line in lines]
    spans = re.findall(r'`([^`]+)`', prose)
    commands += [span.split() for span in spans if re.match('(python|bash) ', span)]
    return SimpleNamespace(text=text, spans=spans, commands=[words for words in commands if words])


def fenced(name, language):
    """The fenced blocks of a page in one language."""
    found = FENCED.findall((ROOT / name).read_text())
    return [block for kind, block in found if kind == language]


def headings(name):
    """(level, text) of each heading of a page."""
    text = FENCED.sub('', (ROOT / name).read_text())
    return [(len(marks), title) for marks, title in re.findall(r'^(#+) (.*)', text, re.M)]


def anchors(name):
    """GitHub's anchors: small letters, no punctuation, hyphens for blanks, numbers for twins."""
    seen, found = Counter(), set()
    for _, title in headings(name):
        title = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', title)
        slug = re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-')
        found.add(f'{slug}-{seen[slug]}' if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(name):
    """Targets of the links and pictures of a page."""
    text = re.sub(r'`[^`\n]*`', '', FENCED.sub('', (ROOT / name).read_text()))
    return re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'src="([^"]+)"', text)


def parser_of(program):
    module = program.removesuffix('.py').replace('/', '.')
    if (ROOT / program.replace('.', '/')).is_dir():
        module = f'{program}.__main__'
    return importlib.import_module(module).PARSER


@pytest.fixture(scope='module', autouse=True)
def flags():
    """All flags that exist, of any program, the launcher, the acceptance suite and sbatch."""
    with pytest.MonkeyPatch.context() as patch:
        for folder in (ROOT, ROOT / 'tests/benchmarks'):
            # as where these programs run, their neighbours are found
            patch.syspath_prepend(folder)
        known = {flag for program in PROGRAMS for flag in parser_of(program)._option_string_actions}
        of_sbatch = {'--nodes'}
        yield known | set(suite.PARSER._option_string_actions) | {'--rank'} | of_sbatch


def accepted(program, words):
    """Check the words behind a program's name with its own parser; '...' is the reader's to add."""
    known = parser_of(program)._option_string_actions
    assert not [word for word in words if word.startswith('--') and word not in known], (
        f'{program} {words}'
    )
    if words and '...' not in words and '--help' not in words:  # without words: the program's name
        parser_of(program).parse_args(words)


def launched(words, monkeypatch):
    """The program that the launcher would start, and its flags, by the launcher's own parser."""
    monkeypatch.setattr(sys, 'argv', ['launch', *words])
    args, unknown = args_envs.parse_args()
    assert not unknown, words
    return [args.training_script, *args.training_script_args]


def program_of(words, monkeypatch):
    """The program of a command whose flags it has; None for a command of Python or the shell."""
    words = [word for word in words if word != '&']
    if words[:3] == ['python', '-m', LAUNCHER]:
        words = ['python', *launched(words[3:], monkeypatch)]
    if words[:3] == ['python', '-m', 'util.launch'] and words[3:]:
        before, program = launch.split(words[3:])
        _, others = launch.PARSER.parse_known_args(before)
        words = ['python', *launched([*others, *program], monkeypatch)]
    if words[:2] == ['python', '-m']:
        words = ['python', *words[2:]]
    if words[0] == 'python':
        accepted(words[1], words[2:])
        return words[1]
    if words[0] == 'sbatch':
        assert words[1] == 'demo/slurm.sh', words
        accepted(words[2], words[3:])
        return words[2]
    if words[0] == 'bash':
        script = (ROOT / words[1]).read_text()
        if words[1] == 'tests/run.sh' and '--bench' in words:
            script += (ROOT / 'tests/benchmarks/bench.py').read_text()
        if words[1] == 'tests/run.sh' and '--gpu' in words:
            script += (ROOT / 'tests/gpu/suite.py').read_text()
        assert all(word in script for word in words[2:] if word.startswith('--')), words
        return None
    assert words[:3] == ['python3', '-m', 'venv'] or words == ['source', '.venv/bin/activate'], (
        words
    )
    return None


def table(text, corner):
    """Rows of the table whose first cell is `corner`, the header among them."""
    start = text.index(f'\n| {corner} |') + 1
    rows = [
        line.strip('|').split('|') for line in text[start : text.index('\n\n', start)].splitlines()
    ]
    return [[cell.strip() for cell in row] for row in (rows[0], *rows[2:])]


def test_the_matrix_of_formats_is_what_the_tests_prove():
    header, *rows = table(read('docs/weights.md').text, 'format')
    assert header == ['format', *KINDS, *DETECTORS]
    assert {row: cells for row, *cells in rows} == MATRIX and len(rows) == len(MATRIX)


def test_the_differences_from_pytorch_are_those_of_the_records():
    _, *rows = table(read('docs/weights.md').text, 'model')
    assert len(rows) == 6
    for model, *differences in rows:
        size = {'B': 'base', 'L': 'large', 'H': 'huge'}[model[4]]
        kind = {'autoencoder': 'pretrain', 'classifier': 'finetune'}[model.split()[1]]
        record = yaml.safe_load((ROOT / f'reports/parity_vit_{size}_{kind}.yaml').read_text())
        names = ('blocks', 'prediction', 'logits', 'loss', 'gradients', 'losses of the steps')
        names += ('weights after the steps',)
        rungs = [rung for rung in record['parity'] if rung['name'] in names]
        measured = [f'{rung["relative"]:.1e}' for rung in rungs]
        assert [f'{float(difference):.1e}' for difference in differences] == measured
        # as the door says
        assert all(rung['relative'] < 1e-5 for rung in rungs[:-1])
        assert rungs[-1]['relative'] < 3e-5


@pytest.mark.parametrize('name', PAGES)
def test_every_command_line_is_one_that_its_program_takes(name, monkeypatch):
    for words in read(name).commands:
        program_of(words, monkeypatch)


def test_every_program_is_in_a_command_of_the_documentation(monkeypatch):
    commands = [words for name in ('README.md', *DOCS) for words in read(name).commands]
    assert {program_of(words, monkeypatch) for words in commands} >= set(PROGRAMS)


@pytest.mark.parametrize('name', DOCS)
def test_every_page_of_the_documentation_begins_with_a_command(name):
    title, blank, first, *_ = (ROOT / name).read_text().splitlines()
    assert title.startswith('# ') and not blank and re.match(' {4}(python|bash) ', first)


@pytest.mark.parametrize('name', PAGES)
def test_every_flag_in_the_text_exists(name, flags):
    spans = [span for span in read(name).spans if not re.match('(python|bash|visualdl) ', span)]
    named = {flag for span in spans for flag in re.findall(r'--\w+', span)}
    assert named <= flags, named - flags


@pytest.mark.parametrize('name', [*DOORS, *DOCS, 'CONTRIBUTING.md'])
def test_every_file_exists(name):
    page = read(name)
    words = [word for text in page.spans for word in text.split()]
    words += [word for command in page.commands for word in command]
    for word in words:
        file = word.rpartition('=')[2]  # of KEY=FILE
        if FILE.fullmatch(file) and not ELSEWHERE.fullmatch(file):
            assert any([*ROOT.glob(file), *(ROOT / 'demo').glob(file)]), file


@pytest.mark.parametrize('name', LINKING)
def test_every_link_leads_to_a_file_and_a_heading(name):
    for link in links(name):
        if link.startswith('https://'):
            continue
        file, _, anchor = link.partition('#')
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT.resolve())), link


def test_the_door_leads_to_every_page_of_the_documentation():
    for name in DOORS:
        assert {link for link in links(name) if link.startswith('docs/')} >= set(DOCS)


@pytest.mark.parametrize('name', DOORS)
def test_the_door_is_at_most_200_lines(name):
    assert len((ROOT / name).read_text().splitlines()) <= 200


def test_the_chinese_door_mirrors_the_english_one():
    english, chinese = map(read, DOORS)
    assert chinese.commands == english.commands
    levels = [[level for level, _ in headings(name)] for name in DOORS]
    assert levels[0] == levels[1]
    pages = [
        [link for link in links(name) if '#' not in link and 'README' not in link] for name in DOORS
    ]
    assert sorted(pages[0]) == sorted(pages[1])


def write_tiny_segmentor(folder):
    """seg.yml and model.pdparams: the tiny segmentor with random weights."""
    (folder / 'seg.yml').write_text(f'_base_: {TINY_SEGMENTOR}\n')
    model = SegBuilder(Config(str(TINY_SEGMENTOR))).model
    paddle.save(model.state_dict(), str(folder / 'model.pdparams'))


def write_tiny_detector(folder):
    """det.yml and detector.pdparams: the tiny detector with random weights, and its data."""
    squares = toy_detector.write_squares(folder / 'squares', pictures=2)
    file = toy_detector.write_config(folder / 'det.yml', squares)
    model = det.config.build(det.config.load(str(file)), str(file))
    model.state_dict()['bbox_head.gfl_cls.bias'].set_value(paddle.ones([2]))  # certain of anything
    paddle.save(model.state_dict(), str(folder / 'detector.pdparams'))


def test_the_examples_in_python_run(encoder, classify, digits, tmp_path, monkeypatch, capsys):
    _, trained = classify(main_finetune)
    resume = str(trained / 'checkpoint-best.pd')
    flags = ['--device', 'cpu', '--resume', resume, '--out', str(tmp_path / 'exported')]
    main_export.main(main_export.PARSER.parse_args(flags))
    monkeypatch.chdir(tmp_path)
    picture = next((digits / 'val').rglob('*.png'))
    for name, file in (
        ('checkpoint-best.pd', resume),
        ('checkpoint-0.pd', encoder),
        ('picture.png', picture),
    ):
        Path(name).symlink_to(file)
    write_tiny_segmentor(tmp_path)
    write_tiny_detector(tmp_path)
    Path('scene.png').symlink_to(tmp_path / 'squares/val/000.png')

    names = {'PROJECT': str(ROOT)}
    for block in fenced('docs/python.md', 'python'):
        exec(block, names)
    assert names['scores'].shape == (2, 3)
    assert names['features'].shape == [1, 96] and len(names['tokens']) == 4
    assert names['reconstruction'].shape == names['images'].shape == [1, 1, 16, 16]
    assert names['tuned'].head.weight.shape == names['begun'].head.weight.shape == [96, 10]
    assert names['mae'].in_chans == 1 and names['encoder'].global_pool is False
    assert names['classes_of_pixels'].shape == (32, 64)
    assert len(names['found']) > 0 and names['found'].boxes.shape[1] == 4
    printed = capsys.readouterr().out
    assert 'copied:' in printed
    assert any(f'\n{name}\n' in printed for name in names['segment'].names)  # a class of ADE20K
    assert any(f'\n{category["name"]} ' in printed for category in toy_detector.CATEGORIES)


def test_the_manifest_for_kubernetes_starts_a_program_by_the_launcher(monkeypatch):
    (manifest,) = fenced('docs/training.md', 'yaml')
    worker = yaml.safe_load(manifest)['spec']['paddleReplicaSpecs']['Worker']
    (container,) = worker['template']['spec']['containers']
    words = [*container['command'], *container['args']]
    assert program_of(words, monkeypatch) == 'main_pretrain.py'
    volumes = {volume['name'] for volume in worker['template']['spec']['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == volumes


def test_contributing_names_every_tier_of_the_tests():
    named = re.findall(r'run\.sh (--\w+)', (ROOT / 'CONTRIBUTING.md').read_text())
    tiers = re.findall(r'^ +(--\w+)\)', (ROOT / 'tests/run.sh').read_text(), re.M)
    assert set(named) == set(tiers)


@pytest.mark.parametrize('name', PAGES)
def test_every_model_exists(name):
    pattern = r'(?:mae_|simmim_)?(?:vit|swin|pvt)_[a-z]+_(?:patch\d+|\d+(?!\d|e))(?:_dec\w+)?'
    named = set(re.findall(pattern, read(name).text))
    known = models_zoo.AUTOENCODERS | models_zoo.CLASSIFIERS
    assert named <= known.keys(), named - known.keys()
