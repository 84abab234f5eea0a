"""A training on several machines, which are network namespaces."""

import time

import pytest
from conftest import ROOT, assert_same_tree, log_of
from machines import Network

from util import weights

pytestmark = [pytest.mark.slow, pytest.mark.processes]
TINY = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --warmup_epochs 1 --device cpu '
    '--log_dir= --save_every 1 --num_workers 0 --print_freq 1'
).split()
PADDLE = ['-m', 'paddle.distributed.launch']
OURS = ['-m', 'util.launch']
NAMES = '\n'.join(f'10.123.0.{number + 1} node{number}' for number in range(4))


@pytest.fixture
def train(digits, tmp_path):
    """train(network, number, launcher's words, program's flags) -> the machine's process."""

    def start(network, number, launcher, *flags, what='', **kwargs):
        logs = ['--log_level', 'ERROR', '--log_dir', tmp_path / f'launch{number}']
        words = [*launcher, *logs, '--rank', number, '--nproc_per_node', 1]
        words += [ROOT / 'tests/programs/pretrain.py', what, *TINY, '--data_path', digits]
        words += ['--output_dir', tmp_path / 'out', *flags]
        return network.start(number, *words, **kwargs)

    return start


def until(process, text):
    """Read a process's output up to a line that holds the text."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f'the output has ended without {text!r}')


def ends(processes, timeout=120):
    """The exit codes of processes, and what they still write."""
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def weights_of(folder, epoch):
    return weights.read(folder / f'checkpoint-{epoch}.pd')['model']


@pytest.fixture
def on_this_machine(digits, tmp_path, run_program, two_processes):
    """on_this_machine('--flag', ...) -> the folder of a run, by default with two processes."""

    def run(*flags, what='', launcher=two_processes):
        out = tmp_path / 'here'
        words = [what, *TINY, '--data_path', digits, '--output_dir', out, *flags]
        result = run_program(
            'tests/programs/pretrain.py', *words, launcher=launcher, PYTHONPATH=str(ROOT)
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return out

    return run


def test_four_machines_with_names_one_of_them_late(train, tmp_path, on_this_machine):
    launcher = [*OURS, '--nnodes', 4, '--master', 'node0:8765']
    flags = ['--epochs', 1]
    with Network(tmp_path, 4) as network:
        processes = []
        for number in (1, 2, 3, 0):
            if number == 0:
                time.sleep(3)
            start = {'what': 'sgd', 'names': NAMES}
            processes.append(train(network, number, launcher, *flags, '--batch_size', 2, **start))
        codes, outputs = ends(processes)
    assert codes == [0, 0, 0, 0], outputs
    one = on_this_machine(*flags, '--batch_size', 8, what='sgd', launcher=())
    ours, theirs = weights_of(tmp_path / 'out', 0), weights_of(one, 0)
    assert max(abs(ours[name] - theirs[name]).max() for name in ours) < 1e-6


def test_a_lost_machine_ends_the_other_which_resumes_when_it_is_back(
    train, tmp_path, on_this_machine
):
    """Paddle's own launcher, by addresses: the machines' names do not resolve."""
    flags = ['--epochs', 20, '--batch_size', 3, '--keep', 3]

    def launcher(number):
        return [
            *[*PADDLE, '--nnodes', 2, '--master', '10.123.0.1:8765'],
            *['--host', f'10.123.0.{number + 1}'],
        ]

    def both(network, *more):
        what = 'silence 5'
        return [
            train(network, number, launcher(number), *flags, *more, what=what) for number in (0, 1)
        ]

    with Network(tmp_path, 2) as network:
        processes = both(network)
        until(processes[0], 'epoch 3/20  [2/5]')
        begun = time.monotonic()
        network.plug(1, 'down')
        codes, outputs = ends(processes)
        assert time.monotonic() - begun < 60
        assert 0 not in codes
        lines = {line for line in outputs[0].splitlines() if 'error: ' in line}
        assert 'Traceback' not in outputs[0], outputs[0]
        (line,) = lines
        assert 'the machine 10.123.0.2 has not answered for 5 s' in line
        assert 'the machine 10.123.0.1 has not answered' in outputs[1]

        network.plug(1, 'up')
        codes, outputs = ends(both(network, '--resume', 'auto'))
        assert codes == [0, 0] and 'resumed from' in outputs[0], outputs
    here = on_this_machine(*flags)
    assert_same_tree(weights_of(tmp_path / 'out', 19), weights_of(here, 19))
    assert log_of(tmp_path / 'out') == log_of(here)


def test_the_rest_goes_on_without_a_machine_that_is_killed(train, tmp_path, on_this_machine):
    launcher = [*OURS, '--nnodes', '1:2', '--master', 'node0:8765', '--wait', 5, '--restarts', 1]
    flags = ['--epochs', 10, '--batch_size', 3, '--keep', 3, '--resume', 'auto']
    with Network(tmp_path, 2) as network:
        first, second = (train(network, number, launcher, *flags, names=NAMES) for number in (0, 1))
        until(first, 'epoch 2/10')
        network.kill(second)
        (code,), (output,) = ends([first])
    assert code == 0, output
    assert 'starting it again (0 left)' in output
    assert 'the effective batch was 6' in output and 'so --accum_iter is now 2' in output
    ours, theirs = (log_of(folder)[-1] for folder in (tmp_path / 'out', on_this_machine(*flags)))
    assert abs(ours['train_loss'] - theirs['train_loss']) < 1e-4


def test_a_folder_that_is_not_shared_is_noticed_at_the_start(train, tmp_path):
    launcher = [*OURS, '--nnodes', 2, '--master', '10.123.0.1:8765']
    (tmp_path / 'out').mkdir()
    with Network(tmp_path, 2) as network:
        own = f'mount -t tmpfs none {tmp_path / "out"}'
        processes = [
            train(network, number, launcher, before=before)
            for number, before in ((0, ''), (1, own))
        ]
        codes, outputs = ends(processes)
    assert 0 not in codes
    assert f'--output_dir {tmp_path / "out"} is not shared: node1 cannot see' in outputs[0]
