"""Reports: one YAML record a claim, and the Markdown page that is made from it."""
import hashlib
import os
import platform
from pathlib import Path

import numpy as np
import paddle
import yaml

from util.errors import InputError
from util.parity import ladder
from util.weights import atomic

STATUSES = {
    'measured': 'measured by the run below',
    'ported-eval': "the original's weights, evaluated here",
    'taken-over': 'a figure of the original, not measured here',
    'not-run': 'the command exists and was not run',
}
NEEDED = ('claim', 'model', 'run', 'status')


def check(record: dict) -> None:
    """InputError for a record that lacks what a reader needs, or whose status is none."""
    missing = [name for name in NEEDED if not record.get(name)]
    if missing:
        raise InputError(f'a report needs {", ".join(missing)}')
    if record['status'] not in STATUSES:
        raise InputError(f'the status of a report is one of {", ".join(STATUSES)}, not {record["status"]!r}')


def markdown(record: dict) -> str:
    """The page of a record: claim, verdict, command, what it ran on, weights, the ladder, deviations."""
    check(record)
    lines = [f'# {record["claim"]}', '', f'Status: {record["status"]} ({STATUSES[record["status"]]}). '
             f'Model: {record["model"]}.', '', '    ' + record['run'], '']
    for title in ('weights', 'environment', 'figures'):
        if entries := record.get(title):
            lines += [f'## {title.capitalize()}', '', *(f'- {key}: {_text(value)}' for key, value in entries.items()), '']
    if rungs := record.get('parity'):
        failed = [entry['name'] for entry in rungs if not entry['passed']]
        lines += ['## Parity', '', f'FAILED: {", ".join(failed)}.' if failed else 'All rungs passed.', '',
                  *_table([ladder.COLUMNS, *map(ladder.cells, rungs)]), '', LEGEND, '']
        lines += [f'{entry["name"]}: {entry["note"]}\n' for entry in rungs if entry.get('note')]
    if deviations := record.get('deviations'):
        lines += ['## Deviations', '', *(f'- {line}' for line in deviations), '']
    return '\n'.join(lines)


LEGEND = ("Relative: the largest difference in a tensor over the largest entry of the original's, for the worst tensor, "
          'unless a note says otherwise; that one is named, or the first that departs.')


def _text(value) -> str:
    return ', '.join(f'{name} {item}' for name, item in value.items()) if isinstance(value, dict) else str(value)


def _table(rows: list) -> list[str]:
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return [lines[0], '|' + '---|' * len(rows[0]), *lines[1:]]


def write(prefix: str, record: dict) -> None:
    """PREFIX.yaml and PREFIX.md, each whole or not at all."""
    page = markdown(record)
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=120)
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in (('.yaml', text), ('.md', page)):
            with atomic.writing(Path(prefix + suffix)) as file:
                file.write(content.encode())
    except OSError as error:
        raise InputError(f'--report {prefix}: cannot be written ({error.strerror})') from None


def environment() -> dict:
    """Versions and processor of this process."""
    return {'python': platform.python_version(), 'paddle': paddle.__version__, 'numpy': np.__version__,
            'processor': _processor(), 'threads': int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1)),
            'device': paddle.device.get_device()}


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    return next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), platform.machine())


def sha256(path: str | Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(2 ** 24):
            digest.update(chunk)
    return digest.hexdigest()
