"""Masked pre-training: the loss of a batch, and the reconstruction of a few images."""

import paddle

from engine_loop import Run


def train_one_epoch(run: Run, mask_ratio: float) -> dict[str, float]:
    """Train for an epoch; returns its mean loss and rate.

    A batch is (images [N, C, height, width], noise [N, L]).
    """

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
    """The model's predictions for `images` and the masks, both as pictures [N, C, height, width].

    The masks are 1 where pixels were removed.
    """
    model.eval()
    _, pred, mask = model(images, mask_ratio, noise)
    return model.pictures(images, pred, mask)
