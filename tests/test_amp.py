import numpy as np
import paddle
import pytest

import models_zoo
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
