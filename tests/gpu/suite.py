"""The acceptance suite: what only a machine with GPUs can show, in less than an hour.

    bash tests/run.sh --gpu                      on this machine's GPUs
    bash tests/run.sh --gpu --device cpu         a rehearsal with tiny models, in some minutes

It installs nothing. It checks Paddle, the driver, the devices and NCCL, and then runs each section
in a process of its own; one that fails does not stop the others. reports/gpu-NAME.yaml and its page
say what passed, what failed and what was measured; they are written after each section. The same
command goes on where it was interrupted, and does again what failed.
"""

import argparse
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu import report, summary
from gpu.programs import ROOT
from gpu.report import Settings, one_line
from gpu.section import NAMES
from util import provenance
from util import record as records
from util.errors import BAD_INPUT, INTERRUPTED, InputError

PATIENCE = 20.0  # seconds that a section has to stop
TITLES = {
    'models': 'models and engines',
    'resume': 'repeating and resuming',
    'two': 'two devices against one',
    'faults': 'faults',
    'export': 'export',
    'ladder': 'ladder of parity',
    'rates': 'memory and speed of the recipes',
}


def main(words: list[str]) -> int:
    """Run the suite; 0 if every case passed or was skipped, 1 if one failed."""
    args = PARSER.parse_args(words)
    faults = faults_of(args.broken)
    about = checked(args)
    prefix = prefix_of(args, about)
    file = prefix.with_suffix('.jsonl')
    begin(file, about, args.again)
    ended = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        settings = Settings(
            device=args.device,
            devices=about['devices'],
            tiny=about['tiny'],
            scratch=scratch,
            torch=torch_of(args.torch),
            weights=tuple(str(Path(path).resolve()) for path in args.weights),
        )
        for number, name in enumerate(args.only, 1):
            told = f'[{number}/{len(args.only)}] {TITLES[name]}'
            broken = dataclasses.replace(settings, fault=faults.get(name, ''))
            entries = one_section(name, broken, file, ended, told)
            write(prefix, file, about, args.only, words)
            show(entries)
    found = report.read(file)
    print(f'{prefix}.yaml and {prefix}.md: {summary.counted(cases(found))}')
    return 1 if any(entry['passed'] is False for entry in cases(found)) else 0


def faults_of(broken: list[str]) -> dict[str, str]:
    """Section -> what is broken in it; InputError for an unknown one."""
    faults = {}
    for text in broken:
        name, _, fault = text.partition('=')
        if name not in NAMES or fault not in report.FAULTS:
            raise InputError(
                f'--break {text}: expected SECTION=FAULT with a section of {", ".join(NAMES)} and '
                f'a fault of {", ".join(report.FAULTS)}'
            )
        faults[name] = fault
    return faults


def checked(args) -> dict:
    """What check.py says of this machine; InputError for the first thing that is wrong."""
    command = [sys.executable, '-m', 'gpu.check', args.device]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if ran.returncode:
        raise InputError(f'--device {args.device}: {one_line(ran.stderr)}')
    about = json.loads(ran.stdout.splitlines()[-1])
    if about['problem']:
        raise InputError(f'--device {args.device}: {about["problem"]}')
    about |= {'device': args.device, 'tiny': args.tiny or args.device == 'cpu'}
    print(f'{about["name"]}, {about["devices"]} of them' if args.device == 'gpu' else about['name'])
    return about


def prefix_of(args, about: dict) -> Path:
    """The record's path without its suffix; it never calls a CPU a GPU."""
    folder = Path(args.out or ('output/gpu-suite' if args.device == 'cpu' else 'reports'))
    if args.device == 'cpu' and (ROOT / folder).resolve() == ROOT / 'reports':
        raise InputError('--out reports: a rehearsal on a CPU is no record; name another folder')
    name = re.sub(r'[^a-z0-9]+', '-', (args.name or about['name']).lower()).strip('-')
    if about['tiny'] and args.device == 'gpu':
        name += '-tiny'
    return ROOT / folder / f'{args.device}-{name}'


def torch_of(asked: str) -> str:
    """The Python of an environment with PyTorch, or nothing."""
    python = Path(asked or ROOT / '.venv-parity/bin/python')
    if asked and not python.exists():
        raise InputError(f'--torch {asked}: there is no such file')
    return str(python.absolute()) if python.exists() else ''  # sections run elsewhere


