"""Pickles of arrays and plain containers, for every format that is made of them.

Any other name is refused, because pickle itself runs whatever code a crafted file names.
"""
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from util.errors import InputError

ALLOWED = {
    ('numpy.core.multiarray', '_reconstruct'), ('numpy._core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'), ('numpy._core.multiarray', 'scalar'),
    ('numpy', 'ndarray'), ('numpy', 'dtype'), ('collections', 'OrderedDict'), ('_codecs', 'encode'),
    ('builtins', 'tuple'), ('__builtin__', 'tuple'),
}


class Unpickler(pickle.Unpickler):
    """Unpickler of a file that is named in errors; strings of Python 2 are read as Latin-1."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, encoding='latin1')
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            shown = repr(f'{module}.{name}')[1:-1]  # a crafted name may hold line breaks
            raise InputError(f'{self.path}: refused, because it names {shown}, which no weight file needs')
        return super().find_class(module, name)


@contextmanager
def one_error(path: Path) -> Iterator[None]:
    """Make one InputError of what a damaged file raises, which is nearly anything."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise InputError(f'{path} is no weight file that is safe and whole: {reason}') from None
