"""One finder of files for all programs: links, circles, macOS's files, folders named as files."""

import os

import numpy as np
import pytest
from PIL import Image

from seg import dataset, predict
from util.data import finder, folder, pictures
from util.errors import InputError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4), 100).save(root / name, 'png')


def relative(root, paths):
    return [os.path.relpath(path, root) for path in paths]


@pytest.fixture
def odd(tmp_path):
    """Two class folders, one a link, and files that look like pictures or are easily missed."""
    root, elsewhere = tmp_path / 'data/val', tmp_path / 'elsewhere'
    make(root, 'bee/b 1.png', 'bee/album.jpg/c.PNG', 'bee/album-2.png', 'bee/._b 1.png')
    make(root, 'bee/.hidden/d.png', '.hidden.png', 'bee/deep/er/e.webp')
    make(elsewhere, '1.png', 'more/2.png', '._1.png', '.Trash/3.png')
    (root / 'ant').symlink_to(elsewhere)
    (root / 'bee/.DS_Store').write_text('x')
    (root / 'bee/notes.txt').write_text('x')
    (root / 'bee/again').symlink_to(elsewhere / 'more')
    (root / 'bee/file.png').symlink_to(elsewhere / '1.png')
    for circle, target in (
        ('bee/self', root / 'bee'),
        ('bee/deep/up', root),
        ('loop', root),
        ('bee/album.jpg/over', tmp_path),
    ):
        (root / circle).symlink_to(target)
    (elsewhere / 'back').symlink_to(root / 'bee')
    return root


BEE = ['again/2.png', 'album-2.png', 'album.jpg/c.PNG', 'b 1.png', 'deep/er/e.webp', 'file.png']
ANT = ['1.png', *(f'back/{name}' for name in BEE if name != 'again/2.png'), 'more/2.png']
EXPECTED = ['ant/1.png', 'ant/back/again/2.png', *(f'ant/back/{name}' for name in BEE[1:])]
EXPECTED += ['ant/more/2.png', *(f'bee/{name}' for name in BEE)]


def test_all_programs_find_the_same_pictures_in_the_same_order(odd, tmp_path):
    training = folder.find(str(odd.parent), 'val', pictures.PICTURES)
    assert training.classes == ['ant', 'bee']
    assert relative(odd, training.paths) == EXPECTED
    assert training.labels == [int(name.startswith('bee')) for name in EXPECTED]
    assert relative(odd, pictures.find(odd)) == EXPECTED  # main_infer.py, demo/visualize.py
    assert relative(odd, [file for file, *_ in predict.find(str(odd))]) == EXPECTED
    assert relative(odd, pictures.find(f'{odd}/**/*.*')) == EXPECTED
    assert relative(odd, pictures.find(f'{odd}/*')) == EXPECTED
    assert relative(odd, pictures.find(f'{odd}/*/')) == EXPECTED


def test_the_order_is_that_of_the_text(tmp_path):
    names = ['a-b/1.png', 'a/1.png', 'a/10.png', 'a/2.png', 'a0.png', 'B/1.png', 'ä.png']
    make(tmp_path / 'x', *names)
    assert relative(tmp_path / 'x', pictures.find(tmp_path / 'x')) == sorted(names)
    training = folder.find(str(tmp_path), 'x', pictures.PICTURES)
    assert training.classes == ['B', 'a', 'a-b']


def test_globs_match_as_before_and_folders_give_their_pictures(odd, monkeypatch):
    found = relative(odd, pictures.find(f'{odd}/bee/*.png'))
    assert found == ['bee/album-2.png', 'bee/b 1.png', 'bee/file.png']
    assert relative(odd, pictures.find(f'{odd}/bee/*.jpg')) == ['bee/album.jpg/c.PNG']
    assert relative(odd, pictures.find(f'{odd}/**/al*')) == [
        'ant/back/album-2.png',
        'ant/back/album.jpg/c.PNG',
        'bee/album-2.png',
        'bee/album.jpg/c.PNG',
    ]
    assert relative(odd, pictures.find(f'{odd}/bee/*.txt')) == ['bee/notes.txt']  # asked for
    found = relative(odd, pictures.find(f'{odd}/**/*.txt'))
    assert found == ['ant/back/notes.txt', 'bee/notes.txt']
    assert relative(odd, pictures.find(f'{odd}/b*/**/[0-9].png')) == ['bee/again/2.png']
    monkeypatch.chdir(odd / 'bee')
    assert [str(path) for path in pictures.find('**/*.webp')] == ['deep/er/e.webp']
    assert pictures.find('**/*.bmp') == []


def test_two_folders_that_link_to_each_other_end(tmp_path):
    make(tmp_path, 'a/1.png', 'b/2.png')
    (tmp_path / 'a/to_b').symlink_to(tmp_path / 'b')
    (tmp_path / 'b/to_a').symlink_to(tmp_path / 'a')
    found = ['a/1.png', 'a/to_b/2.png', 'b/2.png', 'b/to_a/1.png']
    assert relative(tmp_path, finder.walk(tmp_path)) == found


def test_links_to_nowhere_are_found_and_named_by_who_reads_them(tmp_path):
    (tmp_path / 'gone.png').symlink_to(tmp_path / 'nowhere')
    (tmp_path / 'itself.png').symlink_to(tmp_path / 'itself.png')
    found = pictures.find(tmp_path)
    assert relative(tmp_path, found) == ['gone.png', 'itself.png']
    for file in found:
        with pytest.raises(InputError, match=file.name):
            pictures.read_as_seen(file, 3)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch, capsys):
    make(tmp_path, 'a/1.png', 'locked/2.png')
    scan = os.scandir

    def refuse(path):
        if str(path).endswith('locked'):
            raise PermissionError(13, 'Permission denied')
        return scan(path)

    monkeypatch.setattr(os, 'scandir', refuse)
    assert relative(tmp_path, pictures.find(tmp_path)) == ['a/1.png']
    assert f'{tmp_path}/locked cannot be listed (Permission denied)' in capsys.readouterr().err


def test_pairs_of_a_segmentation_pass_over_folders_and_what_macos_leaves(tmp_path):
    for kind, names in (('images', ['2.jpg', '1.jpg']), ('annotations', ['1.png', '2.png'])):
        make(tmp_path / kind / 'validation', *names, f'._{names[0]}', 'x.png/inside.png')
    found = dataset.pairs(tmp_path, 'validation')
    assert [relative(tmp_path, pair) for pair in found] == [
        [f'images/validation/{n}.jpg', f'annotations/validation/{n}.png'] for n in (1, 2)
    ]
    assert np.asarray(dataset.read_label(found[0][1])).tolist() == [[100] * 4] * 4
