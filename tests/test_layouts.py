"""The layouts of a data set: which images each gives, in which order, and what is left out."""

import os

import numpy as np
import pytest
from PIL import Image

import main_finetune
import main_pretrain
from util import classes
from util.augment import crop, transform
from util.data import folder, loader, pictures, summary
from util.errors import InputError

SUFFIXES = pictures.PICTURES


def make(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.lower().endswith(SUFFIXES):
            grey = sum(name.encode()) % 256
            Image.new('L', (8, 8), grey).save(path, 'png')
        else:
            path.write_text('x')


def names_of(images, root):
    return [os.path.relpath(path, root) for path in images.paths]


def labelled(root, split, classes=None, nb_classes=1000):
    root = list(map(str, root)) if isinstance(root, list) else str(root)
    return folder.find_labelled(root, split, SUFFIXES, nb_classes, classes)


# any folder, for pre-training


def test_a_nested_folder_gives_all_its_images_and_says_what_it_leaves_out(tmp_path):
    root, elsewhere = tmp_path / '照片', tmp_path / 'elsewhere'
    make(root, 'b.png', 'a 1.JPG', '._a 1.JPG', '._b.png', '.DS_Store', 'notes.txt', 'film.mp4')
    make(root, '海边/2019/x.png', '海边/2019/._x.png', '海边/1.png', '海边/list.TXT', 'README')
    make(root, '.trash/gone.png', 'empty/notes.txt')
    make(elsewhere, 'linked.png', 'deep/er/2.webp')
    (root / 'link').symlink_to(elsewhere)
    (root / 'one.png').symlink_to(elsewhere / 'linked.png')
    (root / '海边/circle').symlink_to(root)
    (elsewhere / 'deep/back').symlink_to(root / 'link')
    found = folder.find_unlabelled([str(root)], SUFFIXES)
    assert names_of(found, root) == [
        'a 1.JPG',
        'b.png',
        'one.png',
        'link/deep/er/2.webp',
        'link/linked.png',
        '海边/1.png',
        '海边/2019/x.png',
    ]
    assert found.labels is None and found.classes is None
    assert dict(found.left_out) == {
        '._*': 3,
        '.txt': 3,
        'hidden files': 1,
        'hidden folders': 1,
        '.mp4': 1,
        'without a suffix': 1,
        'empty folders': 1,
        'circular links': 2,
    }


def test_an_unlabelled_folder_needs_no_train_and_train_none_of_classes(tmp_path):
    make(tmp_path, 'flat/2.png', 'flat/1.png', 'all/train/2.png', 'all/train/a/1.png')
    make(tmp_path, 'all/val/3.png')
    found = folder.find_unlabelled(str(tmp_path / 'flat'), SUFFIXES)
    assert names_of(found, tmp_path) == ['flat/1.png', 'flat/2.png']
    found = folder.find_unlabelled(str(tmp_path / 'all'), SUFFIXES)
    assert names_of(found, tmp_path) == ['all/train/2.png', 'all/train/a/1.png']


def test_class_folders_give_pre_training_what_they_gave_before(tmp_path):
    make(tmp_path, 'train/a-b/1.png', 'train/a/2.png', 'train/a/c/1.png', 'val/a/3.png')
    (tmp_path / 'train.txt').write_text('val/a/3.png\n')
    found = folder.find_unlabelled(str(tmp_path), SUFFIXES)
    before = folder.find(str(tmp_path), 'train', SUFFIXES)
    assert found == before and found.labels == [0, 0, 1]
    assert names_of(found, tmp_path / 'train') == ['a/2.png', 'a/c/1.png', 'a-b/1.png']


def test_a_folder_is_read_once(tmp_path, monkeypatch):
    make(tmp_path, '1.png', 'a/2.png', 'a/b/3.txt', 'c/4.png')
    scan, seen = os.scandir, []
    monkeypatch.setattr(os, 'scandir', lambda path: seen.append(str(path)) or scan(path))
    found = folder.find_unlabelled(str(tmp_path), SUFFIXES)
    summary.line('training', found)
    assert sorted(seen) == [str(tmp_path / name) for name in ('', 'a', 'a/b', 'c')]


# PaddleClas's layout


def paddleclas(root, end='\n', names=('train_list.txt', 'val_list.txt'), prefix='val/'):
    """train/ and a flat val/, with lists whose numbers are not in alphabetical order."""
    make(root, 'train/狗/1.png', 'train/狗/2 b.png', 'train/猫/3.png', 'val/4.png', 'val/5.png')
    train = ['train/狗/1.png 1', 'train/猫/3.png 0', 'train/狗/2 b.png 1']
    val = [f'{prefix}5.png 1', f'{prefix}4.png 0']
    for name, lines in zip(names, (train, val)):
        (root / name).write_bytes(end.join([*lines, '']).encode())
    return root


@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('names', [('train_list.txt', 'val_list.txt'), ('train.txt', 'val.txt')])
def test_lists_beside_a_flat_val_give_the_labels_of_both_splits(tmp_path, end, names):
    root = paddleclas(tmp_path, end, names)
    train, val = labelled(root, 'train'), labelled(root, 'val')
    assert names_of(train, root) == ['train/狗/1.png', 'train/猫/3.png', 'train/狗/2 b.png']
    assert train.labels == [1, 0, 1] and train.classes is None
    assert names_of(val, root) == ['val/5.png', 'val/4.png'] and val.labels == [1, 0]


def test_a_list_may_name_the_images_of_its_split_alone(tmp_path):
    root = paddleclas(tmp_path, names=('-', 'val.txt'), prefix='')  # as ImageNet's val.txt
    assert names_of(labelled(root, 'val'), root) == ['val/5.png', 'val/4.png']
    assert labelled(root, 'train').classes == ['狗', '猫']  # no list of them


def test_class_folders_win_over_lists_where_both_splits_have_them(tmp_path):
    root = paddleclas(tmp_path)
    make(root, 'val/狗/6.png', 'val/猫/7.png')
    assert labelled(root, 'train').labels == [0, 0, 1]
    val = labelled(root, 'val', ['狗', '猫'])
    assert names_of(val, root) == ['val/狗/6.png', 'val/猫/7.png']
    assert dict(+val.left_out) == {folder.OUTSIDE: 2}


# several folders


def test_several_folders_join_classes_by_name_and_images_once(tmp_path):
    make(tmp_path, 'A/train/bee/1.png', 'A/train/cat/2.png', 'A/val/bee/5.png', 'A/val/ant/6.png')
    make(tmp_path, 'B/train/ant/3.png', 'B/train/bee/1.png', 'A/val/cat/7.png')
    (tmp_path / 'B/train/bee/again').symlink_to(tmp_path / 'A/train/bee')
    roots = [tmp_path / 'A', tmp_path / 'B']
    train = labelled(roots, 'train')
    assert names_of(train, tmp_path) == [
        'A/train/bee/1.png',
        'A/train/cat/2.png',
        'B/train/ant/3.png',
        'B/train/bee/1.png',
    ]
    assert train.labels == [1, 2, 0, 1] and train.classes == ['ant', 'bee', 'cat']
    assert dict(+train.left_out) == {folder.TWICE: 1}  # B/train/bee/again/1.png
    val = labelled(roots, 'val', train.classes)  # B has none
    assert names_of(val, tmp_path) == ['A/val/ant/6.png', 'A/val/bee/5.png', 'A/val/cat/7.png']
    assert val.labels == [0, 1, 2]


def test_several_places_of_any_layout_pre_train_together(tmp_path):
    make(tmp_path, 'flat/1.png', 'classes/train/x/2.png', 'listed/3.png', 'listed/4.png')
    (tmp_path / 'listed/my.txt').write_text('4.png\n3.png\n../flat/1.png\n4.png\n')
    paths = [str(tmp_path / name) for name in ('flat', 'classes', 'listed/my.txt', 'flat')]
    found = folder.find_unlabelled(paths, SUFFIXES)
    # a list may repeat its own images; those of an earlier path count once
    expected = ['flat/1.png', 'classes/train/x/2.png', 'listed/4.png', 'listed/3.png']
    assert names_of(found, tmp_path) == [*expected, 'listed/4.png']
    assert found.labels is None and dict(+found.left_out) == {folder.TWICE: 2}


def test_lists_of_several_folders_join_by_their_numbers(tmp_path):
    for name, label in (('A', 3), ('B', 0)):
        make(tmp_path, f'{name}/1.png')
        (tmp_path / name / 'train.txt').write_text(f'1.png {label}\n')
    train = labelled([tmp_path / 'A', tmp_path / 'B'], 'train')
    assert names_of(train, tmp_path) == ['A/1.png', 'B/1.png'] and train.labels == [3, 0]


def test_examples_of_several_folders_are_relative_to_what_contains_them(tmp_path):
    make(tmp_path, 'old/A/train/bee/1.png', 'old/B/train/ant/1.png')
    for name in ('old', 'new'):
        base = tmp_path / name
        paths = [str(base / 'A'), str(base / 'B')]
        kept = classes.kept(folder.find(paths, 'train', SUFFIXES), paths, renamed=False)
        assert kept['examples'].paths == ['B/train/ant/1.png', 'A/train/bee/1.png']
        if name == 'old':
            base.rename(tmp_path / 'new')
    assert folder.common(['a', '/b']) == '' and folder.common('a/') == 'a'


# the same images give the same batches


def batches(images):
    augment = transform.Train(crop.CropAndFlip(4, (0.2, 1)), *crop.statistics(1, None, None))
    samples = loader.TrainSet(images, 1, augment, lambda index, rng: rng.random(4), seed=3)
    data = loader.TrainLoader(samples, batch_size=2, num_workers=0)
    return [[part.numpy() for part in batch] for batch in data.batches(epoch=0)]


def test_the_layout_changes_no_batch(tmp_path):
    root = tmp_path / 'data'
    make(root, *(f'train/{name}.png' for name in ('a/1', 'a/2', 'b/3', 'b/c/4')))
    names = [f'train/{name}.png' for name in ('a/1', 'a/2', 'b/3', 'b/c/4')]
    (root / 'own.txt').write_text('\n'.join(names))
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'train_list.txt').write_text(''.join(f'../data/{name} 0\r\n' for name in names))
    (other / 'link').symlink_to(root / 'train')
    layouts = [[root], [root / 'train'], [root / 'own.txt'], [other], [other / 'link']]
    layouts.append([root / 'train/a', root / 'train/b'])
    found = [batches(folder.find_unlabelled(list(map(str, paths)), SUFFIXES)) for paths in layouts]
    assert len(found[0]) == 2 and found[0][0][0].std() > 0
    for other in found[1:]:
        for batch, like in zip(other, found[0], strict=True):
            for part, same in zip(batch, like, strict=True):
                assert np.array_equal(part, same)


