"""Records made from runs, their warnings and errors; the pages and plots made from them."""

import dataclasses
import hashlib
import html
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
import yaml
from conftest import ROOT, slow
from markupsafe import Markup
from PIL import Image
from test_readme import accepted, parser_of, read

import main_finetune
import models_mae
import recipes
from parity import ladder
from recipes import cost
from reports import __main__ as report_program
from reports import browser, front, plots, training
from util import provenance
from util import record as records
from util.errors import InputError
from util.weights import paddle_file

RECIPE = recipes.find('finetune_vit_base')
STEP = 'epoch 1/100  [{}/1251]  loss 6.9 (6.9)  lr 1.000e-04  {}  left 9:00:00\n'
CONSOLE = (
    STEP.format(1, 'time 2.000 s  data 0.100 s  mem 20000 MB')
    + STEP.format(21, 'time 0.512 s  data 0.001 s  mem 21000 MB')
    + STEP.format(41, 'time 0.500 s  data 0.001 s  mem 21000 MB')
)


class Run:
    """The files of a run that fine-tunes ViT-B as published on 8 devices, with smaller weights."""

    def __init__(self, folder):
        self.folder = folder
        words = recipes.command(RECIPE, 8, 64)
        self.flags = vars(
            main_finetune.PARSER.parse_args(words[words.index('main_finetune.py') + 1 :])
        )
        self.effective_batch, self.epoch = 1024, 99
        self.model = {
            'head.bias': np.zeros(1000, 'float32'),
            'cls_token': np.ones([1, 1, 4], 'float32'),
        }
        self.log = [
            {
                'train_lr': 2e-3 - epoch * 2e-5,
                'train_loss': 7 - epoch * 0.04,
                'test_loss': 3 - epoch * 0.02,
                'test_acc1': 83.6 * (epoch + 1) / 100,
                'test_acc5': 96.5 * (epoch + 1) / 100,
                'epoch': epoch,
            }
            for epoch in range(100)
        ]

    def write(self):
        (self.folder / 'log.txt').write_text(''.join(json.dumps(line) + '\n' for line in self.log))
        (self.folder / 'console.txt').write_text(CONSOLE)
        paddle_file.write(
            self.folder / 'checkpoint-99.pd',
            {
                'model': self.model,
                'optimizer': {},
                'epoch': self.epoch,
                'scaler': {'scale': 65536.0},
                'args': self.flags,
                'environment': {'commit': 'abc', 'device': 'gpu:0'},
                'position': {'epoch': self.epoch + 1, 'effective_batch': self.effective_batch},
            },
        )

    def record(self):
        self.write()
        return training.of_run(
            RECIPE, *(self.folder / name for name in ('log.txt', 'checkpoint-99.pd', 'console.txt'))
        )


@pytest.fixture
def finished(tmp_path):
    (tmp_path / 'out').mkdir()
    return Run(tmp_path / 'out')


def test_a_run_by_the_recipe_has_no_warnings(finished):
    record = finished.record()
    assert record['warnings'] == [] and record['status'] == 'measured'
    assert record['result'] == pytest.approx(
        {'train_loss': 3.04, 'acc1': 83.6, 'acc5': 96.5, 'loss': 1.02}
    )
    assert record['settings']['effective batch'] == 1024 and record['settings']['processes'] == 8
    assert record['settings']['epochs'] == 100 and record['settings']['precision'] == 'float16'
    assert record['environment'] == {'commit': 'abc', 'device': 'gpu:0'}  # the run's, not ours
    assert (
        record['size']['parameters'] == 1004 and record['size']['GFLOPs an image, forward'] == 35.13
    )
    # 8 x 64 images in 0.512 s, the median
    assert record['figures'] == {'images/s': 1000.0, 'peak memory, MB': 21000}
    for part, file in (('weights', 'checkpoint-99.pd'), ('log', 'log.txt')):
        assert (
            record[part]['sha256']
            == hashlib.sha256((finished.folder / file).read_bytes()).hexdigest()
        )


