"""Training steps of segmentation as seg/train.py does them."""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import numpy as np
import paddle
from paddle_steps import ROOT, parameters, pictures_like, repeated
from paddleseg.cvlibs import Config, SegBuilder

from seg.train import Objective
from util import amp, machine, program

CONFIGS = {
    'base_patch16': 'upernet_mae_base_ade20k_512x512_160k',
    'nano_patch4': 'upernet_mae_tiny',
}
CLASSES = 150


def segment(case):
    program.start(None, seed=0)
    config = Config(str(ROOT / f'seg/configs/upernet_mae/{CONFIGS[case["model"]]}.yml'))
    builder = SegBuilder(config)
    model, optimizer = builder.model, builder.optimizer
    losses_of = Objective(model, builder.loss)
    steps = amp.Step(optimizer, precision='off')
    model.train()
    images = paddle.to_tensor(pictures_like(case))
    labels = np.random.default_rng(0).integers(
        0, CLASSES, [case['batch'], case['side'], case['side']]
    )
    batch = {'img': images, 'label': paddle.to_tensor(labels)}

    def step():
        loss = sum(losses_of(model, batch))
        loss.item()
        steps.backward(loss, 0)
        builder.lr_scheduler.step()
        machine.give_back_once()  # as engine_loop does

    return repeated(step), parameters(model)
