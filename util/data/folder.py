"""Find images: class folders, any folder of unlabelled images, or text files that list them."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from util.data import finder, lists
from util.errors import InputError

LISTS = ('.txt', '_list.txt')  # a list is named <split> and one of these; PaddleClas has the second
OUTSIDE = 'images outside of class folders'
TWICE = 'images that an earlier path has'

Paths = str | Sequence[str]  # the value of --data_path: one path or several


@dataclass(frozen=True)
class Images:
    """The images of a data set: paths, one label each, and class names in the order of the labels.

    labels is None where there are none, classes is None for every list. left_out counts what was
    passed over, by the reason.
    """

    paths: list[str]
    labels: list[int] | None
    classes: list[str] | None
    left_out: Counter = field(default_factory=Counter, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    def label(self, index: int, rng=None) -> np.int64:
        """The label of an image.

        rng is not used; the signature is that of `target` in loader.TrainSet.
        """
        return np.int64(self.labels[index])


def typed(data_path: Paths) -> str:
    """The value of --data_path as in the command."""
    return ' '.join(_each(data_path))


def _each(data_path: Paths) -> list[str]:
    return [data_path] if isinstance(data_path, str) else list(data_path)


def common(data_path: Paths) -> str:
    """The folder that contains all paths of --data_path, or the only path; '' if there is none."""
    try:
        return os.path.commonpath([Path(path) for path in _each(data_path)])
    except ValueError:  # relative and absolute paths
        return ''


def find(
    data_path: Paths, split: str, suffixes: tuple[str, ...], classes: list[str] | None = None
) -> Images:
    """The images of one split ('train' or 'val').

    data_path: a list file, or a folder with <split>/<class>/... or the list file <split>.txt or
    <split>_list.txt; several of them are joined, and only some need to have this split. Class
    folders of the same name are one class.
    classes: the class folders that there must be, in the order of their labels (those of the
    training images). InputError says what is missing.
    """
    places = []
    for path in _each(data_path):
        place = _place(path, split)
        if place is not None:
            places.append(place)
        elif not _has_another_split(path, split):
            raise InputError(f'--data_path {path}: {_missing(split)} in it')
    if not places:
        raise InputError(f'--data_path {typed(data_path)}: {_missing(split)} in any of them')

    if len(places) == 1:
        return _read(places[0], suffixes, classes)
    images = _join([_read(place, suffixes) for place in places], data_path)
    if classes is not None and images.classes is not None:
        _check(f'{split} of --data_path {typed(data_path)}', images.classes, classes)
    return images


def find_unlabelled(data_path: Paths, suffixes: tuple[str, ...]) -> Images:
    """The images to pre-train on; labels do not matter and may be missing.

    data_path: as for `find` with the split 'train', or any folder with images at any depth.
    Several are joined. InputError where only val/ is there: its images must not be trained on.
    """
    parts = []
    for path in _each(data_path):
        root = _existing(path)
        folder = root / 'train'
        list_file = _list(root, 'train')
        if root.is_file():
            parts.append(read_list(root, suffixes))
        elif list_file and not _has_classes(folder):
            parts.append(read_list(list_file, suffixes))
        elif (root / 'val').is_dir() and not folder.is_dir():
            raise InputError(
                f'--data_path {path}: has val/ but {_missing("train").removeprefix("found ")}; '
                'name the folder with the images to pre-train on'
            )
        else:
            parts.append(_everything(folder if folder.is_dir() else root, suffixes))
    if len(parts) == 1:
        return parts[0]
    return _join([Images(part.paths, None, None, part.left_out) for part in parts], data_path)


def _existing(path: str) -> Path:
    root = Path(path)
    if not root.exists():
        raise InputError(f'--data_path {path}: no such folder or list file')
    return root


def _missing(split: str) -> str:
    """What was looked for, for an error."""
    return (
        f'found neither the folder {split}/ (with one subfolder a class) '
        f'nor the list {" or ".join(split + ending for ending in LISTS)}'
    )


def _place(path: str, split: str) -> Path | None:
    """The list file or the folder with a labelled split; None if there is none.

    A list counts where there are no class folders. If the labels of one split must be from a list,
    those of the other are too, where possible: the numbers in lists need not be alphabetical.
    """
    root = _existing(path)
    if root.is_file():
        return root
    folder = root / split
    list_file = _list(root, split)
    if not folder.is_dir():
        return list_file
    if list_file and any(_needs_list(root, name) for name in (split, 'train', 'val')):
        return list_file
    return folder


def _list(root: Path, split: str) -> Path | None:
    """The list of a split in a folder."""
    for ending in LISTS:
        file = root / f'{split}{ending}'
        if file.is_file():
            return file
    return None


def _needs_list(root: Path, split: str) -> bool:
    return _list(root, split) is not None and not _has_classes(root / split)


def _has_classes(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    names, _ = finder.entries(folder, finder.ANY)
    return bool(names)


def _has_another_split(path: str, split: str) -> bool:
    others = {'train', 'val'} - {split}
    return any(_place(path, other) for other in others)


def _read(place: Path, suffixes: tuple[str, ...], expected: list[str] | None = None) -> Images:
    if place.is_file():
        return read_list(place, suffixes)
    return scan(place, suffixes, expected)


def scan(root: Path, suffixes: tuple[str, ...], expected: list[str] | None = None) -> Images:
    """All images below root/<class>/, classes and paths in alphabetical order.

    Names that begin with a dot are skipped. InputError where a class is empty or the classes are
    not the `expected` ones.
    """
    left_out = Counter()
    classes, outside = finder.entries(root, suffixes, left_out)
    if not classes:
        names = ' or '.join(root.name + ending for ending in LISTS)
        raise InputError(
            f'{root} has no class folders: images belong in {root}/<class>/, '
            f'or their labels in the list {names} beside it'
        )
    if expected is not None:
        _check(str(root), classes, expected)
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = finder.walk(root / name, suffixes, left_out)
        if not found:
            raise InputError(
                f'class folder {root / name} holds no image ({" ".join(suffixes)}); '
                'add images or remove the folder'
            )
        paths += found
        labels += [label] * len(found)
    left_out[OUTSIDE] += len(outside)
    return Images(paths, labels, classes, left_out)


def _check(where: str, classes: list[str], expected: list[str]) -> None:
    if classes == expected:
        return
    differing = sorted(set(classes) ^ set(expected))
    raise InputError(
        f'{where} should have the {len(expected)} classes of the training images, '
        f'or labels would shift; only one of the two has: {", ".join(differing[:10])}'
    )


def _everything(root: Path, suffixes: tuple[str, ...]) -> Images:
    """All images at any depth below a folder: its own, then those of each of its folders.

    If all images are in folders, these count as classes. So root/<class>/ gives what `scan` gives,
    except that empty folders are no error.
    """
    left_out = Counter()
    names, paths = finder.entries(root, suffixes, left_out)
    outside = len(paths)
    labels, classes = [], []
    for name in names:
        found = finder.walk(root / name, suffixes, left_out)
        if not found:
            left_out['empty folders'] += 1
            continue
        paths += found
        labels += [len(classes)] * len(found)
        classes.append(name)
    if not paths:
        raise InputError(
            f'--data_path {root}: no image ({" ".join(suffixes)}) in this folder, at any depth'
        )
    if outside:
        return Images(paths, None, None, left_out)
    return Images(paths, labels, classes, left_out)


def _join(parts: list[Images], data_path: Paths) -> Images:
    """The images of several places as one data set, without those that an earlier place has."""
    named = [part for part in parts if part.classes is not None]
    if named and len(named) < len(parts):
        raise InputError(
            f'--data_path {typed(data_path)}: class folders and lists cannot be joined, because '
            'lists have no names of classes; give only folders or only lists'
        )
    classes = None
    if named:
        classes = sorted(set().union(*(part.classes for part in parts)))
        parts = [by_names(part, classes) for part in parts]

    paths, labels, before = [], [], set()
    left_out = Counter()
    real_folder = lru_cache(maxsize=None)(os.path.realpath)
    for part in parts:
        left_out += part.left_out
        here = set()
        for index, path in enumerate(part.paths):
            folder, name = os.path.split(path)
            key = (real_folder(folder), name)
            if key in before:
                left_out[TWICE] += 1
                continue
            here.add(key)
            paths.append(path)
            if part.labels is not None:
                labels.append(part.labels[index])
        before |= here
    has_labels = all(part.labels is not None for part in parts)
    return Images(paths, labels if has_labels else None, classes, left_out)


def by_names(images: Images, names: list[str]) -> Images:
    """The same images, labelled by the place of their class among `names`."""
    place = {name: label for label, name in enumerate(names)}
    labels = [place[images.classes[label]] for label in images.labels]
    return replace(images, labels=labels, classes=names)


def read_list(file: Path, suffixes: tuple[str, ...]) -> Images:
    """The images of a list with one `path` or `path label` a line.

    Paths are relative to the list's folder, or to the folder of its split: `val/` for val.txt, if
    the first image is there. The last word of a line is its label if every line ends in a whole
    number.
    """
    entries = lists.read(file, 'list of images: expected text with one `path label` a line')
    if not entries:
        raise InputError(f'the list {file} is empty')
    unlabelled = [entry for entry in entries if not _ends_in_label(entry[1])]
    first = entries[0][1] if unlabelled else entries[0][1].rsplit(maxsplit=1)[0]
    base = _base(file, first)
    paths, labels = [], []
    for number, line in entries:
        name = line
        if not unlabelled:
            name, label = line.rsplit(maxsplit=1)
            labels.append(int(label))
        paths.append(str(base / name))
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


def _base(file: Path, first: str) -> Path:
    """The folder that a list's paths are relative to. first: the first of them."""
    split = file.stem.removesuffix('_list')
    beside, inside = file.parent, file.parent / split
    is_inside = os.path.isfile(inside / first) and not os.path.isfile(beside / first)
    return inside if is_inside else beside


