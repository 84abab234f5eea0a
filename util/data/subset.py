"""A part of the labelled images: all, a share, or some of each class, drawn by a seed."""

import argparse
from dataclasses import replace

import numpy as np

from util.data.images import Images, Some
from util.errors import InputError

ALL = 'all'


def amount(text: str) -> str:
    """The type of a flag: `all`, a share of each class as `10%`, or images a class as `5`."""
    if text == ALL:
        return text
    try:
        _number(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is neither all, nor a share as 10%, nor a number of images a class as 5'
        ) from None
    return text


def _number(text: str) -> float:
    """The share of a class, below 1, or the images of a class, from 1 on."""
    if text.endswith('%'):
        share = float(text[:-1]) / 100
        if not 0 < share < 1:
            raise ValueError
        return share
    count = int(text)
    if count < 1:
        raise ValueError
    return count


def choose(labels: np.ndarray, asked: str, seed: int, names: list[str] | None = None) -> np.ndarray:
    """The places of the chosen images, in ascending order.

    names: those of the classes, for an error.

    Each class is drawn by itself, from a generator seeded with (seed, label), so a smaller part is
    within a larger one of the same seed. A share is rounded, and is at least one image a class.
    InputError if a class has fewer images than asked for.
    """
    if asked == ALL:
        return np.arange(len(labels))
    number = _number(asked)
    chosen = []
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        count = number
        if number < 1:
            count = max(1, round(number * len(places)))
        if count > len(places):
            name = names[label] if names else label
            raise InputError(
                f'{asked} labels of each class: class {name} has only {len(places)} training images'
            )
        rng = np.random.default_rng([seed, int(label)])
        chosen.append(rng.permutation(places)[:count])
    return np.sort(np.concatenate(chosen))


def of(images: Images, places: np.ndarray) -> Images:
    """The images at these places."""
    labels = np.asarray(images.labels)[places]
    return replace(images, paths=Some(images.paths, places), labels=labels)
