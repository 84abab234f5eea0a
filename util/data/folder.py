"""Find images: a folder with one subfolder a class, or a text file that lists them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.data import finder, lists
from util.errors import InputError


@dataclass(frozen=True)
class Images:
    """Where the images are: paths, one label each (None in a list without labels), class names in label order."""

    paths: list[str]
    labels: list[int] | None
    classes: list[str] | None

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int, rng=None) -> np.int64:
        """The label of an image, in the form that loader.TrainSet asks for what goes beside it."""
        return np.int64(self.labels[index])


def find(
    data_path: str, split: str, suffixes: tuple[str, ...], classes: list[str] | None = None
) -> Images:
    """The images of one split ('train' or 'val').

    data_path is a list file, or a folder that holds <split>/<class>/... or the list file <split>.txt. With `classes`,
    those of the training images, the class folders must be these, and give their labels. InputError says what is
    missing.
    """
    root = Path(data_path)
    if root.is_file():
        return read_list(root, suffixes)
    if not root.is_dir():
        raise InputError(f'--data_path {data_path}: no such folder or list file')
    if (root / split).is_dir():
        return scan(root / split, suffixes, classes)
    if (root / f'{split}.txt').is_file():
        return read_list(root / f'{split}.txt', suffixes)
    raise InputError(
        f'--data_path {data_path}: found neither the folder {split}/ (with one subfolder a class) '
        f'nor the list {split}.txt in it'
    )


def scan(root: Path, suffixes: tuple[str, ...], expected: list[str] | None = None) -> Images:
    """All images below root/<class>/, classes and paths in alphabetical order; names that begin with a dot are skipped."""
    classes = finder.subfolders(root)
    if not classes:
        raise InputError(f'{root} has no class folders: images belong in {root}/<class>/')
    if expected is not None and classes != expected:
        differing = sorted(set(classes) ^ set(expected))
        raise InputError(
            f'{root} should have the {len(expected)} classes of the training images, or labels would shift; '
            f'only one of the two has: {", ".join(differing[:10])}'
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = finder.walk(root / name, suffixes)
        if not found:
            raise InputError(
                f'class folder {root / name} holds no image ({" ".join(suffixes)}); fill or remove it'
            )
        paths += found
        labels += [label] * len(found)
    return Images(paths, labels, classes)


def read_list(file: Path, suffixes: tuple[str, ...]) -> Images:
    """Images of a list with one `path` or `path label` a line, paths relative to the list's folder.

    The label is the last word of a line where every line ends in a whole number.
    """
    entries = lists.read(file, 'list of images: expected text with one `path label` a line')
    if not entries:
        raise InputError(f'the list {file} is empty')
    labelled = all(_labelled(line) for _, line in entries)
    names = [line.rsplit(maxsplit=1)[0] if labelled else line for _, line in entries]
    for (number, line), name in zip(entries, names):
        if name.lower().endswith(suffixes):
            continue
        if not labelled and _labelled(line):  # another line has none
            number, line = next(entry for entry in entries if not _labelled(entry[1]))
            raise InputError(
                f'{file}, line {number}: {line!r} has no label, which other lines have'
            )
        raise InputError(
            f'{file}, line {number}: {name!r} does not end in one of {" ".join(suffixes)}'
        )
    labels = [int(line.rsplit(maxsplit=1)[1]) for _, line in entries] if labelled else None
    return Images([str(file.parent / name) for name in names], labels, None)


def _labelled(line: str) -> bool:
    words = line.rsplit(maxsplit=1)
    return len(words) == 2 and words[1].isdecimal()


def find_labelled(
    data_path: str,
    split: str,
    suffixes: tuple[str, ...],
    nb_classes: int,
    classes: list[str] | None = None,
) -> Images:
    """As find, for classification: InputError where labels are missing or there are more than nb_classes."""
    if Path(data_path).is_file():
        raise InputError(
            f'--data_path {data_path}: one list cannot be training and validation set; give a folder with '
            'train.txt and val.txt'
        )
    images = find(data_path, split, suffixes, classes)
    if images.labels is None:
        raise InputError(
            f'--data_path {data_path}: the list of {split} has no labels; write `path label` in each line'
        )
    if max(images.labels) >= nb_classes:
        raise InputError(
            f'--data_path {data_path}: {split} has {max(images.labels) + 1} classes, '
            f'but --nb_classes is {nb_classes}'
        )
    return images
