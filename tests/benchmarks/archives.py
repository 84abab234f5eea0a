"""Images a second from a folder, ImageNet's archive, shards and parquet, and by webdataset.

    .venv/bin/python tests/benchmarks/archives.py SCRATCH --rounds 5 --workers 2 --caches warm cold

All read the same JPEGs, decode them by Pillow and stack batches in the same worker processes; only
where the bytes come from differs. Rounds are interleaved. `warm`: all files are in the page cache.
`cold`: they were dropped from it before. CPU time, opens and seeks count all processes. A seek is a
read by os.pread or os.preadv that does not begin where the last one of that file ended. What
Pillow, PyArrow and webdataset read by themselves is not seen.
"""

import argparse
import io
import multiprocessing
import os
import statistics
import sys
import tarfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
import util  # noqa: F401  first of all

# isort: split
import numpy as np
import pyarrow as pa
import webdataset
from PIL import Image
from pyarrow import parquet

from util.data import folder, loader, pack, pictures, window, workers

BATCH = 100
SIDE = 64
SUFFIXES = pictures.PICTURES
counts = multiprocessing.Array('q', 2)  # opens and seeks, of this process and its workers
OPENS, SEEKS = 0, 1
ends = {}  # descriptor -> where its last read ended


def decode(source):
    """The pixels of an image."""
    return np.asarray(pictures.read(source, 3))


def make(root, images, classes=100):
    """The same pictures in all layouts."""
    rng = np.random.default_rng(0)
    for number in range(images):
        file = root / f'folder/train/n{number % classes:08}/n{number % classes:08}_{number}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, [8, 8, 3], 'uint8'))
        small.resize([SIDE, SIDE], Image.BICUBIC).save(file, quality=90)
    flags = [root / 'folder', root / 'shards', '--shard_size', '2M', '--num_workers', 0]
    pack.main(pack.PARSER.parse_args(list(map(str, flags))))

    (root / 'imagenet').mkdir()
    (root / 'parquet').mkdir()
    rows = []
    with tarfile.open(root / 'imagenet/ILSVRC2012_img_train.tar', 'w') as archive:
        for place in sorted((root / 'folder/train').iterdir()):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode='w') as one:
                for file in sorted(place.iterdir()):
                    one.add(file, file.name)
                    rows.append({'bytes': file.read_bytes(), 'path': file.name})
            about = tarfile.TarInfo(f'{place.name}.tar')
            about.size = inner.tell()
            inner.seek(0)
            archive.addfile(about, inner)
    kind = pa.struct([('bytes', pa.binary()), ('path', pa.string())])
    table = pa.table({'image': pa.array(rows, kind)})
    parquet.write_table(table, root / 'parquet/train.parquet', row_group_size=100)


def ours(root, layout, shuffle, epoch, count):
    """Read an epoch as a training does; the number of images."""
    images = folder.find_unlabelled(str(root / layout), SUFFIXES)
    how = window.window_of(images, shuffle, 16, 1)
    order = loader.Order(len(images), BATCH, 0, epoch, 0, 1, window=how)

    def prepare(key):
        return decode(images.source(key[1]))

    begun = time.perf_counter()
    read = 0
    with loader.reading_ahead(order) as reach:
        batches = workers.batches(prepare, np.stack, order, count, name=str)
        for number, batch in enumerate(batches):
            reach(number)
            read += len(batch)
    return read, time.perf_counter() - begun


