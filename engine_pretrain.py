"""Masked pre-training: the loss of a batch, and what the model makes of a few images."""

import paddle

from engine_loop import Run


def train_one_epoch(run: Run, mask_ratio: float) -> dict[str, float]:
    """Train on the batches (images [N, C, height, width], noise [N, L]) of an epoch; its mean loss and rate."""

    def loss_of(batch):
        images, noise = batch
        with run.step.autocast():
            loss, _, _ = run.network(images, mask_ratio, noise)
        return loss

    return run.train(loss_of, loss_name='train_loss')


@paddle.no_grad()
def reconstruct(
    model, images: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor
) -> tuple[paddle.Tensor, ...]:
    """The model's pictures of `images` and the masks, both [N, C, height, width]; 1 where pixels were removed."""
    model.eval()
    _, pred, mask = model(images, mask_ratio, noise)
    return model.pictures(images, pred, mask)
