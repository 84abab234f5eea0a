"""Write a data set of any layout as tar shards, which all programs and webdataset read.

    python -m util.data.pack DATA OUT --shard_size 512M

OUT receives train-00000.tar, ..., val-00000.tar, ... and _info.json, which names the classes and
has the number of images, the size and the SHA-256 of each shard. Images stay as they are, byte by
byte. Those of train are shuffled once, so that each shard is a fair sample; their keys are their
numbers, so a training gives the same weights as on DATA. A command that was stopped continues where
it was.
"""

import argparse
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from util import atomic, cli, program
from util.data import data_set, folder, pictures, summary, window, workers
from util.data.archives import labels
from util.data.archives.members import Members
from util.data.images import Chain, Images
from util.errors import InputError
from util.progress import bar

PROGRESS = '_progress.json'
INFO = labels.INFO[0]
UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30}
WINDOW = 64  # row groups of parquet that are shuffled together
OVERHEAD = 6 * tarfile.BLOCKSIZE  # of a sample in a tar: headers and padding
BEGINNINGS = {b'\xff\xd8': '.jpg', b'\x89PNG': '.png', b'BM': '.bmp', b'RIFF': '.webp'}


def main(args):
    out = Path(args.out)
    program.make_folder('OUT', args.out)
    found = data_set.splits(args.data, args.in_chans, args.index_dir)
    suffixes = pictures.suffixes(args.in_chans)
    packings = []
    for split, images in found.items():
        print(summary.line(split, images))
        packings.append(
            Packing(
                split,
                images,
                suffixes,
                shard_size=args.shard_size,
                rng=np.random.default_rng(args.seed) if split == 'train' else None,
                root=folder.common(args.data),
            )
        )

    progress = Progress(out, plan_of(packings))
    for packing in packings:
        packing.write(out, progress, args.num_workers)
    contents = {'splits': {}, 'classes': packings[0].images.classes}
    for packing in packings:
        contents['splits'][packing.split] = packing.info(progress)
    with atomic.writing(out / INFO) as file:
        file.write(json.dumps(contents, indent=1).encode())
    progress.path.unlink(missing_ok=True)
    for packing in packings:
        size = sum(contents['splits'][packing.split]['bytes'])
        count = len(packing.images)
        print(f'{packing.split}: {count} images in {packing.shards} shards, {size / 2**20:.1f} MiB')


