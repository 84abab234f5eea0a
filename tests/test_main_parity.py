"""The ladder's arithmetic by hand, reports, and main_parity.py's errors."""

import ast
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from conftest import ROOT, classifier, figures_by_hand

import main_finetune
import main_parity
from parity import climb, ladder, process, reprod, tolerances
from parity.accuracy import accuracy
from util import convert
from util import record as records
from util.errors import InputError
from util.weights import paddle_file

ONE = np.array([1.0, -2.0, 4.0], 'float32')


def step(*pairs, tolerance=1e-5):
    return ladder.rung(
        'step', [(f'tensor {i}', *map(np.asarray, pair)) for i, pair in enumerate(pairs)], tolerance
    )


def test_figures_of_a_rung():
    rung = step(([1.0, 2.0], [1.0, 4.0]), ([0.0, 0.0, 10.0], [1.0, 0.0, 10.0]), tolerance=0.5)
    assert (rung.max_abs, rung.mean_abs, rung.relative) == (2.0, 3 / 5, 0.5)
    assert rung.passed and rung.finite and rung.where == 'tensor 0' and rung.compared == '2 tensors'


def test_a_figure_on_the_tolerance_passes_and_one_above_fails():
    assert step(([4.0], [5.0]), tolerance=0.2).passed
    assert not step(([4.0], [5.0]), tolerance=0.1999).passed
    assert step((ONE, ONE), tolerance=0.0).passed


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('sides', ['ours', 'theirs', 'both'])
@pytest.mark.parametrize('tolerance', [1e-5, np.inf])
def test_what_is_not_finite_never_passes(bad, sides, tolerance):
    ours, theirs = ONE.copy(), ONE.copy()
    for side, array in (('ours', ours), ('theirs', theirs)):
        if sides in (side, 'both'):
            array[1] = bad
    rung = step((ONE, ONE), (ours, theirs), (ONE, ONE), tolerance=tolerance)
    assert not rung.passed and not rung.finite and rung.where == 'tensor 1'


def test_nan_stays_the_worst_whatever_follows():
    rung = step(([np.nan], [1.0]), ([9.0], [1.0]))
    assert (
        np.isnan(rung.relative)
        and np.isnan(rung.max_abs)
        and np.isnan(rung.mean_abs)
        and rung.where == 'tensor 0'
    )


def test_the_first_tensor_that_departs_is_named_though_a_later_one_is_worse():
    assert step((ONE, ONE), (ONE + 1e-3, ONE), (ONE + 1, ONE)).where == 'tensor 1'


@pytest.mark.parametrize('pairs', [[], [(ONE, ONE[:2])], [(ONE[:0], ONE[:0])], [([1e-30], [0.0])]])
def test_nothing_other_shapes_and_differences_from_zero_fail(pairs):
    assert not step(*pairs).passed


def test_zeros_equal_zeros():
    assert step(([0.0], [0.0]), tolerance=0.0).passed


def test_tensors_that_one_side_misses_fail():
    for ours, theirs in (({'a': ONE}, {'a': ONE, 'b': ONE}), ({'a': ONE, 'b': ONE}, {'a': ONE})):
        rung = ladder.rung('step', ladder.paired(ours, theirs.items()), 1.0)
        assert not rung.passed and rung.where == 'b'


def test_keys_and_shapes():
    assert ladder.keys({'a': [1, 2]}, {'a': [1, 2]}).passed
    assert not ladder.keys({}, {}).passed
    rung = ladder.keys({'a': [1, 2], 'b': [3]}, {'a': [2, 1], 'b': [3]})
    assert not rung.passed and rung.where == 'a' and '[1, 2] here, [2, 1] there' in rung.note


def way(ours, theirs, start, name='blocks.0.mlp.fc1.weight'):
    """The rung of the optimizer steps over one tensor."""
    pairs = climb.moves([(name, start)], [(name, ours, theirs)])
    return ladder.rung('steps', pairs, tolerances.MOVES)


@pytest.fixture
def start():
    """An array like a weight of ViT-B: the largest entry is about 0.1."""
    return np.random.default_rng(0).normal(size=[64, 64], scale=0.03).astype('float32')


def ended(start, decay=0.05, rate=2.5e-3):
    """The weights after steps of AdamW with constant signs of gradients; `rate`: the rates' sum."""
    signs = np.random.default_rng(1).choice(np.array([-1, 1], 'float32'), start.shape)
    return start * np.float32(1 - rate * decay) - np.float32(rate) * signs


@pytest.mark.parametrize('wrong', [{'decay': 0.06}, {'rate': 2.501e-3}])
def test_steps_of_a_little_too_much_decay_or_rate_depart(start, wrong):
    assert way(ended(start), ended(start), start).relative == 0
    theirs, ours = ended(start), ended(start, **wrong)
    assert not way(ours, theirs, start).passed
    # the largest entries alone hardly show this
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_ways_that_are_shorter_than_rounding_may_differ_by_it_but_not_by_more(start):
    rate = 2e-7  # as in the lowest layers of ViT-H
    theirs = ended(start, rate=rate)
    assert way(np.nextafter(theirs, 1), theirs, start).passed
    assert not way(ended(start, rate=rate / 2), theirs, start).passed


