import json
from itertools import pairwise

import numpy as np
import paddle
import pytest
import toy

import models_zoo
from engine_loop import Run
from util import amp, dist, optim, replicas
from util.errors import InputError
from util.sharding import Sharding


def test_accumulated_small_batches_equal_one_large_batch():
    images, noise = paddle.randn([8, 1, 32, 32]), paddle.rand([8, 64])
    weights = []
    for accum_iter in (1, 4):
        paddle.seed(1)
        model = models_zoo.autoencoder('mae_vit_nano_patch4', in_chans=1)
        optimizer = paddle.optimizer.SGD(0.1, parameters=optim.decay_groups(model, 0.0))
        step = amp.Step(optimizer, accum_iter)
        for i, (x, n) in enumerate(zip(images.split(accum_iter), noise.split(accum_iter))):
            with step.autocast():
                loss, _, _ = model(x, 0.75, n)
            step.backward(loss, i)
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())
        weights.append([p.numpy() for p in model.parameters()])
    for a, b in zip(*weights):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_float16_needs_a_gpu():
    optimizer = paddle.optimizer.SGD(0.1, parameters=[paddle.nn.Linear(1, 1).weight])
    with pytest.raises(InputError, match='--amp float16 needs a GPU'):
        amp.Step(optimizer, 1, 'float16')
    assert amp.Step(optimizer).precision == 'off' and amp.Step(optimizer).state_dict() == {}


OPTIMIZERS = {  # each with the largest norm of the gradients
    'pre-training': (lambda model: optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95), None),
    'fine-tuning': (
        lambda model: optim.adamw(optim.layer_decay_groups(model, 0.05, 0.75), beta2=0.999),
        1.0,
    ),
    'linear probe': (lambda model: optim.Lars(model.parameters()), None),
    'linear probe with decay': (
        lambda model: optim.Lars(model.parameters(), weight_decay=0.1),
        1.0,
    ),
}


@pytest.mark.parametrize('make, clip_grad', OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_no_optimizer_moves_at_an_overflow_and_training_goes_on(monkeypatch, make, clip_grad):
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=8, in_chans=1, num_classes=2, global_pool=True
    )
    images = paddle.randn([2, 1, 8, 8])
    toy.overflow(
        monkeypatch,
        model,
        make(model),
        lambda: model(images)[:, 0].sum(),
        model.blocks[1].mlp.fc2.weight,
        clip_grad=clip_grad,
    )


@pytest.mark.parametrize('make', [toy.adamw, lambda model: optim.Lars(model.parameters())])
@pytest.mark.parametrize('owned', [True, False], ids=['own', 'of another rank'])
def test_a_shared_optimizer_moves_nothing_at_an_overflow(monkeypatch, make, owned):
    """Wherever it is: each rank sees all gradients, and has to leave the same steps out."""
    monkeypatch.setattr(dist, 'world_size', lambda: 2)
    monkeypatch.setattr(dist, 'rank', lambda: 1)
    monkeypatch.setattr(replicas, 'average_gradients', lambda parameters: None)
    monkeypatch.setattr(Sharding, 'exchange', lambda self: None)
    model = toy.layer()  # the weight is larger, so rank 0 has it and rank 1 the bias
    optimizer = make(model)
    toy.overflow(
        monkeypatch,
        model,
        optimizer,
        lambda: model(paddle.ones([1, 2])).sum(),
        model.bias if owned else model.weight,
        sharding=Sharding(optimizer),
    )


@pytest.mark.parametrize(
    'make',
    [toy.sgd, toy.adamw, lambda model: optim.Lars(model.parameters())],
    ids=['SGD', 'AdamW', 'LARS'],
)
def test_steps_that_a_scaler_leaves_out_are_counted_in_the_log(tmp_path, monkeypatch, make):
    layer = paddle.nn.Linear(2, 1)
    assert amp.Step(toy.sgd(layer)).count() == {}
    # factors of the gradients; the losses are finite
    factors = [1.0, 1.0, 1.0, float('inf'), 1.0, 1.0, float('nan'), 1.0]
    data = toy.Data([paddle.ones([3, 2])] * 8)
    run = Run(layer, make(layer), data, toy.flags(tmp_path, accum_iter=2))
    run.step.scaler = toy.gpu_step(monkeypatch, run.step.optimizer).scaler
    layer.weight.register_hook(lambda gradient: gradient * factors[run.progress.iteration])
    weights = []

    def loss_of(batch):
        with run.step.autocast():
            return run.network(batch).mean()

    for _ in run.epochs():
        stats = run.train(loss_of, after_step=lambda: weights.append(layer.weight.numpy()))
    run.recorder.epoch(train_loss=stats['loss'], epoch=0)
    assert json.loads((tmp_path / 'log.txt').read_text())['skipped_steps'] == 2
    assert [bool((a != b).any()) for a, b in pairwise(weights)] == [False, True, False]
    assert np.isfinite(weights).all()
