"""MaskedAutoencoderViT against Hugging Face's ViTMAEForPreTraining: same weights, same images, same noise."""
import numpy as np
import paddle
import pytest

import models_mae
from util import amp, checkpoint, optim

from .conftest import report

STEPS = 20
SIZES = {  # of the variants: image, patch, encoder and decoder width, depth, heads; batch
    'mae_vit_nano_patch4': dict(size=32, patch=4, width=96, depth=4, heads=3, decoder_width=64, decoder_depth=2,
                                decoder_heads=2),
    'mae_vit_base_patch16': dict(size=224, patch=16, width=768, depth=12, heads=12, decoder_width=512, decoder_depth=8,
                                 decoder_heads=16)}


def paddle_layout(tensors, prefix):
    """The reference's tensors of one kind, Linear weights turned to [in, out]."""
    return {name.removeprefix(prefix): value.T if value.ndim == 2 else value
            for name, value in tensors.items() if name.startswith(prefix)}


def key_part(name, value):
    """The query and value parts of qkv.bias: the key part's gradient is zero but for rounding, which Adam amplifies."""
    return np.delete(value, slice(len(value) // 3, 2 * len(value) // 3)) if name.endswith('qkv.bias') else value


@pytest.mark.parametrize('name, batch, norm_pix_loss', [
    ('mae_vit_nano_patch4', 8, False), ('mae_vit_nano_patch4', 8, True), ('mae_vit_base_patch16', 2, True)])
def test_loss_prediction_mask_gradients_and_training_equal_the_reference(reference, name, batch, norm_pix_loss):
    sizes, rng = SIZES[name], np.random.default_rng(0)
    images = rng.normal(size=[STEPS, batch, 3, sizes['size'], sizes['size']]).astype('float32')
    noise = rng.random([STEPS, batch, (sizes['size'] // sizes['patch']) ** 2]).astype('float32')
    theirs = reference('mae', images=images, noise=noise, norm_pix_loss=norm_pix_loss, **sizes)

    model = models_mae.create(name, norm_pix_loss=norm_pix_loss, img_size=sizes['size'])
    checkpoint.load_model(model, paddle_layout(theirs, 'start/'), 'the reference')
    loss, pred, mask = model(paddle.to_tensor(images[0]), 0.75, paddle.to_tensor(noise[0]))
    loss.backward()
    np.testing.assert_array_equal(mask.numpy(), theirs['mask'])
    gradients = paddle_layout(theirs, 'grad/')
    ours = {key: p.grad.numpy() for key, p in model.named_parameters() if not p.stop_gradient}
    assert ours.keys() == gradients.keys()
    # relative to the largest entry; of qkv.bias's key part only rounding is left, so the tensor is the measure
    gradient_error = max(np.abs(ours[key] - g).max() / np.abs(g).max() for key, g in gradients.items())
    model.clear_gradients()

    optimizer = optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    step, schedule, losses = amp.Step(optimizer), optim.Cosine(1e-3, 0.0, 5, STEPS), []
    for i in range(STEPS):
        optimizer.set_lr(schedule(i))
        value, _, _ = model(paddle.to_tensor(images[i]), 0.75, paddle.to_tensor(noise[i]))
        losses.append(value.item())
        step.backward(value, i)
    end = paddle_layout(theirs, 'end/')
    figures = {
        'loss': abs(loss.item() - theirs['loss']), 'pred': np.abs(pred.numpy() - theirs['pred']).max(),
        'gradient': gradient_error, 'loss_of_20_steps': np.abs(np.array(losses) - theirs['losses']).max(),
        'weights_after': max(np.abs(key_part(key, p.numpy()) - key_part(key, end[key])).max()
                             for key, p in model.named_parameters())}
    report(f'{name} norm_pix_loss={norm_pix_loss}', **figures)
    assert figures['loss'] < 1e-6
    assert figures['pred'] < 1e-5
    assert figures['gradient'] < 1e-5
    assert figures['loss_of_20_steps'] < 2e-6
    assert figures['weights_after'] < 2e-5
