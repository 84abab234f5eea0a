"""Read pickles of arrays and plain containers, on which several file formats are based.

Any other class or function is refused, because pickle itself runs any code that a crafted file
names.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np

from util.errors import InputError

# (module, name) of the classes and functions that arrays and containers need
ALLOWED = {
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy.core.multiarray', 'scalar'),
    ('numpy._core.multiarray', 'scalar'),
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('collections', 'OrderedDict'),
    ('_codecs', 'encode'),
    ('builtins', 'tuple'),
    ('__builtin__', 'tuple'),
}


class Namespace(dict):
    """A dict of the attributes of an argparse.Namespace or types.SimpleNamespace.

    Programs keep their flags in one, so a weight file may name these classes.
    """

    __slots__ = ()

    def __setstate__(self, state: dict):
        self.update(state)


def _bytes(state: bytes | str) -> bytes:
    """The bytes of a pickled state; Python 2 pickled them as a string."""
    return state.encode('latin1') if isinstance(state, str) else state


def _datetime(state: bytes | str, *zone: str) -> str:
    """The text of a pickled datetime: four bytes of a date, six of a time."""
    state = _bytes(state)
    return ' '.join([_date(state[:4]), _time(state[4:]), *zone])


def _date(state: bytes | str) -> str:
    high, low, month, day = _bytes(state)
    year = 256 * high + low
    # the highest bit marks the second of two equal hours, when summer time ends
    month &= 0x7F
    return f'{year:04}-{month:02}-{day:02}'


def _time(state: bytes | str, *zone: str) -> str:
    hour, minute, second, *rest = _bytes(state)
    hour &= 0x7F  # as the month in _date
    micros = int.from_bytes(bytes(rest), 'big')
    moment = f'{hour:02}:{minute:02}:{second:02}'
    if micros:
        moment += f'.{micros:06}'
    return ' '.join([moment, *zone])


def _span(days: int, seconds: int, micros: int) -> str:
    return f'{days} days {seconds}.{micros:06} s'


def _path(flavour: type[PurePath]) -> Callable[..., str]:
    return lambda *parts: str(flavour(*parts))


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    """The array that NumPy pickles as a buffer since protocol 5."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


BUFFERS = {
    ('numpy.core.numeric', '_frombuffer'): _from_buffer,
    ('numpy._core.numeric', '_frombuffer'): _from_buffer,
}
PATHS = 'Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath'.split()

# Harmless classes of the standard library that programs put among their flags. Each is replaced by
# a function that gives its value as text. Python 3.13 pickles paths under pathlib._local.
TEXTS = {
    **{
        (module, name): _path(PureWindowsPath if 'Windows' in name else PurePosixPath)
        for module in ('pathlib', 'pathlib._local')
        for name in PATHS
    },
    ('datetime', 'datetime'): _datetime,
    ('datetime', 'date'): _date,
    ('datetime', 'time'): _time,
    ('datetime', 'timedelta'): _span,
    ('datetime', 'timezone'): lambda offset, name=None: name or f'UTC+({offset})',
    ('decimal', 'Decimal'): str,
}


class Unpickler(pickle.Unpickler):
    """Unpickler that allows the names of this module only; its errors name the file.

    Strings of Python 2 are read as Latin-1.
    """

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, encoding='latin1')
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """The class or function for a name in the file, or its harmless replacement.

        InputError for any other name.
        """
        if (module, name) in (('argparse', 'Namespace'), ('types', 'SimpleNamespace')):
            return Namespace
        if (module, name) in BUFFERS:
            return BUFFERS[module, name]
        if (module, name) in TEXTS:
            return TEXTS[module, name]
        if (module, name) not in ALLOWED:
            shown = repr(f'{module}.{name}')[1:-1]  # a crafted name may hold line breaks
            raise InputError(
                f'{self.path}: refused, because it names {shown}, which no weight file needs'
            )
        return super().find_class(module, name)


@contextmanager
def one_error(path: Path) -> Iterator[None]:
    """Turn any exception into an InputError; a damaged file can raise nearly every kind."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise InputError(f'{path} is not a safe and complete weight file: {reason}') from None


def plain(tree: Any, array: Callable[[Any], Any], without: str | None = None) -> Any:
    """The tree of a pickle with plain dicts, lists and tuples.

    array: value -> the array to put in its place, or None to keep it. without: a key to drop.

    Each part is converted once. Otherwise a small file could take forever: a list that contains
    another one twice, which contains another one twice, and so on.
    """
    done = {}  # id of a part -> the converted part

    def visit(value: Any) -> Any:
        if id(value) not in done:
            done[id(value)] = convert(value)
        return done[id(value)]

    def convert(value: Any) -> Any:
        found = array(value)
        if found is not None:
            return found
        if isinstance(value, dict):
            return {visit(key): visit(item) for key, item in value.items() if key != without}
        if type(value) in (list, tuple):
            return type(value)(map(visit, value))
        return value

    return visit(tree)
