"""Tar archives in place: the headers by Python's tarfile, the contents by their offset and length.

A damaged or truncated archive is an error, where tarfile would take it for one that ends there.
"""

import os
import tarfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from util.errors import InputError

BLOCK = 512  # bytes of a header
OPEN = 256  # archives that a process keeps open

_open_files: OrderedDict[str, int] = OrderedDict()  # path -> descriptor, the latest used last


class Member(NamedTuple):
    """A regular file in an archive: where its bytes begin in the archive, and how many there are.

    Other members (links, folders, sparse files) have is_file False.
    """

    name: str
    offset: int
    length: int
    is_file: bool


def members(file: BinaryIO, path: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """The members of the archive in file[start:end]; InputError, with `path`, if it is damaged."""
    if end is None:
        end = os.fstat(file.fileno()).st_size
    file.seek(start)
    try:
        archive = tarfile.TarFile(fileobj=file, errorlevel=0)
        while True:
            archive.members.clear()  # it would keep them all
            found = archive.next()
            if found is None:
                break
            if found.offset_data + found.size > end and found.isreg():
                raise InputError(f'{path}: {found.name} is cut off; the archive is not complete')
            is_file = found.isreg() and not found.issparse()
            name = found.name.removeprefix('./')
            yield Member(name, found.offset_data, found.size, is_file)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f'{path} is no tar archive, or a damaged one ({error})') from None

    # At its end there is a block of zeros, or nothing
    file.seek(archive.offset)
    if file.read(BLOCK).strip(b'\0') and archive.offset < end:
        raise InputError(f'{path}: the archive is damaged at byte {archive.offset}')


def first(path: str) -> Member | None:
    """The first regular file of an archive; None if there is none."""
    with open(path, 'rb') as file:
        for member in members(file, path):
            if member.is_file:
                return member
    return None


def read(path: str, offset: int, length: int) -> bytes:
    """Bytes of a file that is kept open. Safe in forked processes, which share descriptors."""
    descriptor = _open_files.pop(path, None)
    if descriptor is None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _open_files[path] = descriptor
    if len(_open_files) > OPEN:
        _, oldest = _open_files.popitem(last=False)
        os.close(oldest)
    data = os.pread(descriptor, length, offset)
    if len(data) < length:
        raise EOFError(f'{len(data)} of {length} bytes at {offset}; the archive has shrunk')
    return data
