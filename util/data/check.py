"""Read and decode every image of a data set, and list what is damaged.

    python -m util.data.check DATA

DATA is what the programs take as --data_path. A table shows each class with the number of its
images and their sizes. For shards of util.data.pack, the checksums are compared as well. The exit
code is 1 if something is damaged.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from util import cli, program
from util.data import data_set, pictures, summary, workers
from util.data.archives import labels
from util.data.archives.members import Members
from util.data.images import Images
from util.progress import bar
from util.weights import sha256

MOST = 512  # images a worker checks at a time
DAMAGED = 1  # exit code


class Portion(NamedTuple):
    """Images that one worker checks; first of all the checksum of their archive, if it is known."""

    indices: np.ndarray
    archive: str = ''
    checksum: str = ''


def main(args):
    found = data_set.splits(args.data, args.in_chans, args.index_dir)
    damaged = 0
    for split, images in found.items():
        print(summary.line(split, images))
        facts, complaints = check(images, args.in_chans, args.num_workers)
        print('\n'.join(table(images, facts)))
        for complaint in complaints:
            print(f'damaged: {complaint}')
        damaged += len(complaints)
    print(f'{damaged} damaged' if damaged else 'nothing is damaged')
    if damaged:
        sys.exit(DAMAGED)


def check(images: Images, in_chans: int, processes: int) -> tuple[np.ndarray, list[str]]:
    """Facts about each image [N, 3]: width, height and bytes, 0 for a damaged one; complaints."""
    portions = portions_of(images)

    def prepare(number):
        return _check(images, portions[number], in_chans)

    def name(number):
        return images.paths[int(portions[number].indices[0])]

    results = workers.batches(
        prepare=prepare,
        collate=lambda results: results[0],
        order=[[number] for number in range(len(portions))],
        count=min(processes, len(portions)),
        name=name,
    )
    facts = np.zeros([len(images), 3], 'int64')
    complaints = []
    for portion, result in zip(portions, bar(results, 'portions', len(portions))):
        facts[portion.indices], its_complaints = result
        complaints += its_complaints
    return facts, complaints


def portions_of(images: Images) -> list[Portion]:
    """All images, in the order in which they lie in their archives."""
    if not isinstance(images.paths, Members):
        return _parts(np.arange(len(images)))
    members = images.paths
    in_turn = members.in_turn()
    checksums = {}
    if not members.is_parquet:  # whose blocks are no whole files
        checksums = _checksums(Path(members.blocks[0].path).parent)  # all lie in one folder
    portions = []
    for number, block in enumerate(members.blocks):
        indices = in_turn[members.starts[number] : members.starts[number + 1]]
        checksum = checksums.get(os.path.basename(block.path))
        if checksum:
            portions.append(Portion(indices, block.path, checksum))
        else:
            portions += _parts(indices)
    return [portion for portion in portions if len(portion.indices)]


def _parts(indices: np.ndarray) -> list[Portion]:
    starts = range(0, len(indices), MOST)
    return [Portion(indices[start : start + MOST]) for start in starts]


def _checksums(place: Path) -> dict[str, str]:
    """The SHA-256 of each archive in a folder by the manifest there; {} if there is none."""
    known = {}
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        content = json.loads((place / labels.INFO[0]).read_bytes())
        for split in content['splits'].values():
            known.update(zip(split['filenames'], map(str, split['sha256'])))
    return known


def _check(images: Images, portion: Portion, in_chans: int) -> tuple[np.ndarray, list[str]]:
    """Facts about a portion's images [n, 3], and complaints; see `check`."""
    complaints = []
    if portion.checksum and sha256(portion.archive) != portion.checksum:
        complaints.append(f'{portion.archive} (its SHA-256 is not that of _info.json)')
    facts = np.zeros([len(portion.indices), 3], 'int64')
    for place, index in enumerate(portion.indices.tolist()):
        try:
            facts[place] = _facts(images.source(index), in_chans)
        except Exception as error:  # PIL raises a dozen kinds for broken files
            complaints.append(f'{images.paths[index]} ({type(error).__name__}: {error})')
    return facts, complaints


def _facts(source: Any, in_chans: int) -> tuple[int, int, int]:
    """(width, height, bytes) of an image, which is decoded."""
    size = os.path.getsize(source) if isinstance(source, str) else len(source.getbuffer())
    picture = pictures.read(source, in_chans)
    if isinstance(picture, Image.Image):
        return (*picture.size, size)
    height, width = picture.shape[:2]
    return width, height, size


def table(images: Images, facts: np.ndarray) -> list[str]:
    """Lines with the number of images and their sizes, for each class and for all."""
    rows = [('class', 'images', 'damaged', 'smallest', 'median', 'largest', 'mean KB')]
    if images.labels is not None:
        numbers = np.asarray(images.labels)
        for label in np.unique(numbers).tolist():
            name = images.classes[label] if images.classes else f'label {label}'
            rows.append(_row(name, facts[numbers == label]))
    rows.append(_row('all', facts))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for name, *cells in rows:
        shown = [cell.rjust(width) for cell, width in zip(cells, widths[1:])]
        lines.append('  '.join([name.ljust(widths[0]), *shown]))
    return lines


def _row(name: str, facts: np.ndarray) -> tuple[str, ...]:
    """A row of the table; sizes are those of the readable images, by their area."""
    readable = facts[facts[:, 2] > 0]
    count = len(facts)
    damaged = str(count - len(readable))
    if not len(readable):
        return (name, str(count), damaged, '-', '-', '-', '-')
    by_area = readable[np.argsort(readable[:, 0] * readable[:, 1], kind='stable')]
    shown = []
    for place in (0, len(by_area) // 2, -1):
        width, height, _ = by_area[place]
        shown.append(f'{width}x{height}')
    kilobytes = readable[:, 2].mean() / 1000
    return (name, str(count), damaged, *shown, f'{kilobytes:.1f}')


PARSER = cli.parser(__doc__, data_set.flags)
PARSER.prog = 'python -m util.data.check'

if __name__ == '__main__':
    program.run(main, PARSER)
