"""main_parity.py on the device: every rung against the original code in PyTorch."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import numpy as np

from gpu import programs
from gpu.report import Report, Settings, one_line

TITLE = 'ladder of parity'
MINUTES = 5
KINDS = ('full', 'pooled', 'probe')  # of tests/originals/references/make_files.py


def files(settings: Settings) -> list[Path]:
    """Official weight files with random weights, which PyTorch writes; made once."""
    from models_sizes import SIZES  # imports Paddle

    folder = settings.folder / 'weights'
    kinds = KINDS[:1] if settings.tiny else KINDS
    if not folder.exists():
        folder.mkdir()
        name, side = ('nano_patch4', 32) if settings.tiny else ('base_patch16', 224)
        size = json.dumps({**dataclasses.asdict(SIZES[name]), 'image': side})
        np.savez(folder / 'given.npz', size=size, kinds=list(kinds), classes=10)
        maker = programs.ROOT / 'tests/originals/references/make_files.py'
        command = [settings.torch, maker, 'given.npz', 'made.npz']
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(f'make_files.py ended with {ran.returncode}: {one_line(ran.stderr)}')
    return [folder / f'{kind}.pth' for kind in kinds]


def run(settings: Settings, report: Report) -> None:
    """Climb the ladder with files of random weights, and with those of --weights."""
    if not settings.torch:
        reason = 'no environment with PyTorch (.venv-parity, or --torch PYTHON)'
        report.skipped('main_parity.py', reason)
        return
    random = []
    with report.case('files of random weights'):
        random = files(settings)
    for file in (*random, *map(Path, settings.weights)):
        case = f'main_parity.py, {file.stem}'
        if report.wants(case):
            with report.case(case):
                climb(settings, report, case, file)


def climb(settings: Settings, report: Report, case: str, file: Path) -> None:
    """Run the program; its table says which rung failed."""
    words = [file, '--device', settings.flag, '--python', settings.torch]
    process = programs.start(settings, 'main_parity.py', *words, **programs.EXACT)
    code, output = programs.end(process)
    if code not in (0, 1):
        raise RuntimeError(f'it ended with {code}: {output.strip().splitlines()[-1]}')
    rungs = re.findall(r'^(.*?)  .*\b(pass|FAIL)\b', output, re.M)
    failed = [name.strip() for name, verdict in rungs if verdict == 'FAIL']
    note = f'{len(rungs)} rungs'
    if failed:
        note += f', failed: {", ".join(failed)}'
    report.told(case, code == 0 and bool(rungs), note)
