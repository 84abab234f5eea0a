"""Everything that knows of several processes: rank, world size, means, waiting, warnings, wrapping a model.

With one process every function here does the obvious thing and nothing is communicated.
"""

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import NoReturn

import paddle
from paddle.distributed.fleet import utils

from util.errors import InputError

JOIN = 600  # seconds that the processes have to find each other
PATIENCE = 3600  # seconds that ranks wait for each other before they give up
POLL = 0.05  # seconds between two looks

# For layer.py. Not the reentrant kind, whose backward pass DataParallel takes for a second use of the parameters.
recompute = partial(utils.recompute, use_reentrant=False)

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # ask for a checkpoint and an end
FAILED = 'mae/failed'

_rounds = itertools.count()


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
    """Join the other processes that the launcher started; ends where they have not come within JOIN seconds."""
    if 'PADDLE_TRAINER_ID' in os.environ:
        # a launcher that is killed would leave its processes to themselves
        end_with_parent(signal.SIGTERM)
    if world_size() > 1:
        watch = multiprocessing.get_context('fork').Process(
            target=_give_up, args=[os.getpid()], daemon=True
        )
        with without_signals():
            watch.start()
        paddle.distributed.init_parallel_env()
        watch.kill()
        watch.join()


def end_with_parent(number: int) -> None:
    """Let the system send this process a signal when the one that started it ends; only Linux can."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _give_up(waiting: int) -> None:
    """End a process that waits for long. From a process of its own: Paddle waits deaf to signals and with Python's lock."""
    begun = time.monotonic()
    while time.monotonic() - begun < JOIN:
        time.sleep(POLL)
        if os.getppid() != waiting:
            return
    print(
        f'error: rank {rank()} of {world_size()} has waited {JOIN:g} s for the others, at {os.environ["PADDLE_MASTER"]}; '
        'have all started, and can they reach that address?',
        file=sys.stderr,
        flush=True,
    )
    os.kill(waiting, signal.SIGKILL)


def wrap(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """The model as it is trained: its gradients averaged over the processes, its weights those of rank 0."""
    if world_size() == 1:
        return model
    barrier()  # some may have read files for long
    return paddle.DataParallel(model)


def reducing(network: paddle.nn.Layer, reduce: bool) -> contextlib.AbstractContextManager:
    """Context of one forward and backward pass of a wrapped model; only with `reduce` are gradients communicated.

    Those accumulated before travel with them, so a round of accumulation costs one communication, in its last pass.
    """
    return contextlib.nullcontext() if reduce or world_size() == 1 else network.no_sync()


def sum_over_ranks(values: list[float]) -> list[float]:
    """Sum of each value over all ranks; a NaN or infinity on one rank reaches every rank."""
    if world_size() == 1:
        return values
    total = paddle.to_tensor(values, dtype='float64')
    paddle.distributed.all_reduce(total)
    return total.tolist()


def mean(values: list[float]) -> list[float]:
    """Mean of each value over all ranks."""
    return [value / world_size() for value in sum_over_ranks(values)]


def agree(what: str, values: list[float]) -> None:
    """InputError on every rank where the ranks have different values."""
    if world_size() == 1:
        return
    largest = paddle.to_tensor([*values, *(-value for value in values)], dtype='float64')
    paddle.distributed.all_reduce(largest, paddle.distributed.ReduceOp.MAX)
    most, least = (
        largest.tolist()[: len(values)],
        [-value for value in largest.tolist()[len(values) :]],
    )
    if most != least:
        raise InputError(
            f'{what} differs between the processes: {values} on rank {rank()}; do they share a file system?'
        )


def broadcast_buffers(model: paddle.nn.Layer) -> None:
    """Give every rank rank 0's state that no gradient moves, such as BatchNorm's statistics, which training leaves
    different. (Paddle keeps those among the parameters, not the buffers.)"""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            if tensor.stop_gradient:
                paddle.distributed.broadcast(tensor, src=0)


@contextlib.contextmanager
def without_signals() -> Iterator[None]:
    """Let signals that ask to stop arrive after the block: they break the key-value store's connection in the middle of
    a reply, and kill the workers of a loader while it starts them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _store():
    """The key-value store that all ranks share."""
    return paddle.base.core.create_or_get_global_tcp_store()


def store_add(key: str, number: int) -> int:
    """Add to a counter of the key-value store, and return its new value."""
    with without_signals():
        return _store().add(key, number)


def store_set(key: str, text: str) -> None:
    """Put a text into the key-value store."""
    with without_signals():
        _store().set(key, text)


def store_get(key: str) -> str:
    """The text under this key of the key-value store; waits until there is one."""
    with without_signals():
        return _store().get(key).decode()


def _ignore_signals() -> None:
    """At the first rank that has ended with a code, the launcher asks the others to end too, which kills one that is about
    to, and the launcher reports that: Python lets go of its handlers before a process is gone, but not of what it ignores.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def fail(reason: str) -> None:
    """Tell ranks that wait for this one that it will not come; say which rank was the first to fail, if another."""
    if world_size() == 1:
        return
    _ignore_signals()
    if not paddle.distributed.is_initialized():
        return
    with contextlib.suppress(Exception), without_signals():
        # the store may be gone, and then nobody waits
        store = _store()
        if store.add(FAILED, 1) == 1:
            store.set(f'{FAILED}/first', f'rank {rank()}: {reason}')
        elif not (first := store.get(f'{FAILED}/first').decode()).endswith(reason):
            print(f'the first to fail was {first}', file=sys.stderr, flush=True)


def barrier() -> None:
    """Return when all ranks have come here; RuntimeError when one has not within an hour.

    Through the key-value store: in a collective operation of the CPU backend nobody may be 30 s late.
    """
    if world_size() == 1:
        return
    key = f'mae/barrier/{next(_rounds)}'
    _count_to_all(f'{key}/come')
    if is_main():  # it holds the store, and may only leave when the others need it no more
        _count_to_all(f'{key}/gone')
    else:
        store_add(f'{key}/gone', 1)


def leave(code: int) -> NoReturn:
    """End the program with this exit code, on every rank."""
    barrier()
    _ignore_signals()
    raise SystemExit(code)


def _count_to_all(key: str) -> None:
    """Add one to a counter and wait until every rank has."""
    begun = time.monotonic()
    count = store_add(key, 1)
    while count < world_size():
        if time.monotonic() - begun > PATIENCE:
            raise RuntimeError(
                f'only {count} of {world_size()} processes came within {timedelta(seconds=PATIENCE)}'
            )
        if store_add(FAILED, 0):
            raise RuntimeError('another process has failed; its own output says why')
        time.sleep(POLL)
        count = store_add(key, 0)
