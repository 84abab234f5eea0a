"""Addresses of machines, and how machines meet, on the loopback of this one."""

import ctypes
import multiprocessing
import os
import signal
import socket
import threading
import time

import pytest
from conftest import free_port

from util import dist, heartbeat, hosts, launch, program, rendezvous
from util.errors import InputError

NOWHERE = '192.0.2.1'  # of RFC 5737: an address for documentation, which no machine has


def test_the_loopback_is_among_the_addresses_of_this_machine():
    assert hosts.addresses()['lo'] == '127.0.0.1'
    assert hosts.address_towards('127.0.0.1') == '127.0.0.1'


def test_names_are_resolved_or_named():
    assert hosts.resolve('localhost', '--master') == '127.0.0.1'
    with pytest.raises(InputError, match=r'--master no.such.name.invalid: .* cannot resolve'):
        hosts.resolve('no.such.name.invalid', '--master')


@pytest.mark.parametrize(
    'own, message',
    [
        ('127.0.1.1', 'cannot reach .* at 127.0.1.1, to which its name resolves; give .* --host'),
        (NOWHERE, f'--host {NOWHERE} is not an address of'),
    ],
)
def test_an_address_that_others_cannot_reach_is_one_line(monkeypatch, own, message):
    monkeypatch.setenv('PADDLE_NNODES', '2')
    monkeypatch.setenv('PADDLE_CURRENT_ENDPOINT', f'{own}:1')
    monkeypatch.setenv('PADDLE_TRAINER_ENDPOINTS', f'10.0.0.1:1,{own}:1')
    monkeypatch.setattr(hosts, 'address_towards', lambda other: '10.0.0.2')
    with pytest.raises(InputError, match=message) as error:
        hosts.prepare()
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'variable, interface', [('GLOO_SOCKET_IFNAME', 'ib0'), ('NCCL_SOCKET_IFNAME', '=ib0')]
)
def test_gloo_and_nccl_use_the_interface_of_the_launchers_address(monkeypatch, variable, interface):
    monkeypatch.setattr(hosts, 'addresses', lambda: {'lo': '127.0.0.1', 'ib0': '10.0.0.2'})
    monkeypatch.setenv('PADDLE_NNODES', '2')
    monkeypatch.setenv('PADDLE_CURRENT_ENDPOINT', '10.0.0.2:1')
    monkeypatch.setenv('PADDLE_TRAINER_ENDPOINTS', '10.0.0.1:1,10.0.0.2:1')
    for name in ('GLOO_SOCKET_IFNAME', 'NCCL_SOCKET_IFNAME'):
        monkeypatch.setenv(name, 'x')
    hosts.prepare()
    assert os.environ[variable] == 'x', 'what the user has set stays'
    monkeypatch.delenv(variable)
    hosts.prepare()
    assert os.environ[variable] == interface


def test_who_waits_for_a_folder_that_cannot_be_made_is_told(monkeypatch, tmp_path):
    """At a barrier; a collective operation would wait for the rank that has failed."""

    def barrier():
        raise RuntimeError('another process has failed')

    monkeypatch.setattr(hosts, 'machines', lambda: 2)
    monkeypatch.setattr(dist, 'is_main', lambda: False)
    monkeypatch.setattr(dist, 'barrier', barrier)
    monkeypatch.setattr(dist, 'gather', lambda value: pytest.fail('this would wait'))
    with pytest.raises(RuntimeError, match='another process has failed'):
        program.make_folder('--output_dir', str(tmp_path))


@pytest.mark.parametrize(
    'words, message',
    [
        ('--nnodes 2 --rank 0', r"--master '': expected HOST:PORT"),
        ('--nnodes 2 --rank 0 --master localhost', 'expected HOST:PORT'),
        ('--nnodes 2 --rank 2 --master localhost:1', '--rank 2: give each machine its own'),
        ('--nnodes 2 --master localhost:1', '--rank -1'),
        ('--nnodes 3:2 --rank 0 --master localhost:1', '--nnodes 3:2: expected at least 1'),
        ('--nnodes two', '--nnodes two: expected a number'),
        (f'--nnodes 2 --rank 0 --master {NOWHERE}:1', f'--master {NOWHERE} is not an address of'),
        (f'--nnodes 2 --rank 1 --master localhost:1 --host {NOWHERE}', f'--host {NOWHERE} is not'),
        ('--nnodes 2 --rank 1 --wait 1 --master localhost:1', 'rank 0 has not answered'),
    ],
)
def test_what_does_not_fit_is_one_line(words, message):
    with pytest.raises(InputError, match=message) as error:
        launch.main([*words.split(), 'main_pretrain.py'])
    assert '\n' not in str(error.value)


def test_an_own_name_that_means_the_loopback_is_refused_as_master(monkeypatch):
    monkeypatch.setattr(socket, 'gethostbyname', lambda name: '127.0.1.1')  # as Debian has it
    with pytest.raises(InputError, match='--master node1 is 127.0.1.1 on this machine'):
        launch.main('--nnodes 2 --rank 0 --master node1:1 main_pretrain.py'.split())


