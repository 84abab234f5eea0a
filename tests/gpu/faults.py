"""What ends a training: a signal, a loss that is not finite, a killed process, a lost device."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from gpu import programs
from gpu.report import Report, Settings, one_line
from gpu.resume import differences

TITLE = 'faults'
MINUTES = 6
END = 60.0  # seconds in which all must have ended


def run(settings: Settings, report: Report) -> None:
    """Each fault once, in a small training."""
    cases = {
        'a loss that is not finite ends with 1, in one line': not_finite,
        'SIGTERM: saved, ended with 75, resumed to the same weights': stopped,
        'kill -9: resumed to the same weights': killed,
        'one of two is killed: the other ends within a minute': partner_killed,
    }
    for name, fault in cases.items():
        if not report.wants(name):
            continue
        if fault is partner_killed and settings.devices < 2:
            report.skipped(name, 'this machine has one GPU')
            continue
        with report.case(name):
            fault(settings, report, name)


def words(settings: Settings, name: str, *flags) -> tuple[Path, list]:
    """A fresh folder and the flags of a pre-training."""
    out = settings.folder / f'fault-{name}'
    shutil.rmtree(out, ignore_errors=True)
    return out, [*programs.pretraining(settings, out), *flags]


def not_finite(settings: Settings, report: Report, name: str) -> None:
    """The program says in one line which loss it was."""
    _, flags = words(settings, 'nan')
    process = programs.start(settings, programs.CHANGED, 'nan 0 2', *flags)
    code, output = programs.end(process)
    as_wanted = code == 1 and 'the loss is nan' in output and 'Traceback' not in output
    report.told(name, as_wanted, f'code {code}: {one_line(output)}')


def undisturbed(settings: Settings) -> Path:
    """The last checkpoint of a run that nothing disturbs; made once."""
    out = settings.folder / 'fault-none'
    last = out / 'checkpoint-2.pd'
    if not last.exists():
        flags = programs.pretraining(settings, out)
        programs.run(settings, 'main_pretrain.py', *flags, **programs.SAME)
    return last


def stopped(settings: Settings, report: Report, name: str) -> None:
    """A signal in the second epoch."""
    out, flags = words(settings, 'stopped')
    command = (programs.CHANGED, 'signal SIGTERM 2', *flags)
    code, output = programs.end(programs.start(settings, *command, **programs.SAME))
    if code != 75:
        raise RuntimeError(f'it ended with {code} and not 75: {one_line(output)}')
    resumed(settings, report, name, out, flags)


def killed(settings: Settings, report: Report, name: str) -> None:
    """The whole training is killed in the second epoch."""
    out, flags = words(settings, 'killed')
    process = programs.start(settings, 'main_pretrain.py', *flags, **programs.SAME)
    programs.until(process, 'epoch 2/')
    programs.kill(process)
    resumed(settings, report, name, out, flags)


def resumed(settings: Settings, report: Report, name: str, out: Path, flags: list) -> None:
    """Go on with --resume auto and compare with the undisturbed run."""
    more = ('--resume', 'auto')
    programs.run(settings, 'main_pretrain.py', *flags, *more, **programs.SAME)
    apart, note = differences(undisturbed(settings), out / 'checkpoint-2.pd')
    report.measured(name, apart, 0.0, note)


def partner_killed(settings: Settings, report: Report, name: str) -> None:
    """One rank is killed in mid-epoch; nobody may wait for it forever."""
    _, flags = words(settings, 'partner', '--epochs', 500)
    process = programs.start(settings, 'main_pretrain.py', *flags, processes=2)
    programs.until(process, 'epoch 2/')
    victim = rank_of(process, 1)
    begun = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    try:
        code, _ = programs.end(process, limit=3 * END)
    except subprocess.TimeoutExpired:
        code = 0
    seconds = time.monotonic() - begun
    if code == 0:
        raise RuntimeError('the launcher ended with 0')
    report.measured(name, seconds, END, f'seconds; the launcher ended with {code}')


def rank_of(launcher: subprocess.Popen, rank: int) -> int:
    """The number of the process that the launcher started as this rank."""
    mark = f'PADDLE_TRAINER_ID={rank}'.encode()
    for folder in Path('/proc').iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            parent = int((folder / 'stat').read_text().rpartition(')')[2].split()[1])
            environ = (folder / 'environ').read_bytes().split(b'\0')
        except OSError:
            continue
        if parent == launcher.pid and mark in environ:
            return int(folder.name)
    raise RuntimeError(f'no process of rank {rank}')
