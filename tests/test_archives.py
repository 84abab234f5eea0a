"""Images inside archives: the same as in folders, whoever wrote the archive."""

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import toy_archives
from pyarrow import parquet
from toy_archives import WNIDS
from webdataset.tariterators import base_plus_ext

from util.data import folder, pictures, subset
from util.data.archives import imagenet, index, listing, members, places, shards
from util.errors import InputError

SUFFIXES = pictures.PICTURES


@pytest.fixture(scope='module')
def layouts(tmp_path_factory):
    """The folders of each layout, by its name."""
    root = tmp_path_factory.mktemp('layouts')
    folders = toy_archives.folders(root / 'folder')
    return {
        'folder': folders,
        'imagenet': toy_archives.imagenet(folders, root / 'imagenet'),
        'shards': toy_archives.shards(folders, root / 'shards'),
        'parquet': toy_archives.hugging_face(folders, root / 'parquet'),
    }


def contents(images):
    """The bytes of all images."""
    sources = [images.source(i) for i in range(len(images))]
    return [Path(one).read_bytes() if isinstance(one, str) else one.read() for one in sources]


@pytest.mark.parametrize('layout', ['imagenet', 'shards', 'parquet'])
@pytest.mark.parametrize('split', ['train', 'val'])
def test_archives_hold_the_images_of_folders_in_their_order(layouts, layout, split):
    expected = folder.find(str(layouts['folder']), split, SUFFIXES)
    for _ in ('listed', 'by its index'):
        found = folder.find(str(layouts[layout]), split, SUFFIXES, expected.classes)
        assert contents(found) == contents(expected)
        assert list(found.labels) == expected.labels and found.classes == list(WNIDS)
        names = [os.path.basename(path) for path in expected.paths]
        assert [os.path.basename(path) for path in found.paths] == names
    if split == 'train':
        found = folder.find_unlabelled(str(layouts[layout]), SUFFIXES)
        assert contents(found) == contents(expected)


@pytest.mark.parametrize('layout', ['folder', 'imagenet', 'shards', 'parquet'])
def test_a_part_of_the_images_is_read_from_any_layout(layouts, layout):
    images = folder.find(str(layouts[layout]), 'train', SUFFIXES)
    part = subset.of(images, np.array([0, 7, 29]))
    whole = contents(images)
    assert contents(part) == [whole[place] for place in (0, 7, 29)]
    assert [part.label(i) for i in range(3)] == [images.label(place) for place in (0, 7, 29)]
    assert list(part.paths) == [images.paths[place] for place in (0, 7, 29)]


def test_labels_of_validation_follow_the_devkit_and_not_the_sorted_names(layouts):
    found = folder.find(str(layouts['imagenet']), 'val', SUFFIXES)
    by_name = dict(zip((os.path.basename(path) for path in found.paths), found.labels))
    # picture k of the validation set is number 30 + k of all; see toy_archives.folders
    for number in range(1, 11):
        expected = (30 + number - 1) * 7 % 3
        assert by_name[f'ILSVRC2012_val_{number:08}.png'] == expected
    numbers = [toy_archives.IDS[WNIDS[label]] - 1 for label in found.labels]
    assert numbers != list(found.labels)


def test_a_devkit_is_asked_for(layouts, tmp_path):
    (tmp_path / 'ILSVRC2012_img_val.tar').symlink_to(layouts['imagenet'] / 'ILSVRC2012_img_val.tar')
    path = str(tmp_path / 'ILSVRC2012_img_val.tar')
    with pytest.raises(InputError, match='ILSVRC2012_devkit_t12.tar.gz beside it'):
        folder.find_labelled(path, 'val', SUFFIXES, 1000)
    toy_archives.devkit(tmp_path, [1, 2, 3])
    with pytest.raises(InputError, match=r'labels of 3 images, but .* holds 10'):
        folder.find_labelled(path, 'val', SUFFIXES, 1000)
    (tmp_path / imagenet.DEVKIT).write_bytes(b'x')
    with pytest.raises(InputError, match="cannot be read as ImageNet's devkit"):
        folder.find_labelled(path, 'val', SUFFIXES, 1000)


