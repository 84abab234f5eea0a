"""Several processes: rank and world size, sums over ranks, barriers, failures.

With one process nothing is communicated, and every function returns at once.
"""

import contextlib
import ctypes
import itertools
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import numpy as np
import paddle
from paddle.distributed.fleet import utils

from util import heartbeat, hosts
from util.errors import InputError

JOIN = 600  # seconds that the processes have to find each other
PATIENCE = 3600  # seconds that a rank waits for the others at a barrier
POLL = 0.05  # seconds between two looks at a counter
QUICK = 0.001  # the same where ranks wait for each other in every iteration
MOST_RANKS = 2**20

# For layer.py. DataParallel would take the backward pass of the reentrant kind for a second use of
# the parameters.
recompute = partial(utils.recompute, use_reentrant=False)

PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # they ask to save a checkpoint and stop
FAILED = 'mae/failed'  # key of the number of ranks that have failed

_rounds = itertools.count()  # numbers of the barriers
_polls = itertools.count()  # numbers of the calls of any_of_ranks
_polled = [0, 0]  # the last values of its two counters


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get('PADDLE_TRAINER_ID', 0))


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get('PADDLE_TRAINERS_NUM', 1))


def device_id() -> int:
    """Number of the device, such as a GPU, that the launcher has given to this process."""
    return paddle.distributed.ParallelEnv().device_id


def is_main() -> bool:
    """True on the one process that prints, logs and saves."""
    return rank() == 0


def begin() -> None:
    """Join the other processes that the launcher started.

    The program is killed where they do not come within JOIN seconds.
    """
    if 'PADDLE_TRAINER_ID' in os.environ:
        # otherwise the processes of a launcher that is killed would run on
        end_with_parent(signal.SIGTERM)
    if world_size() == 1:
        return

    hosts.prepare()
    if paddle.device.get_device() == 'cpu':
        # a Paddle for GPUs would choose NCCL, and with it a GPU
        os.environ['PADDLE_DISTRI_BACKEND'] = 'gloo'
    fork = multiprocessing.get_context('fork')
    watch = fork.Process(target=_give_up, args=[os.getpid()], daemon=True)
    with without_signals():
        watch.start()
    paddle.distributed.init_parallel_env()
    watch.kill()
    watch.join()
    _watch_other_machines()


def _watch_other_machines() -> None:
    """End this machine's processes when another machine is gone; see util/heartbeat.py."""
    is_first_here = os.environ.get('PADDLE_RANK_IN_NODE') == '0'
    if hosts.machines() == 1 or not is_first_here:
        return
    if is_main():
        host = hosts.endpoints()[0]
        server = heartbeat.listen(host)
        store_set('mae/heartbeat', f'{host}:{server.getsockname()[1]}')
        heartbeat.begin(server=server)
    else:
        heartbeat.begin(address=store_get('mae/heartbeat'))


