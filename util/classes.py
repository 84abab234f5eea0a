"""Compare the classes of the training images when a run is resumed.

Other classes than before would shift the labels.
"""

import os
from typing import Any

import numpy as np

from util.data.folder import Images, Paths, common
from util.errors import InputError

MOST = 5  # differences shown by an error


def kept(images: Images, data_path: Paths, renamed: bool) -> dict[str, Any]:
    """The parts of a checkpoint that describe the training images.

    `classes` are the names of the classes, `examples` one image of each. A list has no names, so an
    image shows whether its label is still the same. renamed: the user confirms (--classes_renamed)
    that the labels mean the same as before.
    """
    return {
        'classes': Names(images.classes, renamed),
        'examples': Examples(images, data_path, renamed),
    }


def compare(state: dict, kept: dict[str, Any]) -> None:
    """InputError if a checkpoint was trained on other classes than those in `kept`."""
    for name, value in kept.items():
        if name not in state or not isinstance(value, (Names, Examples)):
            continue
        try:
            value.compare(state[name])
        except InputError as error:
            raise InputError(f'--resume {state["path"]}: {error}') from None


class Names:
    """Class names in the order of their labels; None if the images are from a list."""

    def __init__(self, names: list[str] | None, renamed: bool = False):
        self.names = names
        self.renamed = renamed

    def state_dict(self) -> list[str] | None:
        """The names, for a checkpoint."""
        return self.names

    def compare(self, before: list[str] | None) -> None:
        """InputError if the names differ from those of a checkpoint.

        If only the checkpoint has names, they are kept.
        """
        if not before or not self.names:
            self.names = self.names or before
            return
        if before == self.names:
            return
        difference = _difference(before, self.names)
        if not self.renamed:
            raise InputError(
                'the classes of the training images are not those of the checkpoint, '
                f'so labels would shift: {difference}. Restore the folders, start a new run '
                'with --finetune, or add --classes_renamed if folders were only renamed'
            )
        if len(before) != len(self.names):
            raise InputError(
                f'--classes_renamed: {len(before)} classes have become {len(self.names)}, '
                f'so the classes were not only renamed: {difference}'
            )
        for label, name in enumerate(self.names):
            if name in before and name != before[label]:
                raise InputError(
                    '--classes_renamed: the order of the classes, which is alphabetical, has '
                    f'changed as well, so labels would shift: {difference}. '
                    'Choose names that keep the order'
                )


def _difference(before: list[str], names: list[str]) -> str:
    """A line with the names that only one side has, and the labels that mean another class."""
    parts = []
    for what, one, other in (('new', names, before), ('gone', before, names)):
        alone = [name for name in one if name not in other]
        if alone:
            parts.append(f'{what}: {listed(alone)}')

    changed = []
    for label, (old, new) in enumerate(zip(before, names)):
        if old != new:
            changed.append(f'class {label} was {old} and is {new}')
    if changed:
        parts.append(listed(changed))
    return '; '.join(parts)


def listed(texts: list[str]) -> str:
    """The first few texts in one line, and the number of the others."""
    shown = ', '.join(texts[:MOST])
    if len(texts) > MOST:
        shown += f' and {len(texts) - MOST} more'
    return shown


class Examples:
    """An image of each label, in the order of the labels; '' for a label without images.

    Images are given by their paths relative to --data_path, or to the folder that contains all of
    several.
    """

    def __init__(self, images: Images, data_path: Paths, renamed: bool = False):
        self.images = images
        self.renamed = renamed
        self.root = os.path.join(common(data_path), '')
        labels, first = np.unique(images.labels, return_index=True)
        count = int(labels[-1]) + 1
        self.paths = [''] * count
        for label, index in zip(labels, first):
            self.paths[label] = images.paths[index].removeprefix(self.root)

    def state_dict(self) -> list[str]:
        """The paths, for a checkpoint."""
        return self.paths

    def compare(self, before: list[str]) -> None:
        """InputError if an image of the checkpoint has another label now, or labels were added."""
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
                'the labels of the training images are not those of the checkpoint: '
                f'{listed(changed)}. Restore them, start a new run with --finetune, or add '
                '--classes_renamed if each label means the same as before'
            )
