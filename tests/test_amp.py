import json

import numpy as np
import paddle
import pytest
import toy

import models_zoo
from engine_loop import Run
from util import amp, optim
from util.errors import InputError


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


def test_mixed_precision_needs_a_gpu():
    optimizer = paddle.optimizer.SGD(0.1, parameters=[paddle.nn.Linear(1, 1).weight])
    for precision in ('float16', 'bfloat16'):
        with pytest.raises(InputError, match=f'--amp {precision} needs a GPU'):
            amp.Step(optimizer, 1, precision)
    assert amp.Step(optimizer).precision == 'off' and amp.Step(optimizer).state_dict() == {}


class Scaler:
    """What a GPU's GradScaler does with gradients that are not finite, by its documentation: no step, half the scale."""

    def __init__(self):
        self.value = 8.0

    def is_enable(self):
        return True

    def scale(self, loss):
        return loss * self.value

    def step(self, optimizer):
        self.bad = not all(bool(p.grad.isfinite().all()) for p in optimizer._parameter_list)
        if not self.bad:
            optimizer.step()

    def update(self):
        self.value *= 0.5 if self.bad else 1.0

    def state_dict(self):
        return {'scale': paddle.to_tensor([self.value])}


def test_steps_that_a_scaler_leaves_out_are_counted_in_the_log(tmp_path):
    layer = paddle.nn.Linear(2, 1)
    assert amp.Step(toy.sgd(layer)).count() == {}
    # of the gradients; the losses are finite
    factors = [1.0, 1.0, 1.0, float('inf'), 1.0, 1.0, float('nan'), 1.0]
    data = toy.Data([paddle.ones([3, 2])] * 8)
    run = Run(layer, toy.sgd(layer), data, toy.flags(tmp_path, accum_iter=2))
    run.step.scaler = Scaler()
    layer.weight.register_hook(lambda gradient: gradient * factors[run.progress.iteration])
    for _ in run.epochs():
        stats = run.train(lambda x: run.network(x).mean())
    run.recorder.epoch(train_loss=stats['loss'], epoch=0)
    assert json.loads((tmp_path / 'log.txt').read_text())['skipped_steps'] == 2
    assert np.isfinite(layer.weight.numpy()).all()