def test_of_qkv_bias_the_key_part_alone_is_left_out():
    start, theirs = np.zeros([2, 9], 'float32')
    for place in range(9):
        ours = theirs.copy()
        ours[place] = 1
        assert way(ours, theirs, start, 'blocks.0.attn.qkv.bias').passed == (3 <= place < 6)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_steps_that_end_in_no_number_fail(start, bad):
    ours, theirs = ended(start), ended(start)
    for arrays in ((ours,), (ours, theirs)):
        for array in arrays:
            array[0, 0] = bad
        assert not way(ours, theirs, start).passed and not way(ours, theirs, start).finite


def test_places_count_the_classes_above_the_right_one_and_nan_as_above():
    scores = np.array([[1.0, 3.0, 2.0], [5.0, 3.0, 2.0], [np.nan, 1.0, 0.0]])
    assert ladder.places(scores, np.array([2, 0, 1])).tolist() == [1, 0, 1]


def record(**changes):
    rungs = [step((ONE, ONE)), step((ONE + 1, ONE))]
    return {
        'claim': 'Ours equals theirs',
        'model': 'nano',
        'run': 'python main_parity.py full.pth',
        'weights': {'file': 'full.pth', 'sha256': 'ab' * 32},
        'environment': {'paddle': '3', 'original': {'torch': '2'}},
        'parity': [rung.record() for rung in rungs],
        'deviations': ['none'],
        'status': 'measured',
        **changes,
    }


def test_a_report_is_a_record_and_the_page_made_from_it(tmp_path):
    records.write(str(tmp_path / 'folder' / 'one'), record())
    kept = yaml.safe_load((tmp_path / 'folder/one.yaml').read_text())
    page = (tmp_path / 'folder/one.md').read_text()
    assert kept == record() and page == records.page(kept)
    assert (
        '# Ours equals theirs' in page and 'FAILED: step' in page and '- original: torch 2' in page
    )
    assert '| step | 1 tensor | 0 | 0 | 0 | yes | 1e-05 | pass | tensor 0 |' in page
    assert {file.name for file in (tmp_path / 'folder').iterdir()} == {'one.yaml', 'one.md'}


def test_nan_survives_the_record(tmp_path):
    records.write(str(tmp_path / 'nan'), record(parity=[step(([np.nan], [1.0])).record()]))
    kept = yaml.safe_load((tmp_path / 'nan.yaml').read_text())['parity'][0]
    assert np.isnan(kept['relative']) and kept['passed'] is False
    assert 'NO' in (tmp_path / 'nan.md').read_text()


def test_what_people_wrote_into_a_record_is_kept_when_it_is_made_again(tmp_path, capsys):
    for extra in (
        {'reading': ['it holds'], 'deviations': ['none', 'a day late']},
        {'claim': 'Ours still equals theirs'},
    ):
        records.write(str(tmp_path / 'one'), record(**extra))
    kept = records.read(tmp_path / 'one.yaml')
    assert kept == record(**extra) | {'reading': ['it holds'], 'deviations': ['none', 'a day late']}
    assert capsys.readouterr().err.count('of the record before; read it again') == 2


@pytest.mark.parametrize(
    'change',
    [
        {'status': 'believed'},
        {'status': None},
        {'claim': ''},
        {'weights': 'abc'},
        {'parity': True},
        {'deviations': 'none'},
        {'weights': {'file': 'full.pth', 'sha256': 'x'}},
        {'weights': {'sha256': 'ab' * 32}},
    ],
)
def test_a_report_without_what_it_needs_is_refused_and_nothing_written(change, tmp_path):
    with pytest.raises(InputError, match=next(iter(change))):
        records.write(str(tmp_path / 'one'), record(**change))
    assert not list(tmp_path.iterdir())


def test_files_of_the_reproduction_guide_carry_our_verdict(tmp_path):
    log = reprod.Log(str(tmp_path / 'log'))
    bad = np.array([np.nan], 'float32')
    rungs = [
        ladder.rung('logits', log.through('logits', [('logits', bad, bad)]), 1e-5),
        ladder.rung('weights', log.through('weights', [('a', ONE, ONE)]), 0.0),
    ]
    log.write(rungs)
    assert {file.name for file in (tmp_path / 'log').iterdir()} == {
        'forward_torch.npy',
        'forward_paddle.npy',
        'forward_diff.log',
    }
    said = (tmp_path / 'log/forward_diff.log').read_text()
    assert 'NOT FINITE' in said and 'logits: FAILED' in said


