"""Pickles of arrays and plain containers, for every format that is made of them.

Any other name is refused, because pickle itself runs whatever code a crafted file names.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from util.errors import InputError

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
    """What argparse.Namespace becomes, a dict of its attributes: programs keep their flags in one, and a file need not name
    more than that class."""

    __slots__ = ()

    def __setstate__(self, state: dict):
        self.update(state)


def _bytes(state: bytes | str) -> bytes:
    """What Python 2 pickled as a string."""
    return state.encode('latin1') if isinstance(state, str) else state


def _datetime(state: bytes | str, *zone: str) -> str:
    """The text of the ten bytes that a datetime pickles: four of a date, six of a time."""
    state = _bytes(state)
    return ' '.join([_date(state[:4]), _time(state[4:]), *zone])


def _date(state: bytes | str) -> str:
    high, low, month, day = _bytes(state)
    month &= 0x7F  # the highest bit says which of two equal hours in autumn is meant
    return f'{256 * high + low:04}-{month:02}-{day:02}'


def _time(state: bytes | str, *zone: str) -> str:
    hour, minute, second, *micros = _bytes(state)
    hour &= 0x7F
    moment = f'{hour:02}:{minute:02}:{second:02}.{int.from_bytes(bytes(micros), "big"):06}'
    return ' '.join([moment.removesuffix('.000000'), *zone])


def _span(days: int, seconds: int, micros: int) -> str:
    return f'{days} days {seconds}.{micros:06} s'


def _path(flavour: type[PurePath]) -> Callable[..., str]:
    return lambda *parts: str(flavour(*parts))


# Harmless classes of the standard library, which programs put among their flags: read as text, by what stands here in
# place of the class. Python 3.13 has paths in a module of their own
TEXTS = {
    **{
        (module, name): _path(PureWindowsPath if 'Windows' in name else PurePosixPath)
        for module in ('pathlib', 'pathlib._local')
        for name in (
            'Path',
            'PosixPath',
            'WindowsPath',
            'PurePath',
            'PurePosixPath',
            'PureWindowsPath',
        )
    },
    ('datetime', 'datetime'): _datetime,
    ('datetime', 'date'): _date,
    ('datetime', 'time'): _time,
    ('datetime', 'timedelta'): _span,
    ('datetime', 'timezone'): lambda offset, name=None: name or f'UTC+({offset})',
    ('decimal', 'Decimal'): str,
}


class Unpickler(pickle.Unpickler):
    """Unpickler of a file that is named in errors; strings of Python 2 are read as Latin-1."""

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(file, encoding='latin1')
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (('argparse', 'Namespace'), ('types', 'SimpleNamespace')):
            return Namespace
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
    """Make one InputError of what a damaged file raises, which is nearly anything."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error).partition('\n')[0] or type(error).__name__
        raise InputError(f'{path} is no weight file that is safe and whole: {reason}') from None


def plain(tree: Any, array: Callable[[Any], Any], without: str | None = None) -> Any:
    """The tree with plain dicts in place of their kin, `array` of a value wherever that is not None, and not the key
    `without`. Each part is visited once: a few lists of the same list twice, nested, would take forever."""
    done = {}

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
        return type(value)(map(visit, value)) if type(value) in (list, tuple) else value

    return visit(tree)
