"""Whether tensors under our names make up a whole model."""

import re
from pathlib import Path

import numpy as np

from util.convert import detectors, names
from util.errors import InputError


def check(model: dict, path: str | Path, partial: bool = False) -> None:
    """InputError where tensors do not make up a model.

    That is where one is missing (unless `partial`), unknown or not of floating-point numbers, or
    where its shape contradicts another's.
    """
    kind = names.kind(model)
    expected = detectors.layout(model) if kind in names.DETECTORS else names.layout(model)
    missing = [name for name in expected if name not in model]
    if missing and not partial:
        raise InputError(
            f'{path} holds {kind}, but {len(missing)} of its tensors are missing: '
            f'{", ".join(missing[:20])}'
        )
    unknown = [name for name in model if name not in expected]
    if unknown:
        raise InputError(f'{path} holds {kind}, which has no {", ".join(unknown[:5])}')

    lengths = {}
    for name, shape in expected.items():  # in this order, so that the same tensor is always blamed
        if name not in model:
            continue
        array = model[name]
        if not np.issubdtype(array.dtype, np.floating):
            raise InputError(
                f'{path}: {name} is of type {array.dtype}; weights are floating-point numbers'
            )
        if not _bind(name, array.shape, shape.split(), lengths):
            raise InputError(f'{path}: {_contradiction(name, array, shape, lengths)}')


def _bind(name: str, found: tuple, shape: list[str], lengths: dict) -> bool:
    """Whether the shape of a tensor is the expected one, such as ['D', '3D'].

    lengths: letter -> (its length, the tensor that set it); the first tensor with a letter does.
    """
    if len(found) != len(shape):
        return False
    fits = True
    for side, length in zip(shape, found):
        factor, letter = _parts(side)
        if letter:
            known, _ = lengths.setdefault(letter, (length // factor, name))
            fits = fits and length == factor * known
        else:
            fits = fits and length == factor
    return fits


def _parts(side: str) -> tuple[int, str]:
    """The factor and the letter of a side: (3, 'D') for 3D, (1, 'D') for D, (7, '') for 7."""
    letter = side.lstrip('0123456789')
    factor = re.match(r'\d*', side)[0]
    return int(factor or 1), letter


def _contradiction(name: str, array: np.ndarray, shape: str, lengths: dict) -> str:
    """The found shape, and the tensors that set the lengths it should have."""
    others = set()
    for side in shape.split():
        _, letter = _parts(side)
        if letter in lengths:
            others.add(lengths[letter][1])
    others.discard(name)
    against = ', '.join(sorted(others)) or 'the model'
    return f'{name} has the shape {list(array.shape)} (in, out), which contradicts {against}'