def test_arrays_of_a_step_are_on_the_disk_and_not_kept(tmp_path):
    log = reprod.Log(str(tmp_path))
    ladder.rung('gradients', log.through('gradients', [('a', ONE, ONE + 1)]), 1e-5)
    assert not log.pairs['bp_align']
    for name, expected in (('paddle', 1), ('torch', 2)):
        logged = np.load(tmp_path / f'bp_align_{name}.npy', allow_pickle=True).item()
        assert logged['a'][0] == expected


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='--reprod_log .*file: cannot be written'):
        list(reprod.Log(str(tmp_path / 'file')).through('loss', [('loss', ONE, ONE)]))


def test_without_the_parity_environment_the_program_says_how_to_make_it(
    run_program, encoder, tmp_path
):
    result = run_program('main_parity.py', encoder, '--python', tmp_path / 'python')
    assert result.returncode == 2 and result.stderr.count('\n') == 1
    assert 'bash requirements/install.sh .venv-parity requirements/parity.txt' in result.stderr


def test_an_original_that_fails_is_an_input_error(run_program, encoder, tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\necho "ModuleNotFoundError: No module named timm" >&2\nexit 1\n')
    python.chmod(0o755)
    result = run_program('main_parity.py', encoder, '--python', python)
    assert (
        result.returncode == 2
        and 'No module named timm. Is the environment whole?' in result.stderr
    )


def test_the_original_shares_nothing_with_the_project():
    def imported(path):
        nodes = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        return {
            f'{getattr(node, "module", None) or ""}.{alias.name}'.strip('.')
            for node in nodes
            for alias in node.names
        }

    ours = [*ROOT.glob('*.py'), *ROOT.glob('util/**/*.py'), *ROOT.glob('parity/*.py')]
    names = {path.relative_to(ROOT).parts[0].removesuffix('.py') for path in ours}
    originals = list(ROOT.glob('parity/original/*.py'))
    assert ROOT / 'parity/original/__main__.py' in originals
    assert not {name.split('.')[0] for path in originals for name in imported(path)} & names
    assert not [
        path for path in ours if any(name.startswith('parity.original') for name in imported(path))
    ]


def test_accuracy_is_for_classifiers(run_program, encoder, digits):
    result = run_program('main_parity.py', encoder, '--data_path', digits, '--python', '/bin/sh')
    assert result.returncode == 2 and '--data_path is for classifiers' in result.stderr


def test_accuracy_by_a_list_names_the_pictures_that_the_two_see_differently(
    listed, classify, monkeypatch, tmp_path
):
    file = classify(main_finetune)[1] / 'checkpoint-latest.pd'
    model = classifier(file)
    pictures = [line.split()[0] for line in (listed / 'val.txt').read_text().splitlines()]

    def original(python, folder, pixels, **given):
        scores = model(paddle.to_tensor(np.load(pixels))).numpy()
        scores[[1, 4]] *= -1
        np.save(folder / 'scores.npy', scores)

    monkeypatch.setattr(process, 'run', original)
    theirs = partial(process.scores, 'python', tmp_path / 'part', {'source': str(file)})
    args = main_parity.PARSER.parse_args([str(file), '--data_path', str(listed)])
    state = convert.read(file)[0]
    settings = main_parity.describe(args, state['model'], state['args'])
    (scores, _), (metric, figures) = accuracy(
        str(listed), settings, str(file), theirs, reprod.Log(None)
    )
    assert not scores.passed
    assert [(listed / path).resolve() for path in figures['predicted differently']] == [
        Path(pictures[i]).resolve() for i in (1, 4)
    ]
    by_hand = figures_by_hand(model, [Path(path) for path in pictures])
    assert figures['images'] == 9
    assert figures['acc1 ours'] == pytest.approx(by_hand['acc1'], abs=1e-4)
    assert metric.passed == (figures['acc1 ours'] == figures['acc1 original'])


def test_accuracy_needs_to_know_which_output_a_folder_is(classify, digits, tmp_path):
    state = convert.read(classify(main_finetune)[1] / 'checkpoint-latest.pd')[0]
    paddle_file.write(tmp_path / 'bare.pd', {'model': state['model']})
    shutil.copytree(digits / 'val/2', tmp_path / 'val/2')
    settings = main_parity.describe(
        main_parity.PARSER.parse_args([str(tmp_path / 'bare.pd')]), state['model'], {}
    )

    def judged(**names):
        def two(images):
            """An original that always answers 2."""
            return np.eye(3)[[2] * len(images)]

        log = reprod.Log(None)
        return list(accuracy(str(tmp_path), settings, str(tmp_path / 'bare.pd'), two, log, **names))

    with pytest.raises(InputError, match='1 class folders for 3 outputs'):
        judged()
    (tmp_path / 'names.txt').write_text('0\n1\n2\n')
    assert judged(class_names=str(tmp_path / 'names.txt'))[1][1]['acc1 original'] == 100
