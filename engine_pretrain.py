"""One epoch of masked pre-training, and what the model makes of a few images."""
import paddle

from util import loop, run


def train_one_epoch(network, batches, schedule, step, progress, recorder, saver, mask_ratio: float,
                    seed: int) -> dict[str, float]:
    """Train on the batches (images [N, C, height, width], noise [N, L]) of an epoch; its mean loss and rate.

    What is random in a step (secondary masking) depends on (seed, epoch, iteration, rank) alone.
    """
    def loss_of(images, noise):
        run.seed_step(seed, progress.epoch, progress.iteration)
        with step.autocast():
            return network(images, mask_ratio, noise)[0]
    return loop.train(loss_of, batches, network, schedule, step, progress, recorder, saver, loss_name='train_loss')


@paddle.no_grad()
def reconstruct(model, images: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
    """The model's pictures of `images` and the masks, both [N, C, height, width], the mask 1 where pixels were removed."""
    model.eval()
    _, pred, mask = model(images, mask_ratio, noise)
    return model.pictures(images, pred, mask)