def test_archives_are_named_by_ranges_globs_and_several_paths(layouts, tmp_path):
    shards = layouts['shards']
    whole = folder.find_unlabelled(str(shards), SUFFIXES)
    for path in ('train-{0000..0004}.tar', 'train-*.tar', 'train-000{0,1,2,3,4}.tar'):
        found = folder.find_unlabelled(str(shards / path), SUFFIXES)
        assert list(found.paths) == list(whole.paths)
    paths = [str(shards / 'train-{0000..0002}.tar'), str(shards / 'train-{0002..0004}.tar')]
    assert list(folder.find_unlabelled(paths, SUFFIXES).paths) == list(whole.paths)
    both = [str(shards / name) for name in ('train-{0000..0004}.tar', 'val-*.tar')]
    assert len(folder.find_labelled(both, 'train', SUFFIXES, 3)) == 30
    assert len(folder.find_labelled(both, 'val', SUFFIXES, 3)) == 10

    mixed = [str(layouts['folder']), str(shards), str(layouts['parquet'])]
    found = folder.find(mixed, 'train', SUFFIXES)
    assert len(found) == len(list(found.paths)) == 90
    once = contents(folder.find(mixed[0], 'train', SUFFIXES))
    assert contents(found)[:30] == once and sorted(contents(found)) == sorted(once * 3)
    assert list(found.labels[:30]) == folder.find(mixed[0], 'train', SUFFIXES).labels


def test_the_split_is_a_word_of_the_name():
    names = {
        'ILSVRC2012_img_train.tar': 'train',
        'imagenet1k-validation-00.tar': 'val',
        'test-00000-of-00028.parquet': 'test',
        'trainer-0.tar': '',
        '000.tar': '',
    }
    assert {name: places.split_of(f'/train/{name}') for name in names} == names


def write(path, entries, **how):
    """A tar with (name, bytes) entries."""
    with tarfile.open(path, 'w', **how) as archive:
        for name, data in entries:
            toy_archives.add(archive, name, data)
    return str(path)


def test_keys_end_at_the_first_dot_as_in_webdataset(tmp_path):
    entries = [
        ('./a.b/x.jpg', b'1'),
        ('./a.b/x.cls', b'2\n'),
        ('y.seg.png', b'mask'),
        ('y.JPEG', b'3'),
        ('y.json', b'{"label": 1, "caption": "z"}'),
        ('z.webp', b'4'),
        ('z.txt', b'0'),
        ('._z.png', b'mac'),
        ('__info__.png', b'about'),
    ]
    path = write(tmp_path / 'x.tar', entries)
    found = folder.find_unlabelled(path, SUFFIXES)
    assert [name.removeprefix(f'{path}/') for name in found.paths] == [
        'y.JPEG',
        'z.webp',
        'a.b/x.jpg',
    ]
    assert contents(found) == [b'3', b'4', b'1'] and found.labels.tolist() == [1, 0, 2]
    assert found.left_out == {'hidden files': 2, '.png': 1} and found.classes is None


@pytest.mark.parametrize('name', ['a.b/x.jpg', 'y.seg.PNG', 'z', 'a/b/c.tar.gz', 'Größe.webp'])
def test_a_name_is_split_as_webdataset_does(name):
    key, suffix = base_plus_ext(name)
    assert shards.split(name) == ((key, suffix.lower()) if key else (name, ''))


