"""Exported models against live ones, on the device."""

import importlib.util
import re
from pathlib import Path

from gpu import programs
from gpu.report import Report, Settings

TITLE = 'export'
MINUTES = 4
CLOSE = 1e-4  # of the largest output, as main_export.py asks
KINDS = ('classifier', 'autoencoder')


def trained(settings: Settings, kind: str) -> Path:
    """The checkpoint of a training of one epoch; made once."""
    out = settings.folder / f'trained-{kind}'
    if kind == 'autoencoder':
        file = out / 'checkpoint-0.pd'
        program, words = 'main_pretrain.py', [*programs.pretraining(settings, out), '--epochs', 1]
    else:
        file = out / 'checkpoint-latest.pd'
        program, words = 'main_finetune.py', programs.finetuning(settings, out)
    if not file.exists():
        programs.run(settings, program, *words)
    return file


def run(settings: Settings, report: Report) -> None:
    """Export a classifier and an autoencoder; the classifier for ONNX Runtime too."""
    for kind in KINDS[:1] if settings.tiny else KINDS:
        case = f'main_export.py, {kind}'
        if report.wants(case):
            with report.case(case):
                printed = export(settings, kind, **programs.EXACT)
                report.measured(case, difference(printed), CLOSE)

    case = 'main_infer.py with the exported model chooses the class of the live one'
    if report.wants(case):
        with report.case(case):
            live, exported = labels(settings)
            report.told(case, live == exported, f'live {live}, exported {exported}')

    case = 'main_export.py, classifier, --onnx'
    if importlib.util.find_spec('paddle2onnx') is None:
        report.skipped(case, 'paddle2onnx is not installed (requirements/export.txt)')
    elif report.wants(case):
        with report.case(case):
            printed = export(settings, 'classifier', '--onnx', **programs.EXACT)
            report.measured(case, difference(printed), CLOSE)


def export(settings: Settings, kind: str, *flags: str, **environ: str) -> str:
    """What main_export.py prints."""
    out = settings.folder / f'exported-{kind}'
    words = ['--resume', trained(settings, kind), '--out', out, '--device', settings.flag, *flags]
    return programs.run(settings, 'main_export.py', *words, **environ)


def difference(printed: str) -> float:
    """The largest of the differences that main_export.py prints."""
    found = re.findall(r'\bby ([\d.e+-]+\d)', printed)
    if not found:
        raise RuntimeError(f'no difference in {printed!r}')
    return max(map(float, found))


def labels(settings: Settings) -> list[str]:
    """The class that the live model chooses for a picture, and that of the exported one."""
    picture = sorted((programs.digits(settings) / 'val').rglob('*.png'))[0]
    found = []
    for model in (trained(settings, 'classifier'), settings.folder / 'exported-classifier'):
        words = ['--resume', model, '--img_path', picture, '--device', settings.flag]
        words += ['--topk', 1]
        printed = programs.run(settings, 'main_infer.py', *words, **programs.EXACT)
        label, _, _ = printed.strip().splitlines()[-1].partition(':')
        found.append(label)
    return found
