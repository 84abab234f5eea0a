"""The acceptance suite of tests/gpu on a CPU: faults are seen, the rest runs, and it goes on."""

import json

import numpy as np
import paddle
import pytest
from conftest import ROOT
from gpu import (
    check,
    compute,
    ladder,
    models,
    parts,
    precision,
    programs,
    report,
    section,
    suite,
    workloads,
)
from gpu.report import Report, Settings

from reports import front
from util import record as records
from util.errors import InputError

ABOUT = {'name': 'A CPU', 'devices': 2, 'device': 'cpu', 'tiny': True, 'environment': {'a': 'b'}}


def settings_of(tmp_path, fault='', **asked):
    asked = {'device': 'cpu', 'devices': 2, 'tiny': True, **asked}
    return Settings(scratch=str(tmp_path), fault=fault, **asked)


@pytest.fixture
def found(tmp_path):
    """found(section, settings) -> its lines by case, from its own code in this process."""

    def run(name, settings):
        file = tmp_path / 'found.jsonl'
        file.unlink(missing_ok=True)
        one = Report(name, file, settings, frozenset())
        __import__(f'gpu.{name}')
        getattr(__import__('gpu'), name).run(settings, one)
        lines = report.read(file)
        return {case: line for (_, case), line in lines.items()}

    return run


# the driver


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """drive(behaviour, '--flag', ...) -> exit code, record; behaviour(report) makes the lines."""

    def start(behaviour, *flags):
        def run(name, settings, file, done, limit):
            one = Report(name, file, settings, frozenset(done))
            failure = behaviour(one)
            if not failure:
                one.end()
            return failure or ''

        monkeypatch.setattr(suite, 'checked', lambda args: dict(ABOUT))
        monkeypatch.setattr(suite, 'run', run)
        monkeypatch.setattr(suite.provenance, 'commit', lambda: 'abc')
        words = ['--device', 'cpu', '--out', str(tmp_path), '--name', 'x', *flags]
        code = suite.main(words)
        return code, records.read(tmp_path / 'cpu-x.yaml')

    return start


def all_well(one):
    one.measured('difference', 0.5, 1.0)
    one.figures('speed', **{'images/s': 3})
    one.skipped('other', 'there is none')


def test_every_section_has_a_title_a_time_and_less_than_an_hour():
    assert tuple(suite.TITLES) == section.NAMES
    parts = [__import__(f'gpu.{name}', fromlist=['x']) for name in section.NAMES]
    assert [part.TITLE for part in parts] == list(suite.TITLES.values())
    assert sum(part.MINUTES for part in parts) < 60


def test_a_suite_without_faults_passes_and_is_a_record(drive, tmp_path):
    code, record = drive(all_well)
    assert code == 0 and record['warnings'] == []
    assert record['claim'] == 'The acceptance suite on A CPU: 14 passed, 7 skipped'
    assert record['result']['export'] == '2 passed, 1 skipped'
    page = (tmp_path / 'cpu-x.md').read_text()
    assert '| export | difference | passed | 0.5 | 1 |  |' in page
    assert 'says nothing about a GPU' in page and 'speed: images/s 3' in page
    found = front.find(tmp_path)
    assert list(found.suites) == ['cpu-x'] and 'A CPU' in front.page(tmp_path)


@pytest.mark.parametrize('broken', section.NAMES)
def test_a_broken_section_fails_in_the_record_while_the_rest_runs(drive, broken):
    code, record = drive(all_well, '--break', f'{broken}=tolerance')
    assert code == 1
    title = suite.TITLES[broken]
    assert record['warnings'][0] == f'FAILED: {title}, difference: 0.5, allowed are -1'
    for name, counted in record['result'].items():
        assert ('FAILED' in counted) == (name == title), name


