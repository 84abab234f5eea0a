"""util.data.pack and util.data.check, as a user runs them."""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import toy_archives
from PIL import Image
from pyarrow import parquet

from util.data import check, folder, pack, pictures
from util.data.archives import members
from util.errors import InputError

SUFFIXES = pictures.PICTURES


@pytest.fixture(scope='module')
def layouts(tmp_path_factory):
    root = tmp_path_factory.mktemp('layouts')
    folders = toy_archives.folders(root / 'folder')
    toy_archives.imagenet(folders, root / 'imagenet')
    toy_archives.hugging_face(folders, root / 'parquet')
    names = [str(file.relative_to(root)) for file in sorted(folders.rglob('*.png'))]
    np.random.default_rng(3).shuffle(names)
    (root / 'list').mkdir()
    for split in ('train', 'val'):
        lines = [f'../{name} {toy_archives.WNIDS.index(name.split("/")[2])}\n' for name in names]
        chosen = [line for line in lines if f'/{split}/' in line]
        (root / 'list' / f'{split}.txt').write_text(''.join(chosen))
    return root


def run(program, *flags):
    program.main(program.PARSER.parse_args([*map(str, flags), '--in_chans', '1']))


def files_of(out):
    return {file.name: file.read_bytes() for file in out.iterdir()}


def content(images, index):
    source = images.source(index)
    return Path(source).read_bytes() if isinstance(source, str) else source.read()


@pytest.mark.parametrize('layout', ['folder', 'imagenet', 'parquet', 'list'])
def test_shards_of_any_layout_hold_the_same_images_in_the_same_order(layouts, tmp_path, layout):
    source, out = str(layouts / layout), tmp_path / 'out'
    run(pack, source, out, '--shard_size', '16K', '--num_workers', 0)
    for split in ('train', 'val'):
        expected = folder.find(source, split, SUFFIXES)
        found = folder.find(str(out), split, SUFFIXES)
        assert list(found.labels) == list(expected.labels) and found.classes == expected.classes
        for index in range(len(expected)):
            assert found.source(index).read() == content(expected, index)
    in_shards = [file.split('/')[-2] for file in folder.find_unlabelled(str(out), SUFFIXES).paths]
    assert len(set(in_shards)) > 2 and in_shards != sorted(in_shards)  # train is shuffled


def samples_of(path):
    """The samples of a shard by the rules of webdataset, written down anew."""
    samples = {}
    with tarfile.open(path) as archive:
        for member in archive:
            key, suffix = member.name.split('.', 1)
            samples.setdefault(key, {})[suffix] = archive.extractfile(member).read()
    return samples


def test_the_manifest_tells_of_each_shard(layouts, tmp_path):
    run(pack, layouts / 'folder', tmp_path, '--shard_size', '16K', '--num_workers', 2)
    info = json.loads((tmp_path / '_info.json').read_text())
    assert info['classes'] == list(toy_archives.WNIDS)
    seen = []
    for split, about in info['splits'].items():
        columns = ('filenames', 'shard_lengths', 'bytes', 'sha256')
        for name, count, size, checksum in zip(*(about[column] for column in columns), strict=True):
            data = (tmp_path / name).read_bytes()
            assert len(data) == size and hashlib.sha256(data).hexdigest() == checksum
            samples = samples_of(tmp_path / name)
            assert len(samples) == count
            for sample in samples.values():
                path = json.loads(sample['json'])['filename']
                assert (layouts / 'folder' / path).read_bytes() == sample['png']
                assert toy_archives.WNIDS[int(sample['cls'])] == path.split('/')[1]
                assert path.startswith(split)
                seen.append(path)
        assert about['num_samples'] == sum(about['shard_lengths']) and about['name'] == split
    assert len(set(seen)) == len(seen) == 40
    expected = {'_info.json', *info['splits']['train']['filenames']}
    assert set(files_of(tmp_path)) == expected | set(info['splits']['val']['filenames'])


def test_a_stopped_packing_continues_and_processes_change_nothing(layouts, tmp_path, monkeypatch):
    flags = ['--shard_size', '16K']
    run(pack, layouts / 'folder', tmp_path / 'straight', *flags, '--num_workers', 2)
    out = tmp_path / 'out'
    write = pack.Packing.write_shard

    def stop(self, out, shard):
        if shard == 2:
            raise KeyboardInterrupt
        return write(self, out, shard)

    monkeypatch.setattr(pack.Packing, 'write_shard', stop)
    with pytest.raises(KeyboardInterrupt):
        run(pack, layouts / 'folder', out, *flags, '--num_workers', 0)
    before = os.stat(out / 'train-00001.tar').st_mtime_ns
    with pytest.raises(InputError, match='shards of other data or made with other flags'):
        run(pack, layouts / 'folder', out, '--shard_size', '20K', '--num_workers', 0)

    monkeypatch.setattr(pack.Packing, 'write_shard', write)
    run(pack, layouts / 'folder', out, *flags, '--num_workers', 0)
    assert os.stat(out / 'train-00001.tar').st_mtime_ns == before
    assert files_of(out) == files_of(tmp_path / 'straight')
    with pytest.raises(InputError, match='holds shards already; name an empty folder'):
        run(pack, layouts / 'folder', out, *flags)


