"""Records: one YAML file per claim, and beside it the Markdown page made from it.

A record with the status `measured` or `ported-eval` must have evidence: the hash of the weights,
and a log or a parity ladder. The page is made here and not in reports/, because every program that
writes a record, such as main_parity.py, writes its page too.
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
    'taken-over': 'a published figure that no program here can measure',
    'not-run': 'a published figure; the command that would measure it was not run',
}
NEEDED = ('claim', 'model', 'run', 'status')
WITH_EVIDENCE = ('measured', 'ported-eval')

# Sections of a page, in order: lists that programs write, tables, the ladder, lists that people
# write
PROGRAM_LISTS = ('warnings', 'published')
TABLES = ('result', 'size', 'settings', 'weights', 'log', 'environment', 'figures')
PEOPLE_LISTS = ('reading', 'deviations')
LISTS = (*PROGRAM_LISTS, 'pictures', 'parity', 'cases', *PEOPLE_LISTS)
KINDS = dict.fromkeys(TABLES, dict) | dict.fromkeys(LISTS, list)

# A row for each case of the suite of tests/gpu
CASE = 'section,case,verdict,measured,allowed,note'.split(',')
# A row for each rung of the parity ladder, which parity/ladder.py makes
COLUMNS = 'rung,compared,max abs,mean abs,relative,finite,tolerance,verdict,where'.split(',')
LEGEND = (
    'Relative: the largest difference in a tensor, divided by the largest entry of the original '
    'tensor, for the worst tensor, unless a note says otherwise. The last cell names this tensor, '
    'or the first one above the tolerance.'
)


def check(record: dict) -> None:
    """Raise InputError if a record lacks what a reader needs, or has an unknown status."""
    missing = [name for name in NEEDED if not record.get(name)]
    if missing:
        raise InputError(f'a report needs {", ".join(missing)}')
    status = record['status']
    if status not in STATUSES:
        raise InputError(f'the status of a report is one of {", ".join(STATUSES)}, not {status!r}')
    for name, kind in KINDS.items():
        entry = record.get(name)
        if entry and not isinstance(entry, kind):
            raise InputError(f'{name} of a report is a {kind.__name__}, not {entry!r}')

    if status in WITH_EVIDENCE:
        if not _hashed(record.get('weights')) and not record.get('cases'):
            raise InputError(f'a report with status {status} needs the sha256 of the weights')
        if not _hashed(record.get('log')) and not record.get('parity'):
            raise InputError(f'a report with status {status} needs a log or a parity ladder')


def _hashed(entry: dict | None) -> bool:
    """Whether an entry names a file and its SHA-256."""
    entry = entry or {}
    digest = str(entry.get('sha256'))
    return bool(entry.get('file')) and re.fullmatch('[0-9a-f]{64}', digest) is not None


def page(record: dict) -> str:
    """The Markdown page of a record: claim, status, command, pictures, tables, ladder, reading."""
    check(record)
    status = record['status']
    lines = [f'# {record["claim"]}', '']
    lines += [f'Status: {status} ({STATUSES[status]}). Model: {record["model"]}.', '']
    lines += [f'    {record["run"]}', '']
    lines += shown(record)

    for title in PROGRAM_LISTS:
        lines += _list(title, record.get(title))
    for title in TABLES:
        entries = record.get(title) or {}
        lines += _list(title, [f'{key}: {text(value)}' for key, value in entries.items()])
    if record.get('parity'):
        lines += _ladder(record['parity'])
    if record.get('cases'):
        rows = [[case[name] for name in CASE] for case in record['cases']]
        lines += ['## Cases', '', *table([CASE, *rows]), '']
    for title in PEOPLE_LISTS:
        lines += _list(title, record.get(title))
    return '\n'.join(lines)


def _list(title: str, entries: list | None) -> list[str]:
    """A section of bullets; nothing where there are no entries."""
    if not entries:
        return []
    bullets = [f'- {entry}' for entry in entries]
    return [f'## {title.capitalize()}', '', *bullets, '']


def _ladder(rungs: list[dict]) -> list[str]:
    """The section of the parity ladder."""
    failed = [rung['name'] for rung in rungs if not rung['passed']]
    verdict = f'FAILED: {", ".join(failed)}.' if failed else 'All rungs passed.'
    rows = [cells(rung) for rung in rungs]
    lines = ['## Parity', '', verdict, '']
    lines += [*table([COLUMNS, *rows]), '']
    lines += [LEGEND, '']
    for rung in rungs:
        if rung.get('note'):
            lines.append(f'{rung["name"]}: {rung["note"]}\n')
    return lines


def shown(record: dict) -> list[str]:
    """Markdown lines that show a record's pictures, which are files next to it."""
    lines = []
    for name in record.get('pictures', ()):
        lines += [f'![{record["claim"]}]({name})', '']
    return lines