def test_a_section_that_ends_too_early_fails_and_the_rest_runs(drive):
    def behaviour(one):
        one.measured('before', 0, 1)
        return 'it ended with -11: Segmentation fault' if one.section == 'two' else ''

    code, record = drive(behaviour)
    assert code == 1 and record['result']['faults'] == '1 passed'
    assert record['result'][suite.TITLES['two']] == '1 passed, 1 FAILED, not ended'
    (warning,) = record['warnings']
    assert warning.endswith('the section as a whole: it ended with -11: Segmentation fault')


def test_what_failed_is_done_again_and_what_passed_is_not(drive):
    done = []

    def behaviour(one, failing):
        done.append((one.section, sorted(one.done)))
        one.measured('good', 0, 1)
        one.measured('bad', 2 if failing and one.section == 'export' else 0, 1)

    assert drive(lambda one: behaviour(one, failing=True))[0] == 1
    assert len(done) == len(section.NAMES)
    done.clear()
    code, record = drive(lambda one: behaviour(one, failing=False))
    assert code == 0 and done == [('export', ['good'])]
    assert record['claim'].endswith('14 passed')
    drive(lambda one: behaviour(one, failing=False), '--again', '--only', 'two')
    assert done[1:] == [('two', [])]


def test_results_of_another_commit_are_not_mixed(drive, monkeypatch, tmp_path):
    drive(all_well)
    file = tmp_path / 'cpu-x.jsonl'
    file.write_text(file.read_text().replace('"abc"', '"xyz"'))
    with pytest.raises(InputError, match='begun with the commit xyz, and this is abc; give --aga'):
        drive(all_well)


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    file = tmp_path / 'lines'
    whole = json.dumps({'section': 'a', 'case': 'b', 'passed': True})
    file.write_text(f'{whole}\n{whole[:20]}')
    assert list(report.read(file)) == [('a', 'b')]


def test_no_time_left_is_a_failure_that_the_next_attempt_mends(drive):
    code, record = drive(all_well, '--minutes', '0')
    assert code == 1 and 'no time was left' in record['warnings'][0]
    assert drive(all_well)[0] == 0


@pytest.mark.parametrize(
    'flags, message',
    [
        (['--out', 'reports'], 'a rehearsal on a CPU is no record'),
        (['--break', 'models=x'], '--break models=x: expected SECTION=FAULT'),
        (['--break', 'modles=memory'], 'a section of models, resume'),
        (['--torch', '/nowhere/python'], '--torch /nowhere/python: there is no such file'),
    ],
)
def test_bad_input_is_one_line(drive, flags, message):
    with pytest.raises(InputError, match=message):
        drive(all_well, *flags)


def test_the_python_of_pytorch_may_be_named_from_here(monkeypatch, tmp_path):
    (tmp_path / 'python').touch()
    monkeypatch.chdir(tmp_path)
    assert suite.torch_of('python') == str(tmp_path / 'python')


# the check of the machine


@pytest.mark.parametrize(
    'changed, message',
    [
        ({'built': False}, 'was built for CPUs only; install requirements/gpu.txt'),
        ({'driver': None}, 'there is no NVIDIA driver'),
        ({'driver': 11080}, 'supports CUDA 11.8, but Paddle was built for 12.6'),
        ({'count': 0}, "shows no GPU; CUDA_VISIBLE_DEVICES is ''"),
        ({'count': 2, 'nccl': '0'}, '2 GPUs, but this Paddle has no NCCL'),
        ({'count': 1, 'nccl': '0'}, ''),
        ({'driver': 12020}, ''),
    ],
)
def test_what_is_wrong_with_a_machine_is_one_line(monkeypatch, changed, message):
    machine = {'built': True, 'driver': 13000, 'count': 2, 'nccl': '2.25', **changed}
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setattr(paddle.device, 'is_compiled_with_cuda', lambda: machine['built'])
    monkeypatch.setattr(paddle.device.cuda, 'device_count', lambda: machine['count'])
    monkeypatch.setattr(paddle.version, 'cuda', lambda: '12.6')
    monkeypatch.setattr(check, 'driver', lambda: machine['driver'])
    monkeypatch.setattr(check, 'nccl', lambda: machine['nccl'])
    said = check.problem()
    assert message in said and bool(said) == bool(message) and '\n' not in said