def theirs(root, layout, shuffle, epoch, count):
    """Read an epoch by the package webdataset, each worker its share of the shards."""
    shards = sorted(str(file) for file in (root / layout).glob('train-*.tar'))
    shards = np.random.default_rng(epoch).permutation(shards).tolist()
    next_worker = multiprocessing.Value('i', 0)
    samples = []

    def prepare(key):
        if not samples:
            with next_worker.get_lock():
                number = next_worker.value
                next_worker.value += 1
            mine = shards[number :: max(count, 1)]
            data = webdataset.WebDataset(
                mine, shardshuffle=False, nodesplitter=None, empty_check=False
            )
            samples.append(iter(data.shuffle(1000)))
        sample = next(samples[0], None)
        return decode(io.BytesIO(sample['jpg'])) if sample else None

    def collate(found):
        found = [pixels for pixels in found if pixels is not None]
        return np.stack(found) if found else np.zeros([0])

    # shards differ in size, so a worker may have a few batches more than its share
    total = len(list((root / 'folder/train').rglob('*.jpg')))
    order = [[0] * BATCH] * (total // BATCH + 4 * count)
    begun = time.perf_counter()
    read = sum(map(len, workers.batches(prepare, collate, order, count, name=str)))
    return read, time.perf_counter() - begun


CASES = {
    'folder': (ours, 'folder', 'full'),
    "ImageNet's archive, full": (ours, 'imagenet', 'full'),
    'shards, full': (ours, 'shards', 'full'),
    'shards, window': (ours, 'shards', 'window'),
    'parquet, window': (ours, 'parquet', 'window'),
    'shards, by webdataset': (theirs, 'shards', ''),
}


def drop(root):
    """Drop all files from the page cache."""
    os.sync()
    for file in root.rglob('*'):
        if file.is_file():
            with open(file, 'rb') as opened_file:
                os.posix_fadvise(opened_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(root, case, epoch, count, cold):
    """Images a second, CPU milliseconds an image, opens and seeks a thousand images, images."""
    run, layout, shuffle = CASES[case]
    if cold:
        drop(root / layout)
    counts[:] = [0, 0]
    before = sum(os.times()[:4])
    read, seconds = run(root, layout, shuffle, epoch, count)
    cpu = sum(os.times()[:4]) - before
    opens, seeks = (1000 * count / read for count in counts)
    return read / seconds, 1000 * cpu / read, opens, seeks, read


def add(what):
    """Count one more."""
    with counts.get_lock():
        counts[what] += 1


def audit(event, args):
    if event == 'open':
        add(OPENS)


def counted(function):
    """os.pread or os.preadv that counts its seeks."""

    def read(descriptor, wanted, offset):
        found = function(descriptor, wanted, offset)
        if ends.get(descriptor) != offset:
            add(SEEKS)
        length = found if isinstance(found, int) else len(found)
        ends[descriptor] = offset + length
        return found

    return read


def main(args):
    root = Path(args.scratch)
    if not (root / 'parquet').exists():
        make(root, args.images)
    sys.addaudithook(audit)
    os.pread = counted(os.pread)
    os.preadv = counted(os.preadv)
    for cache in args.caches:
        for count in args.workers:
            found = {case: [] for case in CASES}
            for epoch in range(args.rounds + 1):
                for case in CASES:
                    found[case].append(measure(root, case, epoch, count, cache == 'cold'))
            print(f'{cache}, {count} workers, n = {args.rounds}')
            for case, figures in found.items():
                print(f'  {case:26}', line(figures[1:]), flush=True)  # the first round warms up


def line(figures):
    """The medians of several rounds."""
    *costs, read = zip(*figures)
    rates = costs[0]
    rate, milliseconds, opens, seeks = map(statistics.median, costs)
    spread = f'({min(rates):.0f} to {max(rates):.0f})'
    places = f'{opens:7.1f} opens/1000  {seeks:7.1f} seeks/1000'
    return f'{rate:8.0f} images/s {spread}  {milliseconds:.3f} ms CPU  {places}  {read[0]} images'


PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument('scratch', help='folder for the pictures; made where it is missing')
PARSER.add_argument('--images', type=int, default=20_000)
PARSER.add_argument('--rounds', type=int, default=5)
PARSER.add_argument('--workers', type=int, nargs='+', default=[0, 2])
PARSER.add_argument('--caches', nargs='+', choices=['warm', 'cold'], default=['warm', 'cold'])

if __name__ == '__main__':
    main(PARSER.parse_args())
