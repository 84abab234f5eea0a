"""Fine-tuning and evaluation as a user runs them, and the effect of each flag."""

import functools
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from conftest import (
    TINY_VIT,
    assert_same_state,
    classifier,
    figures_by_hand,
    log_of,
    printed_figures,
)
from visualdl import LogReader

import layer
import main_finetune
import models_zoo
from util import weights
from util.errors import InputError

# no weight changes
STILL = ['--lr', '0', '--min_lr', '0', '--epochs', '1', '--warmup_epochs', '0']
TWELVE = '--nb_classes 12 --seed 1 --mixup 0.8 --blr 5e-4 --epochs 3'
HEAD = {'head.weight', 'head.bias', 'fc_norm.weight', 'fc_norm.bias'}


@pytest.fixture(scope='module')
def finetune(classify):
    return functools.partial(classify, main_finetune, '--blr', '0.05')


@pytest.fixture(scope='module')
def log_with(finetune):
    """log_with('--flag value ...') -> the log of a training with these flags, made once."""
    return functools.cache(lambda flags: finetune(*flags.split())[0])


@pytest.fixture(scope='module')
def averaged(finetune):
    """A run with an average and twelve classes, so that five guesses are not always enough.

    The data has three of the classes.
    """
    return finetune(*TWELVE.split(), '--ema_decay', '0.5')


# records


def test_the_log_is_as_the_official_program_writes_it(log_with):
    log = log_with('')
    assert [list(line) for line in log] == 2 * [
        ['train_lr', 'train_loss', 'test_loss', 'test_acc1', 'test_acc5', 'epoch', 'n_parameters']
    ]
    blocks = 4 * (12 * 96**2 + 13 * 96)
    assert log[1]['epoch'] == 1
    assert log[1]['n_parameters'] == blocks + (16 * 96 + 96) + 18 * 96 + 2 * 96 + (96 * 3 + 3)
    assert log_with('--freeze_blocks 4')[0]['n_parameters'] == 2 * 96 + 96 * 3 + 3
    mlp = 2 * 96 + 8 * 96**2 + 5 * 96  # of the last block, with its normalisation
    assert log_with('--freeze_blocks 3.5')[0]['n_parameters'] == mlp + 2 * 96 + 96 * 3 + 3


def test_rates_in_the_log_are_those_of_the_recipe(log_with):
    log = log_with('--blr 0.01 --accum_iter 3 --epochs 4 --warmup_epochs 2 --min_lr 1e-4')
    # one optimizer step an epoch: its rate is that of the first iteration
    peak = 0.01 * 10 * 3 / 256
    assert [line['train_lr'] for line in log] == pytest.approx(
        [0, peak / 2, peak, (peak + 1e-4) / 2]
    )


def test_visualdl_has_losses_on_the_epoch_1000_axis_and_figures_on_that_of_epochs(
    finetune, tmp_path
):
    log, _ = finetune('--log_dir', tmp_path)
    (file,) = tmp_path.glob('vdlrecords*')
    reader = LogReader(file_path=str(file))
    figures = ['test_acc1', 'test_acc5', 'test_loss']
    curves = ['loss', 'lr', *(f'perf/{name}' for name in figures)]
    assert sorted(reader.get_tags()['scalar']) == curves
    places = [record.id for record in reader.get_data('scalar', 'loss')]
    assert places == [0, 333, 666, 1000, 1333, 1666]
    for name in figures:
        records = reader.get_data('scalar', f'perf/{name}')
        assert [record.id for record in records] == [0, 1]  # log_writer.add_scalar(.., epoch)
        assert [record.value for record in records] == pytest.approx([line[name] for line in log])


def test_a_checkpoint_says_what_inference_needs_to_know(finetune):
    _, out = finetune('--mean', '0.4', '--std', '0.3', '--cls_token')
    saved = paddle.load(str(out / 'checkpoint-latest.pd'))
    assert saved['classes'] == ['0', '1', '2'] and saved['epoch'] == 1
    asked = {
        'global_pool': False,
        'input_size': 16,
        'mean': [0.4],
        'std': [0.3],
        'model': 'vit_nano_patch4',
    }
    assert {name: saved['args'][name] for name in asked} == asked


