"""Programs as users start them, with real signals.

A mark in the environment identifies every process of a run.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from conftest import ROOT

LAUNCH = ['-m', 'paddle.distributed.launch', '--log_level', 'ERROR']
MARK = 'MAE_FAULTS_RUN'


class Run:
    """A running program; `lines` are its output so far."""

    def __init__(self, program, *flags, processes=1, logs=None, **environ):
        self.mark = f'{MARK}={uuid.uuid4().hex}'
        launcher = (
            [*LAUNCH, '--log_dir', logs, '--nproc_per_node', processes] if processes > 1 else []
        )
        key, value = self.mark.split('=')
        self.process = subprocess.Popen(
            list(map(str, [sys.executable, *launcher, ROOT / program, *flags])),
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            stderr=subprocess.STDOUT,
            errors='replace',
            start_new_session=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT), key: value, **environ},
        )
        self.lines, self.seen = [], set()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.append(line)

    @property
    def output(self):
        return ''.join(self.lines)

    def until(self, text, timeout=120):
        """Wait for a line that holds `text`."""
        begun = time.monotonic()
        while text not in self.output:
            assert self.process.poll() is None and time.monotonic() - begun < timeout, self.output
            time.sleep(0.02)
        self.pids()
        return self

    def pids(self):
        """{process: its command} of all living processes of this run."""
        found = {}
        for folder in Path('/proc').iterdir():
            with contextlib.suppress(OSError):
                ours = (
                    folder.name.isdecimal()
                    and self.mark.encode() in (folder / 'environ').read_bytes()
                )
                if ours and (folder / 'stat').read_text().rpartition(')')[2].split()[0] != 'Z':
                    found[int(folder.name)] = (folder / 'cmdline').read_text().replace('\0', ' ')
        self.seen |= set(found)
        return found

    def trainers(self):
        """The processes that train, by rank, without launcher and loader workers."""
        ranks = {}
        for pid in sorted(self.pids()):
            with contextlib.suppress(OSError):
                parent = int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
                environ = Path(f'/proc/{pid}/environ').read_bytes().split(b'\0')
                rank = next(
                    (
                        int(entry[18:])
                        for entry in environ
                        if entry.startswith(b'PADDLE_TRAINER_ID=')
                    ),
                    0,
                )
                if parent == (
                    self.process.pid if b'PADDLE_TRAINER_ID' in b''.join(environ) else os.getpid()
                ):
                    ranks[rank] = pid
        return ranks

    def workers(self):
        """The loader workers: children of the processes that train."""
        trainers = set(self.trainers().values())
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                if (
                    int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])
                    in trainers
                ):
                    found.append(pid)
        return found

    def end(self, timeout=60):
        """(exit code, output), once no process of the run is left.

        AssertionError if that takes longer than `timeout` seconds.
        """
        begun = time.monotonic()
        try:
            code = self.process.wait(timeout)
            while left := self.pids():
                assert time.monotonic() - begun < timeout, f'still there: {left}\n{self.output}'
                time.sleep(0.05)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f'still running after {timeout} s: {self.pids()}\n{self.output}'
            ) from None
        finally:
            self.kill(*self.pids())
            self.process.wait()
            self.reader.join(5)
        leaked = [
            name
            for name in os.listdir('/dev/shm')
            if name.startswith(tuple(f'paddle_{pid}_' for pid in self.seen))
        ]
        assert not leaked, f'left in /dev/shm: {leaked}'
        return code, self.output

    def kill(self, *pids, by=signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, by)


def finished(program, *flags, timeout=240, **options):
    """(exit code, output) of an undisturbed run."""
    return Run(program, *flags, **options).end(timeout)