def test_the_command_in_a_record_has_the_run_s_flags_and_no_folders(finished):
    finished.flags.update(
        output_dir='/home/somebody/secret',
        data_path='/home/somebody/images',
        finetune='/home/somebody/mae.pth',
        scale=[0.3, 1.0],
        hflip=0.0,
        mixup=0.0,
        global_pool=False,
    )
    words = shlex.split(finished.record()['run'])
    assert 'somebody' not in ' '.join(words)
    assert words[:4] == ['python', '-m', 'paddle.distributed.launch', 'main_finetune.py']
    args = vars(main_finetune.PARSER.parse_args(words[4:]))
    assert args['finetune'] == 'mae.pth'
    named = set(args) - training.resume.HARMLESS
    assert {name: args[name] for name in named} == {name: finished.flags[name] for name in named}


def test_the_hash_of_the_flags_is_of_what_changes_results(finished):
    hashes = []
    for change in ({}, {'output_dir': 'elsewhere', 'num_workers': 3}, {'mixup': 0.7}):
        finished.flags.update(change)
        hashes.append(finished.record()['settings']['config sha256'])
    assert hashes[0] == hashes[1] != hashes[2]


def change(name, value):
    return lambda run: run.flags.update({name: value})


@pytest.mark.parametrize(
    'spoil, said',
    [
        (
            lambda run: setattr(run, 'effective_batch', 512),
            "the effective batch is 512, the recipe's 1024",
        ),
        (change('epochs', 90), "--epochs is 90, the recipe's 100"),
        (change('layer_decay', 0.75), "--layer_decay is 0.75, the recipe's 0.65"),
        (change('lr', 1e-3), '--lr is 0.001, which the recipe leaves unset'),
        # the recipe's 5 is the program's default
        (change('warmup_epochs', 30), "--warmup_epochs is 30, the recipe's 5"),
        (change('min_lr', 0.01), "--min_lr is 0.01, the recipe's 1e-06"),
        (change('clip_grad', 1.0), '--clip_grad is 1.0, which the recipe leaves unset'),
        (change('finetune', ''), 'it began from no weights, the recipe from pretrain_vit_base'),
        (lambda run: run.log.pop(7), '1 of 100 epochs are missing in the log: 7'),
        (lambda run: run.log.insert(3, run.log[3]), '1 epochs are in the log twice'),
        (
            lambda run: setattr(run, 'epoch', 98),
            'the checkpoint is of epoch 98, the log ends with 99',
        ),
        (lambda run: run.log[-1].update(test_acc1=83.2), 'acc1 83.20 is outside 83.27 to 83.87'),
        (lambda run: run.log[-1].update(test_acc1=84.0), 'acc1 84.00 is outside'),
        (
            lambda run: run.model.update({'head.bias': np.zeros(10, 'float32')}),
            '10 classes; ImageNet-1K has 1000',
        ),
    ],
)
def test_what_is_not_as_published_is_said(finished, spoil, said):
    spoil(finished)
    assert [warning for warning in finished.record()['warnings'] if warning.startswith(said)]


def test_flags_that_are_switched_off_by_another_name(tmp_path):
    probe = recipes.find('linprobe_vit_base')
    words = recipes.command(probe, 8, 512)
    flags = vars(
        parser_of('main_linprobe.py').parse_args(words[words.index('main_linprobe.py') + 1 :])
    )
    assert training.departures(probe, flags, 16384) == []
    assert training.departures(probe, flags | {'global_pool': True}, 16384) == [
        "--global_pool is True, the recipe's False"
    ]


@pytest.mark.parametrize(
    'content, said',
    [
        ('', 'empty'),
        ('not json\n', 'line 1: no JSON'),
        ('{"epoch": 0, "train_loss": 1}\n[1]\n', 'line 2: no epoch'),
        ('{"train_loss": 1}\n', 'line 1'),
    ],
)
def test_a_log_that_is_none_is_refused(tmp_path, content, said):
    (tmp_path / 'log.txt').write_text(content)
    with pytest.raises(InputError, match=said):
        training.read_log(tmp_path / 'log.txt')


