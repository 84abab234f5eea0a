"""The index of an archive: the list of its images, made once and kept in a file.

The file is a JSON beside the archive, or in the folder of --index_dir. It is used as long as the
archive has the size and time of change that it names, and headers with the same checksum: the
headers of some images of a tar, the end of a parquet file, which describes the rest.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from util import atomic, dist, log
from util.data import workers
from util.data.archives import imagenet, parquet, shards, tar
from util.data.archives.listing import Listing
from util.errors import InputError
from util.progress import bar

FORMAT = 1
ENDING = '.index.json'
HEADERS = 16  # of a tar that the checksum covers
FOOTER = 2**16  # bytes of parquet that the checksum covers
ENOUGH = 2**28  # bytes of archives that are worth processes
MOST_WORKERS = 16


class Piece(NamedTuple):
    """A part of an archive that a worker lists."""

    kind: Any  # the module that reads it
    path: str
    piece: Any
    suffixes: tuple[str, ...]


def listings(files: list[str], suffixes: tuple[str, ...], index_dir: str = '') -> list[Listing]:
    """The images of each archive; suffixes: of the names that count as images.

    Archives without a valid index are listed by several processes, and their index is written. Of
    several ranks, the main one does that, and the others wait.
    """
    if dist.is_main():
        found = _listings(files, suffixes, index_dir)
    dist.barrier()
    if not dist.is_main():
        found = _listings(files, suffixes, index_dir)
    return found


def _listings(files: list[str], suffixes: tuple[str, ...], index_dir: str) -> list[Listing]:
    """As `listings`, on this rank alone."""
    found = {}
    for file in files:
        known = _read(file, suffixes, index_dir)
        if known is not None:
            found[file] = known

    todo = [file for file in files if file not in found]
    for file, listing in _make(todo, suffixes):
        found[file] = listing
        _write(file, listing, suffixes, index_dir)
    return [found[file] for file in files]


def _make(files: list[str], suffixes: tuple[str, ...]):
    """(archive, its images), archive by archive."""
    pieces = []
    for file in files:
        with _reading(file):
            kind = kind_of(file)
            pieces += [Piece(kind, file, piece, suffixes) for piece in kind.pieces(file)]
    size = sum(os.path.getsize(file) for file in files)
    processes = 0
    if size > ENOUGH:
        processes = min(os.cpu_count() or 1, len(pieces), MOST_WORKERS)

    order = [[number] for number in range(len(pieces))]
    lists = workers.batches(
        prepare=lambda number: _list(pieces[number]),
        collate=lambda lists: lists[0],
        order=order,
        count=processes,
        name=lambda number: pieces[number].path,
    )
    listed = zip(pieces, bar(lists, 'pieces of archives listed', len(order)))
    for path, group in groupby(listed, key=lambda pair: pair[0].path):
        (_, whole), *rest = group
        for _, listing in rest:
            whole.extend(listing)
        yield path, whole


def _list(piece: Piece) -> Listing:
    with _reading(piece.path):
        return piece.kind.listing(piece.path, piece.piece, piece.suffixes)


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """InputError, which names the archive, where the system cannot read it."""
    try:
        yield
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror or error})') from None


def kind_of(path: str):
    """The module that reads an archive, found out by looking."""
    if is_parquet(path):
        return parquet
    return imagenet if imagenet.is_train(path) else shards


def is_parquet(path: str) -> bool:
    """Whether an archive is a parquet file, and not a tar."""
    return path.lower().endswith('.parquet')


def file_of(path: str, index_dir: str = '') -> Path:
    """The index of an archive. In index_dir its name has a part that stands for the folder."""
    path = Path(path)
    if not index_dir:
        return path.with_name(path.name + ENDING)
    folder = os.path.realpath(path.parent)
    mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return Path(index_dir, f'{path.name}-{mark}{ENDING}')


def _read(path: str, suffixes: tuple[str, ...], index_dir: str) -> Listing | None:
    """The images of an archive by its index; None if there is no valid one."""
    try:
        content = json.loads(file_of(path, index_dir).read_bytes())
        is_ours = content['format'] == FORMAT and content['suffixes'] == list(suffixes)
        if not is_ours or content['archive'] != _state(path):
            return None
        listing = Listing(**content['images'])
        listing.left_out = Counter(listing.left_out)
        if listing.labels is None:
            listing.labels = [-1] * len(listing.names)
        _check(listing, content['archive']['size'])
        if content['headers'] != headers(path, listing.offsets):
            return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return listing


def _check(listing: Listing, size: int) -> None:
    """ValueError or TypeError if an index is not one that `_write` has written."""
    columns = (listing.offsets, listing.lengths, listing.labels)
    if any(len(column) != len(listing.names) for column in columns):
        raise ValueError
    if listing.names and min(map(min, columns)) < -1:
        raise ValueError
    for name, offset, length in zip(listing.names, listing.offsets, listing.lengths):
        if not isinstance(name, str) or offset + length > max(size, len(listing.names)):
            raise ValueError


def _write(path: str, listing: Listing, suffixes: tuple[str, ...], index_dir: str) -> None:
    """Keep the index of an archive; a warning where the file cannot be written."""
    images = dict(vars(listing))
    if all(label == -1 for label in listing.labels):
        images['labels'] = None
    content = {
        'format': FORMAT,
        'suffixes': suffixes,
        'archive': _state(path),
        'headers': headers(path, listing.offsets),
        'images': images,
    }
    target = file_of(path, index_dir)
    try:
        if index_dir:
            target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.writing(target) as file:
            file.write(json.dumps(content, separators=(',', ':')).encode())
    except (OSError, InputError):
        log.warn(
            f'the index {target} cannot be written, so {path} is listed anew each time; '
            '--index_dir names another folder'
        )


def _state(path: str) -> dict[str, int]:
    """What shows that an archive was changed."""
    about = os.stat(path)
    return {'size': about.st_size, 'time': about.st_mtime_ns}


def headers(path: str, offsets: list[int]) -> str:
    """The checksum of some headers of an archive whose images begin at these offsets."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        if is_parquet(path):
            file.seek(max(0, os.path.getsize(path) - FOOTER))
            digest.update(file.read())
            return digest.hexdigest()
        last = len(offsets) - 1
        places = {last * step // (HEADERS - 1) for step in range(HEADERS)} if offsets else ()
        for place in sorted(places):
            file.seek(offsets[place] - tar.BLOCK)
            digest.update(file.read(tar.BLOCK))
    return digest.hexdigest()
