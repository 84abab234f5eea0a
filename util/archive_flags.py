"""Flags about images in archives: where indexes are kept, and in which order archives are read."""

import argparse

from util.flags import positive


def index_dir(p: argparse.ArgumentParser) -> None:
    """Add the folder of indexes."""
    p.add_argument(
        '--index_dir',
        default='',
        metavar='DIR',
        help='folder for the indexes of archives (default: beside each archive)',
    )


def shuffle(p: argparse.ArgumentParser) -> None:
    """Add the order in which a training reads its images."""
    g = p.add_argument_group('order of the images')
    index_dir(g)
    g.add_argument(
        '--shuffle',
        choices=['full', 'window'],
        default='full',
        help='full: all images are shuffled. window: shards, or row groups of parquet, are read '
        'from beginning to end in a random order, and images are shuffled within a few of them; '
        'for network storage',
    )
    g.add_argument(
        '--window',
        type=positive,
        default=16,
        help='shards, or row groups of parquet, that are shuffled together',
    )
    g.add_argument(
        '--window_parts',
        type=positive,
        default=1,
        help='a global batch is made of this many equal parts, each from shards of its own; with '
        'a multiple of the number of machines, each machine reads only its share of the data',
    )
