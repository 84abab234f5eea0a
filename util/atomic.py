"""Write a file completely or not at all.

The contents go to a temporary file beside it, are flushed to the disk, and then renamed over it.
"""

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
    """A binary file that becomes `path` when the block ends.

    If the block raises, `path` stays as it was. InputError if the system cannot write the file.
    """
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
        os.fsync(folder)  # makes the rename itself permanent
    finally:
        os.close(folder)


def link(path: Path, name: Path) -> None:
    """Give a file a second name; another file of that name is replaced.

    If the file system has no hard links, the second name gets a copy.
    """
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
    """The error for a full disk, a quota that is reached, or a folder without permission."""
    return InputError(
        f'{path} cannot be written ({error.strerror}); what was there before is untouched'
    )


def clean(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder; those of running ones stay."""
    for temporary in folder.glob(f'.*{SUFFIX}'):
        process = temporary.name.split('.')[-2]
        if process.isdecimal() and not Path(f'/proc/{process}').exists():
            temporary.unlink(missing_ok=True)
