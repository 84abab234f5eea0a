"""Memory and images a second of the official recipes, beside PyTorch where it is installed."""

import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

from gpu.programs import ROOT
from gpu.report import Report, Settings, one_line

TITLE = 'memory and speed of the recipes'
MINUTES = 20
RECIPES = (
    'pretrain_vit_base',
    'pretrain_vit_large',
    'pretrain_vit_huge',
    'finetune_vit_base',
    'finetune_vit_large',
    'finetune_vit_huge',
    'um_mae_pretrain_swin_tiny',
    'um_mae_pretrain_pvt_small',
    'um_mae_pretrain_swin_tiny_simmim',
    'um_mae_finetune_swin_tiny',
    'um_mae_finetune_pvt_small',
    'segment_vit_base',
)
TINY = ('pretrain_vit_base', 'finetune_vit_base', 'um_mae_pretrain_swin_tiny', 'segment_vit_base')
LIMIT = 300.0  # seconds of one recipe
# What the processes of tests/benchmarks call the models that PyTorch has too
KINDS = {'main_pretrain.py': 'pretrain', 'main_finetune.py': 'finetune', 'seg/train.py': 'segment'}
SIZES = {'base': 'base_patch16', 'large': 'large_patch16', 'huge': 'huge_patch14'}


def run(settings: Settings, report: Report) -> None:
    """Steps of each recipe with growing batches."""
    for name in TINY if settings.tiny else RECIPES:
        if report.wants(name):
            with report.case(name):
                recipe(settings, report, name)


def recipe(settings: Settings, report: Report, name: str) -> None:
    """Images a second at the recipe's batch, or the largest below it; the largest that fits."""
    tried = steps(settings, name)
    fitting = [entry for entry in tried if 'full' not in entry]
    if not fitting:
        raise MemoryError(f'not even one image fits: {tried[-1]["full"]}')
    usual = fitting[0]
    largest = max(fitting, key=lambda entry: entry['images'])
    full = [entry['images'] for entry in tried if 'full' in entry]
    limit = f'{min(full)} do not fit' if full else 'no larger one was tried'
    figures = {
        'images': usual['images'],
        'images/s': round(usual['images'] / usual['seconds'], 1),
        'peak memory, MB': usual['memory'],
        'largest batch that fits': largest['images'],
        'images/s with it': round(largest['images'] / largest['seconds'], 1),
    }
    if not all(math.isfinite(entry['loss']) for entry in fitting):
        raise RuntimeError(f'the loss is not finite with {figures["images"]} images')
    figures |= in_torch(settings, name, usual['images'])
    report.figures(name, note=limit, **figures)


def steps(settings: Settings, name: str) -> list[dict]:
    """What steps.py wrote; RuntimeError if it did not end well and had nothing to say."""
    out = settings.folder / f'steps-{name}.jsonl'
    out.unlink(missing_ok=True)
    asked = {'settings': dataclasses.asdict(settings), 'recipe': name, 'out': str(out)}
    command = [sys.executable, '-m', 'gpu.steps', json.dumps(asked)]
    environ = {**os.environ, **settings.environment}
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=environ, timeout=LIMIT
        )
        failure = f'it ended with {ran.returncode}: {one_line(ran.stderr)}'
    except subprocess.TimeoutExpired:
        failure = f'it had not ended after {LIMIT:g} s'
    lines = out.read_text().splitlines() if out.exists() else []
    if not lines:
        raise RuntimeError(failure)
    return [json.loads(line) for line in lines]


def in_torch(settings: Settings, name: str, images: int) -> dict:
    """The same step by the benchmarks' PyTorch process, if there is one for the model."""
    import turns

    import recipes
    from models_sizes import SIZES as MODELS

    known = recipes.find(name)
    size = name.rpartition('_')[2]
    kind = KINDS[known.program]
    has_torch = settings.torch and size in SIZES and not (kind == 'segment' and settings.tiny)
    if not has_torch:
        return {}
    model = 'nano_patch4' if settings.tiny else SIZES[size]
    side = 32 if settings.tiny else 512 if kind == 'segment' else 224
    case = {'name': name, 'kind': kind, 'model': model, 'batch': images, 'side': side}
    case |= {'mask_ratio': 0.75, 'products': [], 'scratch': settings.scratch}
    turns.PYTHONS['torch'] = Path(settings.torch)
    threads = int(os.environ.get('OMP_NUM_THREADS', os.cpu_count()))
    worker = None
    try:
        worker = turns.Worker('torch', {**case, 'size': dataclasses.asdict(MODELS[model])}, threads)
        worker.turn(2)
        answer = worker.turn(3)
    except (turns.Failed, turns.Skipped) as error:
        return {'PyTorch': one_line(error, 120)}
    finally:
        if worker:
            worker.close()
    seconds = statistics.median(answer['seconds'])
    return {
        'PyTorch, images/s': round(images / seconds, 1),
        'PyTorch, peak memory, MB': answer['memory'],
        'PyTorch on': worker.about['device'],
    }