def test_a_run_of_another_model_is_no_record_of_the_recipe(finished):
    finished.flags['model'] = 'vit_large_patch16'
    with pytest.raises(
        InputError, match='is of vit_large_patch16, and finetune_vit_base is about vit_base_patch16'
    ):
        finished.record()


def test_weights_that_are_no_checkpoint_of_a_training_are_refused(finished):
    finished.write()
    paddle_file.write(finished.folder / 'bare.pd', {'model': finished.model})
    with pytest.raises(InputError, match='not a checkpoint of a training'):
        training.of_run(RECIPE, finished.folder / 'log.txt', finished.folder / 'bare.pd')


@pytest.mark.parametrize('status', ['measured', 'ported-eval'])
@pytest.mark.parametrize(
    'lacking, said',
    [
        ({'weights': None}, 'sha256'),
        ({'weights': {'file': 'a.pd', 'sha256': ''}}, 'sha256'),
        ({'log': None}, 'log'),
        ({'log': {'file': 'log.txt', 'sha256': None}}, 'log'),
    ],
)
def test_no_claim_of_a_measurement_without_evidence(finished, tmp_path, status, lacking, said):
    record = finished.record() | {'status': status}
    records.check(record)
    with pytest.raises(InputError, match=said):
        records.write(str(tmp_path / 'one'), record | lacking)
    assert not (tmp_path / 'one.yaml').exists()
    records.check(record | lacking | {'status': 'not-run'})


def test_a_log_that_was_changed_or_lost_is_refused(finished, tmp_path):
    records.write(str(tmp_path / 'one'), finished.record(), finished.folder / 'log.txt')
    log = tmp_path / 'finetune_vit_base.log.txt'
    assert records.read(tmp_path / 'one.yaml')['result']['acc1'] == pytest.approx(83.6)
    log.write_text(log.read_text().replace('83.6', '84.6'))
    with pytest.raises(InputError, match='not the one that the record was made from'):
        records.read(tmp_path / 'one.yaml')
    log.unlink()
    with pytest.raises(InputError, match='not beside it'):
        records.read(tmp_path / 'one.yaml')


def test_an_evaluation_of_others_weights(tmp_path):
    recipe = recipes.find('eval_vit_base')
    (tmp_path / 'weights.pth').write_bytes(b'weights')
    console = tmp_path / 'console.txt'
    console.write_text('Resume checkpoint weights.pth\nloss 0.7312  acc1 83.6640  acc5 96.5300\n')
    record = training.of_evaluation(recipe, console, tmp_path / 'weights.pth')
    records.check(record)
    assert record['status'] == 'ported-eval'
    assert record['result'] == {
        'loss': 0.7312,
        'acc1': 83.664,
        'acc5': 96.53,
    }
    assert (
        record['warnings'] == []
        and record['weights']['sha256'] == hashlib.sha256(b'weights').hexdigest()
    )
    console.write_text('Resume checkpoint weights.pth\nloss 0.7312  acc1 83.5000  acc5 96.5300\n')
    assert (
        'outside 83.56 to 83.76'
        in training.of_evaluation(recipe, console, tmp_path / 'weights.pth')['warnings'][0]
    )
    for text, said in (
        ('weights.pth\n', 'no line of loss, acc1, acc5'),
        ('loss 0.7312  acc1 83.5000  acc5 96.5300\n', 'does not name weights.pth'),
    ):
        console.write_text(text)
        with pytest.raises(InputError, match=said):
            training.of_evaluation(recipe, console, tmp_path / 'weights.pth')


