"""Find files in folders by one set of rules for all programs.

Links are followed, except a link to a folder that contains it. Names that begin with a dot
(`._photo.jpg`, `.DS_Store`, hidden folders) are skipped. Paths are sorted as text.

`left_out`, where a function takes it, counts what was passed over, by the reason.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from glob import glob, has_magic
from pathlib import Path

from util import log

ANY = ('',)  # every name ends in it


def walk(
    folder: str | Path, suffixes: tuple[str, ...] = ANY, left_out: Counter | None = None
) -> list[str]:
    """The files with one of the suffixes at any depth below a folder, sorted."""
    left_out = Counter() if left_out is None else left_out
    return sorted(_walk(str(folder), _ancestors(folder), suffixes, left_out))


def entries(
    folder: str | Path, suffixes: tuple[str, ...], left_out: Counter | None = None
) -> tuple[list[str], list[str]]:
    """The names of the folders in a folder, and its files with one of the suffixes, both sorted."""
    left_out = Counter() if left_out is None else left_out
    folders, found = _split(str(folder), _ancestors(folder), left_out)
    names = [os.path.basename(path) for path, _ in folders]
    return names, list(_wanted(found, suffixes, left_out))


def files(folder: str | Path, suffixes: tuple[str, ...]) -> list[str]:
    """The files with one of the suffixes in a folder itself, sorted."""
    _, found = entries(folder, suffixes)
    return found


def match(pattern: str, suffixes: tuple[str, ...]) -> list[str]:
    """The files that a glob matches, and those below each folder that it matches, sorted.

    Files in a matched folder must end in one of the suffixes. So must the matched files, unless the
    pattern ends in a suffix of its own (`photos/*.dat`).
    """
    suffix = Path(pattern).suffix
    has_own_suffix = suffix and not has_magic(suffix)
    wanted = ANY if has_own_suffix else suffixes

    parts = Path(pattern).parts
    if '**' in parts:
        place = parts.index('**')
        below = _match_below(parts[:place], parts[place:], wanted, suffixes)
        return sorted(set(below))

    found = set()
    for path in glob(pattern):
        if os.path.isdir(path):
            if os.path.realpath(path) not in _ancestors(os.path.dirname(path)):
                found.update(walk(path, suffixes))
        elif _ends(path, wanted):
            found.add(path)
    return sorted(found)


def _match_below(
    base: tuple[str, ...], tail: tuple[str, ...], wanted: tuple[str, ...], suffixes: tuple[str, ...]
) -> Iterator[str]:
    """As `match`, for a pattern base/tail whose `tail` begins with `**`.

    Python's glob would follow links in circles there.
    """
    start = os.path.join(*base) if base else '.'
    roots = glob(start) if has_magic(start) else [start]
    for root in filter(os.path.isdir, roots):
        for path in walk(root):
            parts = Path(os.path.relpath(path, root)).parts
            folders = [parts[:end] for end in range(1, len(parts))]  # between the root and the file
            in_match = any(_fits(folder, tail) for folder in folders)
            is_match = _fits(parts, tail)
            if (is_match and _ends(path, wanted)) or (in_match and _ends(path, suffixes)):
                yield path if base else os.path.relpath(path)


def _fits(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether the parts of a path match those of a glob, where `**` is any number of folders."""
    if not patterns:
        return not parts
    first, rest = patterns[0], patterns[1:]
    if first == '**':
        if not rest:
            return True
        return any(_fits(parts[start:], rest) for start in range(len(parts)))
    if not parts or not fnmatchcase(parts[0], first):
        return False
    return _fits(parts[1:], rest)


def _ancestors(folder: str | Path) -> frozenset[str]:
    """The real paths of a folder and of all that contain it, on disk or in its own name."""
    real = Path(os.path.realpath(folder))
    on_disk = map(str, real.parents)
    in_name = map(os.path.realpath, Path(os.path.abspath(folder)).parents)
    return frozenset([str(real), *on_disk, *in_name])


def _walk(
    folder: str, ancestors: frozenset[str], suffixes: tuple[str, ...], left_out: Counter
) -> Iterator[str]:
    """The files with one of the suffixes in a folder, then those of its folders."""
    folders, found = _split(folder, ancestors, left_out)
    yield from _wanted(found, suffixes, left_out)
    for path, real in folders:
        yield from _walk(path, ancestors | {real}, suffixes, left_out)


def _wanted(paths: Iterable[str], suffixes: tuple[str, ...], left_out: Counter) -> Iterator[str]:
    """The paths with one of the suffixes."""
    for path in paths:
        if _ends(path, suffixes):
            yield path
        else:
            suffix = os.path.splitext(path)[1].lower()
            left_out[suffix or 'without a suffix'] += 1


def _split(
    folder: str, ancestors: frozenset[str], left_out: Counter
) -> tuple[list[tuple[str, str]], list[str]]:
    """The folders in a folder, each with its real path, and the other entries, both sorted.

    Folders among the ancestors are left out. A folder that cannot be listed counts as empty, with a
    warning.
    """
    try:
        with os.scandir(folder) as listing:
            listing = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        log.warn(f'{folder} cannot be listed ({error.strerror}) and is skipped')
        left_out['folders that cannot be listed'] += 1
        return [], []
    folders, found = [], []
    for entry in listing:
        if entry.name.startswith('.'):
            left_out[_hidden(entry)] += 1
            continue
        if not _is_folder(entry):  # a broken link counts as a file; its reader reports it
            found.append(entry.path)
            continue
        real = os.path.realpath(entry.path)
        if real in ancestors:
            left_out['circular links'] += 1
        else:
            folders.append((entry.path, real))
    return folders, found


def _hidden(entry: os.DirEntry) -> str:
    """What an entry is whose name begins with a dot."""
    if _is_folder(entry):
        return 'hidden folders'
    return '._*' if entry.name.startswith('._') else 'hidden files'


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()  # asks the disk about links only
    except OSError:  # a link to itself
        return False


def _ends(path: str, suffixes: tuple[str, ...]) -> bool:
    return path.lower().endswith(suffixes)