def end_with_parent(number: int) -> None:
    """Have the system send this process a signal when its parent ends; only Linux can."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def _give_up(waiting: int) -> None:
    """Kill the process `waiting`, the parent, after JOIN seconds.

    Runs in a process of its own, because Paddle waits without answering signals and holds Python's
    lock meanwhile.
    """
    begun = time.monotonic()
    while time.monotonic() - begun < JOIN:
        time.sleep(POLL)
        if os.getppid() != waiting:
            return
    address = os.environ['PADDLE_MASTER']
    message = (
        f'error: rank {rank()} of {world_size()} has waited {JOIN:g} s for the others, '
        f'at {address}; have all started, and can they reach that address?'
    )
    print(message, file=sys.stderr, flush=True)
    os.kill(waiting, signal.SIGKILL)


def sum_over_ranks(values: list[float]) -> list[float]:
    """Sum of each value over all ranks; a NaN or infinity on one rank reaches every rank."""
    if world_size() == 1:
        return values
    total = paddle.to_tensor(values, dtype='float64')
    paddle.distributed.all_reduce(total)
    return total.tolist()


def any_of_ranks(values: Sequence[float]) -> list[bool]:
    """Whether each value is not 0 on some rank; the same on every rank.

    Uses the key-value store, so it waits for no device, and no rank is too late.
    """
    if world_size() == 1:
        return [value > 0 for value in values]
    number = 1
    for place, value in enumerate(values, 1):
        number += MOST_RANKS**place * (value > 0)

    # Two counters take turns: who comes to one has seen that all have left it
    turn = next(_polls) % 2
    before = _polled[turn]
    _polled[turn] = _count_to_all(f'mae/poll/{turn}', number, before=before, pause=QUICK)
    told = _polled[turn] - before
    return [told // MOST_RANKS**place % MOST_RANKS > 0 for place, _ in enumerate(values, 1)]


def mean(values: list[float]) -> list[float]:
    """Mean of each value over all ranks."""
    return [value / world_size() for value in sum_over_ranks(values)]


def mean_tensor(tensor: paddle.Tensor) -> paddle.Tensor:
    """The tensor, which becomes its mean over all ranks, on the device."""
    if world_size() == 1:
        return tensor
    paddle.distributed.all_reduce(tensor)
    return tensor.scale_(1 / world_size())


def gather(value: Any) -> list:
    """The value of each rank, in the order of the ranks; a value is one that fits in a json."""
    if world_size() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), 'uint8')
    lengths = [0] * world_size()
    lengths[rank()] = len(text)
    lengths = [int(length) for length in sum_over_ranks(lengths)]

    # all ranks send as many bytes as the longest text has
    padded = np.zeros(max(lengths), 'uint8')
    padded[: len(text)] = text
    texts = all_gather(paddle.to_tensor(padded))
    return [json.loads(part.numpy()[:n].tobytes()) for part, n in zip(texts, lengths)]


def all_gather(tensor: paddle.Tensor) -> list[paddle.Tensor]:
    """The tensor of each rank, in the order of the ranks; all have the same shape and type."""
    tensors: list[paddle.Tensor] = []
    paddle.distributed.all_gather(tensors, tensor)
    return tensors


def broadcast(array: np.ndarray | None, shape: list[int], source: int) -> np.ndarray:
    """A float32 array of this shape, which only the rank `source` needs to have, on every rank."""
    tensor = paddle.zeros(shape) if array is None else paddle.to_tensor(array)
    paddle.distributed.broadcast(tensor, src=source)
    return tensor.numpy()


def copy_from_first(tensors: Iterable[paddle.Tensor]) -> None:
    """Give every rank the values that these tensors have on rank 0."""
    if world_size() == 1:
        return
    for tensor in tensors:
        paddle.distributed.broadcast(tensor.detach(), src=0)  # it shares the values


def agree(what: str, values: list[float]) -> None:
    """Raise InputError on every rank if the ranks have different values."""
    if world_size() == 1:
        return
    # one communication finds both: the smallest value is minus the largest of the negatives
    negatives = [-value for value in values]
    both = paddle.to_tensor([*values, *negatives], dtype='float64')
    paddle.distributed.all_reduce(both, paddle.distributed.ReduceOp.MAX)

    largest = both.tolist()[: len(values)]
    smallest = [-value for value in both.tolist()[len(values) :]]
    if largest != smallest:
        raise InputError(
            f'{what} differs between the processes: {values} on rank {rank()}; '
            'do they share a file system?'
        )


@contextlib.contextmanager
def without_signals() -> Iterator[None]:
    """Delay the signals that ask to stop until the block has ended.

    They would break the key-value store's connection in the middle of a reply, and kill a loader's
    workers while it starts them.
    """
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
    """Write a text to the key-value store."""
    with without_signals():
        _store().set(key, text)


def store_get(key: str) -> str:
    """The text under this key of the key-value store; waits until there is one."""
    with without_signals():
        return _store().get(key).decode()


def _ignore_signals() -> None:
    """Ignore the signals that ask to stop, so that this process ends with its own exit code.

    When the first rank has ended with a code other than 0, the launcher sends SIGTERM to the
    others and reports a rank that it kills. A handler is not enough: while a process ends, Python
    removes its handlers, but keeps signals ignored.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def fail(reason: str) -> None:
    """Tell the ranks that wait for this one that it has failed.

    Prints which rank failed first, if that was another one for another reason.
    """
    if world_size() == 1:
        return
    _ignore_signals()
    if not paddle.distributed.is_initialized():
        return
    with contextlib.suppress(Exception), without_signals():
        # where the store is gone, nobody waits any more
        store = _store()
        is_first = store.add(FAILED, 1) == 1
        if is_first:
            store.set(f'{FAILED}/first', f'rank {rank()}: {reason}')
            return
        first = store.get(f'{FAILED}/first').decode()
        if not first.endswith(reason):
            print(f'the first to fail was {first}', file=sys.stderr, flush=True)


def barrier() -> None:
    """Return when all ranks have called this; RuntimeError if one has not within PATIENCE seconds.

    Uses the key-value store, because a collective operation of the CPU backend fails when a rank
    is 30 s late.
    """
    if world_size() == 1:
        return
    key = f'mae/barrier/{next(_rounds)}'
    _count_to_all(f'{key}/come')

    # rank 0 holds the store, so it leaves last
    if is_main():
        _count_to_all(f'{key}/gone')
    else:
        store_add(f'{key}/gone', 1)


def leave(code: int) -> NoReturn:
    """End the program with this exit code, on every rank."""
    barrier()
    _ignore_signals()
    raise SystemExit(code)


def _count_to_all(key: str, number: int = 1, before: int = 0, pause: float = POLL) -> int:
    """Add to a counter and wait until every rank has; returns its new value.

    number: 1, and more in multiples of MOST_RANKS. before: the counter's value at first. pause:
    seconds between two looks.
    """
    begun = time.monotonic()
    total = store_add(key, number)
    while (count := (total - before) % MOST_RANKS) < world_size():
        if time.monotonic() - begun > PATIENCE:
            limit = timedelta(seconds=PATIENCE)
            raise RuntimeError(f'only {count} of {world_size()} processes came within {limit}')
        if store_add(FAILED, 0):
            raise RuntimeError('another process has failed; its own output says why')
        time.sleep(pause)
        total = store_add(key, 0)
    return total
