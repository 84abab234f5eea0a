import os

import numpy as np
import pytest
from PIL import Image

from util.augment import crop, transform
from util.data import folder, loader, pictures
from util.errors import InputError


def picture(path, size=(8, 8), mode='RGB', value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode in 'LI;16' else (value,) * len(mode)).save(path)
    return path


def samples(images, seed=0, size=8):
    augment = transform.Train(crop.CropAndFlip(size, (0.2, 1)), *crop.statistics(3, None, None))
    return loader.TrainSet(
        images, 3, augment, lambda index, rng: rng.random(4, dtype='float32'), seed
    )


# folders and lists


def test_classes_and_paths_are_sorted_and_dot_names_skipped(tmp_path):
    for name in (
        'train/b/2.png',
        'train/b/deep/1.JPEG',
        'train/a/9.png',
        'train/.hidden/0.png',
        'train/a/.x.png',
    ):
        picture(tmp_path / name)
    (tmp_path / 'train/a/notes.txt').write_text('no image')
    found = folder.find(str(tmp_path), 'train', pictures.PICTURES)
    assert found.classes == ['a', 'b'] and found.labels == [0, 1, 1]
    names = [os.path.relpath(path, tmp_path) for path in found.paths]
    assert names == ['train/a/9.png', 'train/b/2.png', 'train/b/deep/1.JPEG']


def test_link_loops_end(tmp_path):
    picture(tmp_path / 'train/a/1.png')
    (tmp_path / 'train/a/loop').symlink_to(tmp_path / 'train/a')
    (tmp_path / 'train/b').symlink_to(tmp_path / 'train/a')
    assert folder.find(str(tmp_path), 'train', pictures.PICTURES).labels == [0, 1]


@pytest.mark.parametrize(
    'lines, labels', [('a/1.png 3\n\nb c/2.png 0\n', [3, 0]), ('a/1.png\nb c/2.png\n', None)]
)
def test_a_list_file_gives_paths_beside_it(tmp_path, lines, labels):
    (tmp_path / 'train.txt').write_text(lines)
    for path in (tmp_path, tmp_path / 'train.txt'):
        found = folder.find(str(path), 'train', pictures.PICTURES)
        assert (
            found.paths == [str(tmp_path / 'a/1.png'), str(tmp_path / 'b c/2.png')]
            and found.labels == labels
        )


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda root: None, 'neither the folder train/ .* nor the list train.txt'),
        (lambda root: (root / 'train').mkdir(), 'no class folders'),
        (lambda root: (root / 'train/a').mkdir(parents=True), 'train/a holds no image'),
        (lambda root: picture(root / 'train/1.png'), 'no class folders'),
        (lambda root: (root / 'train.txt').write_text('\n'), 'is empty'),
        (lambda root: (root / 'train.txt').write_text('a.png\nb.exe\n'), "line 2: 'b.exe'"),
        (lambda root: (root / 'train.txt').write_bytes(bytes(range(256))), 'not a list of images'),
    ],
)
def test_what_is_no_data_set_is_named(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(InputError, match=message):
        folder.find(str(tmp_path), 'train', pictures.PICTURES)
    with pytest.raises(InputError, match='nowhere: no such'):
        folder.find(str(tmp_path / 'nowhere'), 'train', pictures.PICTURES)


def test_pictures_are_a_file_a_folder_without_what_is_hidden_or_a_glob(tmp_path):
    for name in ('b.png', 'a/c.JPG', 'a/d.txt', '.hidden/e.png', 'a/.f.png', 'x.npy'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert pictures.find(tmp_path) == [tmp_path / 'a/c.JPG', tmp_path / 'b.png']
    assert pictures.find(tmp_path, 5) == [tmp_path / 'x.npy']
    assert pictures.find(tmp_path / '.hidden') == [tmp_path / '.hidden/e.png']  # asked for by name
    assert pictures.find(tmp_path / 'a/d.txt') == [tmp_path / 'a/d.txt']
    assert pictures.find(str(tmp_path / '**/*.png')) == [tmp_path / 'b.png']
    assert pictures.find(tmp_path / 'nowhere') == []


# one picture


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'])
def test_every_colour_mode_becomes_what_was_asked_for(tmp_path, mode):
    path = tmp_path / ('x.tif' if mode == 'CMYK' else 'x.png')
    Image.new('RGB', (4, 6), (200, 200, 200)).convert(mode).save(path)
    for in_chans in (1, 3):
        read = pictures.read(path, in_chans)
        assert read.mode == pictures.MODES[in_chans] and read.size == (4, 6)
        # mode 1 dithers, CMYK rounds
        assert np.asarray(read).reshape(24, -1).mean() == pytest.approx(200, abs=60)


def test_16_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype='uint16')).save(tmp_path / 'x.png')
    assert np.asarray(pictures.read(tmp_path / 'x.png', 1)).tolist() == [[0, 1, 128, 255]]