def test_checkpoints_come_at_their_cadence_and_the_best_is_that_of_all_sessions(
    finetune, monkeypatch, tmp_path
):
    def train(accuracies, *flags):
        figures = iter([{'loss': 1.0, 'acc1': accuracy, 'acc5': 100.0} for accuracy in accuracies])
        monkeypatch.setattr(main_finetune, 'evaluate', lambda *_, **__: next(figures))
        finetune('--save_every', '3', *flags, out=tmp_path)
        return weights.read(tmp_path / 'checkpoint-best.pd')

    assert train([50, 80, 70], '--epochs', '3')['epoch'] == 1
    later = ['--resume', tmp_path / 'checkpoint-2.pd', '--epochs']
    assert train([80, 60], *later, '5')['best'] == {
        'epoch': 1,
        'loss': 1.0,
        'acc1': 80,
        'acc5': 100,
    }
    assert sorted(path.name for path in tmp_path.glob('*.pd')) == [
        f'checkpoint-{name}.pd' for name in ('0', '2', '3', '4', 'best', 'latest')
    ]
    assert weights.read(tmp_path / 'checkpoint-latest.pd')['epoch'] == 4
    assert train([70, 90, 85], *later, '6')['epoch'] == 4


# flags

MIX = '--mixup 0.8 --cutmix 1'
CHANGES = {
    '': '--aa none, --aa augmix-m3, --aa original, --smoothing 0, --reprob 0, --mixup 0.8, '
    '--cutmix 1, --drop_path 0, --cutmix_minmax 0.2 0.8, --clip_grad 0.1, --layer_decay 0.5, '
    '--freeze_blocks 2, --weight_decay 5, --blr 1e-2, --lr 0.1, --beta2 0.9, --min_lr 0.01, '
    '--warmup_epochs 0, --cls_token, --seed 1, --accum_iter 3, --batch_size 6, --in_chans 3, '
    '--input_size 32, --mean 0.1, --std 0.5, --nb_classes 4, --scale 0.9 1, --hflip 1',
    '--aa none': '--color_jitter 0.4',
    '--cutmix 1': '--cutmix_minmax 0.2 0.8',
    '--reprob 1': '--remode rand, --remode const, --recount 3',
    MIX: '--mixup_prob 0.3, --mixup_switch_prob 1, --mixup_mode pair, --mixup_mode elem, '
    '--smoothing 0',
}
NO_CHANGE = {
    '': '--num_workers 2, --no_pin_mem, --dist_eval, --print_freq 1, --save_every 2, '
    '--save_every_iters 1 --keep 1, --resplit, --amp off, '
    '--world_size 8 --local_rank 3 --dist_on_itp --dist_url tcp://nowhere, --clip_grad 1e9, '
    '--global_pool, --color_jitter 0.4, --mixup_mode elem --mixup_prob 0.5 --mixup_switch_prob 0',
    '--reprob 0': '--remode const --recount 3',
}


def pairs(table):
    cases = [(given, flag) for given in table for flag in table[given].split(', ')]
    return pytest.mark.parametrize('given, flag', cases, ids=lambda flags: flags or 'defaults')


@pairs(CHANGES)
def test_a_flag_that_changes_training_changes_the_losses(log_with, given, flag):
    reference, changed = log_with(given), log_with(f'{given} {flag}')
    assert [line['train_loss'] for line in changed] != [line['train_loss'] for line in reference]


@pairs(NO_CHANGE)
def test_a_flag_that_should_not_change_training_does_not(log_with, given, flag):
    assert log_with(f'{given} {flag}') == log_with(given)


def test_recompute_reaches_the_model_and_draws_the_same_paths(log_with, finetune, monkeypatch):
    calls, own = [], layer.recompute
    monkeypatch.setattr(
        layer, 'recompute', lambda block, *inputs: calls.append(block) or own(block, *inputs)
    )
    log, _ = finetune('--drop_path', '0.5', '--recompute')
    assert len(calls) == 2 * 3 * 4
    assert log == [pytest.approx(line, rel=1e-5) for line in log_with('--drop_path 0.5')]


