"""Both splits of a data set of any layout, for programs that read all of it."""

import argparse
import os

from util import archive_flags, cli
from util.data import folder, pictures
from util.data.images import Images

MOST_WORKERS = 8  # by default


def flags(p: argparse.ArgumentParser) -> None:
    """Add which data set is read, and by how many processes."""
    p.add_argument('data', nargs='+', metavar='DATA', help='as --data_path of the programs')
    p.add_argument(
        '--in_chans',
        type=cli.number(int, 1),
        default=3,
        help='channels: 1 or 3 for pictures; other numbers for .npy files',
    )
    p.add_argument(
        '--num_workers',
        type=cli.number(int, 0),
        default=min(MOST_WORKERS, os.cpu_count() or 1),
        help='processes',
    )
    archive_flags.index_dir(p)


def splits(data: list[str], in_chans: int, index_dir: str) -> dict[str, Images]:
    """The images of `train` and of `val`, where they are there; all as `train` without labels."""
    suffixes = pictures.suffixes(in_chans)
    found = {}
    for split in ('train', 'val'):
        if folder.has_labelled(data, split):
            found[split] = folder.find(data, split, suffixes, index_dir=index_dir)
    if not found:
        found['train'] = folder.find_unlabelled(data, suffixes, index_dir)
    return found