# the sections, with faults


def test_rounding_is_that_of_the_type():
    values = np.random.default_rng(0).standard_normal(1000).astype('float32')
    ours = precision.rounded(paddle.to_tensor(values), 11).numpy()
    np.testing.assert_array_equal(ours, values.astype('float16').astype('float32'))
    ours = precision.rounded(paddle.to_tensor(values), 8)
    theirs = paddle.to_tensor(values).astype('bfloat16').astype('float32')
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_the_stand_in_rounds_products_and_is_gone_afterwards():
    x, weight = paddle.randn([4, 8]), paddle.randn([8, 8])
    exact = paddle.nn.functional.linear(x, weight)
    with precision.stand_in(8):
        inside = paddle.nn.functional.linear(x=x, weight=weight)
    half = x.astype('bfloat16').astype('float32') @ weight.astype('bfloat16').astype('float32')
    np.testing.assert_allclose(inside.numpy(), half.numpy(), rtol=1e-5, atol=1e-6)
    again = paddle.nn.functional.linear(x, weight)
    np.testing.assert_array_equal(again.numpy(), exact.numpy())


@pytest.fixture
def computed(monkeypatch):
    """models.compute within this process, for one workload and precision."""
    name = 'pre-training, ViT'
    monkeypatch.setattr(workloads, 'TINY', {name: workloads.TINY[name]})

    def compute_here(settings, name, cases, **environ):
        out = settings.folder / f'models-{name}'
        asked = {**vars(settings), 'weights': ()}
        compute.main({'settings': asked, 'precision': name, 'cases': cases, 'out': str(out)})
        return out

    monkeypatch.setattr(models, 'compute', compute_here)
    monkeypatch.setattr(models, 'parts', lambda settings: parts.main(vars(settings)))
    monkeypatch.setattr(precision, 'PRECISIONS', {'bfloat16': precision.PRECISIONS['bfloat16']})


def test_models_differ_by_what_rounding_explains(computed, found, tmp_path):
    cases = found('models', settings_of(tmp_path))
    assert len(cases) == 3 + 2 and all(case['passed'] for case in cases.values()), cases
    assert cases['batches arrive on the device']['note'] == 'Place(cpu)'
    assert all(time > 0 for time in cases[models.PARTS[1]]['figures'].values())
    output = cases['pre-training, ViT, bfloat16: output']
    assert 1e-3 < output['measured'] < output['allowed']


@pytest.mark.parametrize(
    'fault, said',
    [('tolerance', ''), ('memory', 'MemoryError'), ('device', 'was built for CPUs')],
)
def test_faults_of_models_are_seen(computed, found, tmp_path, fault, said):
    cases = found('models', settings_of(tmp_path, fault))
    assert cases and all(not case['passed'] and said in case['note'] for case in cases.values())


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """rates.steps within this process, for one recipe."""
    monkeypatch.syspath_prepend(ROOT / 'tests/benchmarks')
    from gpu import rates
    from gpu import steps as module

    def steps_here(settings, name):
        out = tmp_path / f'{name}.jsonl'
        out.unlink(missing_ok=True)
        asked = {**vars(settings), 'weights': ()}
        module.main({'settings': asked, 'recipe': name, 'out': str(out)})
        return [json.loads(line) for line in out.read_text().splitlines()]

    monkeypatch.setattr(rates, 'steps', steps_here)
    monkeypatch.setattr(rates, 'TINY', ('pretrain_vit_base',))
    return module


def test_rates_are_measured(steps, found, tmp_path):
    (case,) = found('rates', settings_of(tmp_path)).values()
    assert case['passed'] and case['figures']['images'] == 2
    assert case['figures']['largest batch that fits'] == 4 and case['figures']['images/s'] > 0


