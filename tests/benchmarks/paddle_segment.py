"""Training steps of segmentation as paddleseg.core.train does them for seg/train.py."""

import seg  # noqa: F401  first of all: it prepares the machine, and registers what configs name

# isort: split
import numpy as np
import paddle
from paddle_steps import ROOT, parameters, pictures_like, repeated
from paddleseg.core.train import loss_computation
from paddleseg.cvlibs import Config, SegBuilder

from util import program

CONFIGS = {
    'base_patch16': 'upernet_mae_base_ade20k_512x512_160k',
    'nano_patch4': 'upernet_mae_tiny',
}
CLASSES = 150


def segment(case):
    program.start(None, seed=0)
    config = Config(str(ROOT / f'seg/configs/upernet_mae/{CONFIGS[case["model"]]}.yml'))
    builder = SegBuilder(config)
    model, losses, optimizer = builder.model, builder.loss, builder.optimizer
    model.train()
    images = paddle.to_tensor(pictures_like(case))
    labels = np.random.default_rng(0).integers(
        0, CLASSES, [case['batch'], case['side'], case['side']]
    )
    labels = paddle.to_tensor(labels)

    def step():
        loss = sum(loss_computation(model(images), labels, None, losses))
        loss.backward()
        optimizer.step()
        builder.lr_scheduler.step()
        model.clear_gradients()
        loss.item()

    return repeated(step), parameters(model)