class Packing:
    """The shards of one split.

    shard_size: bytes. rng: shuffles the images; None keeps their order. root: the folder that
    paths in .json are relative to.
    """

    def __init__(
        self,
        split: str,
        images: Images,
        suffixes: tuple[str, ...],
        shard_size: int,
        rng: np.random.Generator | None,
        root: str,
    ):
        self.root = os.path.join(root, '')
        self.split = split
        self.images = images
        self.suffixes = suffixes
        self.sizes = sizes_of(images.paths)
        self.order = _order(images, rng)
        used = np.cumsum(self.sizes[self.order] + OVERHEAD)
        # the shard of each place in the order; numbers that a very large image skips are closed up
        _, self.shard_of = np.unique((used - 1) // shard_size, return_inverse=True)
        self.shards = int(self.shard_of[-1]) + 1

    def path(self, index: int) -> str:
        """The path of an image as .json has it."""
        path = self.images.paths[index].removeprefix(self.root)
        return path.encode(errors='backslashreplace').decode()

    def name(self, shard: int) -> str:
        """The file name of a shard."""
        return f'{self.split}-{shard:05}.tar'

    def write(self, out: Path, progress: 'Progress', processes: int) -> None:
        """Write the shards that are not there yet."""
        todo = [shard for shard in range(self.shards) if not progress.has(self.name(shard))]
        written = workers.batches(
            prepare=lambda shard: self.write_shard(out, shard),
            collate=lambda shards: shards[0],
            order=[[shard] for shard in todo],
            count=min(processes, len(todo)),
            name=self.name,
        )
        for shard, about in zip(todo, bar(written, f'shards of {self.split}', len(todo))):
            progress.add(self.name(shard), about)

    def write_shard(self, out: Path, shard: int) -> dict[str, Any]:
        """Write one shard; its number of images, bytes and checksum."""
        chosen = self.order[self.shard_of == shard]
        width = len(str(len(self.images)))
        with atomic.writing(out / self.name(shard)) as file:
            sink = _Hashing(file)
            with tarfile.open(fileobj=sink, mode='w', format=tarfile.USTAR_FORMAT) as archive:
                for index in chosen.tolist():
                    for suffix, data in self.sample(index):
                        _add(archive, f'{index:0{width}}{suffix}', data)
        checksum = sink.digest.hexdigest()
        return {'samples': len(chosen), 'bytes': sink.size, 'sha256': checksum}

    def sample(self, index: int) -> list[tuple[str, bytes]]:
        """The files of a sample: (suffix, bytes) each."""
        path = self.images.paths[index]
        try:
            source = self.images.source(index)
            data = Path(source).read_bytes() if isinstance(source, str) else source.read()
        except (OSError, EOFError, ValueError) as error:
            raise InputError(f'{path} cannot be read ({error})') from None
        about = {'filename': self.path(index)}  # as timm calls it
        files = [(self._suffix(path, data), data)]
        if self.images.labels is not None:
            label = int(self.images.labels[index])
            files.append(('.cls', str(label).encode()))
        return [*files, ('.json', json.dumps(about).encode())]

    def _suffix(self, path: str, data: bytes) -> str:
        """The suffix of an image; by its first bytes where its name has none."""
        suffix = PurePosixPath(path).suffix.lower()
        if suffix in self.suffixes:
            return '.jpg' if suffix == '.jpeg' else suffix  # timm looks for .jpg
        for beginning, known in BEGINNINGS.items():
            if data.startswith(beginning):
                return known
        raise InputError(
            f'{path}: neither its name nor its beginning says what kind of image it is'
        )

    def info(self, progress: 'Progress') -> dict[str, Any]:
        """What the manifest says about the split; the first four keys are those of timm."""
        names = [self.name(shard) for shard in range(self.shards)]
        about = [progress.shards[name] for name in names]
        return {
            'name': self.split,
            'num_samples': len(self.images),
            'filenames': names,
            'shard_lengths': [one['samples'] for one in about],
            'bytes': [one['bytes'] for one in about],
            'sha256': [one['sha256'] for one in about],
        }


class Progress:
    """The shards that are complete, in a file that outlives an interruption.

    plan: a text that stands for the data set and the flags; InputError if the shards that are
    there were made from another one.
    """

    def __init__(self, out: Path, plan: str):
        self.path = out / PROGRESS
        self.out = out
        self.plan = plan
        self.shards = {}
        if self.path.exists():
            try:
                content = json.loads(self.path.read_bytes())
                before, self.shards = content['plan'], dict(content['shards'])
            except (ValueError, KeyError, TypeError):
                before = None
            if before != plan:
                raise InputError(
                    f'{out} holds shards of other data or made with other flags; '
                    'empty it, or name another folder'
                )
        elif any(out.glob('*.tar')) or (out / INFO).exists():
            raise InputError(f'{out} holds shards already; name an empty folder')

    def has(self, name: str) -> bool:
        """Whether a shard is complete."""
        about = self.shards.get(name)
        file = self.out / name
        return about is not None and file.exists() and file.stat().st_size == about['bytes']

    def add(self, name: str, about: dict[str, Any]) -> None:
        """Note a shard that is complete."""
        self.shards[name] = about
        content = {'plan': self.plan, 'shards': self.shards}
        with atomic.writing(self.path) as file:
            file.write(json.dumps(content).encode())


class _Hashing:
    """A file that only grows, with its checksum, for tarfile."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Append bytes."""
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        """The number of bytes so far."""
        return self.size


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    archive.addfile(about, io.BytesIO(data))


def sizes_of(paths: Sequence[str]) -> np.ndarray:
    """The bytes of each image, about; paths: those of Images."""
    if isinstance(paths, Members):
        return paths.sizes()
    if isinstance(paths, Chain):
        return np.concatenate([sizes_of(part) for part in paths.parts])
    return np.array([os.path.getsize(path) for path in bar(paths, 'sizes')], 'int64')


def _order(images: Images, rng: np.random.Generator | None) -> np.ndarray:
    """The order in which images are written."""
    if rng is None:
        return np.arange(len(images))
    members = images.paths
    if isinstance(members, Members) and members.is_parquet:
        return window.Window(members, WINDOW).order(rng, 1)  # as few row groups as possible
    return rng.permutation(len(images))


def plan_of(packings: list[Packing]) -> str:
    """A text that stands for all that is to be written."""
    digest = hashlib.sha256()
    for packing in packings:
        digest.update(packing.split.encode())
        for index in range(len(packing.images)):
            digest.update(packing.path(index).encode() + b'\0')
        labelled = packing.images.labels is not None
        numbers = np.array(packing.images.labels if labelled else [], 'int64')
        for array in (numbers, packing.sizes, packing.order, packing.shard_of):
            digest.update(array.astype('int64').tobytes())
    return digest.hexdigest()


def size(text: str) -> int:
    """A flag's type: bytes, as 512M."""
    match = re.fullmatch(r'(\d+)([KMG]?)B?', text.upper())
    if not match or not int(match.group(1)):
        raise argparse.ArgumentTypeError(f'{text} is no size, such as 512M')
    return int(match.group(1)) * UNITS[match.group(2)]


PARSER = cli.parser(__doc__, data_set.flags)
PARSER.prog = 'python -m util.data.pack'
PARSER.add_argument('out', metavar='OUT', help='folder for the shards')
PARSER.add_argument('--shard_size', type=size, default='512M', help='bytes of a shard, about')
PARSER.add_argument('--seed', type=cli.number(int, 0), default=0, help='seed of the shuffling')

if __name__ == '__main__':
    program.run(main, PARSER)