def test_lists_train_as_folders_do(finetune, listed, log_with):
    log, out = finetune('--data_path', listed)
    assert [line['train_loss'] for line in log] == [line['train_loss'] for line in log_with('')]
    assert weights.read(out / 'checkpoint-latest.pd')['classes'] is None


def test_many_channels_come_from_arrays(finetune, tmp_path):
    rng = np.random.default_rng(0)
    for split, label, number in np.ndindex(2, 2, 5):
        file = tmp_path / ('train', 'val')[split] / str(label) / f'{number}.npy'
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, rng.normal(size=[20, 24, 5]).astype('float32'))
    flags = '--in_chans 5 --reprob 1 --mean 0 0 0 0 0 --std 1 1 1 1 1'.split()
    flags += ['--data_path', tmp_path]
    log, _ = finetune(*flags, '--aa', 'none', '--mixup', '1')
    assert np.isfinite(log[-1]['train_loss']) and np.isfinite(log[-1]['test_loss'])
    with pytest.raises(InputError, match='use --aa none'):
        finetune(*flags)


# the first weights


def test_training_begins_from_the_encoders_weights_and_a_nearly_empty_head(finetune, encoder):
    _, out = finetune('--finetune', encoder, '--nb_classes', '100', *STILL)
    begun, file = (weights.read(path)['model'] for path in (out / 'checkpoint-0.pd', encoder))
    assert len(begun) == 4 * 12 + 4 + 4
    assert all(np.array_equal(begun[name], file[name]) for name in begun.keys() - HEAD)
    # 5 % are 7 standard errors for 9600 values
    assert begun['head.weight'].std() == pytest.approx(2e-5, rel=0.05)
    assert 3 < abs(begun['head.weight']).max() / 2e-5 < 6  # not cut at two deviations
    assert not begun['head.bias'].any()


def test_an_encoder_of_another_size_is_interpolated_and_trained(finetune, encoder):
    log, out = finetune('--finetune', encoder, '--input_size', '32')
    table, own = (
        weights.read(file)['model']['pos_embed'] for file in (out / 'checkpoint-latest.pd', encoder)
    )
    assert table.shape == (1, 65, 96) and np.isfinite(log[-1]['train_loss'])
    corners = table[0, 1:].reshape(8, 8, 96)[::7, ::7], own[0, 1:].reshape(4, 4, 96)[::3, ::3]
    assert np.corrcoef(*map(np.ravel, corners))[0, 1] > 0.9


def test_448_pixels_take_an_encoder_of_224(tmp_path):
    paddle.save(
        models_zoo.autoencoder('mae_vit_small_patch16', in_chans=1).state_dict(),
        str(tmp_path / 'x.pd'),
    )
    model = models_zoo.classifier(
        'vit_small_patch16', img_size=448, in_chans=1, num_classes=3, global_pool=True
    )
    assert set(models_zoo.start_from(model, str(tmp_path / 'x.pd')).fresh) == HEAD
    assert model.pos_embed.shape == [1, 785, 384]
    assert model(paddle.randn([1, 1, 448, 448])).shape == [1, 3]


@pytest.mark.parametrize(
    'count, frozen',
    [
        ('2', ('blocks.0.', 'blocks.1.')),
        ('1.5', ('blocks.0.', 'blocks.1.norm1.', 'blocks.1.attn.')),
    ],
)
def test_frozen_blocks_stay_bit_by_bit_and_all_others_move(finetune, encoder, count, frozen):
    _, out = finetune('--finetune', encoder, '--freeze_blocks', count)
    trained, file = (
        weights.read(path)['model'] for path in (out / 'checkpoint-latest.pd', encoder)
    )
    frozen = ('cls_token', 'pos_embed', 'patch_embed.', *frozen)
    for name in trained.keys() - HEAD:
        assert np.array_equal(trained[name], file[name]) == name.startswith(frozen), name


# the average of the weights