@pytest.mark.parametrize(
    'fault, said',
    [
        ('memory', 'not even one image fits: MemoryError: (ResourceExhausted)'),
        ('device', 'was built for CPUs only'),
    ],
)
def test_faults_of_rates_are_seen(steps, found, tmp_path, fault, said):
    (case,) = found('rates', settings_of(tmp_path, fault)).values()
    assert case['passed'] is False and said in case['note']


@pytest.mark.parametrize(
    'fits, tried',
    [
        (64, [16, 32, 64, 128, 96]),
        (100, [16, 32, 64, 128, 96]),
        (10_000, [16, 32, 64, 128, 256]),
        (5, [16, 8, 4]),
        (0, [16, 8, 4, 2, 1]),
    ],
)
def test_batches_grow_until_one_does_not_fit(steps, fits, tried):
    seen = []

    def attempt(images):
        seen.append(images)
        return images <= fits

    steps.grow(16, 256, attempt)
    assert seen == tried


@pytest.fixture
def no_programs(monkeypatch, tmp_path):
    """Programs that only look at --device, as a CPU's Paddle does."""

    def start(settings, *words, **options):
        if settings.flag == 'gpu':
            return 2, '--device gpu: error: this Paddle was built for CPUs only'
        return 0, 'differs from the live model by 1.0e-07 of the largest output\n a  1 pass\n x'

    monkeypatch.setattr(programs, 'start', start)
    monkeypatch.setattr(programs, 'end', lambda process, limit=0: process)
    monkeypatch.setattr(programs, 'until', lambda process, text: None)
    monkeypatch.setattr(programs, 'kill', lambda process: None)
    monkeypatch.setattr(ladder, 'files', lambda settings: [tmp_path / 'full.pth'])
    picture = tmp_path / 'digits/val/0/0.png'
    picture.parent.mkdir(parents=True)
    picture.touch()
    monkeypatch.setattr(programs, 'digits', lambda settings: tmp_path / 'digits')


@pytest.mark.parametrize('name', ['resume', 'two', 'faults', 'export', 'ladder'])
def test_a_missing_device_fails_in_every_other_section(no_programs, found, tmp_path, name):
    cases = found(name, settings_of(tmp_path, 'device', torch='python'))
    done = {case: line for case, line in cases.items() if line['passed'] is not None}
    assert done and not any(line['passed'] for line in done.values()), cases


@pytest.mark.parametrize('name', ['export', 'ladder'])
@pytest.mark.parametrize('fault', ['', 'tolerance'])
def test_a_wrong_tolerance_fails_where_a_program_is_well(no_programs, found, tmp_path, name, fault):
    cases = found(name, settings_of(tmp_path, fault, torch='python'))
    done = [line for line in cases.values() if line['passed'] is not None]
    assert done and all(line['passed'] is (not fault) for line in done), cases


def test_what_a_machine_lacks_is_skipped_with_the_reason(found, tmp_path):
    alone = settings_of(tmp_path, devices=1)
    assert all(line['passed'] is None for line in found('two', alone).values())
    cases = found('ladder', alone)
    assert all('no environment with PyTorch' in line['note'] for line in cases.values())


@pytest.mark.slow
@pytest.mark.processes
def test_a_broken_section_does_not_stop_the_next_one_in_processes_of_their_own(
    run_program, tmp_path
):
    path = ':'.join(str(ROOT / part) for part in ('tests', 'tests/benchmarks', ''))
    words = ['--device', 'cpu', '--out', tmp_path, '--name', 'x', '--scratch', tmp_path]
    words += ['--only', 'two', 'rates', '--break', 'two=device', 'rates=memory']
    result = run_program('tests/gpu/suite.py', *words, PYTHONPATH=path)
    assert result.returncode == 1, result.stdout + result.stderr
    record = records.read(tmp_path / 'cpu-x.yaml')
    assert record['result'][suite.TITLES['two']] == '2 FAILED'
    assert record['result'][suite.TITLES['rates']] == '4 FAILED'
    assert 'was built for CPUs only' in record['warnings'][0]
    assert 'ResourceExhausted' in record['warnings'][-1]
