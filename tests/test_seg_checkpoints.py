"""Checkpoints of seg/train.py: what resumes, and equals an undisturbed training bit for bit."""

import importlib
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import toy
from conftest import assert_same_tree, slow
from test_seg_train import config, run, scenes  # noqa: F401

import seg  # noqa: F401

# isort: split
from seg import train
from seg.checkpoints import Folders, assign_optimizer
from util import weights
from util.errors import InputError

FILES = ('model.pdparams', 'model.pdopt', 'ema_model.pdparams', 'training.pd')
WHERE = ('args', 'environment')  # of training.pd; these differ between two runs


@pytest.fixture
def train_alone(run_program):
    """Train in a new process, as users do: names of the optimizer's state count its layers."""

    def run(*flags):
        result = run_program('seg/train.py', *flags, '--device', 'cpu')
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    return run


def state(folder):
    """The files of a checkpoint, or of a best model, without where they were made."""
    found = {name: weights.read(folder / name) for name in FILES if (folder / name).exists()}
    for name in WHERE:
        found.get('training.pd', {}).pop(name, None)
    return found


@pytest.mark.parametrize('workers', [slow(0), 2])
def test_an_interrupted_run_equals_an_undisturbed_one(train_alone, config, tmp_path, workers):  # noqa: F811
    """From the middle of an epoch: weights, optimizer, schedule and average."""
    flags = ['--config', config(), '--iters', 5, '--save_interval', 3, '--seed', 7, '--use_ema']
    flags += ['--num_workers', workers]
    whole, again = tmp_path / 'whole', tmp_path / 'again'
    train_alone(*flags, '--save_dir', whole)
    train_alone(*flags, '--save_dir', again, '--resume_model', whole / 'iter_3')
    assert set(state(whole / 'iter_5')) == set(FILES)
    assert_same_tree(state(again / 'iter_5'), state(whole / 'iter_5'))
    before, after = (state(whole / name)['model.pdparams'] for name in ('iter_3', 'iter_5'))
    assert not np.array_equal(before['backbone.cls_token'], after['backbone.cls_token'])


@pytest.mark.slow
def test_the_best_result_survives_a_resume(train_alone, config, tmp_path):  # noqa: F811
    flags = ['--config', config(), '--save_interval', 1, '--use_ema', '--do_eval']
    flags += ['--opts', 'lr_scheduler.decay_steps=4']
    train_alone(*flags, '--iters', 4, '--save_dir', tmp_path / 'whole')
    train_alone(*flags, '--iters', 2, '--save_dir', tmp_path / 'again')
    more = ['--iters', 4, '--save_dir', tmp_path / 'again', '--resume_model', 'auto']
    train_alone(*flags, *more)
    for place in ('iter_4', 'best_model', 'ema_best_model'):
        assert_same_tree(
            state(tmp_path / 'again' / place), state(tmp_path / 'whole' / place), place
        )


@pytest.mark.slow
def test_auto_passes_over_a_damaged_checkpoint_and_begins_anew_without_any(
    train_alone,
    config,  # noqa: F811
    tmp_path,
):
    flags = ['--config', config(), '--save_interval', 1, '--save_dir', tmp_path / 'out']
    flags += ['--resume_model', 'auto']
    train_alone(*flags, '--iters', 2)
    damaged = tmp_path / 'out/iter_2/model.pdparams'
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    printed = train_alone(*flags, '--iters', 3)
    assert f'passes over a checkpoint: {damaged} is damaged' in printed
    assert f'resumed from {tmp_path}/out/iter_1' in printed
    names = {path.name for path in (tmp_path / 'out').iterdir()}
    assert names == {'iter_1', 'iter_2', 'iter_2.old', 'iter_3'}
    # A finished training has nothing left to do
    assert 'all 3 iterations are done' in train_alone(*flags, '--iters', 3)