PADDLESEG = """2026-11-22 05:30:20 [INFO]\t[TRAIN] epoch: 1, iter: 50/160000, loss: 3.1, \
lr: 0.000003, batch_cost: 0.5, reader_cost: 0.00012, ips: 4.0000 samples/sec | ETA 22:13:00
2026-11-22 05:30:20 [INFO]\t[TRAIN] epoch: 127, iter: {}/160000, loss: 0.3, \
lr: 0.000000, batch_cost: 0.4, reader_cost: 0.00012, ips: 5.0000 samples/sec | ETA 00:00:00
2026-11-22 05:40:20 [INFO]\t[EVAL] aAcc: 0.8301 mIoU: 0.4713 mAcc: 0.5800 \
(0 of 150 classes are absent and left out)
2026-11-22 05:40:20 [INFO]\t[EVAL] aAcc: 0.8312 mIoU: 0.4810 mAcc: 0.5912 \
(0 of 150 classes are absent and left out)
"""


def test_a_segmentation_by_what_it_printed(tmp_path, capsys):
    (tmp_path / 'model.pdparams').write_bytes(b'weights')
    console = tmp_path / 'console.txt'
    for iterations, warnings in (
        (160000, []),
        (80000, ['the last iteration in the log is 80000 of 160000']),
    ):
        console.write_text(PADDLESEG.format(iterations))
        flags = ['--checkpoint', str(tmp_path / 'model.pdparams'), '--console', str(console)]
        flags += ['--reports', str(tmp_path / 'reports')]
        report_program.main(report_program.PARSER.parse_args(['segment_vit_base', *flags]))
        record = records.read(tmp_path / 'reports/segment_vit_base.yaml')
        assert record['status'] == 'measured' and record['warnings'] == warnings
        assert record['result'] == {'aAcc': 83.12, 'mIoU': 48.1, 'mAcc': 59.12}
        assert record['settings']['iterations'] == iterations
        assert record['figures'] == {'images/s and device': 5.0}
    assert (
        '| [segment_vit_base](segment_vit_base.md) |'
        in (tmp_path / 'reports/README.md').read_text()
    )
    console.write_text('The weights are those of model.pdparams\n' + PADDLESEG)
    record = training.of_evaluation(
        recipes.find('eval_segment_vit_base'), console, tmp_path / 'model.pdparams'
    )
    assert record['status'] == 'ported-eval' and record['warnings'] == []


