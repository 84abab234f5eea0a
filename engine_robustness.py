"""The robustness table of arXiv:2111.06377 (table 13): one classifier on variants of ImageNet."""

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from engine_finetune import evaluate
from util import atomic, corruptions, dist, log
from util.data.folder import Images


def accuracies(
    model,
    parts: Iterable[tuple[str, Images]],
    batches: Callable,
    autocast: Callable = contextlib.nullcontext,
    shared: bool = True,
) -> dict[str, list[float]]:
    """Corruption -> accuracy in percent of each of its parts, printed as they are known.

    parts: (corruption, or '' for none; images). batches: images -> their batches for evaluate.
    autocast, shared: as for evaluate.
    """
    found = {}
    for corruption, images in parts:
        accuracy = evaluate(model, batches(images), autocast, shared=shared)['acc1']
        of_corruption = found.setdefault(corruption, [])
        of_corruption.append(accuracy)
        if corruption:
            severity = len(of_corruption)
            log.info(f'{corruption}, severity {severity}: acc1 {accuracy:.2f}')
    return found


def figures(found: dict[str, list[float]]) -> dict:
    """What is reported of a variant: its accuracy, or the errors of its corruptions.

    found: what `accuracies` gives. The mean corruption error needs all corruptions.
    """
    if '' in found:
        return {'acc1': found[''][0]}
    errors = corruptions.corruption_errors(found)
    if found.keys() == corruptions.ALEXNET.keys():
        return {'mce': corruptions.mean_corruption_error(found), 'ce': errors, 'acc1': found}
    return {'ce': errors, 'acc1': found}


def line(name: str, values: dict) -> str:
    """A variant's figures as a line of text."""
    if 'ce' not in values:
        return f'{name}: acc1 {values["acc1"]:.2f}'
    errors = ', '.join(f'{corruption} {error:.1f}' for corruption, error in values['ce'].items())
    if 'mce' in values:
        return f'{name}: mCE {values["mce"]:.2f} (lower is better; CE: {errors})'
    missing = [corruption for corruption in corruptions.ALEXNET if corruption not in values['ce']]
    return f'{name}: no mCE without {", ".join(missing)} (CE: {errors})'


def write(output_dir: str, weights: str, table: dict[str, dict]) -> None:
    """Write robustness.json into the folder, if there is one, on the main process."""
    if output_dir and dist.is_main():
        path = Path(output_dir) / 'robustness.json'
        text = json.dumps({'weights': weights, **table}, indent=1) + '\n'
        with atomic.writing(path) as file:
            file.write(text.encode())
        log.info(f'wrote {path}')
