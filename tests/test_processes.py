"""Several processes and interrupted runs: real programs under the real launcher, on CPUs (gloo)."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, free_port, slow
from PIL import Image

from util import weights

pytestmark = pytest.mark.processes
TINY = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --epochs 3 --warmup_epochs 1 '
    '--device cpu --log_dir= --save_every 1 --blr 0.05'
).split()


def start(data, out, *flags, what='', processes=1, workers=0, launcher=()):
    command = [sys.executable]
    if processes > 1 or launcher:
        command += f'-m paddle.distributed.launch --nproc_per_node {processes}'.split()
        command += ['--log_level', 'ERROR', '--log_dir', out / 'launch', *launcher]
    command += [ROOT / 'tests/programs/pretrain.py', what, *TINY, '--num_workers', workers]
    command += ['--data_path', data, '--output_dir', out, *flags]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )


def run(*arguments, timeout=240, **options):
    """(exit code, output) of a run; after `timeout` seconds it is killed."""
    process = start(*arguments, **options)
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output


def log_of(out):
    return [json.loads(line) for line in (out / 'log.txt').read_text().splitlines()]


def assert_same_run(out, reference, last=2):
    """Assert that weights, optimizer, scaler, position and log are equal bit for bit."""
    assert (out / 'log.txt').read_text() == (reference / 'log.txt').read_text()
    ours, theirs = (weights.read(folder / f'checkpoint-{last}.pd') for folder in (out, reference))
    assert {key: ours[key] for key in ('epoch', 'scaler', 'position')} == {
        key: theirs[key] for key in ('epoch', 'scaler', 'position')
    }
    assert ours['optimizer'].keys() == theirs['optimizer'].keys()
    for name, tensor in theirs['model'].items():
        np.testing.assert_array_equal(ours['model'][name], tensor, err_msg=name)
        for kind, moment in theirs['optimizer'].get(name, {}).items():
            np.testing.assert_array_equal(
                ours['optimizer'][name][kind], moment, err_msg=f'{name} {kind}'
            )


def differences(a, b, last=2):
    """Largest difference of losses, of weights without the key part of qkv.bias, and of that part.

    That part's gradient is zero in exact arithmetic (a constant added to all keys changes no
    softmax), but Adam scales its rounding errors up to full steps.
    """
    losses = max(
        abs(x['train_loss'] - y['train_loss']) for x, y in zip(log_of(a), log_of(b), strict=True)
    )
    a, b = (weights.read(folder / f'checkpoint-{last}.pd')['model'] for folder in (a, b))
    key_parts, others = [0.0], [0.0]
    for name, tensor in a.items():
        difference = np.abs(tensor - b[name])
        if name.endswith('qkv.bias'):
            _, keys, _ = np.split(difference, 3)
            key_parts.append(keys.max())
            difference = np.delete(difference, slice(len(keys), 2 * len(keys)))
        others.append(difference.max())
    return losses, max(others), max(key_parts)


# equality


@pytest.mark.parametrize('what, tolerance', [slow('sgd', 1e-6), ('', 1e-5)], ids=['SGD', 'AdamW'])
def test_two_processes_equal_one_with_the_doubled_batch(digits, tmp_path, what, tolerance):
    for out, processes, batch in ((tmp_path / 'one', 1, 6), (tmp_path / 'two', 2, 3)):
        code, output = run(
            digits, out, '--batch_size', batch, '--accum_iter', 2, what=what, processes=processes
        )
        assert code == 0, output
    losses, others, keys = differences(tmp_path / 'one', tmp_path / 'two')
    print(f'losses {losses:.1e}, weights {others:.1e}, key part {keys:.1e}')
    assert losses < 1e-6 and others < tolerance
    assert what != 'sgd' or keys < tolerance


@pytest.mark.slow
def test_two_launchers_equal_one_process(digits, tmp_path):
    master = f'127.0.0.1:{free_port()}'
    code, output = run(digits, tmp_path / 'one', '--batch_size', 6, what='sgd')
    assert code == 0, output
    nodes = [
        start(
            digits,
            tmp_path / 'two',
            '--batch_size',
            3,
            what='sgd',
            launcher=['--nnodes', 2, '--master', master, '--rank', rank],
        )
        for rank in (0, 1)
    ]
    for node in nodes:
        output, _ = node.communicate(timeout=400)
        assert node.returncode == 0, output
    losses, others, keys = differences(tmp_path / 'one', tmp_path / 'two')
    assert losses < 1e-6 and max(others, keys) < 1e-6


@pytest.mark.slow
def test_recompute_works_in_two_processes(digits, tmp_path):
    for out, flags in ((tmp_path / 'plain', []), (tmp_path / 'recompute', ['--recompute'])):
        code, output = run(digits, out, '--batch_size', 5, *flags, what='sgd', processes=2)
        assert code == 0, output
    losses, others, keys = differences(tmp_path / 'plain', tmp_path / 'recompute')
    assert losses < 1e-6 and max(others, keys) < 1e-6


# resuming


@pytest.mark.parametrize(
    'processes, workers, accum_iter, how',
    [
        slow(1, 0, 1, ''),
        (1, 2, 2, ''),
        slow(2, 0, 2, ''),
        slow(2, 2, 1, ''),
        slow(2, 0, 2, 'waits'),
    ],
)
def test_a_stopped_run_resumes_as_if_nothing_had_happened(
    digits, tmp_path, processes, workers, accum_iter, how
):
    flags = ['--batch_size', 6 // processes, '--accum_iter', accum_iter]
    options = {'processes': processes, 'workers': workers}
    code, output = run(digits, tmp_path / 'straight', *flags, **options)
    assert code == 0, output
    name = 'SIGTERM' if workers else 'SIGUSR1'
    what = f'{how} signal {name} 2'
    code, output = run(digits, tmp_path / 'out', *flags, what=what, **options)
    assert code == 75, output
    # the signal comes in the third iteration; its round is finished first
    done = -(-3 // accum_iter) * accum_iter
    assert f'stopped by a signal in epoch 1 after iteration {done}' in output
    code, output = run(digits, tmp_path / 'out', *flags, '--resume', 'auto', **options)
    assert code == 0 and f'checkpoint-1-{6 * done}.pd: epoch 1, {6 * done} samples' in output, (
        output
    )
    assert_same_run(tmp_path / 'out', tmp_path / 'straight')
    code, output = run(
        digits, tmp_path / 'again', *flags, '--resume', tmp_path / 'out/checkpoint-0.pd', **options
    )
    assert code == 0, output
    assert log_of(tmp_path / 'again') == log_of(tmp_path / 'straight')[1:]


@pytest.mark.slow
@pytest.mark.parametrize('what, expected', [('signal SIGTERM 2', 75), ('nan 1 2', 1)])
def test_a_job_ends_with_its_own_code_though_the_launcher_ends_the_slower_rank(
    digits, tmp_path, what, expected
):
    """When a rank ends with a code, the launcher sends SIGTERM to the others.

    The launcher itself ends with the code of rank 0.
    """
    code, output = run(
        digits, tmp_path / 'out', '--batch_size', 3, what=f'linger 0 {what}', processes=2
    )
    assert code == expected, output


@pytest.mark.slow
def test_a_run_killed_three_times_ends_as_if_nothing_had_happened(digits, tmp_path):
    """It is killed at random moments, while it trains or saves.

    tests/faults does this a hundred times with all programs.
    """
    draw = random.Random(0)
    flags = ['--batch_size', 6, '--epochs', 12, '--save_every_iters', 1, '--keep', 2]
    code, output = run(digits, tmp_path / 'straight', *flags)
    assert code == 0, output
    for kill in range(3):
        process = start(digits, tmp_path / 'out', *flags, '--resume', 'auto')
        next(line for line in process.stdout if line.startswith('mae_vit'))
        time.sleep(0.1 + draw.random() * 0.3)
        assert process.poll() is None, f'kill {kill} came too late: make the run longer'
        process.kill()
        process.communicate()
    code, output = run(digits, tmp_path / 'out', *flags, '--resume', 'auto')
    assert code == 0, output
    assert_same_run(tmp_path / 'out', tmp_path / 'straight', last=11)
    assert not list((tmp_path / 'out').glob('.*')), 'temporary files are left'


@pytest.mark.slow
def test_resuming_from_an_earlier_checkpoint_does_not_mix_two_runs(digits, tmp_path):
    flags = ['--batch_size', 6]
    code, output = run(digits, tmp_path / 'out', *flags)
    assert code == 0, output
    first = tmp_path / 'out/checkpoint-0.pd'
    code, output = run(digits, tmp_path / 'out', *flags, '--resume', first, what='signal SIGTERM 2')
    assert code == 75 and 'checkpoint-2.pd.old' in output, output
    assert [line['epoch'] for line in log_of(tmp_path / 'out')] == [0]
    code, output = run(digits, tmp_path / 'out', *flags, '--resume', 'auto')
    assert code == 0 and 'checkpoint-1-18.pd: epoch 1' in output, output
    assert [line['epoch'] for line in log_of(tmp_path / 'out')] == [0, 1, 2]


@pytest.mark.slow
def test_resuming_within_an_epoch_with_a_batch_that_leaves_no_iteration(digits, tmp_path):
    code, output = run(digits, tmp_path, '--batch_size', 6, what='signal SIGTERM 3')
    assert code == 75, output
    code, output = run(digits, tmp_path, '--batch_size', 8, '--accum_iter', 2, '--resume', 'auto')
    assert code == 0, output
    assert [line['epoch'] for line in log_of(tmp_path)] == [0, 1, 2]


@pytest.mark.slow
def test_resuming_with_other_processes_keeps_the_effective_batch(digits, tmp_path):
    code, output = run(
        digits, tmp_path / 'out', '--batch_size', 3, '--accum_iter', 2, what='signal SIGTERM 2'
    )
    assert code == 75, output
    code, output = run(
        digits,
        tmp_path / 'out',
        *'--batch_size 3 --accum_iter 2 --resume auto'.split(),
        processes=2,
    )
    assert code == 0, output
    assert 'the effective batch was 6' in output and 'so --accum_iter is now 1' in output
    code, output = run(digits, tmp_path / 'straight', '--batch_size', 6)
    assert code == 0, output
    assert (
        abs(
            log_of(tmp_path / 'out')[2]['train_loss']
            - log_of(tmp_path / 'straight')[2]['train_loss']
        )
        < 1e-5
    )


# faults


@pytest.mark.parametrize('seconds', [slow(40), pytest.param(90, marks=pytest.mark.full)])
def test_a_slow_save_kills_nobody(digits, tmp_path, seconds):
    code, output = run(
        digits, tmp_path, '--batch_size', 3, '--epochs', 1, what=f'slow_save {seconds}', processes=2
    )
    assert code == 0, output


@pytest.mark.parametrize('rank', [slow(0), 1])
def test_a_rank_that_fails_ends_all_within_seconds(digits, tmp_path, rank):
    begun = time.monotonic()
    code, output = run(
        digits, tmp_path, '--batch_size', 3, what=f'fail {rank} 2', processes=2, timeout=60
    )
    assert code != 0 and 'failed on purpose' in output, output
    assert time.monotonic() - begun < 40


@pytest.mark.slow
@pytest.mark.parametrize('what', ['nan 1 2', 'waits nan 1 2'])
def test_a_loss_that_is_not_finite_on_one_rank_stops_all_with_code_1(digits, tmp_path, what):
    code, output = run(digits, tmp_path, '--batch_size', 3, what=what, processes=2)
    assert code == 1 and output.count('the loss is nan in epoch 0, iteration 2') >= 1, output
    assert not list(tmp_path.glob('*.pd'))
    (named,) = tmp_path.glob('non_finite-*')  # written by the rank with that loss
    order = [int(i) for i in np.random.default_rng([0, 0]).permutation(30)][2 * 6 + 3 : 2 * 6 + 6]
    files = sorted((digits / 'train').glob('*/*'))
    assert named.name == 'non_finite-0-2-rank1.txt'
    assert named.read_text().splitlines() == [str(files[i]) for i in order]
    assert f'{tmp_path}/non_finite-0-2-rank*.txt names the images of the batch' in output


@pytest.mark.slow
@pytest.mark.parametrize('what', ['', 'waits'])
def test_warnings_of_all_ranks_reach_the_screen_once(digits, tmp_path, what):
    for i in range(400):
        file = tmp_path / f'data/train/a/{i:03}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        if i % 133:
            Image.new('L', (16, 16), i % 256).save(file)
        else:
            file.write_bytes(b'no image')
    code, output = run(
        tmp_path / 'data',
        tmp_path / 'out',
        *('--batch_size', 50, '--epochs', 1),
        what=what,
        processes=2,
    )
    assert code == 0, output
    warnings = [line for line in output.splitlines() if 'unreadable image' in line]
    names = sorted(line.split(' (Un')[0].split('/')[-1][:7] for line in warnings)
    assert names == ['000.png', '133.png', '266.png', '399.png']
    assert (
        any(line.startswith('warning (rank 1)') for line in warnings)
        and 'warning: unreadable' in output
    )
    progress = [line for line in output.splitlines() if line.startswith('epoch 1/1')]
    assert len(progress) == 2, 'one rank reports on progress'


@pytest.mark.parametrize('processes, workers', [slow(1, 2), slow(2, 0), slow(2, 2)])
def test_a_launcher_that_is_asked_to_stop_lets_its_workers_save(
    digits, tmp_path, processes, workers
):
    process = start(
        digits,
        tmp_path,
        *'--batch_size 3 --epochs 1000 --save_every 1000 --print_freq 1'.split(),
        processes=processes,
        workers=workers,
        launcher=['--log_level', 'ERROR'],
    )
    for line in process.stdout:
        if line.startswith('epoch 3/'):
            break
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert len(list(tmp_path.glob('checkpoint-*-*.pd'))) == 1


@pytest.mark.slow
def test_a_machine_that_fails_at_its_start_ends_the_other(digits, tmp_path):
    master = f'127.0.0.1:{free_port()}'
    nodes = [
        start(
            data,
            tmp_path / name,
            '--batch_size',
            3,
            launcher=['--nnodes', 2, '--master', master, '--rank', rank],
        )
        for rank, (name, data) in enumerate({'good': digits, 'bad': tmp_path / 'nowhere'}.items())
    ]
    begun = time.monotonic()
    for node in nodes:
        try:
            node.communicate(timeout=90)
        finally:
            node.kill()
        assert node.returncode != 0
    assert time.monotonic() - begun < 60
