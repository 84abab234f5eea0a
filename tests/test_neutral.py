"""tests/neutral.py finds the differences between two trees, and no others."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import neutral
import numpy as np
import paddle
import pytest
from conftest import ROOT

LINE = 'epoch 1/4  [5/5]  loss 4.2864 (4.39)  lr 1.5e-06  time 0.1 s  mem 396 MB  left 0:00:02\n'
SEGMENTATION = (
    '2026-11-28 16:24:45 [INFO] [TRAIN] iter: 2/20, loss: 1.6, batch_cost: 1.2, ETA 00:00:03\n'
)


@pytest.fixture
def found(tmp_path):
    """found(change) -> the differences between a training's output and change(its copy)."""

    def found(change=lambda folder: None, printed=LINE):
        for tree in ('base', 'now'):
            folder = tmp_path / tree / 'out'
            folder.mkdir(parents=True)
            model = {'head.bias': np.ones(3, 'float32'), 'head.weight': np.eye(3, dtype='float32')}
            moments = {'head.bias': {'moment1': np.ones(3, 'float32')}}
            state = {'model': model, 'optimizer': moments, 'epoch': 1, 'args': {'out': tree}}
            paddle.save(state, str(folder / 'checkpoint-1.pd'))
            lines = [{'train_loss': 2.5 - epoch, 'epoch': epoch} for epoch in range(2)]
            (folder / 'log.txt').write_text(''.join(json.dumps(line) + '\n' for line in lines))
            (folder / 'picture.png').write_bytes(b'pixels')
            (folder / f'vdlrecords.{tree}.log').write_bytes(b'times')
        change(tmp_path / 'now/out')
        outcomes = (
            neutral.outcome(tmp_path / tree, 'out', text)
            for tree, text in (('base', LINE), ('now', printed))
        )
        return neutral.report(*outcomes)

    return found


def edit(*keys, value):
    """A change of one value of the checkpoint."""

    def change(folder):
        state = paddle.load(str(folder / 'checkpoint-1.pd'), return_numpy=True)
        part = state
        for key in keys:
            part = part[key]
        part[-1] = value
        paddle.save(state, str(folder / 'checkpoint-1.pd'))

    return change


def test_what_is_equal_but_for_flags_and_times_does_not_differ(found):
    assert found(printed=LINE.replace('0.1 s', '0.2 s').replace('0:00:02', '1 day, 0:00:09')) == []


@pytest.mark.parametrize('keys', [('model', 'head.bias'), ('optimizer', 'head.bias', 'moment1')])
def test_a_changed_weight_and_a_changed_moment_are_found(found, keys):
    (line,) = found(edit(*keys, value=np.nextafter(np.float32(1), np.float32(2))))
    assert line.startswith(f'checkpoint-1.pd: 1 differ, first {" ".join(keys)} by 1.2e-07')


def test_the_first_difference_and_the_largest_are_named(found):
    def change(folder):
        edit('model', 'head.bias', value=1.25)(folder)
        edit('optimizer', 'head.bias', 'moment1', value=3.0)(folder)

    (line,) = found(change)
    assert '2 differ, first model head.bias by 2.5e-01' in line
    assert line.endswith('most optimizer head.bias moment1 by 2.0e+00 (6.7e-01 of its largest)')


def test_a_changed_line_of_the_log_is_found(found):
    log = '{"train_loss": 2.5, "epoch": 0}\n{"train_loss": 1.5000001, "epoch": 1}\n'
    lines = found(lambda folder: (folder / 'log.txt').write_text(log))
    assert lines == ['log.txt: 1 differ, first 2 train_loss 1.5 -> 1.5000001']


def test_a_missing_file_and_a_new_one_are_found(found):
    lines = found(lambda folder: (folder / 'picture.png').rename(folder / 'other.png'))
    assert lines == ['other.png is new', 'picture.png is gone']


def test_a_printed_figure_is_found_and_its_wording_is_not_compared(found):
    assert found(printed=LINE.replace('epoch', 'Epoch').replace('4.2864', '4.2865')) == [
        'printed: 1 differ, first 1 1 4 5 5 4.2864 4.39 1.5e-06 -> 1 4 5 5 4.2865 4.39 1.5e-06'
    ]


def test_figures_of_a_line_leave_out_dates_durations_and_names():
    text = 'in 1.5 s, 30.2 images/s\n' + SEGMENTATION + 'checkpoint-3.pd vit_nano_patch4'
    assert neutral.figures(text) == ['2 20 1.6']


# A change that is not committed: another loss from epoch 2 on (of 0 to 3)
CHANGE = """
plain, calls = MaskedAutoencoderViT.forward_loss, []


def changed(self, *args):
    calls.append(args)
    return plain(self, *args) * (1 + 1e-3 * (len(calls) > 12))


MaskedAutoencoderViT.forward_loss = changed
"""


def test_a_command_that_fails_is_named_with_its_last_words(tmp_path):
    for tree, code in (('base', 0), ('now', 3)):
        (tmp_path / tree).mkdir()
        text = f'import sys\nprint("loss 1.5")\nprint("cause", file=sys.stderr)\nsys.exit({code})'
        (tmp_path / tree / 'train.py').write_text(text)
    base, now = tmp_path / 'base', tmp_path / 'now'
    assert neutral.run(['train.py'], [base]) == ['loss 1.5\n']
    with pytest.raises(subprocess.SubprocessError, match='now: train.py\n    loss 1.5\n    cause'):
        neutral.run(['train.py'], [base, now])


@pytest.fixture
def clone(tmp_path):
    """This repository at HEAD with the present neutral.py, without other edits."""
    folder = tmp_path / 'clone'
    if subprocess.run(['git', 'clone', '-q', '--shared', ROOT, folder]).returncode:
        pytest.skip('the tests lie in no git repository')
    for name in ('neutral.py', 'neutral_cases.py'):
        shutil.copy(ROOT / 'tests' / name, folder / 'tests' / name)
    return folder


@pytest.fixture
def comparison(clone):
    """The cheapest case for HEAD and a working tree with the change; it must leave no files."""
    with open(clone / 'models_mae.py', 'a') as file:
        file.write(CHANGE)
    environment = os.environ | {'TMPDIR': str(clone.parent), 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, 'tests/neutral.py', 'HEAD', '--only', 'pretrain-vit']
    with subprocess.Popen(
        command, cwd=clone, env=environment, text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().endswith('and the working tree\n')
        yield process
    worktrees = subprocess.check_output(['git', 'worktree', 'list'], cwd=clone, text=True)
    assert len(worktrees.splitlines()) == 1
    assert list(clone.parent.iterdir()) == [clone]


@pytest.mark.slow
def test_a_change_that_is_not_committed_is_found_from_where_it_acts_on(comparison):
    case, *outputs, last = comparison.communicate(timeout=240)[0].splitlines()
    assert comparison.returncode == 1
    assert case.startswith('pretrain-vit  3 of 4 outputs differ')
    checkpoint, log, printed = map(str.strip, outputs)  # checkpoint-0.pd is equal bit for bit
    assert checkpoint.startswith('checkpoint-3.pd: ') and ' model ' in checkpoint
    assert log.startswith('log.txt: 2 differ, first 3 train_loss ')
    assert printed.startswith('printed: ')
    assert last == '1 of 1 cases differ'


@pytest.mark.slow
def test_nothing_stays_after_ctrl_c(comparison):
    time.sleep(1)
    comparison.send_signal(signal.SIGINT)
    assert comparison.wait(timeout=60) == 130
