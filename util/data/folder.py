"""Find images: a folder with one subfolder per class, or a text file that lists them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from util.data import finder, lists
from util.errors import InputError


@dataclass(frozen=True)
class Images:
    """The images of a data set: paths, one label each, and class names in the order of the labels.

    labels is None for a list without labels, classes is None for every list.
    """

    paths: list[str]
    labels: list[int] | None
    classes: list[str] | None

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int, rng=None) -> np.int64:
        """The label of an image.

        rng is not used; the signature is that of `target` in loader.TrainSet.
        """
        return np.int64(self.labels[index])


def find(
    data_path: str, split: str, suffixes: tuple[str, ...], classes: list[str] | None = None
) -> Images:
    """The images of one split ('train' or 'val').

    data_path: a list file, or a folder with <split>/<class>/... or the list file <split>.txt.
    classes: the class folders that there must be, in the order of their labels (those of the
    training images). InputError says what is missing.
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
    """All images below root/<class>/, classes and paths in alphabetical order.

    Names that begin with a dot are skipped. InputError where a class is empty or the classes are
    not the `expected` ones.
    """
    classes = finder.subfolders(root)
    if not classes:
        raise InputError(f'{root} has no class folders: images belong in {root}/<class>/')
    if expected is not None and classes != expected:
        differing = sorted(set(classes) ^ set(expected))
        raise InputError(
            f'{root} should have the {len(expected)} classes of the training images, '
            f'or labels would shift; only one of the two has: {", ".join(differing[:10])}'
        )
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = finder.walk(root / name, suffixes)
        if not found:
            raise InputError(
                f'class folder {root / name} holds no image ({" ".join(suffixes)}); '
                'add images or remove the folder'
            )
        paths += found
        labels += [label] * len(found)
    return Images(paths, labels, classes)


def read_list(file: Path, suffixes: tuple[str, ...]) -> Images:
    """The images of a list with one `path` or `path label` a line.

    Paths are relative to the list's folder. The last word of a line is its label if every line ends
    in a whole number.
    """
    entries = lists.read(file, 'list of images: expected text with one `path label` a line')
    if not entries:
        raise InputError(f'the list {file} is empty')
    unlabelled = [entry for entry in entries if not _ends_in_label(entry[1])]
    paths, labels = [], []
    for number, line in entries:
        name = line
        if not unlabelled:
            name, label = line.rsplit(maxsplit=1)
            labels.append(int(label))
        paths.append(str(file.parent / name))
        if name.lower().endswith(suffixes):
            continue
        if unlabelled and _ends_in_label(line):
            # this line is a good `path label`; the first one without a label is at fault
            number, line = unlabelled[0]
            raise InputError(
                f'{file}, line {number}: {line!r} has no label, which other lines have'
            )
        endings = ' '.join(suffixes)
        raise InputError(f'{file}, line {number}: {name!r} does not end in one of {endings}')
    return Images(paths, None if unlabelled else labels, None)


def _ends_in_label(line: str) -> bool:
    words = line.rsplit(maxsplit=1)
    return len(words) == 2 and words[1].isdecimal()


def find_labelled(
    data_path: str,
    split: str,
    suffixes: tuple[str, ...],
    nb_classes: int,
    classes: list[str] | None = None,
) -> Images:
    """As `find`, for classification: every image has a label below nb_classes, else InputError."""
    if Path(data_path).is_file():
        raise InputError(
            f'--data_path {data_path}: one list cannot be training and validation set; '
            'give a folder with train.txt and val.txt'
        )
    images = find(data_path, split, suffixes, classes)
    if images.labels is None:
        raise InputError(
            f'--data_path {data_path}: the list of {split} has no labels; '
            'write `path label` in each line'
        )
    found = max(images.labels) + 1
    if found > nb_classes:
        raise InputError(
            f'--data_path {data_path}: {split} has {found} classes, '
            f'but --nb_classes is {nb_classes}'
        )
    return images
