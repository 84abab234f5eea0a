"""Several processes, one of which is killed, late, or never comes."""

import time

import pytest
from conftest import free_port, slow

from faults.harness import Run

TINY = (
    '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --batch_size 3 --device cpu '
    '--warmup_epochs 1 --log_dir= --save_every 100 --num_workers 2'
).split()
pytestmark = pytest.mark.processes


@pytest.mark.faults
@pytest.mark.parametrize('victim', [0, 1, 'launcher'])
def test_who_is_killed_takes_the_others_along(digits, tmp_path, tally, victim):
    for _ in range(3):
        with tally(f'{victim if victim == "launcher" else f"rank {victim}"} is killed'):
            flags = ['--epochs', 5000, '--data_path', digits, '--output_dir', tmp_path / 'out']
            run = Run('main_pretrain.py', *TINY, *flags, processes=2, logs=tmp_path / 'launch')
            run.until('epoch 2/')
            begun = time.monotonic()
            run.kill(run.process.pid if victim == 'launcher' else run.trainers()[victim])
            code, output = run.end()
            assert code != 0 and time.monotonic() - begun < 40, output


@pytest.mark.faults
@pytest.mark.parametrize('what', ['late 1 0 60', 'late 0 0 60', 'late 1 3 20', 'slow_save 60'])
def test_who_is_late_is_waited_for(digits, tmp_path, tally, what):
    """A rank may be a minute late before an epoch's first iteration and while it saves.

    Within an epoch Paddle's CPU backend waits only 30 s.
    """
    with tally(f'a rank that is late: {what}'):
        flags = [*TINY, '--epochs', 1, '--data_path', digits, '--output_dir', tmp_path / 'out']
        program = 'tests/programs/pretrain.py'
        run = Run(program, what, *flags, processes=2, logs=tmp_path / 'launch')
        code, output = run.end(240)
        assert code == 0, output


@pytest.mark.parametrize('rank', [slow(0), slow(1)])
def test_who_waits_in_vain_says_so(digits, tmp_path, tally, rank):
    port = free_port()
    ends = [f'127.0.0.1:{port + number}' for number in (0, 1)]
    with tally('a process that never comes'):
        begun = time.monotonic()
        flags = [*TINY, '--epochs', 1, '--data_path', digits, '--output_dir', tmp_path / 'out']
        run = Run(
            'tests/programs/pretrain.py',
            'join 5',
            *flags,
            PADDLE_TRAINER_ID=str(rank),
            PADDLE_TRAINERS_NUM='2',
            PADDLE_MASTER=ends[0],
            PADDLE_TRAINER_ENDPOINTS=','.join(ends),
            PADDLE_CURRENT_ENDPOINT=ends[rank],
            PADDLE_DISTRI_BACKEND='gloo',
        )
        code, output = run.end()
        assert code != 0 and time.monotonic() - begun < 50
        assert f'rank {rank} of 2 has waited 5 s for the others, at {ends[0]}' in output, output