def meet(*machines, least, most, wait=10.0):
    """What each of the machines (rank, seconds until it comes) gets: its place, or the error."""
    meeting = rendezvous.Meeting('127.0.0.1', free_port(), least, most, wait)
    found = {}

    def come(number, rank, late):
        time.sleep(late)
        try:
            found[number] = rendezvous.attend(meeting, rank)
        except InputError as error:
            found[number] = str(error)

    threads = [
        threading.Thread(target=come, args=[number, *machine])
        for number, machine in enumerate(machines)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(machines))]


def test_machines_meet_whoever_comes_first():
    assert meet((0, 0.3), (1, 0), (2, 0.6), least=3, most=3) == [(0, 3), (1, 3), (2, 3)]


def test_those_who_come_are_numbered_without_gaps():
    assert meet((0, 0), (2, 0), least=2, most=3, wait=1.0) == [(0, 2), (1, 2)]


def test_who_is_missing_is_named_on_every_machine():
    first, other = meet((0, 0), (2, 0), least=3, most=3, wait=1.0)
    assert '2 of 3 machines have come' in first and first.endswith('missing: rank 1')
    assert first in other


def test_a_machine_with_other_flags_is_sent_away():
    port = free_port()
    meeting = rendezvous.Meeting('127.0.0.1', port, 2, 2, 5.0)
    other = rendezvous.Meeting('127.0.0.1', port, 3, 3, 5.0)
    first = threading.Thread(target=rendezvous.attend, args=[meeting, 0])
    first.start()
    with pytest.raises(InputError, match='--nnodes differs'):
        rendezvous.attend(other, 1)
    assert rendezvous.attend(meeting, 1) == (1, 2)
    first.join()


def heard(monkeypatch, says):
    """What `_follow` returns when the other machine has sent these bytes and is silent then."""
    monkeypatch.setattr(heartbeat, 'SILENCE', 0.4)
    monkeypatch.setattr(heartbeat, 'BEAT', 0.1)
    ours, theirs = os.pipe()
    server = socket.create_server(('127.0.0.1', 0))
    with server, socket.create_connection(server.getsockname()) as other:
        peer = heartbeat.Peer(server.accept()[0])
        other.sendall(says)
        end = threading.Timer(1.0, os.write, [theirs, b'.'])
        end.start()
        lost = heartbeat._follow([peer], ours, None)
        end.join()
        peer.connection.close()
    os.close(ours)
    os.close(theirs)
    return lost


@pytest.mark.parametrize(
    'says, lost', [(b'', '127.0.0.1'), (b'bye\n', ''), (b'beat\nlost 10.0.0.3\n', '10.0.0.3')]
)
def test_silence_is_a_loss_and_a_farewell_is_none(monkeypatch, says, lost):
    assert heard(monkeypatch, says) == lost


def waits_as_in_nccl(address):
    """Wait in C while holding Python's lock, as Paddle does in a collective operation of NCCL."""
    heartbeat.SILENCE, heartbeat.BEAT = 0.5, 0.1
    heartbeat.begin(address=address)
    ctypes.PyDLL(None).sleep(60)


def test_a_lost_machine_ends_a_wait_that_no_signal_ends(capfd):
    """NCCL has no time-out: whoever waits for a machine that is lost would wait forever."""
    server = socket.create_server(('127.0.0.1', 0))
    host, port = server.getsockname()
    fork = multiprocessing.get_context('fork')
    with server:
        waiting = fork.Process(target=waits_as_in_nccl, args=[f'{host}:{port}'])
        waiting.start()
        connection, _ = server.accept()  # and say nothing
        waiting.join(20)
        connection.close()
    assert waiting.exitcode == -signal.SIGKILL
    assert 'the machine 127.0.0.1 has not answered for 0.5 s' in capfd.readouterr().err


@pytest.mark.parametrize(
    'ends, expected, runs',
    [
        ([(7, False), (0, False)], 0, 2),
        ([(2, False)], 2, 1),  # bad input
        ([(75, True)], 75, 1),  # a signal stopped this program
        ([(137, False)] * 4, 137, 3),
    ],
)
def test_a_failed_program_is_started_again_unless_that_helps_nobody(
    monkeypatch, ends, expected, runs
):
    left = list(ends)
    monkeypatch.setattr(launch, 'run', lambda command: left.pop(0))
    assert launch.main('--restarts 2 --log_dir x main_pretrain.py --seed 1'.split()) == expected
    assert len(ends) - len(left) == runs


def test_a_signal_ends_the_launcher_and_is_not_followed_by_a_restart(tmp_path):
    threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGTERM]).start()
    code, stopped = launch.run([launch.sys.executable, '-c', 'import time; time.sleep(60)'])
    assert (code, stopped) == (128 + signal.SIGTERM, True)
