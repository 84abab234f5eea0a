"""What a patch's prediction is compared with: its pixels, plain or normalised, or a PCA of them.

The targets of arXiv:2111.06377, table 1d. Pixels and normalised pixels are those of
facebookresearch/mae @ efb2a80; the basis of a PCA is computed from training images and kept in the
checkpoint, in the buffers `pca_mean` and `pca_basis`.
Shapes: N images, C channels, L patches, p patch side, T values of a patch's target.
"""

import paddle
from paddle import nn

from util.errors import InputError


class PatchTarget(nn.Layer):
    """Patches of images, and what is predicted for each.

    A subclass sets patch_size, in_chans and grid, then calls configure_target.
    """

    def configure_target(self, norm_pix_loss: bool, pca_target: int = 0) -> None:
        """Choose the target of a patch: normalised pixels, or its first PCA coefficients.

        pca_target: their number; 0 for pixels.
        """
        pixels = self.patch_size**2 * self.in_chans
        if pca_target and norm_pix_loss:
            raise InputError('--pca_target and --norm_pix_loss are two targets; leave one out')
        if pca_target > pixels:
            raise InputError(f'--pca_target {pca_target}: a patch has only {pixels} pixel values')
        self.norm_pix_loss = norm_pix_loss
        self.pca_target = pca_target
        self.target_width = pca_target or pixels  # T
        if pca_target:
            self.register_buffer('pca_mean', paddle.zeros([pixels]))
            self.register_buffer('pca_basis', paddle.zeros([pixels, pca_target]))

    @property
    def needs_pca(self) -> bool:
        """Whether the target is a PCA whose basis is not known yet."""
        return bool(self.pca_target) and not self.pca_basis.abs().sum().item()

    def patchify(self, imgs: paddle.Tensor) -> paddle.Tensor:
        """Cut images into patches: [N, C, height, width] -> [N, L, p*p*C].

        Patches are in row-major order; within a patch: row, column, channel.
        """
        p = self.patch_size
        rows, columns = self.grid
        C = imgs.shape[1]
        x = imgs.reshape([-1, C, rows, p, columns, p])
        x = x.transpose([0, 2, 4, 3, 5, 1])  # [N, rows, columns, p, p, C]
        return x.reshape([-1, rows * columns, p * p * C])

    def unpatchify(self, x: paddle.Tensor) -> paddle.Tensor:
        """Undo patchify: [N, L, p*p*C] -> [N, C, height, width]."""
        p = self.patch_size
        rows, columns = self.grid
        C = x.shape[2] // p**2
        x = x.reshape([-1, rows, columns, p, p, C])
        x = x.transpose([0, 5, 1, 3, 2, 4])  # [N, C, rows, p, columns, p]
        return x.reshape([-1, C, rows * p, columns * p])

    def target(self, imgs: paddle.Tensor) -> paddle.Tensor:
        """What is predicted for images [N, C, height, width]: [N, L, T]."""
        patches = self.patchify(imgs)  # [N, L, p*p*C]
        if self.norm_pix_loss:
            mean, std = self.patch_statistics(imgs)
            return (patches - mean) / std
        if self.pca_target:
            return (patches - self.pca_mean) @ self.pca_basis
        return patches

    def pictures(
        self, imgs: paddle.Tensor, pred: paddle.Tensor, mask: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The prediction and the mask (1 = removed) as pictures [N, C, height, width].

        pred [N, L, T], mask [N, L]. Normalised predictions get the mean and the standard deviation
        of the patches of `imgs`.
        """
        if self.norm_pix_loss:
            mean, std = self.patch_statistics(imgs)
            pred = pred * std + mean
        elif self.pca_target:
            pred = pred @ self.pca_basis.t() + self.pca_mean
        mask = mask.unsqueeze(-1)  # [N, L, 1]
        mask = mask.expand([-1, -1, pred.shape[2]])  # [N, L, p*p*C]
        return self.unpatchify(pred), self.unpatchify(mask)

    def patch_statistics(self, imgs: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Mean and std, each [N, L, 1], of each patch; std is sqrt(unbiased variance + 1e-6)."""
        patches = self.patchify(imgs)  # [N, L, p*p*C]
        mean = patches.mean(-1, keepdim=True)
        squares = (patches - mean).square().sum(-1, keepdim=True)
        variance = squares / (patches.shape[-1] - 1)
        return mean, (variance + 1e-6).sqrt()
