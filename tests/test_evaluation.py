"""--eval of both programs: how pictures are prepared, and which output a class folder has."""

import functools
import shutil

import pytest
from conftest import classifier, figures_by_hand, printed_figures

import main_finetune
import main_linprobe
from imagenet_classes import SYNSETS
from models_labels import evaluation_images
from util import weights
from util.errors import InputError
from util.weights import paddle_file

PROGRAMS = pytest.mark.parametrize(
    'program', [main_finetune, main_linprobe], ids=['finetune', 'linprobe']
)
MEAN, STD = 0.25, 0.6  # of the training


@pytest.fixture(scope='module')
def trained(classify):
    """trained(program) -> a checkpoint of five outputs, for three digits."""
    flags = [
        *'--nb_classes 5 --epochs 1 --lr 0.01 --warmup_epochs 0'.split(),
        '--mean',
        MEAN,
        '--std',
        STD,
    ]
    return functools.cache(lambda program: classify(program, *flags)[1] / 'checkpoint-0.pd')


@pytest.fixture
def evaluate(classify, trained, capsys):
    """evaluate(program, *flags) -> the figures and the warnings of --eval."""

    def evaluate(program, *flags):
        capsys.readouterr()
        classify(program, '--nb_classes', 5, '--resume', trained(program), '--eval', *flags)
        printed = capsys.readouterr()
        (figures,) = printed_figures(printed.out)
        return figures, [line for line in printed.err.splitlines() if line.startswith('warning')]

    return evaluate


@PROGRAMS
def test_pictures_are_normalised_as_in_training_whatever_the_flags_say(
    evaluate, trained, digits, program
):
    model = classifier(trained(program), num_classes=5, global_pool=program is main_finetune)
    by_hand = pytest.approx(
        figures_by_hand(model, (digits / 'val').glob('*/*'), mean=(MEAN,), std=(STD,)), abs=1e-4
    )
    assert figures_by_hand(model, (digits / 'val').glob('*/*')) != by_hand
    assert evaluate(program) == (by_hand, [])
    assert evaluate(program, '--mean', MEAN, '--std', STD) == (by_hand, [])
    figures, warnings = evaluate(program, '--std', 0.226)
    assert figures == by_hand
    assert warnings == [
        f'warning: --std 0.226 is not what these weights were trained with; using {STD}'
    ]


@pytest.fixture(scope='module')
def bare(trained, tmp_path_factory):
    """bare(program) -> the same weights without classes; outputs 0, 1 and 2 are the digits."""

    def bare(program):
        file = tmp_path_factory.mktemp('bare') / 'weights.pd'
        state = weights.read(trained(program))
        paddle_file.write(file, {'model': state['model'], 'args': state['args']})
        return file

    return functools.cache(bare)


@pytest.fixture
def some(digits, tmp_path):
    """A folder with validation images of only the digits 1 and 2."""
    for digit in '12':
        shutil.copytree(digits / 'val' / digit, tmp_path / 'some/val' / digit)
    return tmp_path / 'some'


@PROGRAMS
def test_some_of_the_class_folders_need_to_be_mapped_to_the_outputs(
    evaluate, bare, trained, some, tmp_path, program
):
    flags = [program, '--resume', bare(program), '--data_path', some]
    with pytest.raises(InputError) as error:
        evaluate(*flags)
    assert '2 class folders for 5 outputs' in str(error.value)
    assert '--class_names FILE' in str(error.value)

    (tmp_path / 'names.txt').write_text('0\n1\n2\nthree\nfour\n')
    model = classifier(trained(program), num_classes=5, global_pool=program is main_finetune)
    by_hand = figures_by_hand(model, (some / 'val').glob('*/*'), mean=(MEAN,), std=(STD,))
    figures, _ = evaluate(*flags, '--class_names', tmp_path / 'names.txt')
    assert figures == pytest.approx(by_hand, abs=1e-4)


BAD = {
    'too few': ('1\n2\n', '/names.txt has 2 lines, but the model has 5 classes'),
    'other names': (
        '0\n1\na\nb\nc\n',
        'these class folders are not among the names of classes: 2; the names are: 0, 1, a, b, c',
    ),
}


@pytest.mark.parametrize('names, said', BAD.values(), ids=BAD)
def test_names_that_do_not_fit_are_refused(evaluate, bare, some, tmp_path, names, said):
    (tmp_path / 'names.txt').write_text(names)
    flags = ['--resume', bare(main_finetune), '--data_path', some]
    with pytest.raises(InputError) as error:
        evaluate(main_finetune, *flags, '--class_names', tmp_path / 'names.txt')
    assert str(error.value).endswith(said)


def test_weights_that_know_their_classes_want_all_of_them_unless_a_file_says_which(
    evaluate, some, tmp_path
):
    with pytest.raises(InputError, match='should have the 3 classes of the training images'):
        evaluate(main_finetune, '--data_path', some)
    (tmp_path / 'names.txt').write_text('0\n1\n2\n3\n4\n')
    assert evaluate(main_finetune, '--data_path', some, '--class_names', tmp_path / 'names.txt')


def test_imagenets_folders_are_known_by_their_ids(tmp_path):
    """Two folders for 1000 outputs have the places 283 (Persian cat) and 999, counted by hand."""
    assert (SYNSETS[0], SYNSETS[283], SYNSETS[999]) == ('n01440764', 'n02123394', 'n15075141')
    assert len(SYNSETS) == len(set(SYNSETS)) == 1000 and sorted(SYNSETS) == SYNSETS
    for folder in ('n15075141', 'n02123394'):
        (tmp_path / 'val' / folder).mkdir(parents=True)
        (tmp_path / 'val' / folder / 'x.png').touch()

    def find(outputs):
        return evaluation_images(
            str(tmp_path), ('.png',), outputs, path='w.pth', names=None, class_names=None
        )

    assert find(1000).labels == [283, 999]
    with pytest.raises(InputError, match='2 class folders for 21841 outputs'):
        find(21841)
    (tmp_path / 'val/other').mkdir()
    (tmp_path / 'val/other/x.png').touch()
    with pytest.raises(InputError, match='3 class folders for 1000 outputs'):
        find(1000)