def test_the_average_is_the_recurrence_after_every_step(finetune):
    flags = '--warmup_epochs 0 --epochs 1 --save_every_iters 1 --ema_decay 0.9'.split()
    begun = weights.read(finetune(*flags, *STILL)[1] / 'checkpoint-0.pd')['model']
    _, out = finetune(*flags)
    first, second = (weights.read(out / f'checkpoint-0-{samples}.pd') for samples in (10, 20))
    for name in begun:
        expected = (
            0.9 * (0.9 * begun[name] + 0.1 * first['model'][name]) + 0.1 * second['model'][name]
        )
        np.testing.assert_allclose(second['ema'][name], expected, rtol=1e-5, atol=1e-8)
        assert (second['ema'][name] != second['model'][name]).any()


def test_the_average_is_what_is_evaluated_and_training_knows_nothing_of_it(averaged, log_with):
    for ours, plain in zip(averaged[0], log_with(TWELVE), strict=True):
        assert ours['train_loss'] == plain['train_loss'] and ours['test_loss'] != plain['test_loss']


def test_figures_are_those_of_a_count_by_hand_and_of_eval(averaged, finetune, digits, capsys):
    log, out = averaged
    by_hand = figures_by_hand(
        classifier(out / 'checkpoint-latest.pd', 'ema', num_classes=12),
        (digits / 'val').glob('*/*'),
    )
    assert 0 < by_hand['acc1'] < by_hand['acc5'] < 100
    assert {name: log[-1][f'test_{name}'] for name in by_hand} == pytest.approx(by_hand, rel=1e-5)
    finetune('--nb_classes', '12', '--eval', '--resume', out / 'checkpoint-latest.pd')
    assert printed_figures(capsys.readouterr().out) == [pytest.approx(by_hand, abs=1e-4)]


# evaluation and resuming


def test_evaluation_is_the_same_whatever_batch_processes_and_shares(
    averaged, listed, capsys, on_two_processes
):
    file = averaged[1] / 'checkpoint-latest.pd'
    flags = [*TINY_VIT, *'--nb_classes 12 --eval'.split(), '--resume', str(file)]
    flags += ['--data_path', str(listed), '--batch_size']
    runs = [
        [*flags, *more] for more in (['3'], ['64'], ['3', '--dist_eval'], ['64', '--dist_eval'])
    ]
    for run in runs:
        main_finetune.main(main_finetune.PARSER.parse_args(run))
    figures = printed_figures(capsys.readouterr().out) + printed_figures(
        on_two_processes('main_finetune', *runs)
    )
    pictures = [Path(line.split()[0]) for line in (listed / 'val.txt').read_text().splitlines()]
    by_hand = figures_by_hand(classifier(file, 'ema', num_classes=12), pictures)
    assert len(pictures) == 9 and figures == [pytest.approx(by_hand, abs=1e-4)] * 8


EVERYTHING = (
    f'{MIX} --drop_path 0.5 --reprob 1 --ema_decay 0.9 --clip_grad 1 --epochs 3 '
    '--save_every_iters 1'
).split()


def test_a_run_resumed_within_an_epoch_ends_as_if_nothing_had_happened(finetune):
    log, out = finetune(*EVERYTHING)
    resumed, again = finetune(*EVERYTHING, '--resume', out / 'checkpoint-1-10.pd')
    assert resumed == log[1:]
    assert_same_state(again / 'checkpoint-2.pd', out / 'checkpoint-2.pd')


@pytest.mark.slow
def test_two_processes_resume_as_if_nothing_had_happened(digits, tmp_path, on_two_processes):
    flags = [*TINY_VIT, *EVERYTHING, *'--epochs 2 --batch_size 4 --blr 0.05'.split()]
    flags += ['--data_path', digits]
    straight, resumed = tmp_path / 'straight', tmp_path / 'resumed'
    on_two_processes(
        'main_finetune',
        [*flags, '--output_dir', straight],
        [*flags, '--output_dir', resumed, '--resume', straight / 'checkpoint-1-8.pd'],
    )
    assert log_of(resumed) == log_of(straight)[1:]
    assert_same_state(resumed / 'checkpoint-1.pd', straight / 'checkpoint-1.pd')


