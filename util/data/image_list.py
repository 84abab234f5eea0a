"""A text file that lists images, as a data set."""

import os
from pathlib import Path

from util.data import lists
from util.data.images import Images
from util.errors import InputError


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
