"""Processes that prepare batches, whose every way to fail ends in one line that names the file.

Paddle's own workers leave an exception to a hang or to a SystemError without its cause, files in /dev/shm when the
program is killed, and wait for ever for one that is stuck. Here worker w of n prepares the batches w, w + n, ... of an
order that it goes through by itself. A batch lies in memory that has no name (memfd) and travels through a socket: who
dies leaves nothing behind, the other end of the socket learns of it at once, and a small /dev/shm does not matter.
"""

import atexit
import contextlib
import mmap
import multiprocessing
import os
import pickle
import signal
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from util import dist
from util.errors import InputError

AHEAD = 2  # batches that a worker may be ahead
ALIGN = 64  # bytes
POLL = 1.0  # seconds between two looks at one that is slow


def supported() -> bool:
    """Linux has what this needs."""
    return hasattr(os, 'memfd_create')


class Pool:
    """Iterating gives the batches of `order`, a list of keys each, in this order: collate([prepare(key) for key in keys]).

    collate: samples -> a tree of arrays. name: key -> what to call the sample in an error. timeout: seconds that one sample
    may take, 0 for any. InputError where a sample raises, takes longer, or its worker dies. To be made in the main thread.
    """

    def __init__(
        self,
        prepare: Callable,
        collate: Callable,
        order: Iterable[list],
        count: int,
        name: Callable[[Any], str],
        timeout: float = 0,
    ):
        self.order, self.count, self.name, self.timeout = order, count, name, timeout
        # where in its batch each worker is
        self.places = np.frombuffer(mmap.mmap(-1, 8 * count), 'int64')
        self.sockets, self.processes = [], []
        self.close = weakref.finalize(self, _end, self.processes, self.sockets)
        # before Paddle's, which waits for a thread that waits for a worker
        atexit.register(self.close)
        fork = multiprocessing.get_context('fork')
        for worker in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.sockets.append(ours)
            ours.settimeout(POLL)
            process = fork.Process(
                target=_work,
                daemon=True,
                args=(
                    prepare,
                    collate,
                    order,
                    count,
                    worker,
                    self.places,
                    theirs,
                    list(self.sockets),
                    os.getpid(),
                ),
            )
            with dist.without_signals():
                process.start()
            self.processes.append(process)
            theirs.close()  # so that the worker's end closes with the worker

    def __iter__(self) -> Iterator:
        for _ in range(AHEAD):
            for ours in self.sockets:
                _allow(ours)
        for number, keys in enumerate(self.order):
            worker = number % self.count
            batch = self._receive(worker, keys)
            _allow(self.sockets[worker])
            yield batch

    def _receive(self, worker: int, keys: list) -> Any:
        """A worker's next batch."""
        place, since = None, time.monotonic()
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self.sockets[worker], 1, 1)
                break
            except TimeoutError:
                if place != self.places[worker]:
                    place, since = int(self.places[worker]), time.monotonic()
                if self.timeout and time.monotonic() - since > self.timeout:
                    raise InputError(
                        f'{self._where(worker, keys)}: not read within --data_timeout {self.timeout:g} s; '
                        'does its file system answer?'
                    ) from None
            except ConnectionResetError:  # it has ended before it read what was sent
                message = b''
                break
        if not message:
            raise InputError(self._death(worker, keys))
        failed, content = _unpack(descriptors[0])
        if failed:
            raise InputError(content)
        return content

    def _where(self, worker: int, keys: list) -> str:
        return self.name(keys[min(int(self.places[worker]), len(keys) - 1)])

    def _death(self, worker: int, keys: list) -> str:
        process = self.processes[worker]
        process.join(POLL)
        code = process.exitcode
        how = (
            f'was killed by {signal.Signals(-code).name}'
            if code and code < 0
            else f'has ended with code {code}'
        )
        hint = ' (out of memory?)' if code == -signal.SIGKILL else ''
        return f'a loader worker {how}{hint}, at {self._where(worker, keys)}'


def _allow(ours: socket.socket) -> None:
    """Let a worker prepare one batch more; that it is dead is found out where its batch is waited for."""
    with contextlib.suppress(OSError):
        ours.send(b'.')


def _end(processes: list, sockets: list) -> None:
    for process in processes:
        process.kill()
    for ours in sockets:
        ours.close()
    for process in processes:
        # one that waits for a dead mount does not even die; it is left to the system
        process.join(POLL)


def _work(prepare, collate, order, count, worker, places, theirs, others, parent) -> None:
    """What a worker does."""
    dist.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    for other in others:  # inherited, and open ends of others' sockets would hide their death
        other.close()
    _leave_group()
    for number, keys in enumerate(order):
        if number % count == worker:
            if not theirs.recv(1):
                return
            try:
                samples = []
                for place, key in enumerate(keys):
                    places[worker] = place
                    samples.append(prepare(key))
                content = False, collate(samples)
            except Exception as error:
                content = True, str(error) or type(error).__name__
            _send(theirs, content)
    while theirs.recv(1):  # to leave with something unread would undo what has been sent
        pass


def _leave_group() -> None:
    """A signal to the whole process group asks the training process for a checkpoint; its workers must go on for that.
    What reached them before they left the group is forgotten; what their parent sends them still ends them."""
    os.setpgid(0, 0)
    for number in dist.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, dist.STOP_SIGNALS)


def _send(theirs: socket.socket, content: Any) -> None:
    """Hand over a tree of arrays in one memfd: lengths, the pickled tree without its arrays, and their bare memory."""
    buffers = []
    tree = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    parts = [tree, *(buffer.raw() for buffer in buffers)]
    lengths = pickle.dumps([len(part) for part in parts])
    descriptor = os.memfd_create('batch')
    with open(descriptor, 'wb') as file:
        for part in (len(lengths).to_bytes(ALIGN, 'little'), lengths, *parts):
            file.write(part)
            file.write(bytes(-len(part) % ALIGN))
        file.flush()
        socket.send_fds(theirs, [b'.'], [descriptor])


def _unpack(descriptor: int) -> Any:
    with open(descriptor, 'rb') as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    start = ALIGN

    def part(length):
        nonlocal start
        begin, start = start, start + length + -length % ALIGN
        return memory[begin : begin + length]

    tree, *buffers = map(part, pickle.loads(part(int.from_bytes(memory[:ALIGN], 'little'))))
    return pickle.loads(tree, buffers=buffers)