@pytest.mark.slow
def test_the_newest_checkpoints_of_the_training_stay(train_alone, config, tmp_path):  # noqa: F811
    flags = ['--config', config(), '--save_interval', 1, '--keep_checkpoint_max', 2]
    flags += ['--save_dir', tmp_path / 'out', '--resume_model', 'auto']
    train_alone(*flags, '--iters', 2)
    train_alone(*flags, '--iters', 3)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['iter_2', 'iter_3']


@pytest.mark.slow
def test_resuming_in_another_folder_leaves_alone_what_is_there(train_alone, config, tmp_path):  # noqa: F811
    """It also begins a record of the best of its own."""
    flags = ['--config', config(), '--keep_checkpoint_max', 1, '--do_eval']
    train_alone(*flags, '--iters', 1, '--save_dir', tmp_path / 'first')
    (tmp_path / 'second/iter_1').mkdir(parents=True)
    resumed = ['--resume_model', tmp_path / 'first/iter_1']
    train_alone(*flags, '--iters', 2, '--save_dir', tmp_path / 'second', *resumed)
    first, second = (
        sorted(path.name for path in (tmp_path / name).iterdir()) for name in ('first', 'second')
    )
    assert first == ['best_model', 'iter_1']
    assert second == ['best_model', 'iter_1', 'iter_2']
    assert state(tmp_path / 'second/best_model')['training.pd']['iter'] == 2


@pytest.mark.slow
def test_a_best_model_of_a_later_iteration_makes_room(train_alone, config, tmp_path):  # noqa: F811
    out = tmp_path / 'out'
    flags = ['--config', config(), '--save_interval', 1, '--do_eval', '--save_dir', out]
    train_alone(*flags, '--iters', 3)
    best = weights.read(out / 'best_model/training.pd')['iter']
    printed = train_alone(*flags, '--iters', 3, '--resume_model', out / 'iter_1')
    names = {path.name for path in out.iterdir()}
    assert {'iter_1', 'iter_2', 'iter_2.old', 'iter_3', 'iter_3.old', 'best_model'} <= names
    assert ('best_model_to_1' in names) == (best > 1) == ('is now best_model_to_1' in printed)
    assert state(out / 'iter_3')['training.pd']['best_model']['iter'] == best


@pytest.mark.slow
def test_an_average_that_is_missing_is_named_also_by_auto(
    train_alone,
    run_program,
    config,  # noqa: F811
    tmp_path,
):
    flags = ['--config', config(), '--save_dir', tmp_path / 'out']
    train_alone(*flags, '--iters', 1)
    more = ['--iters', 2, '--use_ema', '--resume_model', 'auto', '--device', 'cpu']
    result = run_program('seg/train.py', *flags, *more)
    assert result.returncode == 2
    assert 'iter_1 has no ema_model.pdparams, which --use_ema needs' in result.stderr
    assert (tmp_path / 'out/iter_1').exists()


