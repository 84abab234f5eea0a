"""What is read from the device, and when: nothing in a step that logs nothing, on a GPU.

A GPU is stood in for: the programs are told that reading waits, and every reading is counted.
"""

import math
import re

import numpy as np
import paddle
import pytest
import toy
from readings import Readings

import engine_finetune
import engine_pretrain
import models_zoo
from engine_loop import Run
from util import checkpoint, constants, figures, optim, tensors
from util.augment.mixup import Mixup
from util.ema import Ema
from util.errors import NonFiniteLoss


@pytest.fixture
def waits(monkeypatch):
    """Reading waits for the device, as on a GPU."""
    monkeypatch.setattr(figures, 'reading_waits', lambda: True)


def run_of(model, optimizer, batches, **asked):
    return Run(model, optimizer, toy.Data(batches), toy.flags(**{'print_freq': 3} | asked))


def pretraining(model):
    images, noise = paddle.rand([2, 1, 32, 32]), paddle.rand([2, 64])
    model = models_zoo.autoencoder(model, in_chans=1)
    groups = optim.decay_groups(model, 0.05)
    run = run_of(model, optim.adamw(groups, beta2=0.95), [(images, noise)] * 5)
    return run, lambda: engine_pretrain.train_one_epoch(run, 0.75)


def finetuning(model='vit_nano_patch4'):
    model = models_zoo.classifier(
        model, img_size=32, in_chans=1, num_classes=3, drop_path_rate=0.5, global_pool=True
    )
    groups = optim.layer_decay_groups(model, 0.05, 0.75)
    batch = (paddle.rand([2, 1, 32, 32]), paddle.to_tensor([0, 2]))
    run = run_of(model, optim.adamw(groups, beta2=0.999), [batch] * 5, accum_iter=2)
    run.step.clip_grad = 1.0
    mix = Mixup(mixup=0.8, cutmix=1.0, classes=3)
    return run, lambda: engine_finetune.train_one_epoch(run, mix, Ema(model, 0.9))


def probing():
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=32, in_chans=1, num_classes=3, global_pool=False
    )
    model.probe()
    trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
    batch = (paddle.rand([2, 1, 32, 32]), paddle.to_tensor([0, 2]))
    run = run_of(model, optim.Lars(trained), [batch] * 5)
    mix = Mixup(mixup=0, cutmix=0, smoothing=0.0, classes=3)
    return run, lambda: engine_finetune.train_one_epoch(run, mix)


TRAININGS = {
    'pre-training': lambda: pretraining('mae_vit_nano_patch4'),
    'SimMIM': lambda: pretraining('simmim_swin_nano_32'),
    'uniform masking of Swin': lambda: pretraining('mae_swin_nano_32'),
    'uniform masking of PVT': lambda: pretraining('mae_pvt_nano_32'),
    'fine-tuning with mixup': finetuning,
    'fine-tuning of Swin': lambda: finetuning('swin_nano_32'),
    'linear probing': probing,
}


def test_readings_of_all_kinds_are_counted(monkeypatch):
    readings = Readings(monkeypatch)
    one = paddle.ones([1])
    for read in (float, int, bool, np.asarray, paddle.Tensor.item, paddle.Tensor.tolist):
        before = readings.by_iteration.total()
        read(one)
        assert readings.by_iteration.total() == before + 1, read
    if one > 0:
        pass
    assert readings.by_iteration.total() == 7


def in_each_iteration(run, train, monkeypatch):
    """How often each of five iterations reads; lines come after 0, 3 and 4.

    Without the operations for CPUs, which read the places of tokens: a CPU has always finished.
    """
    monkeypatch.setattr(tensors, 'served', lambda *given: False)
    readings = Readings(monkeypatch)
    for _ in run.epochs():
        train()
    return readings.of(5)


@pytest.mark.parametrize('make', TRAININGS.values(), ids=TRAININGS)
def test_a_step_that_logs_nothing_reads_nothing(make, monkeypatch):
    run, train = make()
    assert in_each_iteration(run, train, monkeypatch) == [1, 0, 0, 1, 1]


@pytest.mark.parametrize('make', [TRAININGS['pre-training'], probing], ids=['AdamW', 'LARS'])
def test_float16_reads_once_more_in_a_step_as_the_scaler_does(make, monkeypatch):
    run, train = make()
    run.step.scaler = toy.gpu_step(monkeypatch, run.step.optimizer).scaler
    assert in_each_iteration(run, train, monkeypatch) == [2, 1, 1, 2, 2]