def _ends_in_label(line: str) -> bool:
    words = line.rsplit(maxsplit=1)
    return len(words) == 2 and words[1].isdecimal()


def find_labelled(
    data_path: Paths,
    split: str,
    suffixes: tuple[str, ...],
    nb_classes: float,
    classes: list[str] | None = None,
) -> Images:
    """As `find`, for classification: every image has a label below nb_classes, else InputError."""
    for path in _each(data_path):
        if Path(path).is_file():
            raise InputError(
                f'--data_path {path}: one list cannot be training and validation set; '
                'give a folder with train.txt and val.txt'
            )
    images = find(data_path, split, suffixes, classes)
    if images.labels is None:
        raise InputError(
            f'--data_path {typed(data_path)}: the list of {split} has no labels; '
            'write `path label` in each line'
        )
    found = max(images.labels) + 1
    if found > nb_classes:
        raise InputError(
            f'--data_path {typed(data_path)}: {split} has {found} classes, '
            f'but --nb_classes is {nb_classes}'
        )
    return images


def find_both(data_path: Paths, suffixes: tuple[str, ...]) -> tuple[Images, Images]:
    """The training and validation images of the same classes; InputError for less than two."""
    any_number = math.inf
    train = find_labelled(data_path, 'train', suffixes, any_number)
    val = find_labelled(data_path, 'val', suffixes, any_number, train.classes)
    if len(set(train.labels)) < 2:
        raise InputError(f'--data_path {typed(data_path)}: one class; at least two are needed')
    return train, val
