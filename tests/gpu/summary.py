"""The record of the suite, from the lines that the sections wrote."""

import shlex
from collections import Counter

from util.weights import sha256

VERDICTS = {True: 'passed', False: 'FAILED', None: 'skipped'}
FULL = 'ViT-B, ViT-L, ViT-H, Swin-T, PVT-S, UPerNet, GFL'
ON_A_CPU = (
    'This is a rehearsal on a CPU. It says nothing about a GPU: precisions are stood in for by '
    'rounding, devices by processes, and speed is that of this CPU.'
)


def counted(entries: list[dict]) -> str:
    """'12 passed, 1 FAILED' of some cases."""
    counts = Counter(VERDICTS[entry['passed']] for entry in entries)
    return ', '.join(f'{counts[name]} {name}' for name in VERDICTS.values() if counts[name])


def record(about: dict, titles: dict[str, str], found: dict, words: list[str], file) -> dict:
    """The record. titles: section -> its title. found: what report.read gives. file: its file."""
    entries = [entry for (_, case), entry in found.items() if case]
    entries = [entry for entry in entries if entry['section'] in titles]
    result = {}
    for section, title in titles.items():
        own = [entry for entry in entries if entry['section'] == section]
        ended = (section, '') in found
        result[title] = (counted(own) or 'no case') + ('' if ended else ', not ended')
    failed = [entry for entry in entries if entry['passed'] is False]
    made = {
        'claim': f'The acceptance suite on {about["name"]}: {counted(entries) or "no case"}',
        'model': 'nano models' if about['tiny'] else FULL,
        'run': shlex.join(['bash', 'tests/run.sh', '--gpu', *words]),
        'status': 'measured',
        'warnings': [f'FAILED: {_line(entry, titles)}' for entry in failed],
        'result': result,
        'environment': about['environment'],
        'figures': {e['case']: _figures(e) for e in entries if e.get('figures')},
        'log': {'file': file.name, 'sha256': sha256(file)},
        'cases': [_case(entry, titles) for entry in entries],
    }
    if about['device'] == 'cpu':
        made['reading'] = [ON_A_CPU]
    return made


def _line(entry: dict, titles: dict) -> str:
    what = f'{titles[entry["section"]]}, {entry["case"]}'
    if 'measured' in entry:
        what += f': {entry["measured"]:.2g}, allowed are {entry["allowed"]:g}'
    return f'{what}: {entry["note"]}' if entry.get('note') else what


def _figures(entry: dict) -> str:
    shown = [f'{name} {value}' for name, value in entry['figures'].items()]
    if entry.get('note'):
        shown.append(entry['note'])
    return ', '.join(shown)


def _case(entry: dict, titles: dict) -> dict:
    """A row of the record's table of cases."""
    return {
        'section': titles[entry['section']],
        'case': entry['case'],
        'verdict': VERDICTS[entry['passed']],
        'measured': f'{entry["measured"]:.2g}' if 'measured' in entry else '',
        'allowed': f'{entry["allowed"]:g}' if 'measured' in entry else '',
        'note': entry.get('note', ''),
    }