def trained(folder, losses, **asked):
    """Train on losses that are given; how many iterations were begun, and the error."""
    model = toy.layer()
    batches = [paddle.ones([1, 2])] * len(losses)
    run = Run(model, toy.adamw(model), toy.Data(batches), toy.flags(folder, **asked))
    given = iter(losses)
    begun = []

    def loss_of(batch):
        begun.append(batch)
        return run.network(batch).mean() * 0 + next(given)

    try:
        for epoch in run.epochs():
            stats = run.train(loss_of)
            run.finish_epoch(epoch, {**stats, 'epoch': epoch})
    except NonFiniteLoss as error:
        return len(begun), str(error)
    return len(begun), run.progress.averages.means()


BAD = [1.0, 2.0, 3.0, math.nan, 5.0, math.inf, 7.0, 8.0]


def test_a_bad_loss_is_noticed_at_the_next_line_and_its_own_batch_is_named(tmp_path, waits):
    begun, said = trained(tmp_path, BAD, print_freq=5)
    assert begun == 6 and 'the loss is nan in epoch 0, iteration 3;' in said
    assert (tmp_path / 'non_finite-0-3-rank0.txt').read_text() == 'batch-3.png\n'


def test_a_bad_loss_is_noticed_before_a_checkpoint_is_written(tmp_path, waits):
    begun, _ = trained(tmp_path, BAD, print_freq=100, save_every_iters=2)
    assert begun == 4
    assert [path.name for path in checkpoint.ordered(tmp_path)] == ['checkpoint-0-2.pd']
    begun, _ = trained(tmp_path, BAD, print_freq=100)
    assert begun == 8 and not (tmp_path / 'checkpoint-0.pd').exists()


def test_on_cpus_a_bad_loss_is_noticed_at_once(tmp_path):
    begun, said = trained(tmp_path, BAD, print_freq=5)
    assert begun == 4 and 'iteration 3;' in said


def test_figures_are_the_same_whenever_they_are_read(tmp_path, monkeypatch, capsys):
    def lines(folder):
        folder.mkdir()
        found = trained(folder, [0.1, 0.2, 0.7, 0.3, 0.9], print_freq=2)
        out = re.sub(r'(time|data|mem) .*', '', capsys.readouterr().out)
        return found, out, (folder / 'log.txt').read_text()

    at_once = lines(tmp_path / 'a')
    monkeypatch.setattr(figures, 'reading_waits', lambda: True)
    assert lines(tmp_path / 'b') == at_once


def test_an_evaluation_reads_at_its_end(monkeypatch):
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=32, in_chans=1, num_classes=3, global_pool=True
    )
    rng = np.random.default_rng(0)
    images = rng.normal(size=[6, 1, 32, 32]).astype('float32')
    labels = np.array([0, 1, 2, 0, 1, 2])
    batches = [
        (paddle.to_tensor(x), paddle.to_tensor(y))
        for x, y in zip(np.split(images, [4]), np.split(labels, [4]))
    ]
    model.eval()
    scores = model(paddle.to_tensor(images)).numpy().astype('float64')
    readings = Readings(monkeypatch)
    found = engine_finetune.evaluate(model, batches)
    assert readings.by_iteration.total() == 1

    losses = np.log(np.exp(scores).sum(1)) - scores[range(6), labels]
    assert found['loss'] == pytest.approx(losses.mean(), rel=1e-5)
    assert found['acc1'] == pytest.approx(100 * (scores.argmax(1) == labels).mean())
    assert found['acc5'] == pytest.approx(100)


def test_tables_are_made_once(monkeypatch):
    made = []

    @constants.kept
    def table(length):
        made.append(length)
        return np.arange(length)

    assert table(3) is table(3) and table(4).tolist() == [0, 1, 2, 3]
    assert made == [3, 4]
    model = models_zoo.autoencoder('mae_swin_nano_32', in_chans=1)
    images = paddle.rand([2, 1, 32, 32])
    model(images)
    copies = []
    own = paddle.to_tensor
    monkeypatch.setattr(paddle, 'to_tensor', lambda *x, **y: copies.append(x) or own(*x, **y))
    model(images)
    assert copies == []
