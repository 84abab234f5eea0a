"""Run a commit and the working tree with the same commands, and print which numbers differ.

    python tests/neutral.py main             # all cases: some 15 minutes on two cores
    python tests/neutral.py main --quick     # all but the tour: 4 minutes
    python tests/neutral.py main --only finetune --only seg

BASE, here `main`, is any commit. It is checked out into a temporary worktree. The working tree is
copied as it lies when the program starts, with changes that are not committed, so you can go on
editing. Both trees run side by side, with the same data and seeds and one thread each. Equal means:
arrays in checkpoints bit for bit, lines of log.txt, all other files that a case writes, and the
figures that it prints. Times, paths, wording and flags do not count. Exit code 1 if a case differs.
"""

import argparse
import collections
import contextlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from neutral_cases import CASES, OUT_OF_ITS_OWN, SHARED, SLOW

ROOT = Path(__file__).parent.parent

NUMBER = re.compile(r'(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.]*\w)')
TIMES = re.compile(
    r'\d{4}-\d\d-\d\d|[\d.]+ days?|\d+(?::\d\d)+|(?:batch_cost|reader_cost|ips): [\d.]+'
    r'|[\d.]+ ?(?:ms|s|sec|seconds|min|minutes|h|MB|GB|(?:images|it|batch|step)/s)\b'
)
UNCOMPARED_KEYS = {'args', 'environment'}  # of checkpoints: flags, and the machine of a run
UNCOMPARED_FILES = re.compile(r'(^|/)(log/|vdlrecords)')  # these hold times


class Difference(NamedTuple):
    where: str
    how: str
    size: float = 0.0  # relative to the largest number of the array; infinite for another shape


def differences(base, now, where: str = '') -> Iterator[Difference]:
    """The differences of two nested structures of dicts, lists, arrays and values."""
    if isinstance(base, list) and isinstance(now, list):
        base, now = dict(enumerate(base, 1)), dict(enumerate(now, 1))
    if isinstance(base, dict) and isinstance(now, dict):
        for key in base | now:
            place = f'{where} {key}'.strip()
            if key in UNCOMPARED_KEYS:
                continue
            if key not in base or key not in now:
                yield Difference(place, 'is new' if key in now else 'is gone', math.inf)
            else:
                yield from differences(base[key], now[key], place)
    elif isinstance(base, np.ndarray) and isinstance(now, np.ndarray):
        yield from array_differences(base, now, where)
    elif type(base) is not type(now) or base != now:
        yield Difference(where, f'{str(base)[:80]} -> {str(now)[:80]}')


def array_differences(base: np.ndarray, now: np.ndarray, where: str) -> Iterator[Difference]:
    """At most one difference of two arrays, which have to be equal bit for bit."""
    if base.dtype != now.dtype or base.shape != now.shape:
        how = f'{base.dtype} {base.shape} -> {now.dtype} {now.shape}'
        yield Difference(where, how, math.inf)
    elif base.tobytes() != now.tobytes():
        apart = np.abs(now.astype('float64') - base.astype('float64')).max()
        size = apart / max(np.abs(base).max(), np.abs(now).max(), 1e-30)
        yield Difference(where, f'by {apart:.1e} ({size:.1e} of its largest)', float(size))


def read(file: Path) -> object:
    """The content of a file, to be compared."""
    if file.suffix in ('.pd', '.pdparams', '.pdopt'):
        warnings.simplefilter('ignore')  # about compilers, which are not needed here
        import paddle  # takes seconds

        return paddle.load(str(file), return_numpy=True)
    if file.name == 'log.txt':
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == '.yaml':
        return file.read_text().splitlines()
    return np.frombuffer(file.read_bytes(), 'uint8')


def figures(text: str) -> list[str]:
    """The numbers of each line that has some, without times."""
    lines = (' '.join(NUMBER.findall(TIMES.sub('', line))) for line in text.splitlines())
    return [line for line in lines if line]


def outcome(tree: Path, out: str, printed: str) -> dict:
    """All results of a case: the figures that it printed, and its files by name."""
    left = {'printed': figures(printed)}
    for file in sorted((tree / out).rglob('*')):
        name = str(file.relative_to(tree / out))
        if file.is_file() and not UNCOMPARED_FILES.search(name):
            left[name] = read(file)
    return left


def report(base: dict, now: dict) -> list[str]:
    """A line for each file that differs: the number of differences, the first, the largest."""
    lines = [f'{name} is gone' for name in base if name not in now]
    lines += [f'{name} is new' for name in now if name not in base]
    for name in base.keys() & now.keys():
        found = list(differences(base[name], now[name]))
        if found:
            largest = max(found, key=lambda difference: difference.size)
            lines.append(f'{name}: {len(found)} differ, first {found[0].where} {found[0].how}')
            if largest.size > found[0].size:
                lines[-1] += f', most {largest.where} {largest.how}'
    return sorted(lines)


