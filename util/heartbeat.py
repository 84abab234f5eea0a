"""Notices within half a minute that another machine is gone, and ends the training here too.

When a machine loses its power or its network, nothing arrives from it any more, not even the end of
a connection. NCCL then waits forever, and so does a rank at a barrier. So one process on each
machine, outside the training, tells the machine of rank 0 every few seconds that it is alive, and
is told the same. It is a process because Paddle holds Python's lock while it waits.
"""

import atexit
import contextlib
import multiprocessing
import os
import select
import signal
import socket
import sys
import time

BEAT = 2  # seconds between two messages
SILENCE = 20  # seconds; less than the 30 after which the CPU backend gives up, with a traceback
GRACE = 1  # seconds that the other machines have to read who is lost


class Peer:
    """The connection to the same process on another machine."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self.connection = connection
        self.host = connection.getpeername()[0]
        self.heard = time.monotonic()
        self.is_open = True
        self.is_done = False  # its training has ended in an orderly way
        self.lost = ''  # the machine that it has lost

    def read(self) -> None:
        """Note what the other side says: `beat`, `bye`, or `lost` and the address of a machine."""
        try:
            text = self.connection.recv(4096).decode()
        except OSError:
            text = ''
        self.is_open = bool(text)
        if text:
            self.heard = time.monotonic()
        for line in text.splitlines():
            word, _, host = line.partition(' ')
            self.is_done = self.is_done or word == 'bye'
            if word == 'lost':
                self.lost = host

    def send(self, line: str) -> None:
        """Send a line, if the connection takes it."""
        with contextlib.suppress(OSError):
            self.connection.send(f'{line}\n'.encode())


def listen(host: str) -> socket.socket:
    """A server on a free port of this machine, for `watch` on the machine of rank 0."""
    return socket.create_server((host, 0))


def begin(server: socket.socket | None = None, address: str = '') -> None:
    """Start the process that watches the other machines, for as long as this process runs.

    server: of the machine of rank 0, to which the other machines connect. address: where they find
    it, host:port.
    """
    ours, theirs = os.pipe()
    fork = multiprocessing.get_context('fork')
    arguments = [os.getpid(), ours, theirs, server, address]
    watch = fork.Process(target=_watch, args=arguments, daemon=True)
    watch.start()
    os.close(ours)
    if server:
        server.close()

    # At exit; a process that is killed closes the pipe without a word
    atexit.register(_say_bye, theirs)


def _say_bye(pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.write(pipe, b'.')


def _watch(parent: int, pipe: int, unused: int, server, address: str) -> None:
    """The main function of the watching process: kills `parent` when a machine is lost."""
    # A signal to all processes asks the training to save, which must be watched too
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    os.close(unused)
    peers = []
    if not server:
        host, port = address.rsplit(':', 1)
        peers = [Peer(socket.create_connection((host, int(port)), timeout=SILENCE))]

    lost = _follow(peers, pipe, server)
    if lost:
        _end(parent, peers, lost)
    for peer in peers:
        peer.connection.close()
    if server:
        server.close()


def _follow(peers: list[Peer], pipe: int, server: socket.socket | None) -> str:
    """Exchange messages until the training here ends; the machine that is lost, or ''.

    Machines that connect to the server become further peers.
    """
    servers = [server] if server else []
    next_beat = time.monotonic()
    while True:
        connections = {peer.connection: peer for peer in peers if peer.is_open}
        readable, _, _ = select.select([pipe, *servers, *connections], [], [], BEAT)
        if pipe in readable:
            if os.read(pipe, 1):
                for peer in peers:
                    peer.send('bye')
            return ''
        for connection in readable:
            if connection in connections:
                connections[connection].read()
            else:
                peers.append(Peer(connection.accept()[0]))

        now = time.monotonic()
        for peer in peers:
            if peer.lost:
                return peer.lost
            if not peer.is_done and now - peer.heard > SILENCE:
                return peer.host
        if now >= next_beat:
            next_beat = now + BEAT
            for peer in peers:
                peer.send('beat')


def _end(parent: int, peers: list[Peer], lost: str) -> None:
    """Say which machine is lost, here and to the others, and kill the training."""
    print(
        f'error: the machine {lost} has not answered for {SILENCE:g} s, so the training ends on '
        f'{socket.gethostname()} too; start it again on all machines with --resume auto',
        file=sys.stderr,
        flush=True,
    )
    for peer in peers:
        peer.send(f'lost {lost}')
    time.sleep(GRACE)
    os.kill(parent, signal.SIGKILL)
