"""VisionTransformer, layer decay and clipping against timm: same weights, same images."""
import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

import models_vit
from util import amp, checkpoint, optim

from .conftest import report
from .test_mae import key_part, paddle_layout


@pytest.mark.parametrize('global_pool', [True, False])
def test_logits_gradients_and_fine_tuning_steps_equal_timm(reference, global_pool):
    rng = np.random.default_rng(0)
    images = rng.normal(size=[5, 6, 3, 32, 32]).astype('float32')
    targets = rng.dirichlet(np.ones(10), size=[5, 6]).astype('float32')
    theirs = reference('vit', images=images, targets=targets, global_pool=global_pool, clip=0.5)
    model = models_vit.create('vit_nano_patch4', num_classes=10, global_pool=global_pool)
    checkpoint.load_model(model, paddle_layout(theirs, 'start/'), 'the reference')
    model.train()
    step = amp.Step(optim.adamw(optim.layer_decay_groups(model, 0.05, 0.65), beta2=0.999), clip_grad=0.5)
    figures = {}
    for i, (x, y) in enumerate(zip(images, targets)):
        step.optimizer.set_lr(1e-3 * (i + 1) / 5)
        logits = model(paddle.to_tensor(x))
        loss = F.cross_entropy(logits, paddle.to_tensor(y), soft_label=True)
        if i == 0:
            gradients = paddle.grad(loss, model.parameters(), retain_graph=True)
            expected = paddle_layout(theirs, 'grad/')
            figures = {'logits': np.abs(logits.numpy() - theirs['logits']).max(), 'loss': abs(loss.item() - theirs['loss']),
                       'gradient': max(np.abs(g.numpy() - expected[name]).max() / np.abs(expected[name]).max()
                                       for (name, _), g in zip(model.named_parameters(), gradients))}
        step.backward(loss, i)
    end = paddle_layout(theirs, 'end/')
    figures['weights_after'] = max(np.abs(key_part(name, p.numpy()) - key_part(name, end[name])).max()
                                   for name, p in model.named_parameters())
    report(f'vit_nano_patch4 global_pool={global_pool}', **figures)
    assert figures['logits'] < 1e-5 and figures['loss'] < 1e-6
    assert figures['gradient'] < 1e-5
    if global_pool:  # the recipe; timm 1.0.22 counts `norm`, which only the class token needs, to the last block
        assert figures['weights_after'] < 5e-6