def test_arrays_of_many_channels_are_scaled_by_their_type(tmp_path):
    np.save(tmp_path / 'x.npy', np.full([2, 3, 5], 65535, 'uint16'))
    assert (pictures.read(tmp_path / 'x.npy', 5) == np.ones([2, 3, 5], 'float32')).all()
    np.save(tmp_path / 'y.npy', np.full([2, 3, 5], -2.5))
    assert (pictures.read(tmp_path / 'y.npy', 5) == -2.5).all()
    with pytest.raises(ValueError, match=r'\[height, width, 4\], found \[2, 3, 5\]'):
        pictures.read(tmp_path / 'x.npy', 4)


# order and samples


def test_an_epoch_sees_every_sample_at_most_once_and_shuffles_anew():
    first, second = (
        [key for batch in loader.Order(103, 10, 5, epoch, 0, 1) for key in batch]
        for epoch in (0, 1)
    )
    indices = [index for _, index in first]
    assert len(set(indices)) == len(indices) == 100
    assert indices != [index for _, index in second] and {epoch for epoch, _ in second} == {1}
    assert first == [key for batch in loader.Order(103, 10, 5, 0, 0, 1) for key in batch]
    assert first != [key for batch in loader.Order(103, 10, 6, 0, 0, 1) for key in batch]


def test_ranks_share_the_joint_batch():
    together = list(loader.Order(103, 10, 5, 0, 0, 1))
    ranks = [list(loader.Order(103, 5, 5, 0, rank, 2)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*ranks)] == together


def test_an_epoch_can_begin_at_any_batch():
    for first in (0, 3, 10):
        assert (
            list(loader.Order(103, 10, 5, 0, 0, 1, first))
            == list(loader.Order(103, 10, 5, 0, 0, 1))[first:]
        )


@pytest.mark.parametrize('samples, world_size', [(10, 1), (10, 3), (2, 3), (7, 7)])
def test_evaluation_sees_every_index_exactly_once(samples, world_size):
    seen = [
        index
        for rank in range(world_size)
        for index in loader.evaluation_order(samples, rank, world_size)
    ]
    assert sorted(seen) == list(range(samples))


@pytest.fixture
def twelve(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / 'train/a').mkdir(parents=True)
    for i in range(12):
        Image.fromarray(rng.integers(256, size=[20, 24, 3], dtype='uint8')).save(
            tmp_path / f'train/a/{i:02}.png'
        )
    return folder.find(str(tmp_path), 'train', pictures.PICTURES)


def test_the_number_of_workers_changes_no_sample(twelve):
    loaders = [loader.TrainLoader(samples(twelve), 4, num_workers=workers) for workers in (0, 1, 3)]
    epochs = [
        [(images.numpy(), noise.numpy()) for images, noise in data.batches(3)] for data in loaders
    ]
    for other in epochs[1:]:
        for (a, b), (c, d) in zip(epochs[0], other, strict=True):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)


def test_a_sample_depends_on_seed_epoch_and_index(twelve):
    def sample(seed, epoch, index):
        return np.concatenate([part.ravel() for part in samples(twelve, seed)[epoch, index][:2]])

    reference = sample(0, 1, 2)
    np.testing.assert_array_equal(reference, sample(0, 1, 2))
    for other in (sample(1, 1, 2), sample(0, 2, 2), sample(0, 1, 3)):
        assert (reference != other).any()


def test_too_large_a_batch_or_accumulation_is_named(twelve, monkeypatch):
    with pytest.raises(InputError, match='--batch_size 13 is larger than the data set of 12'):
        loader.TrainLoader(samples(twelve), 13)
    with pytest.raises(InputError, match='--accum_iter 4 is more than the 3 iterations'):
        loader.TrainLoader(samples(twelve), 4).accumulate(4)
    monkeypatch.setenv('PADDLE_TRAINERS_NUM', '2')
    with pytest.raises(InputError, match='--batch_size 7 on 2 processes'):
        loader.TrainLoader(samples(twelve), 7)


@pytest.mark.parametrize('workers', [0, 2])
def test_an_unreadable_image_is_replaced_by_its_neighbour_named_and_counted(
    tmp_path, capsys, workers
):
    for i in range(120):
        picture(tmp_path / f'train/a/{i:03}.png', value=i)
    (tmp_path / 'train/a/007.png').write_bytes(b'no image')
    found = folder.find(str(tmp_path), 'train', pictures.PICTURES)
    data = loader.TrainLoader(samples(found), 120, num_workers=workers)
    ((images, _),) = data.batches(0)
    values = (images[:, 0, 0, 0].numpy() * 0.229 + 0.485) * 255
    order = [index for _, index in next(iter(data.order(0)))]
    assert values.round().tolist() == [8 if index == 7 else index for index in order]
    list(data.batches(1))
    warning = capsys.readouterr().err
    assert warning.count('warning:') == 1
    assert '007.png' in warning and 'UnidentifiedImageError' in warning and '1 so far' in warning


@pytest.mark.parametrize('workers', [0, 2])
def test_more_than_one_percent_unreadable_is_an_error(tmp_path, workers):
    for i in range(20):
        picture(tmp_path / f'train/a/{i:02}.png')
    (tmp_path / 'train/a/07.png').write_bytes(b'')
    found = folder.find(str(tmp_path), 'train', pictures.PICTURES)
    with pytest.raises(InputError, match='1 of 20 images cannot be read, more than 1%'):
        list(loader.TrainLoader(samples(found), 20, num_workers=workers).batches(0))
