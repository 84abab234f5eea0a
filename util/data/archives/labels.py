"""Labels and class names of archives: those that the archives give, else folders in the names."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from util.data.archives.listing import UNLABELLED, Listing
from util.errors import InputError

INFO = ('_info.json', 'info.json')  # beside shards; util.data.pack writes the first one


class Labels(NamedTuple):
    """The labels of one archive.

    numbers: int32 [N], UNLABELLED for none. classes: their names, where the archive gives them.
    folders: the label of each folder in the images' names, if each folder has a label of its own.
    by_folder: the archive gives no label at all, so the numbers are those of the folders.
    """

    path: str
    numbers: np.ndarray
    classes: list[str] | None
    folders: dict[str, int] | None
    by_folder: bool


def of(path: str, listing: Listing) -> Labels:
    """The labels of an archive."""
    numbers = np.array(listing.labels, 'int32')
    folders = [name.partition('/')[0] if '/' in name else None for name in listing.names]
    if len(numbers) and (numbers == UNLABELLED).all() and None not in folders:
        label_of = {folder: label for label, folder in enumerate(sorted(set(folders)))}
        numbers = np.array([label_of[folder] for folder in folders], 'int32')
        return Labels(path, numbers, None, label_of, by_folder=True)
    pairs = set(zip(folders, listing.labels))
    label_of = dict(pairs)
    is_one_to_one = len(label_of) == len(pairs) == len(set(label_of.values()))
    if None in label_of or not is_one_to_one:
        label_of = None
    return Labels(path, numbers, listing.classes, label_of, by_folder=False)


def merged(parts: list[Labels]) -> tuple[np.ndarray | None, list[str] | None]:
    """The labels of all archives, and the names of the classes.

    Labels are None unless all images have one; names are None where nothing gives them.
    """
    parts = [part for part in parts if len(part.numbers)]
    if all(part.by_folder for part in parts):
        return _by_folder(parts)
    if any(part.by_folder or (part.numbers < 0).any() for part in parts):
        return None, None
    numbers = np.concatenate([part.numbers for part in parts])
    classes = _from_archives(parts) or _from_info(parts) or _from_folders(parts)
    if classes is not None and numbers.max() >= len(classes):
        raise InputError(
            f'{parts[0].path}: there is a label {numbers.max()}, but only {len(classes)} names of '
            'classes'
        )
    return numbers, classes


def _by_folder(parts: list[Labels]) -> tuple[np.ndarray, list[str]]:
    """As for class folders on the disk: classes in alphabetical order."""
    classes = sorted(set().union(*(part.folders for part in parts)))
    label_of = {name: label for label, name in enumerate(classes)}
    numbers = []
    for part in parts:
        new_label = np.array([label_of[name] for name in part.folders], 'int32')
        numbers.append(new_label[part.numbers])
    return np.concatenate(numbers), classes


def _from_archives(parts: list[Labels]) -> list[str] | None:
    """The names that the archives themselves give, as the schema of parquet does."""
    first = parts[0]
    for part in parts:
        if part.classes != first.classes:
            raise InputError(f'{part.path} has other names of classes than {first.path}')
    return first.classes


def _from_info(parts: list[Labels]) -> list[str] | None:
    """The names in the info file beside the first archive."""
    for name in INFO:
        file = Path(parts[0].path).with_name(name)
        try:
            classes = json.loads(file.read_bytes())['classes']
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(classes, list) and all(isinstance(text, str) for text in classes):
            return classes
    return None


def _from_folders(parts: list[Labels]) -> list[str] | None:
    """The folders in the images' names, if there is one for each label from 0 on."""
    label_of = {}
    for part in parts:
        if part.folders is None:
            return None
        for folder, label in part.folders.items():
            if label_of.setdefault(folder, label) != label:
                return None
    if sorted(label_of.values()) != list(range(len(label_of))):
        return None
    return sorted(label_of, key=label_of.get)
