"""--eval of both programs: how pictures are prepared, and which output a class folder belongs to."""

import functools

import pytest
from conftest import classifier, figures_by_hand, printed_figures

import main_finetune
import main_linprobe

PROGRAMS = pytest.mark.parametrize(
    'program', [main_finetune, main_linprobe], ids=['finetune', 'linprobe']
)
MEAN, STD = 0.25, 0.6  # that the weights are trained with


@pytest.fixture(scope='module')
def trained(classify):
    """trained(program) -> a checkpoint of five outputs, for three digits."""
    flags = [
        '--nb_classes',
        5,
        '--epochs',
        1,
        '--mean',
        MEAN,
        '--std',
        STD,
        '--lr',
        0.01,
        '--warmup_epochs',
        0,
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
        f'warning: --std 0.226 is not what these weights were trained with; theirs holds: {STD}'
    ]
