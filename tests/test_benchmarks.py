"""The benchmarks.

Their cases run with a nano model, their floors are the operations of the models, reports/speed.md
shows the measured figures, and a failure is one line.
"""

import json
import re

import numpy as np
import paddle
import pytest
from conftest import ROOT, slow

import seg  # noqa: F401  which makes our segmentor known to PaddleSeg

# isort: split
from paddleseg.cvlibs import Config, SegBuilder

FOLDER = ROOT / 'tests/benchmarks'
STEPS = {
    'pretrain': 'paddle_steps',
    'finetune': 'paddle_steps',
    'infer': 'paddle_steps',
    'export': 'paddle_steps',
    'load': 'paddle_load',
    'segment': 'paddle_segment',
}


@pytest.fixture(scope='module', autouse=True)
def bench():
    """The driver; its modules import each other from its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        import bench

        yield bench


@pytest.fixture(scope='module')
def scratch(bench, tmp_path_factory):
    folder = tmp_path_factory.mktemp('scratch')
    bench.pictures.make(folder / 'pictures', 4, 50, 40)
    return folder


def small(bench, name, scratch):
    case = bench.cases.small(*bench.cases.chosen([name]))
    return case, {
        **vars(case),
        'products': bench.floor.products(case),
        'scratch': str(scratch),
        'framework': 'paddle',
        'size': vars(bench.SIZES[case.model]),
    }


def test_the_table_is_made_of_what_was_measured(bench):
    text = bench.table.PAGE.read_text()
    section = bench.table.section(bench.table.read(ROOT / 'reports/speed.jsonl'))
    assert bench.table.placed(text, section) == text


@pytest.mark.parametrize('readme', ['README.md', 'README_cn.md'])
def test_the_ratios_in_a_readme_are_those_that_were_measured(bench, readme):
    lines = bench.table.read(ROOT / 'reports/speed.jsonl')
    times = {(line['case'], line['framework']): line['ms'] for line in lines}
    measured = [
        f'{times[case, "paddle"] / times[case, "torch"]:.2f}'
        for case in ('a_vit_base', 'a_vit_large')
    ]
    text = (ROOT / readme).read_text()
    row = next(line for line in text.splitlines() if 'reports/speed.md' in line)
    assert re.findall(r'\b\d\.\d\d\b', row) == measured


def test_cases_have_names_of_their_own_and_a_group_each(bench):
    cases = bench.cases
    assert len({case.name for case in cases.CASES}) == len(cases.CASES)
    assert {case.group for case in cases.CASES} == cases.GROUPS.keys()
    assert {case.group for case in cases.chosen(['g', 'd_pretrain'])} == set('abdel')
    assert cases.chosen([]) == cases.CASES
    with pytest.raises(ValueError, match="no case 'x'; there are a_vit_base"):
        cases.chosen(['x'])


def test_operations_are_the_published_ones(bench):
    """arXiv:2111.06377's models, in GFLOP an image.

    ViT-B and ViT-L take 58.5 and 124.2 in pre-training; ViT-B 105.4 in fine-tuning, 35.1 to infer.
    """
    images = {'a_vit_base': 58.5, 'a_vit_large': 124.2, 'b_vit_base': 105.4, 'c_live_8': 2 * 17.56}
    for name, expected in images.items():
        (case,) = bench.cases.chosen([name])
        assert bench.floor.operations(case) / case.batch / 1e9 == pytest.approx(
            expected, rel=5e-3
        ), name


def test_operations_of_the_segmentor_are_those_of_its_layers(bench):
    model = SegBuilder(Config(str(ROOT / 'seg/configs/upernet_mae/upernet_mae_tiny.yml'))).model
    macs = []

    def count(layer, inputs, output):
        if isinstance(layer, paddle.nn.Conv2DTranspose):
            # each input value meets the whole kernel
            macs.append(np.prod(inputs[0].shape[2:]) * np.prod(layer.weight.shape))
        elif isinstance(layer, paddle.nn.Conv2D):
            macs.append(np.prod(output.shape[2:]) * np.prod(layer.weight.shape))
        elif isinstance(layer, paddle.nn.Linear):
            macs.append(inputs[0].shape[1] * np.prod(layer.weight.shape))

    for layer in model.sublayers():
        layer.register_forward_post_hook(count)
    model.train()
    model(paddle.randn([1, 3, 32, 32]))
    attention = 4 * 2 * 65**2 * 96
    (case,) = bench.cases.chosen(['e_tiny'])
    assert bench.floor.operations(case) / case.batch / 6 == pytest.approx(
        sum(macs) + attention, rel=1e-3
    )


@pytest.mark.parametrize(
    'name',
    [
        'a_vit_base',
        'b_vit_base',
        'c_live_8',
        slow('c_exported_fp32_8'),
        'd_pretrain',
        'd_finetune',
        'e_vit_base',
    ],
)
def test_a_case_runs_with_a_nano_model(bench, scratch, name):
    case, asked = small(bench, name, scratch)
    module = __import__(STEPS[case.kind])
    turn, told = getattr(module, case.kind)(asked)
    answer = turn(2)
    assert (
        len(answer['seconds']) == 2
        and all(0 < seconds < 60 for seconds in answer['seconds'])
        and answer['memory'] > 0
    )
    about = __import__('paddle_steps').about(asked) | told
    kept = bench.line(case, 'paddle', 1, about, answer, about['rate'])
    assert (
        kept['ips'] == pytest.approx(case.batch / np.median(answer['seconds']))
        and kept['frame_version']
    )
    assert 0 < kept['floor_ms'] < 1000 * max(answer['seconds'])
    if case.kind in ('pretrain', 'finetune'):
        assert about['parameters'] > 1e5
        assert (
            bench.line(case, 'paddle', 1, about, answer, 1)['convergence_value']
            == answer['loss']
            > 0.5
        )
    json.dumps(kept)


@pytest.mark.slow
def test_a_folder_becomes_labels(bench, scratch, monkeypatch):
    __import__('paddle_steps')  # the folder of an exported model is made there
    import programs

    _, asked = small(bench, 'c_folder_inference', scratch)
    monkeypatch.setattr(programs.pictures, 'COUNT', 4)
    for engine in ('live', 'inference'):
        turn, told = programs.folder({**asked, 'what': engine})
        (seconds,) = turn(1)['seconds']
        assert 0 <= seconds < 30 and told == {'images': 4}  # printed to a tenth


@pytest.mark.slow
def test_processes_take_turns_and_a_broken_one_is_one_line(bench, scratch):
    _, asked = small(bench, 'a_vit_base', scratch)
    _, broken = small(bench, 'b_vit_base', scratch)
    workers = [
        bench.turns.Worker('paddle', asked, 1),
        bench.turns.Worker('paddle', {**broken, 'model': 'nothing'}, 1),
    ]
    try:
        (answer,) = bench.turns.take(workers[:1], rounds=2, steps=3)
        assert (
            len(answer['seconds']) == 6
            and answer['loss'] > 0.5
            and workers[0].about['fp_item'] == 'fp32'
        )
        with pytest.raises(bench.turns.Failed) as failure:
            workers[1].ready()
    finally:
        for worker in workers:
            worker.close()
    assert str(failure.value).startswith('b_vit_base with paddle: the process ended with 1 (')
    assert "no model 'vit_nothing'" in str(failure.value) and '\n' not in str(failure.value)


def test_a_failing_case_leaves_the_others_and_their_lines(bench, monkeypatch, tmp_path, capsys):
    def measure(case, *_):
        if case.name == 'c_live_1':
            raise bench.turns.Failed('c_live_1 with paddle: the process ended with 1 (no memory)')
        return [line_of(case.name, 'paddle', 12.0), line_of(case.name, 'torch', 8.0)]

    monkeypatch.setattr(bench, 'measure', measure)
    file = tmp_path / 'speed.jsonl'
    before = line_of('c_live_8', 'paddle', 99.0), line_of('a_nano', 'paddle', 5.0)
    file.write_text(''.join(json.dumps(line) + '\n' for line in before))
    with pytest.raises(SystemExit, match='1 of 2 cases failed:\nc_live_1 with paddle'):
        bench.main(
            bench.PARSER.parse_args(['c_live_1', 'c_live_8', '--out', str(file), '--no_table'])
        )
    assert [(line['case'], line['framework'], line['ms']) for line in bench.table.read(file)] == [
        ('a_nano', 'paddle', 5.0),
        ('c_live_8', 'paddle', 12.0),
        ('c_live_8', 'torch', 8.0),
    ]
    assert '[2/2] c_live_8: paddle 12.0 ms, torch 8.00 ms' in capsys.readouterr().out


def test_nano_figures_reach_no_readme(bench):
    for flags in ([], ['--no_table'], ['--out', 'FILE']):
        with pytest.raises(SystemExit, match='add --no_table --out FILE'):
            bench.main(bench.PARSER.parse_args(['--small', *flags]))


def line_of(case, side, ms):
    return {
        'case': case,
        'framework': side,
        'ms': ms,
        'ms_q25': 0.95 * ms,
        'ms_q75': 1.05 * ms,
        'n': 1 + (side == 'torch'),
        'memory_mb': 1000,
        'floor_ms': 4.0,
        'cpu': 'a processor',
        'threads': 2,
        'date': '2026-01-02',
        'frame_version': '1.2',
    }


def test_a_row_has_median_spread_ratio_floor_and_memory(bench):
    lines = [
        line_of('c_live_8', 'paddle', 12.0),
        line_of('c_live_8', 'torch', 8000.0),
        line_of('k_vit_base', 'paddle', 11000.0),
    ]
    section = bench.table.section(lines)
    assert '| ViT-B, batch 8 | 12.0 ms | 8000 ms (10%) | 0.00 | 4.00 ms | 1000 / 1000 |' in section
    assert '| 64 images, batch 8 | 11.0 s | - | - | 4.00 ms | 1000 |' in section
    assert 'Measured on a processor, 2026-01-02' in section


def test_a_program_that_fails_is_named_with_its_last_line(bench, tmp_path):
    import programs

    script = tmp_path / 'script.py'
    script.write_text('import sys\nprint("first")\nsys.exit("no such folder")\n')
    with pytest.raises(RuntimeError, match=r'script.py ended with 1: no such folder'):
        programs.started([script], 'first')
    script.write_text('import time\nprint("first", flush=True)\ntime.sleep(1)\n')
    assert programs.started([script], 'first')[0] < 0.9 < programs.started([script])[0]
