"""Whether a resumed run equals an undisturbed one, whether a run can be repeated, what differs."""

import shutil
from pathlib import Path

import numpy as np

from gpu import programs
from gpu.report import Report, Settings

TITLE = 'repeating and resuming'
MINUTES = 5
MODELS = ('mae_vit_nano_patch4', 'mae_swin_nano_32')
# What a run with the usual kernels may differ by, relative to the largest weight of a tensor
USUAL = 1e-2


def run(settings: Settings, report: Report) -> None:
    """Train three epochs twice, and the last epoch once more from the checkpoint before it."""
    models = MODELS[:1] if settings.tiny else MODELS
    for model in models:
        for kernels, environ in (('deterministic', programs.SAME), ('usual', {})):
            if settings.tiny and kernels == 'usual':
                continue
            names = [f'{model}, {kernels} kernels: {what}' for what in ('repeated', 'resumed')]
            if report.wants(*names):
                with report.case(f'{model}, {kernels} kernels'):
                    compare(settings, report, model, names, environ)


def compare(settings: Settings, report: Report, model: str, names: list, environ: dict) -> None:
    """Put the differences of both kinds of runs into the report."""
    first, again, resumed = (
        settings.folder / f'{name}-{model}-{len(environ)}' for name in ('first', 'again', 'resumed')
    )
    for folder in (first, again, resumed):
        shutil.rmtree(folder, ignore_errors=True)
    allowed = 0.0 if environ else USUAL
    train(settings, model, first, environ)
    resumed.mkdir()
    shutil.copy(first / 'checkpoint-1.pd', resumed)
    train(settings, model, resumed, environ, '--resume', 'auto')
    train(settings, model, again, environ)
    for name, folder in zip(names, (again, resumed)):
        apart, note = differences(first / 'checkpoint-2.pd', folder / 'checkpoint-2.pd')
        report.measured(name, apart, allowed, note)


def train(settings: Settings, model: str, out: Path, environ: dict, *flags: str) -> None:
    """A pre-training of three epochs."""
    words = programs.pretraining(settings, out, model)
    programs.run(settings, 'main_pretrain.py', *words, *flags, **environ)


def differences(one: Path, other: Path) -> tuple[float, str]:
    """The largest difference of weights, relative to its tensor, and which tensors differ."""
    from util import weights  # imports Paddle

    ours, theirs = (weights.read(path)['model'] for path in (one, other))
    apart = {}
    for name, tensor in theirs.items():
        difference = np.abs(ours[name].astype('float64') - tensor).max()
        apart[name] = difference / max(np.abs(tensor).max(), 1e-30)
    differing = [name for name, value in apart.items() if value > 0]
    if not differing:
        return 0.0, 'bit for bit'
    worst = max(apart, key=apart.get)
    shown = ', '.join(differing[:3])
    note = f'{len(differing)} of {len(apart)} tensors: {shown}; most in {worst}'
    return float(apart[worst]), note
