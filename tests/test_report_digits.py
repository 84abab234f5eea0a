"""The small-scale reproduction: its cells are runs of the programs, its labels are drawn fairly, its figures are means."""
import json
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT
from test_readme import parser_of

from util.errors import InputError
from util.report import front


@pytest.fixture(scope='module', autouse=True)
def reproduce():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        import demo.reproduce
        yield demo.reproduce


@pytest.fixture
def data(tmp_path, digits):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data/digits').symlink_to(digits)
    return tmp_path / 'data'


def test_every_cell_is_a_run_that_its_program_takes(reproduce, data, tmp_path):
    cells = reproduce.plan(3, 40, data)
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) == 3 * (4 + 4 + 1 + 5 + 3 + 5)  # pre-train, probe, untrained, tune twice, scratch
    for number, cell in enumerate(cells):
        args = parser_of(cell.program).parse_args(reproduce.command(cell, tmp_path)[1:])
        assert args.epochs == cell.epochs and args.output_dir == str(tmp_path / cell.name)
        assert cell.name.endswith(f'_{args.seed}')
        assert not cell.after or cell.after in names[:number]
        if cell.program != 'main_pretrain.py':
            assert bool(args.finetune) == bool(cell.after) and (cell.after == '') == ('scratch' in cell.name
                                                                                      or 'untrained' in cell.name)


def test_labels_are_balanced_nested_and_of_each_seed(reproduce, data, monkeypatch):
    monkeypatch.setattr(reproduce, 'LABELS', {3: 1, 9: 1, 30: 1})
    for seed in (0, 1):
        reproduce.draw_labels(data, seed)
    sets = {}
    for seed in (0, 1):
        for count in (3, 9, 30):
            lines = (data / f'labels_{count}_{seed}/train.txt').read_text().splitlines()
            classes = [line.split()[-1] for line in lines]
            assert len(set(lines)) == count and (count == 30 or {classes.count(name) for name in '012'} == {count // 3})
            sets[seed, count] = set(lines)
        assert sets[seed, 3] < sets[seed, 9] < sets[seed, 30]
        assert len((data / f'labels_3_{seed}/val.txt').read_text().splitlines()) == 10
    assert sets[0, 9] != sets[1, 9] and sets[0, 30] == sets[1, 30]


def test_a_cell_runs_once_and_the_next_begins_from_it(reproduce, data, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, 'LABELS', {9: 1})
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    reproduce.draw_labels(data, 0)
    start = reproduce.Cell('pretrain_0', 'main_pretrain.py', 1, (
        '--batch_size', '10', '--model', 'mae_vit_nano_patch4', '--data_path', str(data / 'digits')))
    tune = reproduce.finetune('tune_0', 9, 0, data, 'pretrain_0')
    for cell in (start, tune):
        reproduce.execute(cell, tmp_path)
        console = (tmp_path / cell.name / 'console.txt').read_text()
        assert reproduce.epochs_of(tmp_path / cell.name) == 1 and ('begins from' in console) == (cell is tune)
    monkeypatch.setattr(sys, 'executable', 'no such program')
    reproduce.execute(start, tmp_path)


def test_a_cell_that_fails_is_one_line(reproduce, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    cell = reproduce.Cell('broken', 'main_pretrain.py', 1, ('--data_path', str(tmp_path / 'nothing')))
    with pytest.raises(InputError, match=r'broken ended with exit code 2.*console.txt'):
        reproduce.execute(cell, tmp_path)


@pytest.fixture
def results(reproduce, tmp_path):
    """Logs of three seeds; the accuracy of a cell's last epoch is its seed plus the length of its name."""
    for cell in reproduce.plan(3, 40, tmp_path):
        folder = tmp_path / cell.name
        folder.mkdir()
        accuracy = int(cell.name[-1]) + len(cell.name)
        (folder / 'log.txt').write_text(''.join(json.dumps({'epoch': epoch, 'test_acc1': value}) + '\n'
                                                for epoch, value in enumerate([0.0, accuracy])))
    (tmp_path / 'pretrain_0.75_0/checkpoint-1.pd').write_bytes(b'weights')
    return reproduce.collect(tmp_path, 3)


def test_figures_are_means_and_deviations_over_the_seeds(reproduce, results):
    assert results['linear probe']['untrained'] == [17, 18, 19]
    assert reproduce.spread([17, 18, 19]) == '18.0 ± 1.0' and reproduce.spread([17]) == '17.0'
    assert reproduce.spread([1, 2, 4]) == f'2.3 ± {np.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2):.1f}'
    assert '- linear probe: autoencoder: 13.0 ± 1.0, untrained: 18.0 ± 1.0\n' in reproduce.table(results)
    assert [list(cells) for cells in results.values()][:3] == [list(map(str, reproduce.LABELS))] * 2 + [
        list(map(str, reproduce.RATIOS))]


def test_the_record_stands_on_the_front_page(reproduce, results, tmp_path):
    (tmp_path / 'results.json').write_text(json.dumps(results))
    reproduce.record(str(tmp_path / 'reports/digits'), tmp_path, results, '--seeds 3', 12.3)
    record = yaml.safe_load((tmp_path / 'reports/digits.yaml').read_text())
    assert record['status'] == 'measured' and record['result']['linear probe'].endswith('untrained: 18.0 ± 1.0')
    page = front.page(tmp_path / 'reports')
    assert '](digits.md), measured:' in page and '- linear probe: autoencoder: 13.0 ± 1.0, untrained: 18.0 ± 1.0\n' in page
    assert (tmp_path / 'reports/digits.png').stat().st_size > 10_000
