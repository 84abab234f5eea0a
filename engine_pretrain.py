"""Masked pre-training: the loss of a batch, the basis of its target, a few reconstructions."""

import numpy as np
import paddle

from engine_loop import Run
from util import log, pca, replicas
from util.progress import bar

PCA_IMAGES = 2000  # whose patches make the basis of a PCA: 392,000 patches of 224 x 224 images


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
def fit_pca(model, samples) -> None:
    """Set the basis of a PCA target, from crops of epoch 0 of up to PCA_IMAGES training images.

    They are spread evenly over the training set. Every rank gets the basis of rank 0. InputError
    where the patches vary in fewer directions than the target has.
    """
    count = min(PCA_IMAGES, len(samples))
    indices = np.linspace(0, len(samples) - 1, count).astype(int)

    def patches():
        for index in bar(indices.tolist(), 'images for the PCA'):
            image, _, _ = samples[0, index]
            part = model.patchify(paddle.to_tensor(image[None]))  # [1, L, p*p*C]
            yield part[0].numpy()

    mean, basis = pca.components(patches(), model.pca_target)
    model.pca_mean.set_value(mean)
    model.pca_basis.set_value(basis)
    replicas.broadcast_buffers(model)
    log.info(f'target: the first {model.pca_target} components of a PCA of {count} images')


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
