"""Records: one YAML file a claim, and beside it the Markdown page that shows it.

A record that says `measured` or `ported-eval` must show its evidence: the hash of the weights, and a log or a parity ladder.
The page stands here, and not in reports/, because a record is never written without it, main_parity.py's included.
"""

import re
from pathlib import Path

import yaml

from util import atomic, log
from util.errors import InputError
from util.weights import sha256

STATUSES = {
    'measured': 'by the run that the record names',
    'ported-eval': "somebody else's weights, evaluated here",
    'taken-over': "somebody else's figure, and no program here that could measure it",
    'not-run': "somebody else's figure; the command that would measure it was not run",
}
NEEDED = ('claim', 'model', 'run', 'status')
SHOWN = ('measured', 'ported-eval')
TABLES = ('result', 'size', 'settings', 'weights', 'log', 'environment', 'figures')
# lists; what people write comes last
BEFORE, OURS = ('warnings', 'published'), ('reading', 'deviations')
# Of a rung of the parity ladder, as parity/ladder.py makes it and shows it
COLUMNS = (
    'rung',
    'compared',
    'max abs',
    'mean abs',
    'relative',
    'finite',
    'tolerance',
    'verdict',
    'where',
)
LEGEND = (
    "Relative: the largest difference in a tensor over the largest entry of the original's, for the worst tensor, "
    'unless a note says otherwise; that one is named, or the first that departs.'
)
KINDS = dict.fromkeys(TABLES, dict) | dict.fromkeys((*BEFORE, 'pictures', 'parity', *OURS), list)


def check(record: dict) -> None:
    """InputError for a record that lacks what a reader needs, or whose status is none."""
    missing = [name for name in NEEDED if not record.get(name)]
    if missing:
        raise InputError(f'a report needs {", ".join(missing)}')
    if record['status'] not in STATUSES:
        raise InputError(
            f'the status of a report is one of {", ".join(STATUSES)}, not {record["status"]!r}'
        )
    for name, kind in KINDS.items():
        if not isinstance(record.get(name) or kind(), kind):
            raise InputError(f'{name} of a report is a {kind.__name__}, not {record[name]!r}')
    if record['status'] in SHOWN:
        if not _hashed(record.get('weights')):
            raise InputError(
                f'a report that says {record["status"]} needs the sha256 of the weights'
            )
        if not _hashed(record.get('log')) and not record.get('parity'):
            raise InputError(
                f'a report that says {record["status"]} needs a log, or the parity ladder'
            )


def _hashed(entry: dict | None) -> bool:
    return bool(re.fullmatch('[0-9a-f]{64}', str((entry or {}).get('sha256')))) and bool(
        (entry or {}).get('file')
    )


def page(record: dict) -> str:
    """The page of a record: claim, verdict, command, pictures, what it ran on, weights, the ladder, reading, deviations."""
    check(record)
    lines = [
        f'# {record["claim"]}',
        '',
        f'Status: {record["status"]} ({STATUSES[record["status"]]}). Model: {record["model"]}.',
        '',
        '    ' + record['run'],
        '',
        *shown(record),
    ]
    lines += _lists(record, *BEFORE)
    for title in TABLES:
        if entries := record.get(title):
            lines += [
                f'## {title.capitalize()}',
                '',
                *(f'- {key}: {_text(value)}' for key, value in entries.items()),
                '',
            ]
    if rungs := record.get('parity'):
        failed = [entry['name'] for entry in rungs if not entry['passed']]
        lines += [
            '## Parity',
            '',
            f'FAILED: {", ".join(failed)}.' if failed else 'All rungs passed.',
            '',
            *table([COLUMNS, *map(cells, rungs)]),
            '',
            LEGEND,
            '',
        ]
        lines += [f'{entry["name"]}: {entry["note"]}\n' for entry in rungs if entry.get('note')]
    return '\n'.join(lines + _lists(record, *OURS))


def _lists(record: dict, *titles: str) -> list[str]:
    return [
        line
        for title in titles
        if record.get(title)
        for line in (f'## {title.capitalize()}', '', *(f'- {entry}' for entry in record[title]), '')
    ]


def shown(record: dict) -> list[str]:
    """Lines that show a record's pictures, which lie beside it."""
    return [
        line
        for name in record.get('pictures', ())
        for line in (f'![{record["claim"]}]({name})', '')
    ]


def cells(entry: dict) -> list[str]:
    """A rung's record as the cells of a table's row."""
    figures = [f'{entry[name]:.2g}' for name in ('max_abs', 'mean_abs', 'relative')]
    return [
        entry['name'],
        entry['compared'],
        *figures,
        'yes' if entry['finite'] else 'NO',
        f'{entry["tolerance"]:g}',
        'pass' if entry['passed'] else 'FAIL',
        entry.get('where', ''),
    ]


def _text(value) -> str:
    return (
        ', '.join(f'{name} {item}' for name, item in value.items())
        if isinstance(value, dict)
        else str(value)
    )


def table(rows: list) -> list[str]:
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return [lines[0], '|' + '---|' * len(rows[0]), *lines[1:]]


def read(path: str | Path, with_log: bool = True) -> dict:
    """A record, checked; its log, where it names one, must be the file beside it. InputError says what is wrong."""
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path}: cannot be read ({" ".join(str(error).split())})') from None
    if not isinstance(record, dict):
        raise InputError(f'{path} is no record')
    try:
        check(record)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    if with_log and (written := record.get('log')):
        beside = path.parent / written['file']
        if not beside.is_file():
            raise InputError(f'{path}: its log {written["file"]} is not beside it')
        if sha256(beside) != written['sha256']:
            raise InputError(
                f'{path}: its log {written["file"]} is not the one that the record was made from'
            )
    return record


def write(prefix: str, record: dict, log_file: str | Path | None = None) -> None:
    """PREFIX.yaml and PREFIX.md, each whole or not at all, and before them a copy of the log under the record's name for
    it. What people wrote into the record that it replaces is kept."""
    if Path(f'{prefix}.yaml').exists():
        before = read(f'{prefix}.yaml', with_log=False)
        for name in OURS:
            if kept := [
                entry for entry in before.get(name) or () if entry not in (record.get(name) or ())
            ]:
                record = record | {name: [*(record.get(name) or ()), *kept]}
                log.warn(f'{prefix}.yaml keeps the {name} of the record before; read it again')
    shown_as = page(record)
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=120)
    kept = (
        [(Path(prefix).parent / record['log']['file'], Path(log_file).read_bytes())]
        if log_file
        else []
    )
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        for path, content in kept:
            with atomic.writing(path) as file:
                file.write(content)
        for suffix, content in (('.yaml', text), ('.md', shown_as)):
            with atomic.writing(Path(prefix + suffix)) as file:
                file.write(content.encode())
    except OSError as error:
        raise InputError(f'--report {prefix}: cannot be written ({error.strerror})') from None