def program(*flags):
    return subprocess.run(
        [sys.executable, '-m', 'reports', *map(str, flags)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )


def test_a_real_run_becomes_a_record_a_page_a_picture_and_a_row(
    classify, tmp_path, monkeypatch, capsys
):
    log, out = classify(main_finetune)
    monkeypatch.setitem(
        recipes.RECIPES, RECIPE.name, dataclasses.replace(RECIPE, model='vit_nano_patch4')
    )
    report_program.main(
        report_program.PARSER.parse_args(
            ['finetune_vit_base', '--output_dir', str(out), '--reports', str(tmp_path)]
        )
    )
    printed = capsys.readouterr().out
    record = yaml.safe_load((tmp_path / 'finetune_vit_base.yaml').read_text())
    assert (
        record['result']['acc1'] == log[-1]['test_acc1']
        and f'{log[-1]["test_acc1"]:.2f} acc1' in record['claim']
    )
    assert (
        record['settings']['effective batch'] == 10
        and record['size']['parameters'] == log[-1]['n_parameters']
    )
    assert record['environment'] == provenance.environment()
    assert len(record['warnings']) > 5
    assert all(f'warning: {line}' in printed for line in record['warnings'])
    page = (tmp_path / 'finetune_vit_base.md').read_text()
    assert (
        page == records.page(record) and record['warnings'][0] in page and 'vit_nano_patch4' in page
    )
    assert (tmp_path / 'finetune_vit_base.log.txt').read_text() == (out / 'log.txt').read_text()
    with Image.open(tmp_path / 'finetune_vit_base.png') as plot:
        assert plot.format == 'PNG'
    row = next(
        line
        for line in (tmp_path / 'README.md').read_text().splitlines()
        if 'finetune_vit_base](' in line
    )
    assert (
        '| measured |' in row
        and f'{log[-1]["test_acc1"]:.2f}, {len(record["warnings"])} warnings' in row
    )


@pytest.mark.parametrize(
    'flags, said',
    [
        (['finetune_vit_base'], 'give --output_dir'),
        slow(['eval_vit_base'], '--checkpoint and --console'),
        slow(['no_such_run'], 'no recipe is called'),
        slow(['simmim_vit_base_800e_224_224'], 'records are made of'),
        slow(['--plot', 'x.png'], 'needs --logs'),
        slow(['finetune_vit_base', '--output_dir', 'tests'], 'no checkpoint'),
    ],
)
def test_bad_input_is_one_line(flags, said, tmp_path):
    result = program(*flags, '--reports', tmp_path)
    assert result.returncode == 2 and said in result.stderr and result.stderr.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_the_pages_in_the_repository_are_those_of_its_records():
    assert (ROOT / 'reports/README.md').read_text() == front.page(ROOT / 'reports'), (
        'run python -m reports'
    )
    for path in (ROOT / 'reports').glob('*.yaml'):
        record = records.read(path)
        assert path.with_suffix('.md').read_text() == records.page(record), path
        assert all((ROOT / 'reports' / name).exists() for name in record.get('pictures', [])), path


def test_the_front_page_has_every_run_once_and_counts_results_and_records_apart():
    lines = front.page(ROOT / 'reports').splitlines()
    for recipe in recipes.ALL:
        if recipe.name != 'digits':  # digits has a section of its own
            (row,) = [
                line
                for line in lines
                if line.startswith((f'| {recipe.name} |', f'| [{recipe.name}]('))
            ]
            assert all(str(figure) in row for figure in recipe.figures)
    rows = [
        line.split('|')
        for line in lines
        if line.startswith(tuple(f'| {name} |' for name in records.STATUSES))
    ]
    assert sum(int(row[3]) for row in rows) == sum(bool(recipe.figures) for recipe in recipes.ALL)
    assert sum(int(row[4].strip() or 0) for row in rows) == sum(
        'recipe' not in yaml.safe_load(path.read_text())
        for path in (ROOT / 'reports').glob('*.yaml')
    )


def test_runs_without_a_record_are_folded_into_a_line_for_each_family():
    families = front.families()
    runs = [recipe.name for of_family in families.values() for recipe in of_family]
    assert sorted(runs) == sorted(recipe.name for recipe in recipes.ALL if recipe.name != 'digits')
    text = front.page(ROOT / 'reports')
    for title, of_family in families.items():
        (folded,) = re.findall(
            rf'<summary>{re.escape(title)}: ([^\n]*)</summary>\n\n(.*?)\n\n</d', text, re.S
        )
        counts, rows = folded
        assert sum(map(int, re.findall(r'\d+', counts))) == rows.count('\n') - 1 == len(of_family)
    unfolded = re.sub('<details>.*?</details>', '', text, flags=re.S)
    claims = unfolded[unfolded.index('## Claims') : unfolded.index('## With GPUs')]
    assert 'not-run' not in claims and claims.count('\n|') == 0  # none has a record yet


def test_the_page_for_a_browser_is_that_of_the_records(monkeypatch):
    """But for the curves, whose letters may lie elsewhere with another Matplotlib."""
    monkeypatch.setattr(browser, 'svg', lambda draw: Markup('<svg></svg>'))
    written = (ROOT / 'reports/index.html').read_text()
    without_curves = re.sub('<svg.*?</svg>', '<svg></svg>', written, flags=re.S)
    assert without_curves.rstrip() == browser.page(ROOT / 'reports').rstrip(), (
        'run python -m reports'
    )


def test_the_page_for_a_browser_asks_no_host_and_has_every_record_and_run():
    text = (ROOT / 'reports/index.html').read_text()
    plain = html.unescape(text)
    outside = set(re.findall(r'(?:https?:)?//[\w.-]+\.\w+', text))
    assert outside <= {'http://www.w3.org'}  # the name of a format, never asked for
    loaded = re.findall(r'(?:src|href|action|data)="([^"]*)"', text)
    assert all(
        link.startswith(('#', 'data:')) or (ROOT / 'reports' / link).exists() for link in loaded
    )
    assert not re.search(r'@import|url\((?!#)|fetch\(|<link|<iframe', text)
    for path in (ROOT / 'reports').glob('*.yaml'):
        record = yaml.safe_load(path.read_text())
        assert f'<details id="{path.stem}"' in text and record['run'] in plain
    for recipe in recipes.ALL:
        assert recipe.name == 'digits' or f'>{recipe.name}</td>' in text
    assert text.count('<svg') == 2 and 'prefers-color-scheme: dark' in text
    assert '#000000' not in text  # black on a dark ground


CLICKS = """<script>
const said = [];
for (const [column, clicks] of [[3, 1], [5, 2], [0, 1]]) {
  for (let click = 0; click < clicks; click++) headings[column].querySelector('button').click();
  const rows = table.tBodies[0].rows;
  said.push([rows[0], rows[rows.length - 1]].map(row => row.cells[column].innerText).join('|'));
}
document.title = said.join(';');
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('chromium'), reason='needs Chromium')
def test_a_click_on_a_heading_sorts_the_runs(tmp_path):
    text = (ROOT / 'reports/index.html').read_text().replace('</body>', CLICKS)
    (tmp_path / 'page.html').write_text(text)
    flags = ['--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path / "user"}']
    done = subprocess.run(
        ['chromium', *flags, '--dump-dom', (tmp_path / 'page.html').as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    by_status, by_hours, by_run = re.search('<title>(.*)</title>', done.stdout)[1].split(';')
    names = sorted(recipe.name for recipe in recipes.ALL if recipe.name != 'digits')
    assert by_status == 'taken-over|not-run'  # a click turns the order of the page round
    assert by_hours.startswith('~12,569 h, V100|')
    assert by_run.split('|')[0] == names[0]


def test_the_curves_of_a_run_are_drawn_into_the_page(finished, tmp_path):
    record = finished.record() | {'pictures': ['finetune_vit_base.png']}
    records.write(str(tmp_path / 'finetune_vit_base'), record, finished.folder / 'log.txt')
    (svg,) = browser.pictures(tmp_path, records.read(tmp_path / 'finetune_vit_base.yaml'))
    assert svg.startswith('<svg') and svg.endswith('</svg>')
    # letters are text: the panels, and the published results beside the curve
    for text in ('>training loss<', '>accuracy, %<', '>paper: 83.6<', '>epochs<'):
        assert text in svg
    page = browser.page(tmp_path)
    assert '<td data-key="0" class="status measured">measured</td>' in page
    assert '<td data-key="83.6">83.60</td>' in page


def test_records_of_others_cannot_put_elements_into_the_page(tmp_path):
    record = {'claim': '<script>x</script>', 'model': '<b>', 'run': 'a && b', 'status': 'not-run'}
    records.write(str(tmp_path / 'x'), record)
    page = browser.page(tmp_path)
    assert '<script>x' not in page and '<b>:' not in page and '&lt;script&gt;x' in page


def test_the_front_page_names_a_failed_ladder(tmp_path):
    rungs = [ladder.rung('loss', [('loss', np.array([1.1]), np.array([1.0]))], 1e-6).record()]
    records.write(
        str(tmp_path / 'parity_x'),
        {
            'claim': 'x',
            'model': 'x',
            'run': 'x',
            'status': 'measured',
            'parity': rungs,
            'weights': {'file': 'x', 'sha256': 'ab' * 32},
        },
    )
    row = next(
        line for line in front.page(tmp_path).splitlines() if line.startswith('| [x](parity_x.md)')
    )
    assert row.split('|')[4].strip() == '1.0e-01 FAILED' and row.split('|')[3].strip() == ''
    rungs[0]['note'] = 'relative: the length of the difference'
    assert front._worst(rungs) == r'1.0e-01\* FAILED'


def test_the_commands_on_the_front_page_are_those_of_the_programs():
    named = [words for words in read('reports/README.md').commands if words[:2] == ['python', '-m']]
    assert len(named) >= 4
    for words in named:
        accepted(words[2], [{'N': '8'}.get(word, word) for word in words[3:]])


def count(model, *inputs):
    """Multiply-adds of a forward pass, in Linear and convolutional layers and in attention."""
    total = []

    def linear(layer, given, out):
        total.append(layer.weight.shape[0] * out.numel().item())

    def convolution(layer, given, out):
        total.append(int(np.prod(layer.weight.shape[1:])) * out.numel().item())

    def attention(layer, given, out):
        total.append(2 * given[0].shape[1] ** 2 * given[0].shape[2])

    hooks = {'Linear': linear, 'Conv2D': convolution, 'Attention': attention}
    for layer in model.sublayers():
        if type(layer).__name__ in hooks:
            layer.register_forward_post_hook(hooks[type(layer).__name__])
    model(*inputs)
    return sum(total)


def test_multiply_adds_are_those_of_a_forward_pass():
    model = models_mae.mae_vit_nano_patch4_dec64d2b(img_size=32)
    assert count(model, paddle.zeros([1, 3, 32, 32])) == cost.multiply_adds(
        'mae_vit_nano_patch4', 32
    )


@pytest.mark.parametrize(
    'model, side, billions',
    [
        ('vit_base_patch16', 224, 17.58),
        ('vit_large_patch16', 224, 61.60),
        ('vit_huge_patch14', 224, 167.40),
        ('vit_huge_patch14', 448, 732.13),
    ],
)
def test_multiply_adds_of_classifiers_are_what_mmpretrain_counts(model, side, billions):
    assert cost.multiply_adds(model, side) / 1e9 == pytest.approx(billions, rel=2e-3)


def test_estimated_hours_meet_published_ones():
    for name in ('pretrain_vit_large_800e', 'finetune_vit_base', 'linprobe_vit_base'):
        recipe = recipes.find(name)
        assert cost.estimated_hours(recipe) == pytest.approx(recipe.device_hours, rel=0.01)
    assert cost.estimated_hours(recipes.find('um_mae_pretrain_swin_tiny')) is None


def colours(path):
    pixels = np.asarray(Image.open(path).convert('RGB')).reshape(-1, 3)
    return {
        tuple(map(int, colour)): int(number)
        for colour, number in zip(*np.unique(pixels, axis=0, return_counts=True))
    }


def test_runs_are_overlaid_and_published_points_stand_beside(finished, tmp_path):
    blue, red, black = (0x1F, 0x6F, 0xB4), (0xD1, 0x49, 0x5B), (0, 0, 0)
    other = [
        {**line, 'test_acc1': line['test_acc1'] / 2, 'train_loss': line['train_loss'] / 2}
        for line in finished.log
    ]
    plots.curves(tmp_path / 'one.png', {'ours': finished.log})
    plots.curves(tmp_path / 'two.png', {'ours': finished.log, 'other': other})
    for name, spread in (('point', None), ('spread', 30.0)):
        plots.curves(
            tmp_path / f'{name}.png',
            {'ours': finished.log},
            (recipes.Figure(50.0, 'paper', spread=spread),),
        )
    one, two, point, spread = (
        colours(tmp_path / f'{name}.png') for name in ('one', 'two', 'point', 'spread')
    )
    assert one[blue] > 100 and red not in one and two[red] > 100 and two[blue] > 100
    assert spread[black] > point[black] + 20 > one.get(black, 0) + 40
    with Image.open(tmp_path / 'one.png') as plot:
        assert plot.width == 3 * 462  # pre-training has no accuracy, and so one panel less
    plots.curves(
        tmp_path / 'four.png',
        {'ours': [{'epoch': 0, 'train_loss': 1.0, 'train_lr': 0.1}]},
        RECIPE.figures,
    )
    with Image.open(tmp_path / 'four.png') as plot:
        assert plot.width == 2 * 462
