"""The classes of the training images, compared when a run is resumed: other ones would shift its labels."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from util.data.folder import Images
from util.errors import InputError

MOST = 5  # differences that an error shows


def kept(images: Images, data_path: str, renamed: bool) -> dict[str, Any]:
    """What a checkpoint keeps of the training images: `classes`, their names, and `examples`, an image of each.

    Lists have no names; there an image tells whether its label is still the same. renamed: the user says that the
    classes mean what they meant before.
    """
    return {
        'classes': Names(images.classes, renamed),
        'examples': Examples(images, data_path, renamed),
    }


def compare(state: dict, kept: dict[str, Any]) -> None:
    """InputError where a checkpoint was trained on other classes than those in `kept`."""
    for name, value in kept.items():
        if isinstance(value, (Names, Examples)) and name in state:
            try:
                value.compare(state[name])
            except InputError as error:
                raise InputError(f'--resume {state["path"]}: {error}') from None


class Names:
    """Class names in the order of their labels; None where the images are from a list."""

    def __init__(self, names: list[str] | None, renamed: bool = False):
        self.names, self.renamed = names, renamed

    def state_dict(self) -> list[str] | None:
        return self.names

    def compare(self, before: list[str] | None) -> None:
        """InputError that shows the difference. Names that are known on one side only are taken over."""
        if not before or not self.names:
            self.names = self.names or before
            return
        if before == self.names:
            return
        if not self.renamed:
            raise InputError(
                f'the classes of the training images are not those of the checkpoint, so labels would shift: '
                f'{_difference(before, self.names)}. Put the folders back, start anew with --finetune, or add '
                '--classes_renamed where folders only got other names'
            )
        if len(before) != len(self.names):
            raise InputError(
                f'--classes_renamed: {len(before)} classes have become {len(self.names)}, so more than names has '
                f'changed: {_difference(before, self.names)}'
            )
        moved = [
            name for name in self.names if name in before and name != before[self.names.index(name)]
        ]
        if moved:
            raise InputError(
                f'--classes_renamed: the order of the classes, which is alphabetical, has changed as well, so labels '
                f'would shift: {_difference(before, self.names)}. Choose names that keep the order'
            )


def _difference(before: list[str], names: list[str]) -> str:
    """Names that only one side has, and the labels that mean something else, in one line."""
    parts = []
    for what, one, other in (('new', names, before), ('gone', before, names)):
        if alone := [name for name in one if name not in other]:
            parts.append(f'{what}: {listed(alone)}')
    changed = [
        f'class {label} was {old} and is {new}'
        for label, (old, new) in enumerate(zip(before, names))
        if old != new
    ]
    return '; '.join([*parts, *([listed(changed)] if changed else [])])


def listed(texts: list[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f' and {len(texts) - MOST} more' if len(texts) > MOST else ''
    return ', '.join(texts[:MOST]) + more


class Examples:
    """An image of each label, by its path from --data_path, in the order of the labels; '' for a label without one."""

    def __init__(self, images: Images, data_path: str, renamed: bool = False):
        self.images, self.renamed = images, renamed
        self.root = os.path.join(Path(data_path), '')
        labels, first = np.unique(images.labels, return_index=True)
        self.paths = [''] * (int(labels[-1]) + 1)
        for label, index in zip(labels, first):
            self.paths[label] = images.paths[index].removeprefix(self.root)

    def state_dict(self) -> list[str]:
        return self.paths

    def compare(self, before: list[str]) -> None:
        """InputError where an image of the checkpoint's has another label, or the number of labels differs."""
        if self.renamed:
            return
        label_before = {path: label for label, path in enumerate(before)}
        changed = []
        for path, label in zip(self.images.paths, self.images.labels):
            path = path.removeprefix(self.root)
            if label_before.get(path, label) != label:
                changed.append(f'{path} had label {label_before[path]} and has {label}')
        if len(before) != len(self.paths):
            changed.append(f'there were {len(before)} labels and are {len(self.paths)}')
        if changed:
            raise InputError(
                f'the labels of the training images are not those of the checkpoint: {listed(changed)}. Put them back, '
                'start anew with --finetune, or add --classes_renamed where each label means what it meant'
            )