def cells(entry: dict) -> list[str]:
    """A rung's record as one row of a table, under COLUMNS."""
    figures = [f'{entry[name]:.2g}' for name in ('max_abs', 'mean_abs', 'relative')]
    finite = 'yes' if entry['finite'] else 'NO'
    tolerance = f'{entry["tolerance"]:g}'
    verdict = 'pass' if entry['passed'] else 'FAIL'
    where = entry.get('where', '')
    return [entry['name'], entry['compared'], *figures, finite, tolerance, verdict, where]


def text(value) -> str:
    """A value of a record, in one line."""
    if isinstance(value, dict):
        return ', '.join(f'{name} {item}' for name, item in value.items())
    return str(value)


def table(rows: list) -> list[str]:
    """The lines of a Markdown table; the first row is its header."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    rule = '|' + '---|' * len(rows[0])
    return [lines[0], rule, *lines[1:]]


def read(path: str | Path, with_log: bool = True) -> dict:
    """A record, checked. InputError says what is wrong with it.

    with_log: also check that the log it names is next to it, and unchanged.
    """
    path = Path(path)
    try:
        record = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'{path}: cannot be read ({reason})') from None
    if not isinstance(record, dict):
        raise InputError(f'{path} is not a record')
    try:
        check(record)
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    if with_log and record.get('log'):
        _check_log(path, record['log'])
    return record


def _check_log(path: Path, entry: dict) -> None:
    name = entry['file']
    beside = path.parent / name
    if not beside.is_file():
        raise InputError(f'{path}: its log {name} is not beside it')
    if sha256(beside) != entry['sha256']:
        raise InputError(f'{path}: its log {name} is not the one that the record was made from')


def write(prefix: str, record: dict, log_file: str | Path | None = None) -> None:
    """Write PREFIX.yaml and PREFIX.md, each whole or not at all.

    log_file: copied next to them first, under the name that the record has for it. Entries that
    people wrote into the record that this replaces are kept.
    """
    if Path(f'{prefix}.yaml').exists():
        before = read(f'{prefix}.yaml', with_log=False)
        record = _with_entries_of_people(record, before, prefix)

    markdown = page(record)
    as_yaml = yaml.safe_dump(record, sort_keys=False, allow_unicode=True, width=120)

    contents = {}  # path -> bytes
    if log_file:
        beside = Path(prefix).parent / record['log']['file']
        contents[beside] = Path(log_file).read_bytes()
    contents[Path(f'{prefix}.yaml')] = as_yaml.encode()
    contents[Path(f'{prefix}.md')] = markdown.encode()

    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            with atomic.writing(path) as file:
                file.write(content)
    except OSError as error:
        raise InputError(f'--report {prefix}: cannot be written ({error.strerror})') from None


def _with_entries_of_people(record: dict, before: dict, prefix: str) -> dict:
    """The record with the entries of an earlier one that people wrote."""
    for name in PEOPLE_LISTS:
        own = record.get(name) or []
        kept = [entry for entry in before.get(name) or () if entry not in own]
        if kept:
            record = record | {name: [*own, *kept]}
            log.warn(f'{prefix}.yaml keeps the {name} of the record before; read it again')
    return record
