"""One section in a process of its own: `python -m gpu.section NAME '{"settings": ..., ...}'`."""

import importlib
import json
import signal
import sys
from pathlib import Path

from gpu import programs
from gpu.report import Report, Settings

NAMES = ('models', 'resume', 'two', 'faults', 'export', 'ladder', 'rates')


def main(name: str, asked: dict) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    settings = Settings(**asked['settings'])
    done = frozenset(asked['done'])
    report = Report(name, Path(asked['file']), settings, done)
    try:
        importlib.import_module(f'gpu.{name}').run(settings, report)
        report.end()
    finally:
        programs.kill_all()


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]))
