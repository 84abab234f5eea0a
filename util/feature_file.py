"""A file of features, one row per picture, written while they are computed.

The suffix tells the format. Memory does not grow with the number of pictures, and a file that is
not complete never has the final name.
"""

import csv
import io
import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from util import atomic
from util.errors import InputError

FILE = 'file'  # the column of the pictures' names
GROUP = 2**26  # bytes of a row group of parquet
Rows = dict[str, np.ndarray]  # column -> array [rows, ...], float32


class Npz:
    """Columns of an .npz: `file` (text) and float32 [pictures, ...], of known length."""

    def __init__(self, file: BinaryIO, folder: Path, files: list[str]):
        self.archive = zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED)
        self.folder = folder
        self.count = len(files)
        self.text = np.dtype(('U', max(map(len, files))))
        self.columns = {}  # name -> stream

    def add(self, files: list[str], rows: Rows) -> None:
        """Append rows."""
        for name, array in {**rows, FILE: np.array(files, self.text)}.items():
            if name not in self.columns:
                self.columns[name] = self._begin(name, array)
            self.columns[name].write(array.tobytes())

    def _begin(self, name: str, array: np.ndarray) -> BinaryIO:
        """The stream of a column, with its header.

        A zip file takes one member at a time: the first column goes there at once, the others to
        nameless files beside it until `finish`.
        """
        if self.columns:
            stream = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  close() closes it
        else:
            stream = self.archive.open(f'{name}.npy', 'w', force_zip64=True)
        header = np.lib.format.header_data_from_array_1_0(array[:0])
        header['shape'] = (self.count, *array.shape[1:])
        np.lib.format.write_array_header_1_0(stream, header)
        return stream

    def finish(self) -> None:
        """Copy the other columns behind the first one."""
        first, *others = self.columns
        self.columns[first].close()
        for name in others:
            stream = self.columns[name]
            stream.seek(0)
            with self.archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                shutil.copyfileobj(stream, member)
            stream.close()

    def close(self) -> None:
        """Close everything but the file itself."""
        for stream in self.columns.values():
            stream.close()
        self.archive.close()


class Parquet:
    """Columns of a .parquet: `file` (text), and lists of float32 of a fixed length, nested."""

    def __init__(self, file: BinaryIO, folder: Path, files: list[str]):
        self.file = file
        self.writer = None
        self.waiting = []
        self.size = 0  # bytes that wait

    def add(self, files: list[str], rows: Rows) -> None:
        """Append rows; a row group is written when enough of them wait."""
        arrow = pyarrow()
        columns = {FILE: arrow.array([_valid(file) for file in files], arrow.string())}
        for name, array in rows.items():
            column = arrow.array(np.ravel(array))
            for length in reversed(array.shape[1:]):
                column = arrow.FixedSizeListArray.from_arrays(column, length)
            columns[name] = column
        table = arrow.table(columns)
        self.waiting.append(table)
        self.size += table.nbytes
        if self.size >= GROUP:
            self._write()

    def _write(self) -> None:
        from pyarrow import parquet

        table = pyarrow().concat_tables(self.waiting)
        if self.writer is None:
            self.writer = parquet.ParquetWriter(self.file, table.schema)
        self.writer.write_table(table)
        self.waiting = []
        self.size = 0

    def finish(self) -> None:
        """Write the rows that wait."""
        if self.waiting:
            self._write()

    def close(self) -> None:
        """Close everything but the file itself."""
        if self.writer:
            self.writer.close()


class Csv:
    """Columns of a .csv: `file`, and for each feature of width D `name_0` to `name_<D - 1>`."""

    def __init__(self, file: BinaryIO, folder: Path, files: list[str]):
        # file names in bytes that are no text stay these bytes
        self.text = io.TextIOWrapper(file, 'utf-8', 'surrogateescape', newline='')
        self.writer = csv.writer(self.text, lineterminator='\n')
        self.begun = False

    def add(self, files: list[str], rows: Rows) -> None:
        """Append rows."""
        if not self.begun:
            self.writer.writerow([FILE, *_titles(rows)])
            self.begun = True
        numbers = np.concatenate(list(rows.values()), axis=1)
        for file, row in zip(files, numbers):
            # 9 digits give the same float32 back
            self.writer.writerow([file, *(f'{number:.9g}' for number in row)])

    def finish(self) -> None:
        """Write what the buffer holds."""
        self.text.flush()

    def close(self) -> None:
        """Close everything but the file itself."""
        self.text.detach()


KINDS = {'.npz': Npz, '.parquet': Parquet, '.csv': Csv}


def check(path: Path, per_patch: bool) -> None:
    """InputError if a file of features cannot be written there; before anything is computed.

    per_patch: whether it is to hold features of all patches.
    """
    kind = KINDS.get(path.suffix)
    if kind is None:
        endings = ', '.join(KINDS)
        raise InputError(f'--features {path}: the name must end in one of {endings}')
    if not path.parent.is_dir():
        raise InputError(f'--features {path}: there is no folder {path.parent}')
    if path.is_dir():
        raise InputError(f'--features {path} is a folder already; name a file')
    if kind is Csv and per_patch:
        raise InputError(
            f'--features {path}: a .csv has no place for the features of all patches; '
            'name a .npz or .parquet'
        )
    if kind is Parquet:
        pyarrow()


@contextmanager
def writing(path: Path, files: list[str]) -> Iterator[Npz | Parquet | Csv]:
    """Something with `add(files, rows)`; when the block ends, the file is complete.

    files: all names, in the order in which they are added. If the block raises, `path` stays as it
    was.
    """
    with atomic.writing(path) as file:
        sink = KINDS[path.suffix](file, path.parent, files)
        with closing(sink):
            yield sink
            sink.finish()


def pyarrow():
    """The module pyarrow; InputError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise InputError(
            '--features *.parquet needs the package in requirements/features.txt: '
            'bash requirements/install.sh .venv requirements.txt requirements/features.txt'
        ) from None
    return pyarrow


def _valid(name: str) -> str:
    """A file name as text of Unicode, which parquet asks for."""
    return name.encode('utf-8', 'backslashreplace').decode()


def _titles(rows: Rows) -> list[str]:
    """The titles of a table's columns, one a number."""
    titles = []
    for name, array in rows.items():
        width = math.prod(array.shape[1:])
        titles += [f'{name}_{number}' for number in range(width)]
    return titles
