"""Find images: class folders, any folder of images, text files that list them, or archives.

What lies in a folder is found out by looking: class folders win over lists, and both over archives.
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from util.data import finder
from util.data.archives import imagenet, members, places
from util.data.image_list import read_list
from util.data.images import Chain, Images, by_names
from util.errors import InputError

LISTS = ('.txt', '_list.txt')  # a list is named <split> and one of these; PaddleClas has the second
OUTSIDE = 'images outside of class folders'
TWICE = 'images that an earlier path has'

Paths = str | Sequence[str]  # the value of --data_path: one path or several
Place = Path | list[str]  # where the images of a split are: a folder or a list, or archives


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
    data_path: Paths,
    split: str,
    suffixes: tuple[str, ...],
    classes: list[str] | None = None,
    index_dir: str = '',
) -> Images:
    """The images of one split ('train' or 'val').

    data_path: archives, a list file, or a folder with <split>/<class>/..., the list file
    <split>.txt or <split>_list.txt, or archives; several are joined, and only some need to have
    this split. Class folders of the same name are one class.
    classes: the class folders that there must be, in the order of their labels (those of the
    training images). index_dir: where indexes of archives are kept. InputError says what is
    missing.
    """
    found = []
    for path in _each(data_path):
        place = _place(path, split)
        if place is not None:
            found.append(place)
        elif not _has_another_split(path, split):
            raise InputError(f'--data_path {path}: {_missing(split)} in it')
    if not found:
        raise InputError(f'--data_path {typed(data_path)}: {_missing(split)} in any of them')

    plain = [place for place in found if isinstance(place, Path)]
    if len(plain) == len(found) == 1:
        return _read(plain[0], suffixes, classes)
    parts = [_read(place, suffixes) for place in plain]
    files = [file for place in found if isinstance(place, list) for file in place]
    parts += members.read(files, suffixes, index_dir)
    images = parts[0] if len(parts) == 1 else _join(parts, data_path)
    if classes is not None and images.classes is not None:
        _check(f'{split} of --data_path {typed(data_path)}', images.classes, classes)
    return images


def find_unlabelled(data_path: Paths, suffixes: tuple[str, ...], index_dir: str = '') -> Images:
    """The images to pre-train on; labels do not matter and may be missing.

    data_path: as for `find` with the split 'train', or any folder with images at any depth.
    Several are joined. InputError where only val/ is there: its images must not be trained on.
    """
    found = [_unlabelled(path, suffixes) for path in _each(data_path)]
    parts = [place for place in found if isinstance(place, Images)]
    files = [file for place in found if isinstance(place, list) for file in place]
    parts += members.read(files, suffixes, index_dir)
    return parts[0] if len(parts) == 1 else _join_unlabelled(parts, data_path)


def has_labelled(data_path: Paths, split: str) -> bool:
    """Whether one of the paths has images of this split with labels, for `find`."""
    found = [_place(path, split) for path in _each(data_path)]
    return any(place and (isinstance(place, list) or _is_labelled(place)) for place in found)


def _is_labelled(place: Path) -> bool:
    return place.is_file() or _has_classes(place)


def find_all(files: list[str], suffixes: tuple[str, ...], index_dir: str = '') -> Images:
    """All images of some archives, of any split and without labels."""
    parts = members.read(files, suffixes, index_dir)
    return _join_unlabelled(parts, files)


def _unlabelled(path: str, suffixes: tuple[str, ...]) -> Images | list[str]:
    """The images to pre-train on in one place, or the archives that hold them."""
    if places.named(path):
        files = places.of_split(path, 'train')
        if not files:
            raise InputError(f'--data_path {path}: by its name it is not for training')
        return files
    root = _existing(path)
    folder = root / 'train'
    list_file = _list(root, 'train')
    if root.is_file():
        return read_list(root, suffixes)
    if list_file and not _has_classes(folder):
        return read_list(list_file, suffixes)

    is_held_out = (root / 'val').is_dir() and not folder.is_dir()
    if not is_held_out:
        place = folder if folder.is_dir() else root
        images = _everything(place, suffixes)
        if len(images):
            return images
    files = places.inside(root, 'train') or places.unsplit(root)
    if files:
        return files
    if is_held_out:
        raise InputError(
            f'--data_path {path}: has val/ but {_missing("train").removeprefix("found ")}; '
            'name the folder with the images to pre-train on'
        )
    raise InputError(
        f'--data_path {place}: no image ({" ".join(suffixes)}) in this folder, at any depth'
    )


def _existing(path: str) -> Path:
    root = Path(path)
    if not root.exists():
        raise InputError(f'--data_path {path}: no such folder or list file')
    return root


def _missing(split: str) -> str:
    """What was looked for, for an error."""
    return (
        f'found neither the folder {split}/ (with one subfolder a class) '
        f'nor the list {" or ".join(split + ending for ending in LISTS)} '
        f'nor archives as {split}-0000.tar'
    )


def _place(path: str, split: str) -> Place | None:
    """The list file, the folder or the archives of a labelled split; None if there is none.

    A list counts where there are no class folders. If the labels of one split must be from a list,
    those of the other are too, where possible: the numbers in lists need not be alphabetical.
    """
    if places.named(path):
        return places.of_split(path, split) or None
    root = _existing(path)
    if root.is_file():
        return root
    folder = root / split
    list_file = _list(root, split)
    if not list_file and not _has_classes(folder):
        archives = places.inside(root, split)
        if archives:
            return archives
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
    images = _by_class(root, classes, suffixes, left_out)
    for name in classes:
        if name not in images.classes:
            raise InputError(
                f'class folder {root / name} holds no image ({" ".join(suffixes)}); '
                'add images or remove the folder'
            )
    left_out[OUTSIDE] += len(outside)
    return images


def _by_class(root: Path, names: list[str], suffixes: tuple[str, ...], left_out: Counter) -> Images:
    """The images of some folders of `root`, each of which is a class if it holds any."""
    paths, labels, classes = [], [], []
    for name in names:
        found = finder.walk(root / name, suffixes, left_out)
        if not found:
            left_out['empty folders'] += 1
            continue
        paths += found
        labels += [len(classes)] * len(found)
        classes.append(name)
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
    names, outside = finder.entries(root, suffixes, left_out)
    images = _by_class(root, names, suffixes, left_out)
    if outside:
        return Images(outside + images.paths, None, None, left_out)
    return images


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

    left_out = sum((part.left_out for part in parts), Counter())
    plain = [part for part in parts if isinstance(part.paths, list)]
    paths, labels = _without_twice(plain, left_out)
    others = [part for part in parts if not isinstance(part.paths, list)]
    if others:
        archives = [part.paths for part in others]
        paths = Chain([paths, *archives] if paths else archives)
    if any(part.labels is None for part in parts):
        labels = None
    elif others:
        labels = np.concatenate([labels, *(part.labels for part in others)]).astype('int32')
    return Images(paths, labels, classes, left_out)


def _join_unlabelled(parts: list[Images], data_path: Paths) -> Images:
    """As `_join`, for images whose labels do not matter."""
    return _join([replace(part, labels=None, classes=None) for part in parts], data_path)


def _without_twice(parts: list[Images], left_out: Counter) -> tuple[list[str], list[int]]:
    """Paths and labels of folders and lists, without the images that an earlier one has."""
    paths, labels, before = [], [], set()
    real_folder = lru_cache(maxsize=None)(os.path.realpath)
    for part in parts:
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
    return paths, labels


def find_labelled(
    data_path: Paths,
    split: str,
    suffixes: tuple[str, ...],
    nb_classes: float,
    classes: list[str] | None = None,
    index_dir: str = '',
) -> Images:
    """As `find`, for classification: every image has a label below nb_classes, else InputError."""
    for path in _each(data_path):
        if Path(path).is_file() and not places.named(path):
            raise InputError(
                f'--data_path {path}: one list cannot be training and validation set; '
                'give a folder with train.txt and val.txt'
            )
    images = find(data_path, split, suffixes, classes, index_dir)
    if images.labels is None:
        raise InputError(f'--data_path {typed(data_path)}: {_unlabelled_kind(images, split)}')
    found = int(np.max(images.labels)) + 1
    if found > nb_classes:
        raise InputError(
            f'--data_path {typed(data_path)}: {split} has {found} classes, '
            f'but --nb_classes is {nb_classes}'
        )
    return images


def find_both(
    data_path: Paths,
    suffixes: tuple[str, ...],
    nb_classes: float = math.inf,
    index_dir: str = '',
) -> tuple[Images, Images]:
    """The labelled images of training and of validation, which must have the same classes.

    InputError for less than two classes, if nb_classes does not say how many there are.
    """
    train = find_labelled(data_path, 'train', suffixes, nb_classes, index_dir=index_dir)
    val = find_labelled(data_path, 'val', suffixes, nb_classes, train.classes, index_dir=index_dir)
    if nb_classes == math.inf and len(set(train.labels)) < 2:
        raise InputError(f'--data_path {typed(data_path)}: one class; at least two are needed')
    return train, val


def _unlabelled_kind(images: Images, split: str) -> str:
    """What has no labels, and what to do, for an error."""
    if isinstance(images.paths, list):
        return f'the list of {split} has no labels; write `path label` in each line'
    return (
        f'not every image of {split} has a label; an archive has them in .cls members, in a column '
        f'`label`, as class folders, or, for ImageNet, in {imagenet.DEVKIT} beside it'
    )
