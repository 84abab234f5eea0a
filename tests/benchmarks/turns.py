"""Processes that take turns: each does a case with one framework, and only one works at a time."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = {'paddle': Path(sys.executable), 'torch': ROOT / '.venv-parity/bin/python'}
# of this process; each framework sets its own
FOREIGN = ('OMP_', 'MKL_', 'KMP_', 'FLAGS_', 'MAE_NUM_THREADS')
# Seconds; threads of OpenMP spin for .2 s after their work, on cores that the next process needs
PAUSE = 0.3


class Failed(Exception):
    """A process that ended too early: case, framework and its last line, in one line."""


class Skipped(Exception):
    """A case that cannot be measured here, and the reason."""


class Worker:
    """A process of `worker.py` for a case; it tells the seconds of each step, turn by turn.

    case: a dict that worker.py explains. threads: of both frameworks. about: the facts that the
    process gives about itself.
    """

    def __init__(self, side: str, case: dict, threads: int):
        self.name = f'{case["name"]} with {side}'
        if not PYTHONS[side].exists():
            raise Failed(
                f'{self.name}: {PYTHONS[side]} does not exist; bash tests/run.sh --bench makes it'
            )
        environ = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        environ |= {
            'OMP_NUM_THREADS': str(threads),
            'PYTHONPATH': str(ROOT) if side == 'paddle' else '',
        }
        if side == 'torch':  # its warnings do not concern us
            environ['PYTHONWARNINGS'] = 'ignore'
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  until close()
        self.process = subprocess.Popen(
            [PYTHONS[side], Path(__file__).with_name('worker.py'), side, json.dumps(case)],
            text=True,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        self.about = None

    def ready(self) -> dict:
        """Wait until the process has prepared the case."""
        if self.about is None:
            self.about = self._answer()
        if 'skip' in self.about:
            raise Skipped(self.about['skip'])
        return self.about

    def turn(self, steps: int) -> dict:
        """seconds (a list), memory (peak so far, MB) and further facts about the case."""
        self.ready()
        time.sleep(PAUSE)
        self.process.stdin.write(f'{steps}\n')
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        said = [
            line
            for line in self.errors.read().decode(errors='replace').splitlines()
            if line.strip()
        ]
        raise Failed(
            f'{self.name}: the process ended with {code}'
            + (f' ({said[-1].strip()})' if said else '')
        )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()


def take(workers: list[Worker], rounds: int, steps: int, warm: int = 1) -> list[dict]:
    """Each worker's last answer, with the seconds of all `rounds`.

    The `warm` rounds before them do not count.
    """
    seconds, answers = [[] for _ in workers], [{} for _ in workers]
    for worker in workers:
        worker.ready()
    for number in range(warm + rounds):
        for i, worker in enumerate(workers):
            answers[i] = worker.turn(steps)
            seconds[i] += answers[i]['seconds'] if number >= warm else []
    return [{**answer, 'seconds': times} for answer, times in zip(answers, seconds)]
