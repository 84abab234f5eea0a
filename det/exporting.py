"""Exported detectors: a folder for each stage of the model, and one file about all.

A stage computes maps; decoding and suppression are NumPy's, the same as for the live model.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import yaml

from util import exported
from util.errors import InputError

ABOUT = 'infer_cfg.yml'
NEEDED = ('config', 'transforms', 'categories', 'stages')
TOLERANCE = 1e-4  # of the largest output


def description(folder: str | Path) -> tuple[dict, dict]:
    """The config of an exported detector, and all of infer_cfg.yml.

    InputError where the file is missing or not of det/export.py.
    """
    file = Path(folder) / ABOUT
    try:
        about = yaml.safe_load(file.read_text(encoding='utf-8'))
        for name in NEEDED:
            about[name]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(
            f'{folder} is not a folder that det/export.py wrote: {file.name} cannot be read '
            f'({type(error).__name__}: {str(error).splitlines()[0]})'
        ) from None
    return about['config'], about


def runner(folder: str | Path, about: dict, engine: str) -> Callable[..., list[np.ndarray]]:
    """A function that runs an exported stage: (name of the stage, arrays) -> arrays.

    Paddle 3.3's oneDNN cannot run the stages: it fails at padded windows and interpolation.
    """
    models = {}
    for name in about['stages']:
        models[name] = exported.Exported(Path(folder) / name, engine, onednn=False)

    def run(name: str, *arrays: np.ndarray) -> list[np.ndarray]:
        return models[name](*arrays)

    return run


class Listed(paddle.nn.Layer):
    """A stage that takes its inputs as one list, because Paddle cannot export `*inputs`."""

    def __init__(self, stage: paddle.nn.Layer):
        super().__init__()
        self.stage = stage

    def forward(self, inputs: list[paddle.Tensor]) -> list[paddle.Tensor]:
        return self.stage(*inputs)


def write_stage(
    stage: paddle.nn.Layer, inputs: dict[str, list | dict], folder: Path, onnx: bool = False
) -> float:
    """Write one stage, and compare it with the live one; the largest relative difference.

    inputs: as for util.exported.save. RuntimeError where it differs by more than rounding.
    """
    known = exported.known_input(inputs)
    with paddle.no_grad():
        outputs = stage(*map(paddle.to_tensor, known))
    expected = [output.numpy() for output in outputs]

    def compare(run: Callable) -> float:
        apart = exported.difference(run(known), expected)
        if not apart <= TOLERANCE:
            raise RuntimeError(
                f'the exported {folder.name} differs from the live one by {apart:.1e} of the '
                'largest output; it was not kept'
            )
        return apart

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        draft = Path(draft)
        exported.save(Listed(stage), inputs, draft, as_list=True)
        exported.describe(draft, _about(inputs, expected))
        model = exported.predictor(draft / exported.PROGRAM, draft / exported.PARAMS)
        apart = compare(lambda arrays: exported.outputs(model, arrays))
        (folder / exported.ONNX).unlink(missing_ok=True)  # of another model
        for file in (exported.PROGRAM, exported.PARAMS, exported.ABOUT):
            (draft / file).replace(folder / file)
    if onnx:
        apart = max(apart, exported.to_onnx(folder, inputs, compare))
    return apart


def _about(inputs: dict, expected: list[np.ndarray]) -> dict:
    """The contents of a stage's export.yaml, by which util.exported checks it when it is loaded."""
    return {
        'what': 'maps',
        'model': 'a stage of a detector',
        'inputs': inputs,
        'outputs': [f'map {number}' for number in range(len(expected))],
        'input_size': 0,
        'in_chans': 3,
        'mean': [],
        'std': [],
        'probe': exported.probe(expected),
    }


def describe(folder: Path, about: dict) -> None:
    """Write infer_cfg.yml."""
    plain = json.loads(json.dumps(about))  # the same list twice would become an alias
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    (folder / ABOUT).write_text(text, encoding='utf-8')
