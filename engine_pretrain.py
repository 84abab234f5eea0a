"""One epoch of masked pre-training, and what the model makes of a few images."""
import math

import paddle

from util import dist
from util.run import NonFiniteLoss


def train_one_epoch(network, batches, schedule, step, progress, recorder, mask_ratio: float) -> dict[str, float]:
    """Train on every batch (images [N, C, height, width], noise [N, L]) of an epoch; its mean loss and rate.

    schedule: epoch, with a fraction -> rate, asked once an optimizer step. Gradients of an incomplete last round of
    accumulation are dropped, as upstream. NonFiniteLoss on all ranks when the loss of one is not finite.
    """
    network.train()
    for i, (images, noise) in enumerate(progress.follow(batches)):
        epoch = progress.epoch + i / progress.iterations
        if i % step.accum_iter == 0:
            step.optimizer.set_lr(schedule(epoch))
        with step.autocast():
            loss, _, _ = network(images, mask_ratio, noise)
        value, = dist.mean([loss.item()])
        if not math.isfinite(value):
            raise NonFiniteLoss(f'the loss is {value} in epoch {progress.epoch}, iteration {i}; training stops. Earlier '
                                'checkpoints are untouched: resume from one with a lower rate or without mixed precision')
        step.backward(loss, i)
        lr = step.optimizer.get_lr()
        progress.update(loss=value, lr=lr)
        if step.is_last(i):
            recorder.scalars(epoch, train_loss=value, lr=lr)
    step.optimizer.clear_grad()
    return progress.averages.means()


@paddle.no_grad()
def reconstruct(model, images: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
    """The model's pictures of `images` and the masks, both [N, C, height, width], the mask 1 where pixels were removed.

    A model that predicts normalised pixels says nothing of a patch's mean and spread: the true ones are put in.
    """
    model.eval()
    _, pred, mask = model(images, mask_ratio, noise)
    if model.norm_pix_loss:
        mean, std = model.patch_statistics(images)
        pred = pred * std + mean
    return model.unpatchify(pred), model.unpatchify(mask.unsqueeze(-1).expand(pred.shape))
