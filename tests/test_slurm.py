"""demo/slurm.sh under a stand-in of Slurm: two machines, a time limit, and the second attempt."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, log_of
from machines import Network
from test_machines import NAMES, TINY, ends, until

pytestmark = [pytest.mark.slow, pytest.mark.processes]
# srun: the command on each machine with Slurm's variables; a signal goes to all of them
SRUN = """#!/bin/bash
export SLURM_NNODES=2
SLURM_NODEID=0 {first} "$@" & one=$!
SLURM_NODEID=1 {second} "$@" & two=$!
trap 'kill -TERM $one $two' TERM
echo $$ > {pid}
code=0
for process in $one $two; do
    while kill -0 $process 2> /dev/null; do wait $process; last=$?; done
    if [ $last -gt $code ]; then code=$last; fi
done
exit $code
"""
SCONTROL = """#!/bin/bash
if [ "$*" = 'show hostnames node[0-1]' ]; then printf 'node0\\nnode1\\n'; exit; fi
echo "$*" >> {asked}
"""


@pytest.fixture
def submit(digits, tmp_path):
    """submit(network, '--flag', ...) -> the process of the batch script on the first machine."""

    def write(name, text):
        file = tmp_path / 'bin' / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def start(network, *flags):
        first, second = (shlex.join(network.entering(number, NAMES)) for number in (0, 1))
        write('srun', SRUN.format(first=first, second=second, pid=tmp_path / 'pid'))
        write('scontrol', SCONTROL.format(asked=tmp_path / 'asked'))
        launcher = ['--log_level', 'ERROR', '--log_dir', tmp_path / 'logs', '--nproc_per_node', 1]
        words = ['bash', ROOT / 'demo/slurm.sh', *launcher, 'main_pretrain.py', *TINY]
        words += ['--data_path', digits, '--output_dir', tmp_path / 'out', *flags]
        path = f'{tmp_path / "bin"}:{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'
        slurm = {'SLURM_JOB_NODELIST': 'node[0-1]', 'SLURM_JOB_ID': '4711'}
        process = subprocess.Popen(
            list(map(str, words)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, 'MAE_NUM_THREADS': '1', **slurm, 'PATH': path},
        )
        network.processes.append(process)
        return process

    return start


def test_a_job_that_reaches_its_time_limit_is_queued_again_and_ends(submit, tmp_path):
    asked = tmp_path / 'asked'
    flags = ['--batch_size', 3, '--keep', 2]
    with Network(tmp_path, 2) as network:
        job = submit(network, '--epochs', 500, *flags)
        until(job, 'epoch 2/')
        os.kill(int((tmp_path / 'pid').read_text()), signal.SIGTERM)
        (code,), (output,) = ends([job])
        assert code in (75, 15, 143), output
        assert asked.read_text() == 'requeue 4711\n', output
        reached = len(log_of(tmp_path / 'out'))

        again = submit(network, '--epochs', reached + 2, *flags)
        (code,), (output,) = ends([again])
    assert code == 0 and 'resumed from' in output, output
    assert asked.read_text() == 'requeue 4711\n', 'a job that is done is not queued again'
    assert [entry['epoch'] for entry in log_of(tmp_path / 'out')] == list(range(reached + 2))
