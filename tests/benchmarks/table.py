"""The table of reports/speed.md, made from the lines that bench.py writes.

python tests/benchmarks/table.py
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cases

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'reports/speed.md'
BEGIN, END = '<!-- speed: made by tests/benchmarks/table.py -->', '<!-- /speed -->'
HEAD = ('', 'Paddle', 'PyTorch', 'ratio', 'floor', 'memory, MB', 'threads')
NO_CELLS = ' |' * (len(HEAD) - 1)  # of a row that is the title of a group


def read(file: Path) -> list[dict]:
    """The measurements of reports/speed.jsonl; none where there is no such file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def duration(ms: float) -> str:
    """Three digits, in ms or s."""
    if ms < 9995:
        digits = max(0, 2 - (ms >= 10) - (ms >= 100))
        return f'{ms:.{digits}f} ms'
    return f'{ms / 1000:.1f} s' if ms < 99950 else f'{ms / 1000:.0f} s'


def spread(line: dict) -> str:
    """The median and, of several measurements, the distance of the quartiles in percent of it."""
    median = duration(line['ms'])
    if line['n'] == 1:
        return median
    distance = (line['ms_q75'] - line['ms_q25']) / line['ms']
    return f'{median} ({distance:.0%})'


def section(lines: list[dict]) -> str:
    """The table, and below it a line about where it was measured."""
    if not lines:
        return 'Not measured yet.'
    found = {(line['case'], line['framework']): line for line in lines}
    rows = [table_row(HEAD), '|' + '---|' * len(HEAD)]
    for letter, title in cases.GROUPS.items():
        measured = [
            case for case in cases.CASES if case.group == letter and (case.name, 'paddle') in found
        ]
        if measured:
            rows.append(f'| **{title}** |{NO_CELLS}')
        for case in measured:
            ours, theirs = (found.get((case.name, side)) for side in cases.BOTH)
            rows.append(row(case.label, ours, theirs))
    return '\n'.join([*rows, '', *places(lines)])


def places(lines: list[dict]) -> list[str]:
    """A line for each processor that the measurements are from."""
    versions = {'paddle': '-', 'torch': '-'}
    versions |= {
        line['framework']: line['frame_version'] for line in lines if 'frame_version' in line
    }
    dates = {line['cpu']: line['date'] for line in lines}
    frameworks = 'Paddle {paddle}, PyTorch {torch}'.format(**versions)
    return [f'Measured on {cpu}, {date}; {frameworks}.' for cpu, date in dates.items()]


def row(label: str, ours: dict, theirs: dict | None) -> str:
    """One case of the table; `theirs` is None where PyTorch was not measured."""
    time, ratio, floor = '-', '-', '-'
    memory = f'{ours["memory_mb"]:.0f}'
    if theirs:
        time = spread(theirs)
        ratio = f'{ours["ms"] / theirs["ms"]:.2f}'
        memory += f' / {theirs["memory_mb"]:.0f}'
    if ours['floor_ms']:
        floor = duration(ours['floor_ms'])
    threads = str(ours['threads'])
    return table_row([label, spread(ours), time, ratio, floor, memory, threads])


def table_row(cells: Sequence[str]) -> str:
    """The cells as a row of a Markdown table."""
    return '| ' + ' | '.join(cells) + ' |'


def placed(text: str, section: str) -> str:
    """The text with another section between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f'table.py: {PAGE.name} lacks the marks {BEGIN} and {END}')
    return f'{before}{BEGIN}\n{section}\n{END}{after}'


def main(args):
    table = section(read(args.lines))
    PAGE.write_text(placed(PAGE.read_text(), table))


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument('--lines', type=Path, default=ROOT / 'reports/speed.jsonl', metavar='FILE')

if __name__ == '__main__':
    main(PARSER.parse_args())
