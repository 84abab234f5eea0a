"""Measure the cases of cases.py, Paddle and PyTorch in turns, and write reports/speed.md.

    bash tests/run.sh --bench [CASE|LETTER ...] [--rounds N] [--threads N]

Each framework has a process of its own for each case. Their turns alternate; the first turn does
not count. The file gets one line of JSON for each case and framework, with the field names of
Paddle's TIPC logs; it replaces an earlier line of the same case.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

import cases
import floor
import numpy as np
import pictures
import table
import turns

from models_sizes import PYRAMIDS, SIZES

STEPS = (*floor.PASSES, 'detect', 'load', 'folder')  # kinds that measure the time of a batch


def main(args):
    try:
        wanted = cases.chosen(args.cases)
    except ValueError as error:
        raise SystemExit(f'bench.py: error: {error}') from None
    if args.small and (args.table or args.out == PARSER.get_default('out')):
        raise SystemExit(
            'bench.py: error: --small measures nano models under other names; '
            'add --no_table --out FILE'
        )
    failures, begin, done = [], time.perf_counter(), 0.0
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        for number, case in enumerate(wanted, 1):
            case = cases.small(case) if args.small else case
            try:
                lines = measure(case, args.rounds or case.rounds, args.threads, scratch)
                replace(args.out, lines)
                said = ', '.join(
                    f'{line["framework"]} {table.duration(line["ms"])}' for line in lines
                )
            except turns.Skipped as error:
                said = f'skipped: {error}'
            except turns.Failed as error:
                failures.append(str(error))
                said = f'failed: {error}'
            done += case.cost
            passed = time.perf_counter() - begin
            left = passed / done * sum(one.cost for one in wanted[number:])
            print(
                f'[{number}/{len(wanted)}] {case.name}: {said}; '
                f'{passed / 60:.1f} min so far, about {left / 60:.0f} left',
                flush=True,
            )
    if args.table:
        table.main(table.PARSER.parse_args(['--lines', str(args.out)]))
    if failures:
        raise SystemExit(f'{len(failures)} of {len(wanted)} cases failed:\n' + '\n'.join(failures))


def measure(case, rounds, threads, scratch):
    """One line for each framework."""
    prepare(case, Path(scratch))
    asked = {
        **dataclasses.asdict(case),
        'products': floor.products(case),
        'scratch': str(scratch),
        'size': size(case),
    }
    workers = []
    try:
        for side in case.sides:
            # one after the other: each measures its rate while the others wait
            workers.append(turns.Worker(side, asked, threads))
            workers[-1].ready()
        counts = {worker.about['parameters'] for worker in workers if 'parameters' in worker.about}
        if len(counts) > 1:
            raise turns.Failed(
                f'{case.name}: the models differ, '
                f'one trains {min(counts)} numbers, one {max(counts)}'
            )
        answers = turns.take(workers, rounds, case.steps, case.warm)
        about = [worker.about for worker in workers]
    finally:
        for worker in workers:
            worker.close()
    rate = max(one.get('rate', 0) for one in about)
    lines = [
        line(case, side, threads, one, answer, rate)
        for side, one, answer in zip(case.sides, about, answers)
    ]
    for one in lines:
        one['ratio'] = one['ms'] / lines[-1]['ms'] if len(lines) > 1 else None
    return lines


def size(case):
    """What models_sizes says of the case's model."""
    if case.model in PYRAMIDS:
        return PYRAMIDS[case.model]
    return dataclasses.asdict(SIZES[case.model])


def prepare(case, scratch):
    """The files that the case reads."""
    if case.kind in ('load', 'export', 'folder', 'processes', 'epoch'):
        folder = pictures.make(scratch / 'pictures', pictures.COUNT, 500, 375)
        files = sorted((folder / 'train').rglob('*.jpg'))[: (case.steps + 1) * case.batch]
        (scratch / 'some.txt').write_text(''.join(f'{file}\n' for file in files))  # for `processes`
    elif case.kind == 'startup':
        pictures.make(scratch / 'small', case.batch, 32, 32, '.png')
    elif case.kind == 'convert':
        made = {'kind': 'make', 'side': case.side, 'size': size(case)}
        subprocess.run(
            [
                turns.PYTHONS['torch'],
                Path(__file__).with_name('torch_programs.py'),
                json.dumps(made),
                scratch / f'{case.model}.pth',
            ],
            check=True,
        )


def line(case, side, threads, about, answer, rate):
    """The record of a case with one framework."""
    milliseconds = 1000 * np.array(answer['seconds'])
    median = float(np.median(milliseconds))
    said = about | answer
    told = {
        key: value
        for key, value in said.items()
        if key not in ('seconds', 'memory', 'floor_ms', 'rate', 'loss')
    }
    if 'loss' in said:
        told |= {'convergence_key': 'loss', 'convergence_value': said['loss']}
    shortest = about.get('floor_ms') or (floor.operations(case) / rate / 1e6 if rate else None)
    processes = about.get('processes', 1)
    return {
        'case': case.name,
        'framework': side,
        'model_name': f'{case.model}_{case.kind}',
        'batch_size': case.batch,
        'fp_item': 'fp32',
        'run_process_type': 'SingleP' if processes == 1 else 'MultiP',
        'run_mode': 'DP',
        'device_num': f'N1C{processes}',
        'ips': 1000 * case.batch / median if case.kind in STEPS else None,
        'speed_unit': 'images/s',
        'model_run_time': float(milliseconds.sum() / 1000),
        'ms': median,
        'ms_q25': float(np.percentile(milliseconds, 25)),
        'ms_q75': float(np.percentile(milliseconds, 75)),
        'n': len(milliseconds),
        'memory_mb': answer['memory'],
        'floor_ms': shortest,
        'gflops': rate or None,
        'threads': threads,
        'cpu': cpu(),
        'python': platform.python_version(),
        'date': time.strftime('%Y-%m-%d'),
        **told,
    }


def cpu():
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
        return f'{names[0]}, {len(names)} cores'
    except (OSError, IndexError):  # not Linux, or not x86
        return platform.machine()


def replace(file, lines):
    """Write lines into the file; they replace lines of the same case and framework."""
    new = {(one['case'], one['framework']): one for one in lines}
    kept = [one for one in table.read(file) if (one['case'], one['framework']) not in new]
    order = [case.name for case in cases.CASES]
    every = sorted(
        [*kept, *lines],
        key=lambda one: order.index(one['case']) if one['case'] in order else len(order),
    )
    file.write_text(''.join(json.dumps(one) + '\n' for one in every))


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number of at least 1')
    return int(text)


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument(
    'cases', nargs='*', metavar='CASE', help='names or letters of cases.py (default: all)'
)
PARSER.add_argument(
    '--rounds', type=positive, default=None, help='turns that count (default: of each case its own)'
)
PARSER.add_argument(
    '--threads',
    type=positive,
    default=len(os.sched_getaffinity(0)),
    help='of each framework (default: one a core)',
)
PARSER.add_argument('--out', type=Path, default=turns.ROOT / 'reports/speed.jsonl', metavar='FILE')
PARSER.add_argument(
    '--no_table', action='store_false', dest='table', help='leave reports/speed.md as it is'
)
PARSER.add_argument(
    '--scratch', default=None, metavar='DIR', help="folder for some GB (default: the system's)"
)
PARSER.add_argument(
    '--small', action='store_true', help='every case with a nano model, to see that it runs'
)

if __name__ == '__main__':
    main(PARSER.parse_args())
