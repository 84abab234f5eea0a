"""How long work is shown, and how Ctrl-C ends it."""

import os
import signal
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

import engine_finetune
import main_export
import main_finetune
import main_infer
import main_parity
import models_zoo
from demo import visualize
from util import program, progress
from util.convert import __main__ as convert
from util.weights import torch_file


class Terminal:
    def isatty(self):
        return True

    def write(self, text):
        self.text = getattr(self, 'text', '') + text

    def flush(self):
        pass


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, 'stderr', terminal)
    monkeypatch.setattr(progress, 'DELAY', 0.0)
    assert list(progress.bar([1, 2, 3], 'pictures')) == [1, 2, 3]
    assert '3/3' in terminal.text and 'pictures' in terminal.text


def test_elsewhere_there_are_plain_lines_now_and_then(monkeypatch, capsys):
    assert list(progress.bar(iter('abc'), 'batches', 3)) == ['a', 'b', 'c']
    assert capsys.readouterr().err == ''
    monkeypatch.setattr(progress, 'LINE_EVERY', -1.0)
    list(progress.bar(range(3), 'batches'))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(',')[0] for line in lines] == [f'{n} of 3 batches' for n in (1, 2, 3)]
    assert lines[0].endswith('left') and '\r' not in lines[0]


def interrupted(monkeypatch, capsys, module, flags, where):
    """The stderr of a program that gets Ctrl-C when `where.bar` gives its first item."""

    def bar(items, *about):
        for item in items:
            os.kill(os.getpid(), signal.SIGINT)
            yield item

    monkeypatch.setattr(where, 'bar', bar)
    monkeypatch.setattr(sys, 'argv', ['program', *map(str, flags)])
    monkeypatch.setattr(signal, 'signal', lambda *about: None)  # the tests keep their own handlers
    with pytest.raises(SystemExit) as end:
        program.run(module.main, module.PARSER)
    assert end.value.code == 130
    return capsys.readouterr().err


@pytest.mark.parametrize('name', ['visualize', 'infer', 'evaluate', 'export', 'convert', 'parity'])
def test_ctrl_c_ends_long_work_in_one_line_and_leaves_no_half_file(
    name, tmp_path, digits, encoder, models, monkeypatch, capsys
):
    out = tmp_path / 'out'
    out.mkdir()
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for i in range(3):
        Image.fromarray(np.full([16, 16, 3], 80 * i, 'uint8')).save(pictures / f'{i}.png')
    classifier = tmp_path / 'classifier.pd'
    nano = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, in_chans=1, num_classes=3, global_pool=True
    )
    paddle.save(nano.state_dict(), str(classifier))
    of_nano = (
        '--model vit_nano_patch4 --input_size 16 --in_chans 1 --nb_classes 3 --num_workers 0 '
        '--output_dir= --log_dir='
    ).split()
    module, flags, where = {
        'visualize': (
            visualize,
            ['--img_path', pictures, '--resume', encoder, '--out', out / 'x.png'],
            visualize,
        ),
        'infer': (
            main_infer,
            ['--img_path', pictures, '--resume', classifier, '--batch_size', 1],
            main_infer,
        ),
        'evaluate': (
            main_finetune,
            ['--eval', *of_nano, '--resume', classifier, '--data_path', digits],
            engine_finetune,
        ),
        'export': (main_export, ['--resume', encoder, '--out', out], main_export),
        'convert': (convert, [encoder, out / 'x.pth', '--to', 'torch'], torch_file),
        'parity': (
            main_parity,
            [models / 'official_encoder.pth', '--heads', 3, '--report', out / 'x'],
            main_parity,
        ),
    }[name]
    # parity runs without the original here
    monkeypatch.setattr(main_parity.process, 'check', lambda python: None)
    monkeypatch.setattr(main_parity.process, 'run', lambda *about, **given: None)
    monkeypatch.setattr(main_parity.climb, 'rungs', lambda *about, **given: iter([None]))
    said = interrupted(
        monkeypatch,
        capsys,
        module,
        [*flags, '--device', 'cpu'] if name != 'convert' else flags,
        where,
    )
    assert said.splitlines()[-1].endswith('interrupted') and 'Traceback' not in said
    assert list(out.iterdir()) == []
