"""The machines of a training meet before Paddle's launcher starts, which would wait forever.

Each machine sends one line of JSON to the first one, and gets one line of JSON back: its number
among those that have come, or an error.
"""

import json
import socket
import sys
import time
from dataclasses import dataclass

from util import hosts
from util.errors import InputError

LONGEST = 4096  # bytes of a line
ANSWER = 10  # seconds in which a connected machine has to send its line
RETRY = 0.5  # seconds between two attempts to connect


@dataclass(frozen=True)
class Meeting:
    """Where and how machines meet.

    address, port: of the machine of rank 0. least, most: how many have to come; after `wait`
    seconds `least` are enough.
    """

    address: str
    port: int
    least: int
    most: int
    wait: float

    def __str__(self) -> str:
        return f'{self.address}:{self.port}'


def attend(meeting: Meeting, rank: int) -> tuple[int, int]:
    """Wait for the other machines; returns this one's number among them, and how many they are.

    rank: of this machine, from 0 to most - 1. InputError if too few come, or they disagree.
    """
    if rank == 0:
        return 0, _receive(meeting)
    return _join(meeting, rank)


def _receive(meeting: Meeting) -> int:
    """Rank 0: answer all that come; returns how many machines there are with this one."""
    hosts.require_own(meeting.address, '--master')
    try:
        server = socket.create_server((meeting.address, meeting.port))
    except OSError as error:
        raise InputError(f'--master {meeting}: cannot listen there ({error.strerror})') from None

    come = {}  # rank -> its connection
    with server:
        end = time.monotonic() + meeting.wait
        while len(come) + 1 < meeting.most and time.monotonic() < end:
            _welcome(server, meeting, come)
            left = [rank for rank, connection in come.items() if not _is_open(connection)]
            for rank in left:
                come.pop(rank).close()

    count = len(come) + 1
    if count < meeting.least:
        expected = set(range(1, meeting.most))
        missing = ', '.join(map(str, sorted(expected - come.keys())))
        reason = (
            f'{count} of {meeting.least} machines have come to {meeting} within '
            f'{meeting.wait:g} s; missing: rank {missing}'
        )
        for connection in come.values():
            _send(connection, {'error': reason})
            connection.close()
        raise InputError(reason)
    for number, rank in enumerate(sorted(come), start=1):
        _send(come[rank], {'number': number, 'count': count})
        come[rank].close()
    return count


def _welcome(server: socket.socket, meeting: Meeting, come: dict) -> None:
    """Accept one machine, if one comes within a moment, and note it in `come`."""
    server.settimeout(RETRY)
    try:
        connection, (address, _) = server.accept()
    except TimeoutError:
        return
    said = _read(connection, ANSWER)
    rank = said.get('rank')
    error = ''
    if said.get('machines') != [meeting.least, meeting.most]:
        error = f'--nnodes differs: on rank 0 it is {meeting.least}:{meeting.most}'
    elif not isinstance(rank, int) or not 0 < rank < meeting.most:
        error = f'--rank {rank} is not among 1 to {meeting.most - 1}'
    elif rank in come and come[rank].getpeername()[0] != address:
        other = come[rank].getpeername()[0]
        error = f'--rank {rank} is taken by {other}; each machine needs its own'
    if error:
        print(f'{address} is sent away: {error}', file=sys.stderr, flush=True)
        _send(connection, {'error': error})
        connection.close()
        return
    connection.setblocking(False)
    if rank in come:  # the machine has started again
        come[rank].close()
    come[rank] = connection
    print(f'rank {rank} has come from {address}', flush=True)


def _join(meeting: Meeting, rank: int) -> tuple[int, int]:
    """Another rank: come to rank 0, again and again if it is late."""
    own = {'rank': rank, 'machines': [meeting.least, meeting.most]}
    end = time.monotonic() + meeting.wait
    while time.monotonic() < end:
        answer = {}
        try:
            place = meeting.address, meeting.port
            with socket.create_connection(place, timeout=ANSWER) as connection:
                _send(connection, own)
                # rank 0 may have come earlier or later, and waits for the others as long
                answer = _read(connection, 2 * meeting.wait)
        except OSError:
            pass
        if 'error' in answer:
            raise InputError(f'{meeting}: {answer["error"]}')
        if 'number' in answer:
            return answer['number'], answer['count']
        time.sleep(RETRY)
    raise InputError(
        f'{socket.gethostname()}: rank 0 has not answered at --master {meeting} within '
        f'{meeting.wait:g} s; has it started, and does a firewall let this port through?'
    )


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side still waits; it sends nothing more, so there is nothing to read."""
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False


def _send(connection: socket.socket, content: dict) -> None:
    try:
        connection.sendall(f'{json.dumps(content)}\n'.encode())
    except OSError:  # it is gone
        connection.close()


def _read(connection: socket.socket, seconds: float) -> dict:
    """The JSON that the other side sends in one line; {} if it is none, or none comes in time."""
    connection.settimeout(seconds)
    text = b''
    try:
        while not text.endswith(b'\n') and len(text) < LONGEST:
            part = connection.recv(LONGEST)
            if not part:
                return {}
            text += part
        content = json.loads(text)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