def test_images_without_labels_and_names_without_suffixes_are_packed(tmp_path):
    files = sorted(toy_archives.folders(tmp_path / 'a').rglob('*.png'))[:3]
    table = toy_archives.table(files).flatten().select(['image.bytes'])
    (tmp_path / 'b').mkdir()
    parquet.write_table(table.rename_columns(['image']), tmp_path / 'b/train.parquet')
    run(pack, tmp_path / 'b', tmp_path / 'out', '--num_workers', 0)
    found = folder.find_unlabelled(str(tmp_path / 'out'), SUFFIXES)
    assert found.labels is None and [found.source(i).read() for i in range(3)] == [
        file.read_bytes() for file in files
    ]


@pytest.mark.parametrize('processes', [0, 1])
def test_an_image_that_cannot_be_read_is_named(tmp_path, processes):
    table = pa.table({'image': pa.array([b'\xff\xd8', None], pa.binary())})
    parquet.write_table(table, tmp_path / 'train.parquet')
    with pytest.raises(
        InputError, match=r'train.parquet/row 1 cannot be read \(the row holds no b'
    ):
        run(pack, tmp_path / 'train.parquet', tmp_path / 'out', '--num_workers', processes)


def test_sizes_of_joined_layouts_are_known_without_reading_archives(layouts, monkeypatch):
    found = folder.find([str(layouts / name) for name in ('folder', 'imagenet')], 'val', SUFFIXES)
    expected = [len(content(found, index)) for index in range(len(found))]
    monkeypatch.setattr(members.Members, 'read', None)
    assert pack.sizes_of(found.paths).tolist() == expected and len(expected) == 20


@pytest.mark.parametrize('text, size', [('1', 1), ('512M', 2**29), ('2g', 2**31), ('3KB', 3072)])
def test_sizes(text, size):
    assert pack.size(text) == size
    for wrong in ('0', 'x', '1.5M', '-1', '1T'):
        with pytest.raises(Exception, match='is no size, such as 512M'):
            pack.size(wrong)


# check


def test_a_sound_data_set_passes_with_a_table_of_its_classes(layouts, capsys):
    for layout in ('folder', 'imagenet', 'parquet', 'list'):
        run(check, layouts / layout, '--num_workers', 0)
        out = capsys.readouterr().out
        assert out.endswith('nothing is damaged\n') and 'all' in out
    run(check, layouts / 'folder', '--num_workers', 2)
    lines = capsys.readouterr().out.splitlines()
    files = list((layouts / 'folder/train/n01440764').iterdir())
    mean = sum(file.stat().st_size for file in files) / len(files) / 1000
    row = ['n01440764', str(len(files)), '0', '32x32', '32x32', '32x32', f'{mean:.1f}']
    assert lines[2].split() == row


def test_damaged_images_are_listed_and_the_exit_code_says_so(layouts, tmp_path, capsys):
    out = tmp_path / 'out'
    run(pack, layouts / 'folder', out, '--shard_size', '16K', '--num_workers', 0)
    data = bytearray((out / 'train-00001.tar').read_bytes())
    data[600:700] = bytes(100)  # in the first picture
    (out / 'train-00001.tar').write_bytes(data)
    (tmp_path / 'own').mkdir()
    Image.new('RGB', [5, 3]).save(tmp_path / 'own/a.png')
    Image.new('RGB', [50, 30]).save(tmp_path / 'own/b.jpg')
    (tmp_path / 'own/c.png').write_bytes(b'')
    buffer = io.BytesIO()
    Image.effect_noise([40, 40], 50).save(buffer, 'JPEG')
    (tmp_path / 'own/d.jpg').write_bytes(buffer.getvalue()[:500])
    capsys.readouterr()
    for where, expected in (
        (out, ['train-00001.tar (its SHA-256 is not', '.png (']),
        (tmp_path / 'own', ['c.png (UnidentifiedImageError', 'd.jpg (OSError: image file is trun']),
    ):
        with pytest.raises(SystemExit) as error:
            run(check, where, '--num_workers', 0)
        assert error.value.code == 1
        lines = capsys.readouterr().out.splitlines()
        damaged = [line for line in lines if line.startswith('damaged: ')]
        assert len(damaged) == 2 and all(map(str.__contains__, damaged, expected))
        assert lines[-1] == '2 damaged'
    row = next(line for line in lines if line.startswith('all')).split()
    assert row[:6] == ['all', '4', '2', '5x3', '50x30', '50x30']
