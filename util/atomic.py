"""Write a file, or a folder of files, completely or not at all.

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
    _flush_names(path.parent)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """A folder that becomes `path` when the block ends; another one of that name is replaced.

    If the block raises, `path` stays as it was. InputError if the system cannot write it.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}{SUFFIX}')
    aside = path.with_name(f'.{path.name}.before.{os.getpid()}{SUFFIX}')
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.replace(aside)
        os.replace(temporary, path)
        _flush_names(path.parent)
    except OSError as error:
        if aside.exists() and not path.exists():
            aside.replace(path)
        raise refused(path, error) from None
    except InputError as error:  # of a file inside
        raise InputError(str(error).replace(str(temporary), str(path))) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _flush_names(folder: Path) -> None:
    """Make renames in a folder permanent."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        is_ours = process == str(os.getpid())  # a container gives numbers out again
        if not process.isdecimal() or (Path(f'/proc/{process}').exists() and not is_ours):
            continue
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
