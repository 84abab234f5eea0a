"""One epoch of masked pre-training, and what the model makes of a few images."""
import math

import paddle

from util import dist
from util.run import NonFiniteLoss


def train_one_epoch(network, batches, schedule, step, progress, recorder, saver, mask_ratio: float) -> dict[str, float]:
    """Train on the batches (images [N, C, height, width], noise [N, L]) of an epoch; its mean loss and rate.

    schedule: epoch, with a fraction -> rate, asked once an optimizer step. Gradients of an incomplete last round of
    accumulation are dropped, as upstream. NonFiniteLoss on all ranks when the loss of one is not finite.
    """
    network.train()
    for images, noise in progress.follow(batches):
        i = progress.iteration
        epoch = progress.epoch + i / progress.iterations
        if i % step.accum_iter == 0:
            step.optimizer.set_lr(schedule(epoch))
        with dist.reducing(network, reduce=step.is_last(i)):
            with step.autocast():
                loss, _, _ = network(images, mask_ratio, noise)
            value, stop = dist.mean([loss.item(), saver.stop_requested])
            if not math.isfinite(value):
                raise NonFiniteLoss(f'the loss is {value} in epoch {progress.epoch}, iteration {i}; training stops. Earlier '
                                    'checkpoints are untouched: resume with a lower rate, or without mixed precision')
            step.backward(loss, i)
        lr = step.optimizer.get_lr()
        progress.update(loss=value, lr=lr)
        if step.is_last(i):
            recorder.scalars(epoch, train_loss=value, lr=lr)
            saver.after_step(progress, stop=stop > 0)
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
