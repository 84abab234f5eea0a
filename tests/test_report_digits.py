"""The small-scale reproduction: cells are runs, labels are drawn fairly, figures are means."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT
from test_readme import parser_of

from recipes import small
from reports import digits as pages
from reports import front
from util import record as records
from util.errors import InputError


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


BASE = 4 + 4 + 1 + 5 + 3 + 5  # pre-train, probe, untrained, tune twice, scratch
# depths, widths, tokens, targets, augmentations, masks, lengths, Swins: to pre-train
FULL = 2 + 2 + 1 + 2 + 3 + 4 + 2 + 4


# 2 and 5: the Swin from scratch, and partial fine-tuning
@pytest.mark.parametrize('full, count', [(False, BASE), (True, BASE + 3 * FULL + 2 + 5)])
def test_every_cell_is_a_run_that_its_program_takes(reproduce, data, tmp_path, full, count):
    cells = small.plan(3, 40, data, 3 * full, 3 * full)
    names = [cell.name for cell in cells]
    assert len(names) == len(set(names)) == 3 * count
    pretrained = 3 * (4 + full * FULL)
    first = [cell.program == 'main_pretrain.py' for cell in cells]
    assert first == [True] * pretrained + [False] * (len(cells) - pretrained)
    for number, cell in enumerate(cells):
        args = parser_of(cell.program).parse_args(reproduce.command(cell, tmp_path)[1:])
        assert args.epochs == cell.epochs and args.output_dir == str(tmp_path / cell.name)
        assert cell.name.endswith(f'_{args.seed}')
        assert not cell.after or cell.after in names[:number]
        if cell.program != 'main_pretrain.py':
            assert bool(args.finetune) == bool(cell.after)
            assert (cell.after == '') == any(
                word in cell.name for word in ('scratch', 'untrained', 'none')
            )


def test_an_ablation_changes_what_it_says_and_nothing_else(reproduce, data, tmp_path):
    """Compared with the flags of the usual pre-training and of the runs after it."""
    args = {
        cell.name: vars(parser_of(cell.program).parse_args(reproduce.command(cell, tmp_path)[1:]))
        for cell in small.plan(1, 40, data, full=1, swin=1)
    }

    def changed(name, usual):
        return {
            flag: value
            for flag, value in args[name].items()
            if value != args[usual][flag] and flag not in ('output_dir', 'finetune')
        }

    usual = 'pretrain_0.75_0'
    assert changed('pretrain_depth_1_0', usual) == {'decoder_depth': 1}
    assert changed('pretrain_width_32_0', usual) == {'decoder_dim': 32}
    assert changed('pretrain_encoder_mask_tokens_0', usual) == {'encoder_mask_tokens': True}
    assert changed('pretrain_pca_0', usual) == {'pca_target': 4}
    assert changed('pretrain_no_augmentation_0', usual) == {'augmentation': 'none'}
    assert changed('pretrain_fixed_crop_0', usual) == {'augmentation': 'fixed_crop'}
    assert changed('pretrain_color_jitter_0', usual) == {'color_jitter': 0.4}
    assert changed('pretrain_normalised_0', usual) == {'norm_pix_loss': True}
    assert changed('pretrain_block_50_0', usual) == {'masking': 'block', 'mask_ratio': 0.5}
    assert changed('pretrain_block_75_0', usual) == {'masking': 'block'}
    assert changed('pretrain_grid_75_0', usual) == {'masking': 'grid'}
    assert changed('pretrain_uniform_75_0', usual) == {'mask_regular': True}
    assert changed('pretrain_length_0.25_0', usual) == {'epochs': 10, 'warmup_epochs': 1}
    assert changed('pretrain_length_4_0', usual) == {'epochs': 160, 'warmup_epochs': 16}
    assert changed('pretrain_swin_um_0', usual) == {
        'model': 'mae_swin_nano_32',
        'mask_regular': True,
    }
    assert changed('pretrain_swin_um_secondary_0', 'pretrain_swin_um_0') == {'vis_mask_ratio': 0.25}
    assert changed('pretrain_swin_simmim_0', usual) == {'model': 'simmim_swin_nano_32'}
    assert changed('pretrain_swin_simmim_uniform_0', 'pretrain_swin_simmim_0') == {
        'mask_regular': True
    }
    assert changed('partial_1_0', 'tune_0.75_1442_0') == {'freeze_blocks': 3}
    assert changed('partial_0.5_0', 'tune_0.75_1442_0') == {'freeze_blocks': 3.5}
    assert (
        changed('tune_block_50_100_0', 'tune_0.75_100_0')
        == changed('probe_block_50_0', 'probe_0.75_0')
        == {}
    )
    assert changed('tune_swin_um_100_0', 'tune_0.75_100_0') == {'model': 'swin_nano_32'}
    assert changed('tune_swin_none_100_0', 'scratch_100_0') == {'model': 'swin_nano_32'}


def test_labels_are_balanced_nested_and_of_each_seed(reproduce, data, monkeypatch):
    monkeypatch.setattr(small, 'LABELS', {3: 1, 9: 1, 30: 1})
    for seed in (0, 1):
        reproduce.draw_labels(data, seed)
    sets = {}
    for seed in (0, 1):
        for count in (3, 9, 30):
            lines = (data / f'labels_{count}_{seed}/train.txt').read_text().splitlines()
            classes = [line.split()[-1] for line in lines]
            assert len(set(lines)) == count
            assert count == 30 or {classes.count(name) for name in '012'} == {count // 3}
            sets[seed, count] = set(lines)
        assert sets[seed, 3] < sets[seed, 9] < sets[seed, 30]
        assert len((data / f'labels_3_{seed}/val.txt').read_text().splitlines()) == 10
    assert sets[0, 9] != sets[1, 9] and sets[0, 30] == sets[1, 30]


@pytest.mark.slow
def test_a_cell_runs_once_and_the_next_begins_from_it(reproduce, data, tmp_path, monkeypatch):
    monkeypatch.setattr(small, 'LABELS', {9: 1})
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    reproduce.draw_labels(data, 0)
    flags = ('--batch_size', '10', '--model', 'mae_vit_nano_patch4')
    flags += ('--data_path', str(data / 'digits'))
    start = small.Cell('pretrain_0', 'main_pretrain.py', 1, flags)
    tune = small.finetune('tune_0', 9, 0, data, 'pretrain_0')
    reproduce.execute_all([start, tune], tmp_path, jobs=2)
    for cell in (start, tune):
        console = (tmp_path / cell.name / 'console.txt').read_text()
        assert pages.epochs_of(tmp_path / cell.name) == 1
        assert ('starts from' in console) == (cell is tune)
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'executable', 'no such program')
        reproduce.execute_all([start, tune], tmp_path, jobs=2)
    times = [(tmp_path / name / 'log.txt').stat().st_mtime for name in ('pretrain_0', 'tune_0')]
    reproduce.execute_all(
        [dataclasses.replace(start, flags=(*start.flags, '--blr', '1e-3')), tune], tmp_path, jobs=2
    )
    assert all(
        (tmp_path / name / 'log.txt').stat().st_mtime
        > before  # what starts from another pre-training is run again
        for name, before in zip(('pretrain_0', 'tune_0'), times)
    )


def test_a_cell_that_fails_is_one_line(reproduce, tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    cell = small.Cell('broken', 'main_pretrain.py', 1, ('--data_path', str(tmp_path / 'nothing')))
    with pytest.raises(InputError, match=r'broken ended with exit code 2.*console.txt'):
        reproduce.execute(cell, tmp_path)


@pytest.fixture(params=[False, True], ids=['three questions', 'full'])
def full(request):
    return request.param


@pytest.fixture
def results(tmp_path, full):
    """Logs of three seeds, two for ablations and one for Swins.

    An accuracy is a seed plus the length of the cell's name.
    """
    for cell in small.plan(3, 40, tmp_path, 2 * full, full):
        folder = tmp_path / cell.name
        folder.mkdir()
        accuracy = int(cell.name[-1]) + len(cell.name)
        (folder / 'log.txt').write_text(
            ''.join(
                json.dumps({'epoch': epoch, 'test_acc1': value}) + '\n'
                for epoch, value in enumerate([0.0, accuracy])
            )
        )
    (tmp_path / 'pretrain_0.75_0/checkpoint-1.pd').write_bytes(b'weights')
    return pages.collect(tmp_path, 3, 2 * full, full)


@pytest.mark.parametrize('full', [True], indirect=True)
def test_ablations_stand_beside_the_usual_run_and_the_papers_figures(reproduce, results, tmp_path):
    # accuracies come from the lengths of names such as tune_depth_1_100_0
    assert results['decoder depth, in blocks: fine-tuned with 100 labels'] == {
        '1': [18, 19],
        '2': [15, 16],
        '4': [18, 19],
    }
    assert results['Swin: linear probe']['no pre-training'] == [17]  # probe_swin_none_0
    assert results[pages.PARTIAL] == {
        **{str(blocks): [11, 12] for blocks in range(4)},
        '0.5': [13, 14],
        '4': [16, 17],
    }
    (tmp_path / 'results.json').write_text(json.dumps(results))
    pages.record(str(tmp_path / 'digits'), tmp_path, results, '--full', 1.0)
    assert (tmp_path / 'digits_full.png').stat().st_size > 40_000
    lines = yaml.safe_load((tmp_path / 'digits.yaml').read_text())['published']
    assert [line.partition(',')[0] for line in lines] == [
        'share of the patches removed',
        'decoder depth',
        'decoder width',
        'mask token in the encoder',
        'target',
        'augmentation',
        'mask',
        'length of pre-training',
    ]
    assert (
        all('taken over' in line for line in lines) and '1: 84.8 / 65.5; 2: 84.9 / 70.0' in lines[1]
    )


def test_figures_are_means_and_deviations_over_the_seeds(reproduce, results):
    assert results['linear probe']['untrained'] == [17, 18, 19]
    assert pages.spread([17, 18, 19]) == '18.0 ± 1.0' and pages.spread([17]) == '17.0'
    assert pages.spread([1, 2, 4]) == f'2.3 ± {np.sqrt((16 / 9 + 1 / 9 + 25 / 9) / 2):.1f}'
    assert '- linear probe: autoencoder: 13.0 ± 1.0, untrained: 18.0 ± 1.0\n' in pages.table(
        results
    )
    assert [list(cells) for cells in results.values()][:3] == [list(map(str, small.LABELS))] * 2 + [
        list(map(str, small.RATIOS))
    ]


@pytest.mark.parametrize('full', [False], indirect=True)  # a picture takes seconds
def test_what_we_read_stands_on_both_pages(reproduce, results, tmp_path):
    (tmp_path / 'results.json').write_text(json.dumps(results))
    pages.record(str(tmp_path / 'reports/digits'), tmp_path, results, '--seeds 3', 12.3)
    file = tmp_path / 'reports/digits.yaml'
    file.write_text(file.read_text() + 'reading: [few labels gain most]\n')
    assert '\n## Reading\n\n- few labels gain most\n' in records.page(records.read(file))
    assert '\nHow we read it:\n\n- few labels gain most\n' in front.page(tmp_path / 'reports')


def test_the_record_stands_on_the_front_page(reproduce, results, tmp_path):
    (tmp_path / 'results.json').write_text(json.dumps(results))
    pages.record(str(tmp_path / 'reports/digits'), tmp_path, results, '--seeds 3', 12.3)
    record = yaml.safe_load((tmp_path / 'reports/digits.yaml').read_text())
    assert record['status'] == 'measured'
    assert record['result']['linear probe'].endswith('untrained: 18.0 ± 1.0')
    page = front.page(tmp_path / 'reports')
    assert (
        '](digits.md), measured:' in page
        and '- linear probe: autoencoder: 13.0 ± 1.0, untrained: 18.0 ± 1.0\n' in page
    )
    for picture in record['pictures']:
        assert (
            f']({picture})\n' in page and (tmp_path / 'reports' / picture).stat().st_size > 10_000
        )
    assert record['pictures'] == ['digits.png', 'digits_full.png'][: len(record['pictures'])]
