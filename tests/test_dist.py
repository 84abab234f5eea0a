"""Communication between ranks, in two processes on CPUs."""

import subprocess
import sys

import pytest


@pytest.mark.processes
def test_buffers_sums_and_values_are_shared(tmp_path):
    (tmp_path / 'script.py').write_text("""
import util, paddle
from util import dist
from util.data.loader import evaluation_order
dist.begin()
norm = paddle.nn.BatchNorm1D(3)
norm(paddle.randn([8, 3]) + dist.rank())
before = dist.sum_over_ranks(norm._mean.tolist())
dist.broadcast_buffers(norm)
after = dist.sum_over_ranks(norm._mean.tolist())
own = [2 * value for value in norm._mean.tolist()]
changed = max(abs(a - b) for a, b in zip(before, after))
assert max(abs(a - b) for a, b in zip(after, own)) < 1e-7 < changed
layer = paddle.nn.Linear(3, 1)
network = dist.wrap(layer)
def ranks_agree():
    try:
        dist.agree('gradient', layer.weight.grad.flatten().tolist())
    except Exception:
        return False
    return True
for number, reduce in enumerate((False, True)):
    with dist.reducing(network, reduce):
        network(paddle.randn([4, 3])).sum().backward()
    assert ranks_agree() == reduce, 'gradients travel in the last pass of a round, and only then'
order = evaluation_order(7, dist.rank(), dist.world_size())
assert dist.sum_over_ranks([float(sum(order)), float(len(order))]) == [21.0, 7.0]
own = {'rank': dist.rank(), 'text': 'ä' * 5 * dist.rank(), 'number': 0.1}
assert dist.gather(own) == [
    {'rank': 0, 'text': '', 'number': 0.1}, {'rank': 1, 'text': 'äääää', 'number': 0.1}
]
try:
    dist.agree('the number', [float(dist.rank())])
except Exception as error:
    assert 'the number differs' in str(error)
else:
    raise AssertionError
""")
    command = '-m paddle.distributed.launch --nproc_per_node 2 --log_dir'.split()
    command += [str(tmp_path / 'log'), 'script.py']
    result = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
