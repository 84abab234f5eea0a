"""Classes that change between two runs: each program that resumes names the change.

If the classes were only renamed, --classes_renamed resumes the run.
"""

import functools
import shutil

import pytest

import main_finetune
import main_infer
import main_linprobe
from util import weights
from util.errors import InputError

PROGRAMS = pytest.mark.parametrize(
    'program', [main_finetune, main_linprobe], ids=['finetune', 'linprobe']
)


@pytest.fixture(scope='module')
def trained(classify):
    """trained(program) -> the checkpoint of one epoch on the digits 0, 1 and 2."""
    return functools.cache(
        lambda program: classify(program, '--nb_classes', 4, '--epochs', 1)[1] / 'checkpoint-0.pd'
    )


@pytest.fixture
def resume(classify, trained):
    """resume(program, folder, *flags) -> the last checkpoint of a run resumed on other images."""

    def resume(program, data, *flags):
        flags = ['--nb_classes', 4, '--resume', trained(program), '--data_path', data, *flags]
        return classify(program, *flags)[1] / 'checkpoint-1.pd'

    return resume


@pytest.fixture
def altered(digits, tmp_path):
    """altered(old=new ...) -> the digits in renamed folders; a new folder has images of a 2."""

    def altered(renamed):
        root = tmp_path / 'data'
        shutil.copytree(digits, root)
        for split in ('train', 'val'):
            for old, new in renamed.items():
                if old is None:
                    shutil.copytree(root / split / '2', root / split / new)
                else:
                    (root / split / old).rename(root / split / new)
        return root

    return altered


def refused(resume, *args):
    with pytest.raises(InputError) as error:
        resume(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


CHANGED = {  # folders old -> new (None: an added one), and the message
    'one more, first': ({None: '00'}, 'new: 00; class 1 was 1 and is 00, class 2 was 2 and is 1'),
    'one more, last': ({None: '7'}, 'new: 7'),
    'renamed': ({'1': '15'}, 'new: 15; gone: 1; class 1 was 1 and is 15'),
    'renamed and moved': (
        {'0': '9'},
        'new: 9; gone: 0; class 0 was 0 and is 1, class 1 was 1 and is 2, class 2 was 2 and is 9',
    ),
}


@PROGRAMS
@pytest.mark.parametrize('folders, said', CHANGED.values(), ids=CHANGED)
def test_other_classes_are_refused_with_the_difference(
    resume, altered, trained, program, folders, said
):
    error = refused(resume, program, altered(folders))
    assert (
        error.startswith(f'--resume {trained(program)}: the classes')
        and f'{said}. ' in error
        and '--classes_renamed' in error
    )


@PROGRAMS
def test_who_only_renamed_goes_on_and_has_the_new_names(resume, altered, program, digits, capsys):
    file = resume(program, altered({'1': '15', '2': 'two'}), '--classes_renamed')
    state = weights.read(file)
    assert state['classes'] == ['0', '15', 'two'] and state['epoch'] == 1
    capsys.readouterr()
    picture = next((digits / 'val/2').iterdir())
    main_infer.main(
        main_infer.PARSER.parse_args(
            ['--resume', str(file), '--img_path', str(picture), '--device', 'cpu']
        )
    )
    named = {line.rpartition(':')[0] for line in capsys.readouterr().out.splitlines()[2:]}
    assert named == {str([name]) for name in ('0', '15', 'two', 'class 3')}


@PROGRAMS
@pytest.mark.parametrize(
    'folders, said',
    [({None: '7'}, '3 classes have become 4'), ({'0': '9'}, 'the order of the classes')],
)
def test_more_than_a_renaming_is_refused_with_the_flag_too(resume, altered, program, folders, said):
    assert f'--classes_renamed: {said}' in refused(
        resume, program, altered(folders), '--classes_renamed'
    )


def write_lists(digits, folder, label):
    """The digits as lists, with equally many images of each digit; label: digit -> label."""
    for split in ('train', 'val'):
        files = sorted((digits / split).glob('*/*'))
        (folder / f'{split}.txt').write_text(
            ''.join(f'{file} {label(file.parent.name)}\n' for file in files)
        )
    return folder


@PROGRAMS
def test_lists_are_compared_by_an_image_of_each_label(classify, digits, tmp_path, program):
    begun = tmp_path / 'begun'
    begun.mkdir()
    flags = ['--nb_classes', 4, '--data_path', write_lists(digits, begun, int), '--epochs']
    file = classify(program, *flags, 1)[1] / 'checkpoint-0.pd'
    zero, one, two = weights.read(file)['examples']
    assert '/train/0/' in zero and '/train/1/' in one and '/train/2/' in two

    def go_on(label, *more):
        given = ['--data_path', write_lists(digits, tmp_path, label), '--resume', file]
        return classify(program, *flags, 2, *given, *more)

    swapped = {'0': 0, '1': 2, '2': 1}.get
    error = refused(go_on, swapped)
    assert (
        f'{one} had label 1 and has 2' in error
        and f'{two} had label 2 and has 1' in error
        and zero not in error
    )
    assert 'there were 3 labels and are 4' in refused(
        go_on, lambda digit: {'0': 0, '1': 1, '2': 3}[digit]
    )
    assert go_on(swapped, '--classes_renamed')[0][0]['epoch'] == 1
    assert go_on(int)[0][0]['epoch'] == 1


def test_folders_and_lists_of_the_same_images_go_on_from_each_other(
    classify, digits, resume, trained, tmp_path
):
    for split in ('train', 'val'):
        shutil.copytree(digits / split, tmp_path / split)
    lists = write_lists(tmp_path, tmp_path, int)
    for split in ('train', 'val'):
        (lists / split).rename(lists / f'{split}_')  # so that the program reads the lists
        text = (lists / f'{split}.txt').read_text()
        (lists / f'{split}.txt').write_text(text.replace(f'/{split}/', f'/{split}_/'))
    file = resume(main_finetune, lists)
    assert weights.read(file)['classes'] == ['0', '1', '2']
    flags = ['--nb_classes', 4, '--epochs', 3, '--data_path', digits]
    assert classify(main_finetune, '--resume', file, *flags)[0][0]['epoch'] == 2
