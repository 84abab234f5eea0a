"""Arrays with a row per image that are larger than memory, or shared by several processes.

Each rank writes the rows of its own images to a file, and every rank reads the files of all. The
files are those of numpy.load, and their pages are shared by the processes of a machine.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from util import atomic, dist
from util.data.loader import evaluation_order
from util.errors import InputError

FOLDER = '.features'  # in --output_dir, while a program runs


def check(output_dir: str) -> None:
    """InputError if several processes have no folder in which their rows can meet."""
    if not output_dir and dist.world_size() > 1:
        raise InputError(
            'features of several processes meet in --output_dir, which is empty; name a folder'
        )


@contextmanager
def folder(output_dir: str) -> Iterator[Path]:
    """A folder that all ranks see, empty at first and removed at the end.

    Without output_dir it is a temporary one of the system, which only one process can use.
    """
    check(output_dir)
    if not output_dir:
        with tempfile.TemporaryDirectory() as path:
            yield Path(path)
        return

    path = Path(output_dir) / FOLDER
    if dist.is_main():
        shutil.rmtree(path, ignore_errors=True)  # of a killed process
        path.mkdir(parents=True)
    dist.barrier()
    try:
        yield path
        dist.barrier()  # others may still read
    finally:
        if dist.is_main():
            shutil.rmtree(path, ignore_errors=True)


class Writer:
    """Writes this rank's rows of several arrays to `folder`, as they are computed.

    images: the number of rows over all ranks. kinds: the numpy type of each array, by its name.
    """

    def __init__(self, folder: Path, images: int, kinds: dict[str, str]):
        self.folder = folder
        self.images = images
        self.kinds = kinds
        self.files = {}
        self.shapes = {}
        self.stack = contextlib.ExitStack()
        folder.mkdir(exist_ok=True)

    def __enter__(self) -> 'Writer':
        return self

    def __exit__(self, *error) -> None:
        self.stack.close()

    def add(self, arrays: dict[str, np.ndarray]) -> None:
        """Append rows; InputError if the disk is full."""
        try:
            for name, array in arrays.items():
                if name not in self.files:
                    self._begin(name, array.shape[1:])
                rows = array.astype(self.kinds[name])
                self.files[name].write(rows.tobytes())
        except OSError as error:
            raise atomic.refused(self.folder / name, error) from None

    def _begin(self, name: str, shape: tuple[int, ...]) -> None:
        """Open the file of an array and write its head."""
        rows = len(evaluation_order(self.images, dist.rank(), dist.world_size()))
        numbers = rows * int(np.prod(shape))
        size = np.dtype(self.kinds[name]).itemsize * numbers
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise InputError(
                f'{self.folder} needs {size / 1e9:.1f} GB for the features {name!r} of {rows} '
                f'images, and its disk has {free / 1e9:.1f} GB left; take fewer --labels, leave '
                'that method out of --methods, or name an --output_dir elsewhere'
            )
        path = _path(self.folder, name, dist.rank())
        file = self.stack.enter_context(open(path, 'wb'))  # noqa: SIM115  closed by the stack
        self.files[name] = file
        head = {'descr': self.kinds[name], 'fortran_order': False, 'shape': (rows, *shape)}
        npy.write_array_header_1_0(file, head)


def _path(folder: Path, name: str, rank: int) -> Path:
    return folder / f'{name.replace(" ", "-")}.{rank}.npy'


class Rows:
    """The rows of all ranks, in the order of the images; rows[places] is float32 [places, ...].

    Call it after a barrier that follows the writing.
    """

    def __init__(self, folder: Path, name: str, images: int):
        self.images = images
        ranks = min(dist.world_size(), images)  # the others have no image
        paths = [_path(folder, name, rank) for rank in range(ranks)]
        self.parts = [np.load(path, mmap_mode='r') for path in paths]
        self.shape = self.parts[0].shape[1:]

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        found = np.empty([len(places), *self.shape], 'float32')
        world_size = dist.world_size()
        for rank, part in enumerate(self.parts):
            own = places % world_size == rank
            found[own] = part[places[own] // world_size]
        return found
