"""Machines of a network, as network namespaces: each with its own address, name and /etc/hosts."""

import os
import shutil
import signal
import subprocess
import sys
import uuid

import pytest
from conftest import ROOT

# mounts the hosts file, takes the name, and becomes the command
ENTER = 'mount --bind "$1" /etc/hosts; hostname "$2"; shift 2; exec "$@"'


def ip(*words):
    """Run the ip command; skip the test where it is missing or not permitted."""
    if not shutil.which('ip'):
        pytest.skip('the command ip is missing; install iproute2')
    result = subprocess.run(['ip', *map(str, words)], capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f'network namespaces are not permitted here: {result.stderr.strip()}')


class Network:
    """Machines node0, node1, ... with the addresses 10.123.0.1, 10.123.0.2, ..."""

    def __init__(self, folder, count):
        self.folder = folder
        self.mark = uuid.uuid4().hex[:6]
        self.spaces = [f'mae{self.mark}-{number}' for number in range(count)]
        self.addresses = [f'10.123.0.{number + 1}' for number in range(count)]
        self.bridge = f'mb{self.mark}'
        self.processes = []

    def __enter__(self):
        ip('link', 'add', self.bridge, 'type', 'bridge')
        ip('link', 'set', self.bridge, 'up')
        for number, (space, address) in enumerate(zip(self.spaces, self.addresses)):
            outside = self.cable(number)
            ip('netns', 'add', space)
            ip('link', 'add', outside, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', space)
            ip('link', 'set', outside, 'master', self.bridge, 'up')
            ip('-n', space, 'addr', 'add', f'{address}/24', 'dev', 'eth0')
            ip('-n', space, 'link', 'set', 'eth0', 'up')
            ip('-n', space, 'link', 'set', 'lo', 'up')
        return self

    def __exit__(self, *_):
        for process in self.processes:
            self.kill(process)
        for space in self.spaces:
            subprocess.run(['ip', 'netns', 'del', space], capture_output=True)
        subprocess.run(['ip', 'link', 'del', self.bridge], capture_output=True)

    def cable(self, number):
        """The outer end of a machine's connection."""
        return f'mv{self.mark}{number}'

    def plug(self, number, state):
        """Connect a machine to the others ('up'), or cut it off ('down')."""
        ip('link', 'set', self.cable(number), state)

    def entering(self, number, names='', before=''):
        """The words before a command that runs it on a machine; see `start`."""
        hosts = self.folder / f'hosts{number}'
        hosts.write_text(f'127.0.0.1 localhost\n{names}\n')
        enter = f'{before}\n{ENTER}'
        command = ['ip', 'netns', 'exec', self.spaces[number], 'unshare', '--uts']
        return [*command, 'sh', '-c', enter, 'sh', str(hosts), f'node{number}']

    def start(self, number, *words, names='', before=''):
        """Start Python with these words on a machine, whose hosts file has the lines `names`.

        before: a line of the shell that the machine runs first.
        """
        process = subprocess.Popen(
            list(map(str, [*self.entering(number, names, before), sys.executable, *words])),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            start_new_session=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'MAE_NUM_THREADS': '1'},
        )
        self.processes.append(process)
        return process

    def kill(self, process):
        """Kill a machine's command and all that it has started in its session."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