# the summary


def test_the_summary_of_classes(tmp_path):
    make(tmp_path, 'train/a/1.png', 'train/b/1.png', 'train/b/2.png', 'train/c/1.png')
    make(tmp_path, 'train/b/._1.png', 'train/b/._2.png', 'train/.x/1.png', 'train/c/1.xml')
    assert summary.line('training', labelled(tmp_path, 'train')) == (
        'training: 4 images; 3 classes, smallest a with 1, largest b with 2; '
        'left out: ._* (2), hidden folders (1), .xml (1)'
    )


def test_the_summary_of_lists_and_of_unlabelled_images():
    listed = folder.Images(['1', '2', '3'], [7, 7, 2], None)
    assert summary.line('validation', listed) == (
        'validation: 3 images; 2 classes, smallest label 2 with 1, largest label 7 with 2'
    )
    assert summary.line('training', folder.Images(['1'], None, None)) == 'training: 1 image'


def test_programs_print_the_summary_first(digits, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise InputError('far enough')

    monkeypatch.setattr('util.data.loader.TrainSet', stop)
    flags = '--input_size 16 --in_chans 1 --device cpu --log_dir= --output_dir='.split()
    for main, model, more in (
        (main_pretrain, 'mae_vit_nano_patch4', []),
        (main_finetune, 'vit_nano_patch4', ['--nb_classes', '10']),
    ):
        words = ['--data_path', str(digits), '--model', model, *flags, *more]
        with pytest.raises(InputError, match='far enough'):
            main.main(main.PARSER.parse_args(words))
        printed = capsys.readouterr().out
        count = len(list((digits / 'train').rglob('*.png')))
        assert f'training: {count} images; 3 classes, smallest 1 with 9, ' in printed
    assert 'validation: ' in printed


# errors


@pytest.mark.parametrize(
    'files, paths, message',
    [
        (
            ['A/1.png'],
            ['A'],
            'A: found neither the folder train/ (with one subfolder a class) nor the list '
            'train.txt or train_list.txt nor archives as train-0000.tar in it',
        ),
        (['A/train/1.png'], ['A'], 'their labels in the list train.txt or train_list.txt beside'),
        (['A/train/a/1.png', 'B/1.png'], ['A', 'B'], 'B: found neither the folder train/'),
        (['A/val/a/1.png', 'B/val/a/1.png'], ['A', 'B'], 'B: found neither the folder train/'),
        (['A/train/a/1.png', 'B/x/1.png'], ['A', 'C'], 'C: no such folder or list file'),
        (['A/train/a/1.png', 'B/train/b/x.gif'], ['A', 'B'], 'B/train/b holds no image'),
    ],
)
def test_folders_without_labels_are_an_error_for_classification(tmp_path, files, paths, message):
    make(tmp_path, *files)
    with pytest.raises(InputError) as error:
        labelled([tmp_path / path for path in paths], 'train')
    assert message in str(error.value) and '\n' not in str(error.value)


def test_classes_that_only_one_split_has_are_named_over_several_folders(tmp_path):
    make(tmp_path, 'A/train/a/1.png', 'B/train/b/1.png', 'A/val/a/1.png', 'B/val/c/1.png')
    roots = [tmp_path / 'A', tmp_path / 'B']
    with pytest.raises(InputError, match='val of --data_path .*/A .*/B .* two has: b, c$'):
        labelled(roots, 'val', labelled(roots, 'train').classes)


def test_lists_and_class_folders_are_not_joined_for_classification(tmp_path):
    make(tmp_path, 'A/train/a/1.png', 'B/1.png')
    (tmp_path / 'B/train_list.txt').write_text('1.png 0\n')
    with pytest.raises(InputError, match='class folders and lists cannot be joined'):
        labelled([tmp_path / 'A', tmp_path / 'B'], 'train')


def test_a_folder_without_images_is_an_error_for_pre_training(tmp_path):
    make(tmp_path, 'A/notes.txt', 'A/b/film.gif')
    with pytest.raises(InputError, match='/A: no image .* in this folder, at any depth$'):
        folder.find_unlabelled([str(tmp_path / 'A')], SUFFIXES)
    with pytest.raises(InputError, match='nowhere: no such folder or list file'):
        folder.find_unlabelled([str(tmp_path / 'nowhere')], SUFFIXES)


def test_images_of_validation_are_not_pre_trained_on_by_mistake(tmp_path):
    make(tmp_path, 'Train/a/1.png', 'val/a/2.png')
    with pytest.raises(InputError, match='has val/ but neither the folder train/'):
        folder.find_unlabelled(str(tmp_path), SUFFIXES)