def test_an_average_can_be_taken_up_and_given_up(finetune):
    files = {}
    for name, epochs, flags in (
        ('begun', 1, []),
        ('taken', 2, ['--ema_decay', '0.5']),
        ('given', 3, []),
    ):
        resume = ['--resume', list(files.values())[-1]] if files else []
        files[name] = finetune('--epochs', epochs, *flags, *resume)[1] / 'checkpoint-latest.pd'
    begun, taken, given = map(weights.read, files.values())
    own, average = (
        abs(taken[key]['head.weight'] - begun['model']['head.weight']).max()
        for key in ('model', 'ema')
    )
    assert 0 < average < own and given['ema'] is None


# errors

BAD = {
    'class missing': (
        '--data_path {missing}',
        '{missing}/val should have the 3 classes of the training images, or labels '
        'would shift; only one of the two has: 2',
    ),
    'class too many': (
        '--data_path {extra}',
        'of the training images, or labels would shift; only one of the two has: 9',
    ),
    'classes': ('--nb_classes 2', 'train has 3 classes, but --nb_classes is 2'),
    'mixing': (
        '--batch_size 5 --mixup 0.8',
        'mixup and cutmix mix pairs: --batch_size 5 must be even',
    ),
    'pairs': (
        '--batch_size 5 --cutmix_minmax 0.2 0.8 --mixup_mode pair',
        '--batch_size 5 must be even',
    ),
    'policy': ('--aa nonsense', '--aa nonsense: unknown'),
    'policy setting': ('--aa rand-q9', "--aa rand-q9: 'q9' is no setting of 'rand'"),
    'policy width': ('--aa augmix-w0', '--aa augmix-w0: w0 should be w and a number from 1'),
    'policy count': ('--aa rand-n99-tweights', 'n99 should be n and a number from 1 to'),
    'box': ('--cutmix_minmax 0.5 0.5', '--cutmix_minmax 0.5 0.5: the first must be smaller'),
    'probe': ('--finetune {probe}', '{probe} holds a linear probe; fine-tune from'),
    'pooling': (
        '--finetune {class_token}',
        '{class_token} holds a classifier by class token; add --cls_token',
    ),
    'other pooling': (
        '--eval --resume {class_token}',
        'by class token; a classifier by global pooling is needed here',
    ),
    'tensors': (
        '--finetune {part}',
        '{part} ... missing ... blocks.2.norm1.bias ... blocks.2.norm2.weight',
    ),
    'no weights': ('--eval', '--eval needs --resume FILE'),
    'evaluation of an encoder': (
        '--eval --resume {encoder}',
        '{encoder} holds a masked autoencoder',
    ),
    'resuming pre-training': ('--resume {encoder}', '{encoder} does not fit the model: '),
    'resuming a probe': ('--resume {probe}', '{probe} does not fit the model: '),
    'list': (
        '--data_path {list}',
        '--data_path {list}: one list cannot be training and validation set',
    ),
    'labels': (
        '--data_path {unlabelled}',
        '--data_path {unlabelled}: the list of train has no labels',
    ),
    'model': ('--model vit_bass', "no model 'vit_bass'; choose from pvt_nano_32,"),
    'blocks': ('--freeze_blocks 99', '--freeze_blocks 99: the model has 4 blocks'),
    'half a block too many': ('--freeze_blocks 4.5', '--freeze_blocks 4.5: the model has 4 blocks'),
}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_bad_input_is_named(finetune, flawed, flags, message):
    with pytest.raises(InputError) as error:
        finetune(*flags.format(**flawed).split())
    assert '\n' not in str(error.value)
    assert all(part in str(error.value) for part in message.format(**flawed).split(' ... '))


@pytest.mark.parametrize('workers', [0, 2])
def test_evaluation_needs_every_image(averaged, finetune, digits, tmp_path, workers):
    shutil.copytree(digits / 'val', tmp_path / 'val')
    (tmp_path / 'val/1/32.png').write_bytes(b'no picture')
    flags = [
        '--nb_classes',
        '12',
        '--resume',
        averaged[1] / 'checkpoint-latest.pd',
        '--data_path',
        tmp_path,
    ]
    with pytest.raises(
        InputError, match='unreadable image .*/val/1/32.png .*evaluation needs every image'
    ):
        finetune('--eval', *flags, '--num_workers', workers)
