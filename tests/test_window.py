"""The order of --shuffle window."""

import os
import threading

import numpy as np
import pytest
import toy_archives

from util.data import folder, loader, pictures, window
from util.data.archives import parquet
from util.data.archives.members import Block, Members
from util.errors import InputError


def members(sizes, rng=None):
    """Members without images, with blocks of these sizes."""
    made = object.__new__(Members)
    made.starts = np.concatenate([[0], np.cumsum(sizes)])
    made.blocks = [Block(f'{number}.tar', None) for number in range(len(sizes))]
    made.offsets = np.zeros(sum(sizes))
    made.rows = None if rng is None else rng.permutation(sum(sizes)).astype('int32')
    made.keep = 2
    return made


SIZES = [7, 9, 8, 1, 12, 10, 6, 11, 9, 7, 13, 4]


def batches(made, batch_size, rank=0, ranks=1, epoch=0, first=0, parts=1, shards=3):
    """The indices of a rank's batches."""
    order = loader.Order(
        len(made), batch_size, 5, epoch, rank, ranks, first, window.Window(made, shards, parts)
    )
    return [[index for _, index in keys] for keys in order]


@pytest.mark.parametrize('parts', [1, 2, 4])
def test_no_sample_occurs_twice_or_is_missing(parts):
    made = members(SIZES, np.random.default_rng(0))
    for epoch in (0, 1):
        seen = np.ravel(batches(made, 4, epoch=epoch, parts=parts)).tolist()
        assert len(seen) == len(set(seen)) == len(made) // 4 * 4
    order = window.Window(made, 3, parts).order(np.random.default_rng(1), 4)
    assert sorted(order) == list(range(len(made)))
    assert batches(made, 4, parts=parts) != batches(made, 4, epoch=1, parts=parts)


@pytest.mark.parametrize('parts', [1, 4])
def test_ranks_share_each_global_batch_and_a_run_resumes_at_any_batch(parts):
    made = members(SIZES, np.random.default_rng(0))
    one = batches(made, 8, parts=parts)
    for ranks in (2, 4):
        shares = [batches(made, 8 // ranks, rank, ranks, parts=parts) for rank in range(ranks)]
        assert np.array_equal(np.concatenate(shares, axis=1), one)
    assert batches(made, 8, first=5, parts=parts) == one[5:]


def test_blocks_are_read_in_windows():
    """By hand: after n samples, only blocks of the first windows have been used."""
    made = members(SIZES)
    order = window.Window(made, 3).order(np.random.default_rng(2), 1)
    used = np.searchsorted(made.starts, order, side='right') - 1
    blocks = np.random.default_rng(2).permutation(len(SIZES))
    place = 0
    for first in range(0, len(SIZES), 3):
        chosen = blocks[first : first + 3]
        count = sum(SIZES[block] for block in chosen)
        assert set(used[place : place + count]) == set(chosen)
        assert len(set(used[place : place + 6])) > 1  # shuffled over the blocks of the window
        place += count
    in_turn = order[: SIZES[blocks[0]]]
    assert list(in_turn) != sorted(in_turn)


def test_with_parts_a_machine_reads_its_own_blocks():
    made = members([10] * 16)
    used = []
    for rank in range(4):
        files, first = window.Window(made, 2, 4).archives(
            batches(made, 2, rank, 4, parts=4, shards=2)
        )
        assert list(first) == sorted(first) and len(files) == 4
        used += files
    assert sorted(used) == sorted(f'{number}.tar' for number in range(16))
    with pytest.raises(InputError, match='--window_parts 3: the 8 images of an iteration'):
        window.Window(made, 2, 3).check(8)


def test_archives_are_read_ahead_once_and_from_beginning_to_end(tmp_path, monkeypatch):
    files = []
    for number in range(6):
        file = tmp_path / f'{number}.tar'
        file.write_bytes(bytes(2500))
        files.append(str(file))
    read, wait = [], threading.Event()
    preadv = os.preadv

    def reads(descriptor, buffers, offset):
        read.append((os.readlink(f'/proc/self/fd/{descriptor}'), offset))
        if os.path.basename(read[-1][0]) == '3.tar':
            wait.set()
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(window, 'CHUNK', 1000)
    monkeypatch.setattr(os, 'preadv', reads)
    ahead = window.Ahead(files, np.array([0, 0, 3, 5, 5, 9]), ahead=2)
    ahead.reach(0)  # two archives are in use, and two more are read
    assert wait.wait(10)
    ahead.reach(9)
    ahead.thread.join(10)
    expected = [(file, offset) for file in files for offset in (0, 1000, 2000, 2500)]
    assert read == expected
    ahead.close()

    ahead = window.Ahead(files, np.array([0, 0, 3, 5, 5, 9]), ahead=0)
    ahead.reach(0)
    ahead.close()  # while it waits
    assert not ahead.thread.is_alive()


@pytest.fixture(scope='module')
def layouts(tmp_path_factory):
    root = tmp_path_factory.mktemp('windows')
    folders = toy_archives.folders(root / 'folder')
    toy_archives.shards(folders, root / 'shards')
    toy_archives.hugging_face(folders, root / 'parquet')
    return root


@pytest.mark.parametrize('layout', ['shards', 'parquet'])
def test_the_number_of_workers_changes_no_batch(layouts, layout):
    images = folder.find_unlabelled(str(layouts / layout), pictures.PICTURES)
    how = window.window_of(images, 'window', 2, 2)
    samples = loader.TrainSet(
        images, 1, lambda picture, rng: np.float32(picture), lambda index, rng: rng.random(2), 3
    )
    found = []
    for workers in (0, 2):
        data = loader.TrainLoader(samples, batch_size=4, num_workers=workers, window=how)
        found.append([[part.numpy() for part in batch] for batch in data.batches(epoch=0)])
    assert len(found[0]) == 7
    for one, other in zip(*found, strict=True):
        assert all(np.array_equal(part, same) for part, same in zip(one, other))
    rest = [batch[0].numpy() for batch in data.batches(epoch=0, first=3)]
    assert all(np.array_equal(one, batch[0]) for one, batch in zip(rest, found[0][3:], strict=True))


@pytest.mark.parametrize('layout', ['shards', 'parquet'])
def test_a_run_that_stopped_at_the_last_batch_of_an_epoch_finds_no_batch_left(layouts, layout):
    images = folder.find_unlabelled(str(layouts / layout), pictures.PICTURES)
    samples = loader.TrainSet(images, 1, np.float32, images.label, 3)
    how = window.window_of(images, 'window', 2, 1)
    data = loader.TrainLoader(samples, batch_size=4, window=how)
    assert list(data.batches(epoch=0, first=len(data))) == []


def test_row_groups_are_read_once_in_a_window(layouts, monkeypatch):
    images = folder.find_unlabelled(str(layouts / 'parquet'), pictures.PICTURES)
    read = []
    read_group = parquet._read_group
    monkeypatch.setattr(parquet, '_groups', type(parquet._groups)())
    monkeypatch.setattr(parquet, '_read_group', lambda *key: read.append(key) or read_group(*key))
    order = window.window_of(images, 'window', 3, 1).order(np.random.default_rng(0), 1)
    for index in order:
        images.source(int(index))
    assert len(read) == len(set(read)) == len(images.paths.blocks) == 8


def test_window_needs_archives(layouts):
    images = folder.find_unlabelled(str(layouts / 'folder'), pictures.PICTURES)
    assert window.window_of(images, 'full', 16, 1) is None
    with pytest.raises(InputError, match='--shuffle window is for tar shards or parquet'):
        window.window_of(images, 'window', 16, 1)