def begin(file: Path, about: dict, again: bool) -> None:
    """Begin the file of results, or go on with it; InputError if it is of another commit."""
    commit = provenance.commit()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if again:
            file.unlink(missing_ok=True)
        before = report.read(file).get(('suite', 'commit'))
        if before is None:
            line = {'section': 'suite', 'case': 'commit', 'passed': True, 'note': commit}
            file.write_text(json.dumps(line) + '\n')
        elif before['note'] != commit:
            raise InputError(
                f'{file} was begun with the commit {before["note"]}, and this is {commit}; '
                'give --again to begin anew'
            )
    except OSError as error:
        raise InputError(f'--out {file.parent}: cannot write there ({error.strerror})') from None


def cases(found: dict) -> list[dict]:
    """The cases of all sections."""
    return [entry for (section, case), entry in found.items() if case and section != 'suite']


def one_section(name: str, settings: Settings, file: Path, ended: float, told: str) -> list[dict]:
    """Run a section, or what of it has not passed yet; its cases."""
    found = report.read(file)
    own = [entry for entry in cases(found) if entry['section'] == name]
    if (name, '') in found and all(entry['passed'] is not False for entry in own):
        print(f'{told}: {summary.counted(own)}, before', flush=True)
        return own
    limit = min(60.0 * importlib.import_module(f'gpu.{name}').MINUTES, ended - time.monotonic())
    begun = time.monotonic()
    failure = 'no time was left; the same command goes on' if limit <= 0 else ''
    if not failure:
        print(f'{told} ...', flush=True)
        done = [entry['case'] for entry in own if entry['passed']]
        failure = run(name, settings, file, done, limit)
    whole = report.Report(name, file, settings, frozenset())
    if failure:
        whole.told('the section as a whole', False, failure)
    elif any(entry['case'] == 'the section as a whole' for entry in own):
        whole.told('the section as a whole', True, 'in another attempt')
    own = [entry for entry in cases(report.read(file)) if entry['section'] == name]
    print(f'{told}: {summary.counted(own)} ({(time.monotonic() - begun) / 60:.1f} min)', flush=True)
    return own


def run(name: str, settings: Settings, file: Path, done: list[str], limit: float) -> str:
    """Run a section's process; why it did not come to its end, or nothing."""
    folder = settings.folder / name
    folder.mkdir(exist_ok=True)
    asked = {'settings': dataclasses.asdict(settings), 'file': str(file), 'done': done}
    command = [sys.executable, '-m', 'gpu.section', name, json.dumps(asked)]
    with tempfile.TemporaryFile('w+') as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f'it had not ended after {limit:.0f} s'
        finally:
            stop(process)
        errors.seek(0)
        return f'it ended with {code}: {one_line(errors.read())}' if code else ''


def stop(process: subprocess.Popen) -> None:
    """Stop a section that still runs, with all that it has started."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def write(prefix: Path, file: Path, about: dict, sections: list[str], words: list[str]) -> None:
    """Write the record and its page."""
    titles = {name: TITLES[name] for name in sections}
    made = summary.record(about, titles, report.read(file), words, file)
    records.write(str(prefix), made)


def show(entries: list[dict]) -> None:
    """Print the cases that failed."""
    for entry in entries:
        if entry['passed'] is False:
            print(f'    FAILED {entry["case"]}: {entry.get("measured", "")} {entry["note"]}')


PARSER = argparse.ArgumentParser(
    prog='tests/run.sh --gpu',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
)
PARSER.add_argument('--device', choices=['gpu', 'cpu'], default='gpu', help='cpu: a rehearsal')
PARSER.add_argument('--tiny', action='store_true', help='tiny models; always on a CPU')
PARSER.add_argument('--name', default='', help="of the record (default: the device's)")
PARSER.add_argument(
    '--out',
    default='',
    help='folder of the record (default: reports; of a rehearsal output/gpu-suite)',
)
PARSER.add_argument(
    '--only',
    nargs='+',
    choices=NAMES,
    default=list(NAMES),
    metavar='SECTION',
    help=f'of {", ".join(NAMES)} (default: all)',
)
PARSER.add_argument('--minutes', type=float, default=58.0, help='for all sections together')
PARSER.add_argument('--again', action='store_true', help='forget what was done before')
PARSER.add_argument('--torch', default='', metavar='PYTHON', help='of an environment with PyTorch')
PARSER.add_argument(
    '--weights',
    nargs='+',
    default=[],
    metavar='FILE',
    help='official weights, for the ladder of parity too',
)
PARSER.add_argument(
    '--scratch',
    default=None,
    metavar='DIR',
    help="for files of some GB (default: the system's folder for temporary files)",
)
PARSER.add_argument(
    '--break',
    nargs='+',
    default=[],
    dest='broken',
    metavar='SECTION=FAULT',
    help=f'break a section on purpose, to see that the record shows it: {", ".join(report.FAULTS)}',
)

if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f'tests/run.sh --gpu: error: {error}', file=sys.stderr, flush=True)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print('interrupted; the same command goes on', file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)
