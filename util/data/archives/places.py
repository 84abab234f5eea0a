"""Which archives a path means: a file, a brace range or glob, or a folder that holds archives."""

import os
import re
from glob import glob, has_magic
from pathlib import Path

from util.data import finder
from util.errors import InputError

ENDINGS = ('.tar', '.parquet')
COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
DOGS = 'ILSVRC2012_img_train_t3.tar'  # a part of ImageNet again, which lies beside the whole
BRACES = re.compile(r'\{([^{}]*)\}')
RANGE = re.compile(r'(\d+)\.\.(\d+)')
MOST = 10**6  # files that a brace range may stand for


def named(path: str) -> bool:
    """Whether a path names archives, and not a folder or a list."""
    if os.path.isdir(path):
        return False
    if path.lower().endswith(COMPRESSED):
        raise InputError(
            f'{path}: a compressed archive cannot be read in place; decompress it to a .tar'
        )
    return path.lower().endswith(ENDINGS)


def expand(path: str) -> list[str]:
    """The archives that a file's name, a brace range or a glob stands for; all must be there."""
    found = []
    for name in _without_braces(path):
        matches = [name]
        if has_magic(name) and not os.path.exists(name):
            matches = _sorted(glob(name))
        missing = [match for match in matches if not os.path.isfile(match)]
        if missing or not matches:
            raise InputError(f'{path}: there is no file {(missing or [name])[0]}')
        found += matches
    return found


def _without_braces(path: str) -> list[str]:
    """A path once for each choice of its braces: {000..123}, or {a,b}."""
    braces = BRACES.search(path)
    if not braces or os.path.exists(path):
        return [path]
    inside = braces.group(1)
    numbers = RANGE.fullmatch(inside)
    if numbers:
        low, high = numbers.groups()
        count = int(high) - int(low) + 1
        if not 0 < count <= MOST:
            raise InputError(f'{path}: {{{inside}}} is no range of numbers of files')
        choices = [f'{number:0{len(low)}}' for number in range(int(low), int(high) + 1)]
    else:
        choices = inside.split(',')
    before, after = path[: braces.start()], path[braces.end() :]
    return [name for choice in choices for name in _without_braces(f'{before}{choice}{after}')]


def split_of(file: str) -> str:
    """The split that a word of an archive's name stands for; '' if there is none."""
    words = re.split(r'[-_.]', os.path.basename(file).lower())
    for split, names in SPLITS.items():
        if any(name in words for name in names):
            return split
    return ''


def of_split(path: str, split: str) -> list[str]:
    """The archives that `path` names and that belong to a split; any name counts as training."""
    found = expand(path)
    kinds = (split, '') if split == 'train' else (split,)
    return [file for file in found if split_of(file) in kinds]


def inside(folder: str | Path, split: str) -> list[str]:
    """The archives of a split in a folder, in its data/, or in a folder named as the split."""
    folder = Path(folder)
    found = []
    for place in (folder, folder / 'data'):
        files = [file for file in in_folder(place) if os.path.basename(file) != DOGS]
        found += [file for file in files if split_of(file) == split]
    if found:
        return _sorted(found)

    for name in SPLITS[split]:
        files = in_folder(folder / name)
        if files:
            return files
    return []


def unsplit(folder: str | Path) -> list[str]:
    """The archives of a folder whose names do not say a split."""
    return [file for file in in_folder(folder) if not split_of(file)]


def in_folder(folder: str | Path) -> list[str]:
    """The archives in a folder itself; none where there is no such folder."""
    folder = Path(folder)
    return _sorted(finder.files(folder, ENDINGS)) if folder.is_dir() else []


def _sorted(files: list[str]) -> list[str]:
    """Files by name, and numbers in names by their value, as 2.tar before 10.tar."""

    def key(file):
        parts = re.split(r'(\d+)', file)
        return [(int(part), part) if part.isdecimal() else (0, part) for part in parts]

    return sorted(files, key=key)
