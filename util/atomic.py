"""Write a file whole or not at all: a temporary file beside it, flushed to the disk, then renamed over it."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from util.errors import InputError

SUFFIX = '.tmp'


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends; where it fails, `path` stays as it was. InputError where the
    system does not let it be written."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}{SUFFIX}')
    try:
        with open(temporary, 'wb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise refused(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def link(path: Path, name: Path) -> None:
    """Give a file a second name, in place of what had it before; a copy where the file system has no such links."""
    temporary = name.with_name(f'.{name.name}.{os.getpid()}{SUFFIX}')
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise refused(name, error) from None


def refused(path: Path, error: OSError) -> InputError:
    """What is said where the disk is full, a quota reached or the folder closed."""
    return InputError(
        f'{path} cannot be written ({error.strerror}); what was there before is untouched'
    )


def clean(folder: Path) -> None:
    """Remove what writers that were killed left in a folder; those of processes that still run stay."""
    for temporary in folder.glob(f'.*{SUFFIX}'):
        process = temporary.name.split('.')[-2]
        if process.isdecimal() and not Path(f'/proc/{process}').exists():
            temporary.unlink(missing_ok=True)
