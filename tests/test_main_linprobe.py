"""Linear probing as a user runs it: which weights change, and the printed figures."""

import functools
import itertools

import numpy as np
import pytest
from conftest import assert_same_state, classifier, figures_by_hand, printed_figures

import main_linprobe
from util import weights
from util.augment import crop
from util.errors import InputError


@pytest.fixture(scope='module')
def probe(classify, encoder):
    return functools.partial(classify, main_linprobe, '--finetune', encoder, '--blr', '10')


@pytest.fixture(scope='module')
def probed(probe):
    return probe()


@pytest.fixture(scope='module')
def log_with(probe):
    """log_with('--flag value ...') -> the log of a training with these flags, made once."""
    return functools.cache(lambda flags: probe(*flags.split())[0])


def test_the_head_and_the_statistics_move_and_nothing_else_does(probed, encoder):
    trained, file = (
        weights.read(path)['model'] for path in (probed[1] / 'checkpoint-latest.pd', encoder)
    )
    backbone = trained.keys() - {'head.1.weight', 'head.1.bias', 'head.0._mean', 'head.0._variance'}
    some = {'norm.weight', 'norm.bias', 'pos_embed', 'cls_token', 'blocks.3.mlp.fc2.bias'}
    assert some < backbone
    assert len(backbone) == 54
    for name in backbone:
        np.testing.assert_array_equal(trained[name], file[name], err_msg=name)
    assert (
        trained['head.1.bias'].all()
        and trained['head.0._mean'].all()
        and (trained['head.0._variance'] != 1).all()
    )


def test_the_mean_of_the_patches_can_be_probed_as_well(probe, encoder):
    trained, file = (
        weights.read(path)['model']
        for path in (probe('--global_pool')[1] / 'checkpoint-latest.pd', encoder)
    )
    assert (
        (trained['fc_norm.weight'] == 1).all()
        and not trained['fc_norm.bias'].any()
        and 'norm.weight' not in trained
    )
    np.testing.assert_array_equal(
        trained['blocks.3.mlp.fc2.weight'], file['blocks.3.mlp.fc2.weight']
    )
    assert trained['head.1.bias'].all()


def test_log_and_checkpoints_are_as_in_fine_tuning(probed):
    log, out = probed
    assert [list(line) for line in log] == 2 * [
        ['train_lr', 'train_loss', 'test_loss', 'test_acc1', 'test_acc5', 'epoch', 'n_parameters']
    ]
    assert log[0]['n_parameters'] == 96 * 3 + 3, 'the head alone'
    assert sorted(path.stem for path in out.glob('*.pd')) == [
        f'checkpoint-{name}' for name in ('0', '1', 'best', 'latest')
    ]


def test_each_step_moves_the_head_by_the_rate_times_the_momentum(probe):
    _, out = probe('--epochs', '1', '--warmup_epochs', '0', '--lr', '2', '--save_every_iters', '1')
    before, after = (weights.read(out / f'checkpoint-0-{samples}.pd') for samples in (10, 20))
    moments = {name: kinds['momentum'] for name, kinds in after['optimizer'].items() if kinds}
    assert moments.keys() == {'head.1.weight', 'head.1.bias'}
    for name, moment in moments.items():
        expected = before['model'][name] - 2 * 0.5 * (1 + np.cos(np.pi / 3)) * moment
        np.testing.assert_allclose(after['model'][name], expected, rtol=1e-5, atol=1e-7)


def test_the_head_begins_with_a_deviation_of_a_hundredth(probe):
    _, out = probe('--nb_classes', '100', '--lr', '0', '--epochs', '1')
    head = weights.read(out / 'checkpoint-0.pd')['model']
    assert (
        head['head.1.weight'].std() == pytest.approx(0.01, rel=0.05)
        and not head['head.1.bias'].any()
    )


def test_the_head_keeps_the_draw_of_the_model_without_finetune(classify):
    flags = '--nb_classes 100 --lr 0 --epochs 1'.split()  # upstream resets it with --finetune alone
    _, out = classify(main_linprobe, *flags)
    head = weights.read(out / 'checkpoint-0.pd')['model']
    assert head['head.1.weight'].std() == pytest.approx(0.02, rel=0.05)
    assert not head['head.1.bias'].any()


