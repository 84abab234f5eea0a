"""Find files in folders, the same way for all programs.

Links are followed, but not to a folder that holds them. What begins with a dot (`._photo.jpg`,
`.DS_Store`, hidden folders) is passed over. Paths are in the order of their text.
"""

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path

from util import log

ANY = ('',)  # every name ends in it


def walk(folder: str | Path, suffixes: tuple[str, ...] = ANY) -> list[str]:
    """The files with one of the suffixes at any depth below a folder, sorted."""
    return sorted(_walk(str(folder), _holders(folder), suffixes))


def subfolders(folder: str | Path) -> list[str]:
    """The names of the folders in a folder, sorted."""
    return [os.path.basename(path) for path, _ in _split(str(folder), _holders(folder))[0]]


def files(folder: str | Path, suffixes: tuple[str, ...]) -> list[str]:
    """The files with one of the suffixes in a folder itself, sorted."""
    return [path for path in _split(str(folder), _holders(folder))[1] if _ends(path, suffixes)]


def match(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    """What a glob matches, sorted; of a folder that it matches, the files with one of the suffixes.

    A pattern that does not end in a suffix of its own (`photos/*`) matches those files alone.
    """
    suffix = Path(pattern).suffix
    wanted = suffixes if not suffix or has_magic(suffix) else ANY
    parts = Path(pattern).parts
    if '**' in parts:
        place = parts.index('**')
        return sorted(set(_match_below(parts[:place], parts[place:], wanted, suffixes)))
    found = set()
    for path in glob(pattern):
        if os.path.isdir(path):
            if os.path.realpath(path) not in _holders(os.path.dirname(path)):
                found.update(walk(path, suffixes))
        elif _ends(path, wanted):
            found.add(path)
    return sorted(found)


def _match_below(
    base: tuple[str, ...], tail: tuple[str, ...], wanted: tuple[str, ...], suffixes: tuple[str, ...]
) -> Iterator[str]:
    """As `match`, of a pattern whose part `tail` begins with `**`, for which glob follows circles."""
    start = os.path.join(*base) if base else '.'
    roots = glob(start) if has_magic(start) else [start]
    for root in filter(os.path.isdir, roots):
        for path in walk(root):
            parts = Path(os.path.relpath(path, root)).parts
            within_match = any(_fits(parts[:end], tail) for end in range(1, len(parts)))
            is_match = _ends(path, wanted) and _fits(parts, tail)
            if is_match or (within_match and _ends(path, suffixes)):
                yield path if base else os.path.relpath(path)


def _fits(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a glob, `**` being any number of folders."""
    if not patterns:
        return not parts
    if patterns[0] == '**':
        rest = patterns[1:]
        return not rest or any(_fits(parts[start:], rest) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _fits(parts[1:], patterns[1:])


def _holders(folder: str | Path) -> frozenset[str]:
    """The real paths of a folder and of all that hold it, also by the links of its own name."""
    real = Path(os.path.realpath(folder))
    named = map(os.path.realpath, Path(os.path.abspath(folder)).parents)
    return frozenset([str(real), *map(str, real.parents), *named])


def _walk(folder: str, holders: frozenset[str], suffixes: tuple[str, ...]) -> Iterator[str]:
    folders, found = _split(folder, holders)
    yield from (path for path in found if _ends(path, suffixes))
    for path, real in folders:
        yield from _walk(path, holders | {real}, suffixes)


def _split(folder: str, holders: frozenset[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The folders in a folder, each with its real path, and the other entries, both sorted.

    A folder that cannot be listed has none of them, with a warning.
    """
    try:
        with os.scandir(folder) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        log.warn(f'{folder} cannot be listed ({error.strerror}) and is passed over')
        return [], []
    folders, found = [], []
    for entry in entries:
        if entry.name.startswith('.'):
            continue
        if not _is_folder(entry):  # a link to nowhere too: who reads it says so
            found.append(entry.path)
            continue
        real = os.path.realpath(entry.path)
        if real not in holders:
            folders.append((entry.path, real))
    return folders, found


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()  # which asks the disk about links alone
    except OSError:  # a link to itself
        return False


def _ends(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.lower().endswith(suffixes)
