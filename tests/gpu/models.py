"""Models and engines on the device against float32 on the CPU, in each precision."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from gpu import precision, workloads
from gpu.programs import ROOT
from gpu.report import Report, Settings, one_line

TITLE = 'models and engines'
MINUTES = 12
PARTS = ('batches arrive on the device', 'gradient of a table of relative positions, ms')


def run(settings: Settings, report: Report) -> None:
    """Compare output, gradient and losses of each workload; look at parts of a step."""
    if report.wants(*PARTS):
        with report.case('parts of a step'):
            look_at_parts(settings, report)
    kinds = workloads.TINY if settings.tiny else workloads.FULL
    wanted = [case for case in kinds if report.wants(*names_of(case))]
    if not wanted:
        return
    reference = compute(settings, 'reference', wanted)
    for name, chosen in precision.PRECISIONS.items():
        with report.case(name):
            found = compute(settings, name, wanted, **chosen.environ)
            if (found / 'skipped.txt').exists():
                report.skipped(name, (found / 'skipped.txt').read_text())
                continue
            for number, case in enumerate(wanted):
                compare(report, f'{case}, {name}', chosen, reference / str(number), found)


def look_at_parts(settings: Settings, report: Report) -> None:
    """Put what parts.py finds into the report."""
    found = parts(settings)
    arrive, gradient = PARTS
    report.told(arrive, f'({settings.device}' in found['place'], found['place'])
    report.figures(gradient, **found['times'])


def parts(settings: Settings) -> dict:
    """What parts.py finds, in a process of its own. RuntimeError if it did not end well."""
    ran = subprocess.run(
        [sys.executable, '-m', 'gpu.parts', json.dumps(dataclasses.asdict(settings))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **settings.environment},
    )
    if ran.returncode:
        raise RuntimeError(f'parts.py ended with {ran.returncode}: {one_line(ran.stderr)}')
    return json.loads(ran.stdout.splitlines()[-1])


def names_of(case: str) -> list[str]:
    """The cases of the record that a workload makes."""
    parts = ('output', 'gradient', 'losses')
    return [f'{case}, {name}: {part}' for name in precision.PRECISIONS for part in parts]


def compute(settings: Settings, name: str, cases: list[str], **environ: str) -> Path:
    """Run compute.py; the folder of its results. RuntimeError if it did not end well."""
    out = settings.folder / f'models-{name}'
    asked = {'settings': dataclasses.asdict(settings), 'precision': name}
    text = json.dumps({**asked, 'cases': cases, 'out': str(out)})
    ran = subprocess.run(
        [sys.executable, '-m', 'gpu.compute', text],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environ, **settings.environment},
    )
    if ran.returncode:
        raise RuntimeError(f'{name} ended with {ran.returncode}: {one_line(ran.stderr)}')
    return out


def compare(report: Report, case: str, allowed, reference: Path, found: Path) -> None:
    """Put the differences of one workload into the report."""
    for file in (reference.with_suffix('.txt'), (found / reference.name).with_suffix('.txt')):
        if file.exists():
            where = 'on the CPU' if file.parent == reference.parent else 'on the device'
            with report.case(case):
                raise RuntimeError(f'{where}: {file.read_text()}')
            return
    theirs = np.load(reference.with_suffix('.npz'))
    ours = np.load((found / reference.name).with_suffix('.npz'))
    for part in ('output', 'gradient', 'losses'):
        apart = relative(ours[part], theirs[part])
        report.measured(f'{case}: {part}', apart, getattr(allowed, part))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The length of the difference, relative to the length."""
    ours, theirs = ours.astype('float64'), theirs.astype('float64')
    return float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))
