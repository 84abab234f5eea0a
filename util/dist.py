"""Everything that knows of several processes: rank, world size, mean over ranks, wrapping a model.

With one process every function here does the obvious thing and no communication starts.
"""
import os

import paddle
from paddle.distributed.fleet.utils import recompute  # noqa: F401  for layer.py: paddle.distributed stays in this file


def rank() -> int:
    return int(os.environ.get('PADDLE_TRAINER_ID', 0))


def world_size() -> int:
    return int(os.environ.get('PADDLE_TRAINERS_NUM', 1))


def device_id() -> int:
    """Number of the GPU that the launcher has given to this process."""
    return paddle.distributed.ParallelEnv().device_id


def is_main() -> bool:
    """True on the one process that prints, logs and saves."""
    return rank() == 0


def begin() -> None:
    """Join the other processes that the launcher started."""
    if world_size() > 1:
        paddle.distributed.init_parallel_env()


def wrap(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """The model as it is trained: its gradients averaged over the processes."""
    return paddle.DataParallel(model) if world_size() > 1 else model


def mean(values: list[float]) -> list[float]:
    """Mean of each value over all ranks; a NaN or infinity on one rank reaches every rank."""
    if world_size() == 1:
        return values
    total = paddle.to_tensor(values, dtype='float64')
    paddle.distributed.all_reduce(total)
    return (total / world_size()).tolist()