@pytest.mark.parametrize('kind', [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_links_and_folders_in_a_tar(tmp_path, kind):
    long = 'd' * 120 + '/' + 'Größe' * 30 + '.png'
    with tarfile.open(tmp_path / 'x.tar', 'w', format=kind) as archive:
        toy_archives.add(archive, long, b'1')
        for name, type_ in (('link.png', tarfile.SYMTYPE), ('hard.png', tarfile.LNKTYPE)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = type_, '/etc/passwd'
            archive.addfile(about)
        about = tarfile.TarInfo('folder.png')
        about.type = tarfile.DIRTYPE
        archive.addfile(about)
        toy_archives.add(archive, '../../out.png', b'2')
    found = folder.find_unlabelled(str(tmp_path / 'x.tar'), SUFFIXES)
    assert contents(found) == [b'1'] and found.paths[0].endswith(long)
    assert found.left_out == {'hidden files': 1}


def test_a_tar_of_class_folders_needs_no_labels(tmp_path):
    path = write(
        tmp_path / 'train.tar', [('b/1.png', b'1'), ('a-b/2.png', b'2'), ('a/3.png', b'3')]
    )
    found = folder.find_labelled(path, 'train', SUFFIXES, 3)
    assert found.classes == ['a', 'a-b', 'b'] and found.labels.tolist() == [0, 1, 2]
    assert contents(found) == [b'3', b'2', b'1']


def test_images_without_labels_are_for_pre_training_only(tmp_path):
    path = write(tmp_path / 'train.tar', [('1.png', b'1'), ('2.png', b'2'), ('2.cls', b'0')])
    found = folder.find_unlabelled(path, SUFFIXES)
    assert len(found) == 2 and found.labels is None
    with pytest.raises(InputError, match='not every image of train has a label'):
        folder.find_labelled(path, 'train', SUFFIXES, 3)


def test_parquet_without_a_description_and_with_missing_bytes(tmp_path):
    column = pa.array([b'1', None, b'3'], pa.binary())
    file = tmp_path / 'train.parquet'
    parquet.write_table(pa.table({'img': column, 'fine_label': pa.array([2, 0, 1])}), file)
    found = folder.find_labelled(str(file), 'train', SUFFIXES, 3)
    assert found.labels.tolist() == [2, 0, 1] and found.classes is None
    assert found.source(2).read() == b'3' and found.paths[2].endswith('train.parquet/row 2')
    with pytest.raises(ValueError, match='no bytes'):
        found.source(1)


def test_names_of_classes_must_cover_the_labels_and_agree(layouts, tmp_path):
    (tmp_path / '_info.json').write_text(json.dumps({'classes': ['a', 'b']}))
    path = write(tmp_path / 'train.tar', [('1.png', b'1'), ('1.cls', b'1')])
    assert folder.find(path, 'train', SUFFIXES).classes == ['a', 'b']
    path = write(tmp_path / 'train-2.tar', [('1.png', b'1'), ('1.cls', b'2')])
    with pytest.raises(InputError, match='a label 2, but only 2 names'):
        folder.find(path, 'train', SUFFIXES)
    files = sorted((layouts['folder'] / 'train').rglob('*.png'))
    parquet.write_table(toy_archives.table(files[:3], features=False), tmp_path / '1.parquet')
    parquet.write_table(toy_archives.table(files[:3]), tmp_path / '2.parquet')
    with pytest.raises(InputError, match='other names of classes'):
        folder.find_unlabelled(str(tmp_path / '*.parquet'), SUFFIXES)


# damage


def damaged(data, how):
    """An archive of several members of 512 bytes, damaged."""
    if how == 'cut in a member':
        return data[:1300]
    if how == 'cut in a header':
        return data[:2300]
    if how == 'a broken header':
        return data[:2048] + b'\1' * 512 + data[2560:]
    return {'no archive': b'x' * 2000, 'empty': b''}[how]


@pytest.mark.parametrize(
    'how, message',
    [
        ('cut in a member', 'is cut off; the archive is not complete|damaged'),
        ('cut in a header', 'damaged'),
        ('a broken header', 'damaged'),
        ('no archive', 'no tar archive, or a damaged one'),
        ('empty', 'no tar archive, or a damaged one'),
    ],
)
def test_a_damaged_tar_is_an_error(tmp_path, how, message):
    path = write(tmp_path / 'x.tar', [(f'{number}.png', b'1' * 512) for number in range(4)])
    data = (tmp_path / 'x.tar').read_bytes()
    (tmp_path / 'x.tar').write_bytes(damaged(data, how))
    with pytest.raises(InputError, match=message) as error:
        folder.find_unlabelled(path, SUFFIXES)
    assert path in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    'name, entries, message',
    [
        ('x.tar', [('1.png', b'1'), ('1.cls', b'cat')], "1.cls: expected a label.* found 'cat'"),
        ('x.tar', [('1.png', b'1'), ('1.json', b'{')], '1.json: this is no JSON'),
        ('x.tar', [('1.gif', b'1')], r'no image \(.jpg .* in this archive'),
        ('x.tar.gz', [('1.png', b'1')], 'cannot be read in place; decompress it'),
        ('x.parquet', [('1.png', b'1')], 'cannot be read as parquet'),
        ('x-test.tar', [('1.png', b'1')], 'by its name it is not for training'),
    ],
)
def test_what_is_wrong_with_an_archive_is_said_in_a_line(tmp_path, name, entries, message):
    path = write(tmp_path / name, entries)
    with pytest.raises(InputError, match=message) as error:
        folder.find_unlabelled(path, SUFFIXES)
    assert '\n' not in str(error.value) and path in str(error.value)


def test_a_missing_shard_is_named(layouts):
    with pytest.raises(InputError, match=r'there is no file .*train-0005\.tar'):
        folder.find_unlabelled(str(layouts['shards'] / 'train-{0000..0005}.tar'), SUFFIXES)
    with pytest.raises(InputError, match='is no range'):
        places.expand('{5..4}.tar')


def test_a_column_of_something_else_is_named(tmp_path):
    parquet.write_table(pa.table({'text': ['a'], 'label': [1]}), tmp_path / '1.parquet')
    with pytest.raises(InputError, match=r'no column of images .* the columns are: text, label'):
        folder.find_unlabelled(str(tmp_path / '1.parquet'), SUFFIXES)
    parquet.write_table(pa.table({'image': ['a.png'], 'label': [1]}), tmp_path / '2.parquet')
    with pytest.raises(InputError, match='the column image holds string'):
        folder.find_unlabelled(str(tmp_path / '2.parquet'), SUFFIXES)


# the index


def test_an_index_is_used_while_the_archive_stays_as_it_was(tmp_path, monkeypatch):
    path = write(tmp_path / 'x.tar', [('1.png', b'1'), ('1.cls', b'0')])
    made = []
    make = index._make
    monkeypatch.setattr(index, '_make', lambda files, _: made.extend(files) or make(files, _))
    indexes = tmp_path / 'indexes'

    def find():
        made.clear()
        return folder.find_unlabelled(path, SUFFIXES, str(indexes)), len(made)

    assert find()[1] == 1 and find()[1] == 0
    assert [file.name for file in tmp_path.iterdir()] == ['x.tar', 'indexes'] or len(
        list(tmp_path.iterdir())
    ) == 2
    [file] = indexes.iterdir()

    # the same size and time, but another name in the header
    before = os.stat(path)
    write(path, [('2.png', b'2'), ('2.cls', b'0')])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.path.getsize(path) == before.st_size
    found, count = find()
    assert count == 1 and contents(found) == [b'2']
    os.utime(path, ns=(0, 0))
    assert find()[1] == 1

    # an index that somebody has damaged
    good = json.loads(file.read_bytes())
    for text in ('', '[]', '{"format": 1}', json.dumps({**good, 'images': {'names': ['1.png']}})):
        file.write_text(text)
        assert find()[1] == 1
    good['images']['offsets'] = [10**9]
    file.write_text(json.dumps(good))
    assert find()[1] == 1 and find()[1] == 0


def test_an_index_that_cannot_be_kept_is_no_error(tmp_path, capsys):
    path = write(tmp_path / 'x.tar', [('1.png', b'1')])
    (tmp_path / 'file').write_text('')
    found = folder.find_unlabelled(path, SUFFIXES, str(tmp_path / 'file/indexes'))
    assert len(found) == 1 and '--index_dir names another folder' in capsys.readouterr().err


def test_an_index_of_millions_takes_at_most_64_bytes_an_image():
    count, archives = 10_000, 10
    parts = []
    for archive in range(archives):
        rows = np.arange(count)[::-1]  # not sorted, so the order takes memory as well
        names = [f'n{archive:08}/n{archive:08}_{row:08}.JPEG' for row in rows]
        one = listing.Listing(names, list(range(count)), [1] * count, [-1] * count)
        parts.append(members.part(f'train-{archive}.tar', one))
    found = members.Members(parts)
    assert found.nbytes() + 4 * len(found) <= 64 * len(found)  # with labels
    assert found[0] == f'train-0.tar/n{0:08}/n{0:08}_{0:08}.JPEG'
    assert found[len(found) - 1].endswith(f'_{count - 1:08}.JPEG')
    with pytest.raises(IndexError):
        found[len(found)]


def test_no_reader_runs_code(tmp_path):
    """Members that would be pickles or programs elsewhere are left out or refused."""
    data = b"cos\nsystem\n(S'touch " + str(tmp_path / 'ran').encode() + b"'\ntR."
    entries = [('1.png', b'1'), ('1.pyd', data), ('1.pkl', data), ('1.pth', data)]
    found = folder.find_unlabelled(write(tmp_path / 'x.tar', entries), SUFFIXES)
    assert found.left_out == {'.pyd': 1, '.pkl': 1, '.pth': 1}
    with pytest.raises(InputError, match='no such folder or list file'):
        folder.find_unlabelled(f'pipe:touch {tmp_path / "ran"}', SUFFIXES)
    with pytest.raises(InputError, match='there is no file'):
        folder.find_unlabelled(f'pipe:touch {tmp_path / "ran"} #.tar', SUFFIXES)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('x', 'y')
    (tmp_path / 'y.tar').write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match='no tar archive'):
        folder.find_unlabelled(str(tmp_path / 'y.tar'), SUFFIXES)
    np.save(tmp_path / 'x.npy', np.array([{'a': 1}], object), allow_pickle=True)
    entries = [('1.npy', (tmp_path / 'x.npy').read_bytes())]
    found = folder.find_unlabelled(write(tmp_path / 'z.tar', entries), pictures.ARRAYS)
    with pytest.raises(ValueError, match='allow_pickle=False'):
        pictures.read(found.source(0), 5)
    assert not (tmp_path / 'ran').exists()