def test_a_parameter_without_gradient_and_float32_copies_resume(tmp_path):
    used, unused = paddle.nn.Linear(2, 3), paddle.nn.Linear(3, 2)
    model = paddle.nn.LayerList([used, unused])
    optimizer = paddle.optimizer.AdamW(0.1, parameters=model.parameters())
    used(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    state = {
        key: tensor.numpy()
        for key, tensor in optimizer.state_dict().items()
        if hasattr(tensor, 'numpy')
    }
    assert len(state) == 8
    again = paddle.optimizer.AdamW(0.1, parameters=model.parameters())
    assign_optimizer(model, again, state, 'iter_1')
    renamed = {}
    for key, array in state.items():
        name = used.weight.name if key.startswith(used.weight.name) else used.bias.name
        renamed[key.replace(name, f'{name}_fp32_master_0')] = array
    assign_optimizer(model, again, renamed, 'iter_1')

    weight = used.weight.name
    for wrong, message in (
        ({'other_0.w_0_moment1_0': np.zeros([2, 3])}, 'the model has no parameter for other_0'),
        ({f'{weight}_moment1_0': np.zeros([4, 3])}, r'is \[4, 3\] there, \[2, 3\] here'),
        ({f'{weight}_velocity_0': np.zeros([2, 3])}, 'beta1_pow_acc of .* is missing'),
        ({}, 'it has no beta1_pow_acc'),
    ):
        with pytest.raises(InputError, match=f'iter_1/model.pdopt is of another .*{message}'):
            assign_optimizer(model, again, wrong, 'iter_1')


def test_paddleseg_reads_a_checkpoint(config, tmp_path):  # noqa: F811
    """By its own function, into a model and an optimizer built as the program builds them."""
    run(train, '--config', config(), '--save_dir', tmp_path, '--iters', 1)
    saved = weights.read(tmp_path / 'iter_1/model.pdparams')
    model = paddle.nn.Linear(2, 2)
    model.set_state_dict = lambda state: received.update(state)
    received = {}
    optimizer = paddle.optimizer.AdamW(parameters=model.parameters())
    optimizer.set_state_dict = lambda state: received.update(optimizer=state)
    resume = importlib.import_module('paddleseg.utils.utils').resume
    assert resume(model, optimizer, str(tmp_path / 'iter_1')) == 1
    schedule = received.pop('optimizer')['LR_Scheduler']
    assert schedule['last_epoch'] == 1
    assert_same_tree({name: tensor.numpy() for name, tensor in received.items()}, saved)


@pytest.mark.slow
def test_an_evaluation_that_fails_loses_nothing_and_is_done_again(
    train_alone,
    run_program,
    config,  # noqa: F811
    scenes,  # noqa: F811
    tmp_path,
):
    """As when a picture of the validation set is damaged."""
    flags = ['seg/train.py', '--config', config(), '--do_eval', '--iters', 2]
    flags += ['--save_dir', tmp_path / 'out', '--device', 'cpu', '--resume_model', 'auto']
    picture = sorted((scenes / 'images/validation').iterdir())[3]
    whole = picture.read_bytes()
    try:
        picture.write_bytes(b'no picture')
        result = run_program(*flags)
    finally:
        picture.write_bytes(whole)
    assert result.returncode == 2
    assert f'{tmp_path}/out/iter_2 holds what was trained before it' in result.stderr
    assert f'error: {picture} cannot be read as a picture' in result.stderr
    printed = train_alone(*flags[1:-4], *flags[-2:])
    assert '[EVAL] The model with the best validation mIoU' in printed
    assert '[TRAIN]' not in printed


def test_a_folder_of_another_name_is_refused(config, tmp_path):  # noqa: F811
    (tmp_path / 'best_model').mkdir()
    with pytest.raises(InputError, match='expected a folder iter_N that this program has written'):
        flags = ['--save_dir', tmp_path, '--resume_model', tmp_path / 'best_model']
        run(train, '--config', config(), *flags)


def test_the_scaler_of_mixed_precision_is_restored(tmp_path, monkeypatch):
    """Paddle's real one, as it is on a GPU."""
    model = paddle.nn.Linear(2, 1)
    flags = {'save_dir': str(tmp_path), 'save_interval': 1, 'keep_checkpoint_max': 0}

    def folders():
        optimizer = paddle.optimizer.SGD(parameters=model.parameters())
        step = toy.gpu_step(monkeypatch, optimizer, precision='float16')
        return step, Folders(model, step, flags, 2)

    step, saver = folders()
    step.load_state_dict(step.state_dict() | {'scale': np.array([2048.0]), 'incr_count': 7})
    saver.save_iteration(SimpleNamespace(iteration=1))
    saver.join()
    again, restored = folders()
    assert again.state_dict() != step.state_dict()
    assert restored.restore('auto') == 1
    assert again.state_dict() == step.state_dict()
    assert (again.state_dict()['scale'], again.state_dict()['incr_count']) == (2048.0, 7)
