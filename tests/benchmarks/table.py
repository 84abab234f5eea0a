"""The table of the READMEs, from the file that bench.py writes.

python tests/benchmarks/table.py
"""

import argparse
import json
from pathlib import Path

import cases

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = '<!-- speed: made by tests/benchmarks/table.py -->', '<!-- /speed -->'
HEADS = {
    'README.md': ('', 'Paddle', 'PyTorch', 'ratio', 'floor', 'memory, MB', 'threads'),
    'README_cn.md': ('', 'Paddle', 'PyTorch', '比值', '下限', '内存，MB', '线程'),
}
WHERE = {
    'README.md': 'Measured on {cpu}, {date}; Paddle {paddle}, PyTorch {torch}.',
    'README_cn.md': '测量环境：{cpu}，{date}；Paddle {paddle}，PyTorch {torch}。',
}
CHINESE = {
    'for pre-training': '用于预训练',
    'for fine-tuning': '用于微调',
    ' pixels a side': ' 像素',
    'mask ratio': '掩码率',
    'batch': '批量',
    'exported': '导出后',
    'half of the threads each': '各用一半线程',
    'all threads': '全部线程',
    '1 process': '1 个进程',
    '2 processes': '2 个进程',
    ' images': ' 张图片',
    ' JPEGs of 500 x 375 to labels': ' 张 500 x 375 的 JPEG 到标签',
    '; ': '；',
    ': ': '：',
    ', ': '，',
}
NOTHING = {'README.md': 'Not measured yet.', 'README_cn.md': '尚未测量。'}


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def duration(ms: float) -> str:
    """Three digits, in ms or s."""
    if ms < 9995:
        return f'{ms:.{max(0, 2 - (ms >= 10) - (ms >= 100))}f} ms'
    return f'{ms / 1000:.{1 if ms < 99950 else 0}f} s'


def spread(line: dict) -> str:
    """The median and, of several, the distance of the quartiles."""
    return duration(line['ms']) + (
        f' ({(line["ms_q75"] - line["ms_q25"]) / line["ms"]:.0%})' if line['n'] > 1 else ''
    )


def section(lines: list[dict], readme: str) -> str:
    """The table with a line on where it was measured."""
    if not lines:
        return NOTHING[readme]
    found = {(line['case'], line['framework']): line for line in lines}
    head = HEADS[readme]
    rows = ['| ' + ' | '.join(head) + ' |', '|' + '---|' * len(head)]
    for letter, titles in cases.GROUPS.items():
        names = [
            case for case in cases.CASES if case.group == letter and (case.name, 'paddle') in found
        ]
        rows += (
            [f'| **{titles[readme != "README.md"]}** |' + ' |' * (len(head) - 1)] if names else []
        )
        rows += [
            row(
                translated(case.label, readme),
                *(found.get((case.name, side)) for side in cases.BOTH),
            )
            for case in names
        ]
    versions = {
        line['framework']: line['frame_version'] for line in lines if 'frame_version' in line
    }
    places = {line['cpu']: line['date'] for line in lines}
    where = [
        WHERE[readme].format(cpu=cpu, date=date, **{'paddle': '-', 'torch': '-', **versions})
        for cpu, date in places.items()
    ]
    return '\n'.join([*rows, '', *where])


def translated(label: str, readme: str) -> str:
    for english, chinese in CHINESE.items() if readme == 'README_cn.md' else ():
        label = label.replace(english, chinese)
    return label


def row(label: str, ours: dict, theirs: dict | None) -> str:
    cells = [label, spread(ours), '-', '-', '-', f'{ours["memory_mb"]:.0f}', str(ours['threads'])]
    if theirs:
        cells[2:4] = spread(theirs), f'{ours["ms"] / theirs["ms"]:.2f}'
        cells[5] += f' / {theirs["memory_mb"]:.0f}'
    if ours['floor_ms']:
        cells[4] = duration(ours['floor_ms'])
    return '| ' + ' | '.join(cells) + ' |'


def placed(text: str, section: str) -> str:
    """The text with another section between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f'table.py: a README lacks the marks {BEGIN} and {END}')
    return f'{before}{BEGIN}\n{section}\n{END}{after}'


def main(args):
    lines = read(args.lines)
    for readme in HEADS:
        file = ROOT / readme
        file.write_text(placed(file.read_text(), section(lines, readme)))


PARSER = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
PARSER.add_argument('--lines', type=Path, default=ROOT / 'reports/speed.jsonl', metavar='FILE')

if __name__ == '__main__':
    main(PARSER.parse_args())
