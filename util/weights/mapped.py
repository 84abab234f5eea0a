"""The bytes of a file without reading it: the system reads a page when something looks at it."""

import mmap
from pathlib import Path


def mapped(path: str | Path) -> memoryview:
    """A file's bytes, read-only, as they are on the disk.

    Arrays over them keep the file open, also after another one has taken its name. A file that is
    cut short meanwhile would end the program, so weight files are replaced, never overwritten.
    """
    with open(path, 'rb') as file:
        try:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:  # an empty file has no page
            return memoryview(b'')
