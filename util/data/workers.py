"""Processes that prepare batches. Every failure ends in one line that names the file.

Paddle's own workers turn an exception into a hang or into a SystemError without its cause, leave
files in /dev/shm when the program is killed, and wait forever for a worker that is stuck.

Here worker w of n prepares the batches w, w + n, ... of an order that each worker iterates over by
itself. A batch lies in memory without a name (memfd) and travels through a socket. So a process
that dies leaves nothing behind, the other end of the socket notices at once, and the size of
/dev/shm does not matter.
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

AHEAD = 2  # batches that a worker may prepare in advance
ALIGN = 64  # bytes
POLL = 1.0  # seconds between two looks at a slow worker


def supported() -> bool:
    """Whether this system has memfd, as Linux does."""
    return hasattr(os, 'memfd_create')


def batches(
    prepare: Callable,
    collate: Callable,
    order: Iterable[list],
    count: int,
    name: Callable[[Any], str],
    timeout: float = 0,
) -> Iterator:
    """The batches of `order`, by a Pool of `count` workers, or prepared here if `count` is 0."""
    if not count or not supported():
        for keys in order:
            yield collate([prepare(key) for key in keys])
        return
    pool = Pool(prepare, collate, order, count=count, name=name, timeout=timeout)
    try:
        yield from pool
    finally:
        pool.close()


class Pool:
    """Worker processes; iterating gives the batches of `order`, in this order.

    order: lists of keys; a batch is collate([prepare(key) for key in keys]).
    collate: samples -> a tree of arrays. name: key -> the name of the sample in an error.
    timeout: seconds that one sample may take; 0 turns it off. InputError if a sample raises or
    takes longer, or if its worker dies. Must be created in the main thread.
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
        self.order = order
        self.count = count
        self.name = name
        self.timeout = timeout
        # shared memory: the place in its batch that each worker has reached
        self.places = np.frombuffer(mmap.mmap(-1, 8 * count), 'int64')
        self.sockets = []
        self.processes = []
        self.close = weakref.finalize(self, _end, self.processes, self.sockets)
        # runs before Paddle's handler, which waits for a thread that waits for a worker
        atexit.register(self.close)

        fork = multiprocessing.get_context('fork')
        for worker in range(count):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.sockets.append(ours)
            ours.settimeout(POLL)
            work = {
                'prepare': prepare,
                'collate': collate,
                'order': order,
                'count': count,
                'worker': worker,
                'places': self.places,
                'theirs': theirs,
                'others': list(self.sockets),
                'parent': os.getpid(),
            }
            process = fork.Process(target=_work, kwargs=work, daemon=True)
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
        """A worker's next batch, made of these keys."""
        place = None  # the worker's place in its batch when it last moved on
        since = time.monotonic()
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self.sockets[worker], 1, 1)
                break
            except TimeoutError:
                if place != self.places[worker]:
                    place = int(self.places[worker])
                    since = time.monotonic()
                waited = time.monotonic() - since
                if self.timeout and waited > self.timeout:
                    raise InputError(
                        f'{self._where(worker, keys)}: not read within --data_timeout '
                        f'{self.timeout:g} s; does its file system answer?'
                    ) from None
            except ConnectionResetError:  # the worker ended with something unread in its socket
                message = b''
                break
        if not message:
            raise InputError(self._death(worker, keys))

        failed, content = _unpack(descriptors[0])
        if failed:
            raise InputError(content)
        return content

    def _where(self, worker: int, keys: list) -> str:
        """The name of the sample that a worker is preparing."""
        place = int(self.places[worker])
        last = len(keys) - 1
        return self.name(keys[min(place, last)])

    def _death(self, worker: int, keys: list) -> str:
        """A sentence that says how a worker died, and at which sample."""
        process = self.processes[worker]
        process.join(POLL)
        code = process.exitcode
        if code and code < 0:
            how = f'was killed by {signal.Signals(-code).name}'
        else:
            how = f'has ended with code {code}'
        hint = ' (out of memory?)' if code == -signal.SIGKILL else ''
        return f'a loader worker {how}{hint}, at {self._where(worker, keys)}'


def _allow(ours: socket.socket) -> None:
    """Let a worker prepare one more batch."""
    with contextlib.suppress(OSError):  # a dead worker is noticed when its batch is received
        ours.send(b'.')


def _end(processes: list, sockets: list) -> None:
    """Kill the workers and close their sockets."""
    for process in processes:
        process.kill()
    for ours in sockets:
        ours.close()
    for process in processes:
        # a worker that waits for a dead mount cannot be killed; it is left to the system
        process.join(POLL)


def _work(prepare, collate, order, count, worker, places, theirs, others, parent) -> None:
    """Prepare a worker's batches and send them; the main function of a worker process."""
    dist.end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        return
    for other in others:  # inherited; open ends of other workers' sockets would hide their death
        other.close()
    _leave_group()

    for number, keys in enumerate(order):
        if number % count == worker:
            if not theirs.recv(1):  # the pool has closed its end
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

    # a socket that is closed with something unread would discard what has been sent
    while theirs.recv(1):
        pass


def _leave_group() -> None:
    """Leave the process group of the training.

    A signal to the whole group asks the training process for a checkpoint, and its workers must
    run until then. Signals that arrived before are discarded; the parent can still end a worker.
    """
    os.setpgid(0, 0)
    for number in dist.STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, dist.STOP_SIGNALS)


def _send(theirs: socket.socket, content: Any) -> None:
    """Send a tree of arrays as one memfd.

    It contains the length of the pickled lengths, the pickled lengths of the parts, then the parts:
    the pickled tree without its arrays, and each array's memory. All are padded to ALIGN bytes.
    """
    buffers = []
    tree = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    parts = [tree, *arrays]
    lengths = pickle.dumps([len(part) for part in parts])
    head = len(lengths).to_bytes(ALIGN, 'little')
    descriptor = os.memfd_create('batch')
    with open(descriptor, 'wb') as file:
        for part in (head, lengths, *parts):
            file.write(part)
            file.write(bytes(-len(part) % ALIGN))
        file.flush()
        socket.send_fds(theirs, [b'.'], [descriptor])


def _unpack(descriptor: int) -> Any:
    """The tree of arrays in a memfd, as written by _send; the arrays lie in its memory."""
    with open(descriptor, 'rb') as file:
        memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    start = ALIGN  # of the next part

    def next_part(length):
        nonlocal start
        part = memory[start : start + length]
        padding = -length % ALIGN
        start += length + padding
        return part

    head = int.from_bytes(memory[:ALIGN], 'little')
    lengths = pickle.loads(next_part(head))
    tree, *buffers = [next_part(length) for length in lengths]
    return pickle.loads(tree, buffers=buffers)