@contextlib.contextmanager
def two_trees(base: str, folder: Path) -> Iterator[list[Path]]:
    """The commit and a copy of the working tree, made ready to run."""
    trees = [folder / 'base', folder / 'now']
    try:
        git('worktree', 'add', '--detach', str(trees[0]), base)
        for name in git('ls-files', '-coz', '--exclude-standard').split('\0'):
            if name and (ROOT / name).is_file():
                (trees[1] / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, trees[1] / name)
        for tree in trees:  # the tour gets the present environment, and installs none
            (tree / 'requirements/install.sh').write_text('')
            (tree / '.venv/bin').mkdir(parents=True)
            environment = shlex.quote(str(Path(sys.executable).parent))
            (tree / '.venv/bin/activate').write_text(f'PATH={environment}:$PATH\n')
        yield trees
    finally:
        git('worktree', 'remove', '--force', str(trees[0]))


def git(*words: str) -> str:
    result = subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f'neutral.py: error: git {" ".join(words)}: {result.stderr.strip()}')
    return result.stdout


def run(command: list[str], trees: list[Path]) -> list[str]:
    """The output of a command in each tree, run side by side; SubprocessError if one fails."""
    processes, printed = [], []
    try:
        processes += [start(command, tree) for tree in trees]
        for process in processes:
            process.wait()
    finally:
        for process in processes:
            end(process)
    for tree, process in zip(trees, processes):
        texts = [tree.with_suffix(suffix).read_text() for suffix in ('.out', '.err')]
        if process.returncode:
            last = '\n    '.join(''.join(texts).strip().splitlines()[-5:])
            raise subprocess.SubprocessError(f'{tree.name}: {" ".join(command)}\n    {last}')
        printed.append(texts[0])
    return printed


def start(command: list[str], tree: Path) -> subprocess.Popen:
    """Begin a command in a tree, whose output goes into files beside it."""
    interpreter = 'bash' if command[0].endswith('.sh') else sys.executable
    variables = {'PYTHONPATH': str(tree), 'MAE_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    options = {'cwd': tree, 'env': os.environ | variables, 'start_new_session': True}
    with contextlib.ExitStack() as files:
        for stream, suffix in (('stdout', '.out'), ('stderr', '.err')):
            options[stream] = files.enter_context(open(tree.with_suffix(suffix), 'w'))
        return subprocess.Popen([interpreter, *command], **options)


def end(process: subprocess.Popen) -> None:
    """End a process, if it still runs, with all processes that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


class Shared(dict):
    """The folder that cases share under a name; `tree` makes it at the first request."""

    def __init__(self, tree: Path):
        self.tree = tree

    def __missing__(self, name: str) -> str:
        place = f'../shared/{name}'  # beside both trees, so that both say the same path
        run(filled(SHARED[name], self, place), [self.tree])
        self[name] = place
        return place


def filled(command: str, shared: Shared, out: str) -> list[str]:
    """A command's words, with values in place of the braces."""
    return shlex.split(command.format_map(collections.ChainMap({'out': out}, shared)))


def compare(name: str, trees: list[Path], shared: Shared) -> tuple[list[str], int]:
    """Run a case in both trees: a line for each file that differs, and how many were compared."""
    out = OUT_OF_ITS_OWN.get(name, f'neutral/{name}')
    printed = [run(filled(command, shared, out), trees) for command in CASES[name]]
    texts = ['\n'.join(of_tree) for of_tree in zip(*printed)]
    base, now = (outcome(tree, out, text) for tree, text in zip(trees, texts))
    return report(base, now), len(base)


def main(args: argparse.Namespace) -> int:
    commit = git('rev-parse', '--verify', f'{args.base}^{{commit}}').strip()
    names = args.only or [name for name in CASES if not (args.quick and name in SLOW)]
    for stop in (signal.SIGINT, signal.SIGTERM):  # an exception, so that both trees are removed
        signal.signal(stop, lambda number, _: sys.exit(128 + number))
    differ = 0
    with tempfile.TemporaryDirectory() as folder, two_trees(commit, Path(folder)) as trees:
        print(f'{commit[:12]} and the working tree', flush=True)
        shared = Shared(trees[0])
        for name in names:
            begin = time.monotonic()
            try:
                found, count = compare(name, trees, shared)
                verdict = f'{len(found) or "none"} of {count} outputs differ'
            except subprocess.SubprocessError as failure:
                found, verdict = [str(failure)], 'failed'
            differ += bool(found)
            line = f'{name:14}{verdict:26}{time.monotonic() - begin:5.0f} s'
            print(line, *found, sep='\n    ', flush=True)
    print(f'{differ or "none"} of {len(names)} cases differ')
    return int(differ > 0)


PARSER = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
PARSER.description = __doc__
PARSER.add_argument('base', metavar='BASE', help='the commit to compare with')
PARSER.add_argument('--quick', action='store_true', help='leave the tour out')
PARSER.add_argument('--only', action='append', choices=CASES, help='this case; may be repeated')

if __name__ == '__main__':
    sys.exit(main(PARSER.parse_args()))
