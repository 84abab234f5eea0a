"""The loop of all training, with a toy model: any batches, epochs or iterations, exact resume."""

import inspect
import json
import math

import numpy as np
import paddle
import pytest
import toy

import engine_finetune
import engine_loop
import engine_pretrain
from engine_loop import Run
from util import checkpoint, weights
from util.errors import NonFiniteLoss


def rows(count, seed=0):
    """Batches like those of segmentation and detection: dicts, with lists of unequal length."""
    rng = np.random.default_rng(seed)
    return [
        {
            'image': paddle.to_tensor(rng.normal(size=[3, 2]).astype('float32')),
            'boxes': [list(range(i))],
        }
        for i in range(count)
    ]


def loss_of(run):
    def loss(batch):
        assert isinstance(batch['boxes'], list)
        return (run.network(batch['image']) - 1).square().mean()

    return loss


def run_of(folder, batches, **asked):
    model = toy.layer()
    return model, Run(model, toy.adamw(model), toy.Data(batches), toy.flags(folder, **asked))


def test_epochs_train_at_the_cosine_rate_and_record_the_mean_loss(tmp_path):
    _, run = run_of(tmp_path, rows(4), epochs=2)
    seen, rates = [], []

    def loss(batch):
        rates.append(run.step.optimizer.get_lr())
        seen.append(loss_of(run)(batch))
        return seen[-1]

    for epoch in run.epochs():
        stats = run.train(loss)
        assert stats['loss'] == pytest.approx(np.mean([value.item() for value in seen[-4:]]))
        run.finish_epoch(epoch, {'train_loss': stats['loss'], 'epoch': epoch})
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
    lines = (tmp_path / 'log.txt').read_text().splitlines()
    assert [json.loads(line)['epoch'] for line in lines] == [0, 1]
    names = [path.name for path in checkpoint.ordered(tmp_path)]
    assert names == ['checkpoint-0.pd', 'checkpoint-1.pd']


def by_iterations(folder, every, upto, **asked):
    """A run counted in iterations, as in segmentation: parts of one long epoch of 12 iterations."""
    if folder:
        folder.mkdir(exist_ok=True)
    model, run = run_of(folder, rows(12), save_every_iters=every, **asked)
    for _ in run.epochs():
        while run.progress.iteration < upto:
            run.train(loss_of(run), iterations=every)
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}, run


def test_a_run_counted_in_iterations_equals_one_counted_in_epochs(tmp_path):
    model, run = run_of(tmp_path, rows(12))
    for _ in run.epochs():
        stats = run.train(loss_of(run))
    pieces, by_pieces = by_iterations('', 3, 12)
    assert by_pieces.progress.averages.means() == stats
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(pieces[name], tensor.numpy())


def test_a_run_counted_in_iterations_resumes_bit_by_bit(tmp_path):
    straight, _ = by_iterations(tmp_path / 'straight', 3, 12)
    by_iterations(tmp_path / 'halted', 3, 6)
    resumed, run = by_iterations(tmp_path / 'halted', 3, 12, resume='auto')
    assert run.progress.iteration == 12
    for name, array in straight.items():
        np.testing.assert_array_equal(resumed[name], array)


def test_memory_is_given_back_after_optimizer_steps(tmp_path, monkeypatch):
    _, run = run_of(tmp_path, rows(4), accum_iter=2)
    places = []
    monkeypatch.setattr(
        engine_loop.machine, 'give_back_once', lambda: places.append(run.progress.iteration)
    )
    for _ in run.epochs():
        run.train(loss_of(run))
    assert places == [2, 4]


def test_the_effective_batch_of_the_earlier_run_is_kept(tmp_path, capsys):
    _, run = run_of(tmp_path, rows(4), accum_iter=4, save_every_iters=1)
    for _ in run.epochs():
        run.train(loss_of(run))
    _, run = run_of(tmp_path, rows(4), epochs=2, accum_iter=2, resume='auto')
    assert run.data.accum_iter == run.step.accum_iter == 4
    assert 'so --accum_iter is now 4' in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_files(tmp_path):
    _, run = run_of(tmp_path, rows(4))
    losses = iter([1.0, 2.0, math.nan])
    with pytest.raises(NonFiniteLoss, match='the loss is nan in epoch 0, iteration 2'):
        for _ in run.epochs():
            run.train(lambda batch: run.network(batch['image']).mean() * 0 + next(losses))
    assert (tmp_path / 'non_finite-0-2-rank0.txt').read_text() == 'batch-2.png\n'


def test_what_is_kept_is_saved_and_restored(tmp_path):
    model = toy.layer()
    kept = {'classes': ['ant', 'bee'], 'best': {}, 'ema': None}
    run = Run(model, toy.adamw(model), toy.Data(rows(2)), toy.flags(tmp_path), kept=kept)
    for epoch in run.epochs():
        run.train(loss_of(run))
        kept['best'] = {'acc1': 50.0}
        run.finish_epoch(epoch, {'epoch': epoch}, 'best')
    saved = weights.read(tmp_path / 'checkpoint-best.pd')
    assert (
        saved['classes'] == ['ant', 'bee']
        and saved['best'] == {'acc1': 50.0}
        and saved['ema'] is None
    )
    again = {'classes': None, 'best': {}}
    Run(
        model,
        toy.adamw(model),
        toy.Data(rows(2)),
        toy.flags(tmp_path, epochs=2, resume='auto'),
        kept=again,
    )
    assert again == {'classes': ['ant', 'bee'], 'best': {'acc1': 50.0}}


def test_the_interface_stays_narrow():
    _, run = run_of('', rows(2))
    assert len([name for name in dir(run) if not name.startswith('_')]) <= 12
    for engine in (engine_pretrain, engine_finetune):
        assert len(inspect.signature(engine.train_one_epoch).parameters) <= 4
    public = [
        function
        for _, function in inspect.getmembers(engine_loop.Run, inspect.isfunction)
        if not function.__name__.startswith('_')
    ]
    assert public and all(len(inspect.signature(function).parameters) <= 6 for function in public)