def test_a_run_resumed_within_an_epoch_ends_as_if_nothing_had_happened(probe):
    flags = ['--epochs', '3', '--save_every_iters', '1']
    log, out = probe(*flags)
    resumed, again = probe(*flags, '--resume', out / 'checkpoint-1-10.pd')
    assert resumed == log[1:]
    assert_same_state(again / 'checkpoint-2.pd', out / 'checkpoint-2.pd')


def test_figures_are_those_of_a_count_by_hand_and_of_eval(probed, probe, digits, capsys):
    log, out = probed
    file = out / 'checkpoint-latest.pd'
    by_hand = figures_by_hand(classifier(file, global_pool=False), (digits / 'val').glob('*/*'))
    assert {name: log[-1][f'test_{name}'] for name in by_hand} == pytest.approx(by_hand, rel=1e-5)
    probe('--eval', '--resume', file)
    assert printed_figures(capsys.readouterr().out) == [pytest.approx(by_hand, abs=1e-4)]


@pytest.mark.parametrize(
    'flag',
    (
        '--weight_decay 0.5, --blr 1, --lr 0.5, --min_lr 5, --warmup_epochs 0, --seed 1, '
        '--batch_size 6, --accum_iter 3, --global_pool, --nb_classes 4, --mean 0.1, --std 0.5, '
        '--scale 0.9 1, --hflip 1'
    ).split(', '),
)
def test_a_flag_that_changes_training_changes_the_losses(log_with, flag):
    assert [line['train_loss'] for line in log_with(flag)] != [
        line['train_loss'] for line in log_with('')
    ]


@pytest.mark.parametrize(
    'flag',
    (
        '--num_workers 2, --dist_eval, --print_freq 1, --save_every 2, --amp off, '
        '--recompute, --cls_token'
    ).split(', '),
)
def test_a_flag_that_should_not_change_training_does_not(log_with, flag):
    assert log_with(flag) == log_with('')


class Given:
    """A generator whose draws are given in order, as shares of the way from low to high."""

    def __init__(self, *shares):
        self.shares = list(shares)

    def uniform(self, low, high):
        return low + self.shares.pop(0) * (high - low)

    def integers(self, high):
        return min(int(self.shares.pop(0) * high), high - 1)


@pytest.mark.parametrize('width, height', [(500, 375), (32, 32), (10, 400), (400, 10)])
def test_the_crop_is_of_one_draw_and_cut_to_the_image(width, height):
    for area, aspect, x, y in itertools.product(
        [0, 0.37, 1], [0, 0.6, 1], [0, 0.5, 1], [0, 0.5, 1]
    ):
        draws = Given(area, aspect, x, y)
        pixels, ratio = width * height * (0.08 + 0.92 * area), 0.75 * (4 / 3 / 0.75) ** aspect
        w = min(width, round((pixels * ratio) ** 0.5))
        h = min(height, round((pixels / ratio) ** 0.5))
        left = min(int(x * (width - w + 1)), width - w)
        top = min(int(y * (height - h + 1)), height - h)
        box = crop.single_draw_box(width, height, draws, (0.08, 1.0))
        assert box == (left, top, left + w, top + h)
        assert not draws.shares, 'one draw of each'


def test_the_crop_of_one_draw_is_what_training_uses(probe, monkeypatch):
    drawn, own = [], crop.single_draw_box
    monkeypatch.setattr(
        crop, 'single_draw_box', lambda *args: drawn.append(args[:2] + args[3:]) or own(*args)
    )
    probe('--epochs', '1')
    assert drawn == [(32, 32, [0.08, 1.0], (3 / 4, 4 / 3))] * 30


@pytest.mark.parametrize(
    'flags, message',
    [
        ('--batch_size 1', 'at least 2 images a batch and process; raise --batch_size'),
        ('--finetune {probe}', '{probe} holds a linear probe'),
        ('--finetune {part}', '{part} ... missing ... blocks.2.norm1.bias'),
        ('--eval', '--eval needs --resume FILE'),
        (
            '--eval --resume {class_token}',
            '{class_token} holds a classifier by class token; a linear probe is needed here',
        ),
        ('--resume {class_token}', '{class_token} does not fit the model'),
        ('--data_path {missing}', 'only one of the two has: 2'),
    ],
)
def test_bad_input_is_named(probe, flawed, flags, message):
    with pytest.raises(InputError) as error:
        probe(*flags.format(**flawed).split())
    assert '\n' not in str(error.value)
    assert all(part in str(error.value) for part in message.format(**flawed).split(' ... '))
