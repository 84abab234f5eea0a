"""Communication between ranks, in two processes on CPUs."""

import subprocess
import sys

import pytest


@pytest.mark.processes
def test_buffers_sums_and_values_are_shared(tmp_path):
    (tmp_path / 'script.py').write_text("""
import util, paddle
from util import dist, replicas
from util.data.loader import evaluation_order
dist.begin()
norm = paddle.nn.BatchNorm1D(3)
norm(paddle.randn([8, 3]) + dist.rank())
before = dist.sum_over_ranks(norm._mean.tolist())
replicas.broadcast_buffers(norm)
after = dist.sum_over_ranks(norm._mean.tolist())
own = [2 * value for value in norm._mean.tolist()]
changed = max(abs(a - b) for a, b in zip(before, after))
assert max(abs(a - b) for a, b in zip(after, own)) < 1e-7 < changed
def gradients(layer, wrap, reduces):
    network = wrap(layer)
    for reduce in reduces:
        with replicas.reducing(network, reduce):
            network(paddle.full([4, 3], 1.0 + 2 * dist.rank())).sum().backward()
    return [parameter.grad.flatten().tolist() for parameter in layer.parameters()]
# GPUs take DataParallel; a weight's gradient is 4 and 12 in a pass, so its mean is 8 a pass
weight, bias = gradients(paddle.nn.Linear(3, 1), paddle.DataParallel, [False])
assert set(weight) == {4.0 + 8 * dist.rank()}, 'gradients travel in the last pass of a round only'
weight, bias = gradients(paddle.nn.Linear(3, 1), paddle.DataParallel, [False, True])
assert set(weight) == {16.0} and set(bias) == {8.0}
large = paddle.nn.Linear(3, replicas.LARGE)  # its weight is a message of its own
before = large.weight.numpy()
weight, bias = gradients(large, replicas.wrap, [False, True])
dist.agree('the weights', [float(large.weight.sum())])
assert dist.is_main() == bool((large.weight.numpy() == before).all()), 'weights are those of rank 0'
assert set(weight) == {8.0 + 16 * dist.rank()}
replicas.average_gradients(large.parameters())
assert set(large.weight.grad.flatten().tolist()) == {16.0}
assert set(large.bias.grad.tolist()) == {8.0}
own = dist.rank()
for told, expected in (
    ([0, 0], [False, False]), ([own, 0], [True, False]), ([1, 1 - own], [True, True])
):
    assert dist.any_of_ranks(told) == expected, told
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
