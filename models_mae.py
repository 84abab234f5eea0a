"""Masked autoencoder with a ViT encoder (arXiv:2111.06377).

Names, order and shapes of the parameters equal facebookresearch/mae models_mae.py @ efb2a80 (Linear weights are
stored [in, out], as Paddle does). Departures, each with its test in tests/test_models_mae.py: `noise` can be handed
in; images need not be square nor have three channels; UM-MAE's secondary masking of visible patches (arXiv:2205.10063).
Shapes: N images, C channels, L patches, K kept patches, D width, p patch side.
"""

import math

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import Block, Blocks, LayerNorm, PatchEmbed, draw_linears, pair
from models_sizes import SIZES
from util import masking, pos_embed
from util.errors import InputError


class Reconstruction(nn.Layer):
    """What masked autoencoders have in common: a decoder, and the comparison with the image where it was hidden.

    A model says what it sees and adds a decoder; its forward_encoder and forward_decoder are called one after the other.
    """

    error = staticmethod(paddle.square)

    def sees(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        norm_pix_loss: bool,
        vis_mask_ratio: float,
    ) -> None:
        """Images [N, in_chans, *img_size], removed and predicted by patches of patch_size pixels a side."""
        self.img_size, self.patch_size, self.in_chans = pair(img_size), patch_size, in_chans
        self.grid = tuple(side // patch_size for side in self.img_size)
        self.norm_pix_loss, self.vis_mask_ratio = norm_pix_loss, vis_mask_ratio

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def token(self, width: int) -> paddle.Tensor:
        return self.create_parameter(
            [1, 1, width], default_initializer=initializer.Normal(std=0.02)
        )

    def fixed_positions(self, width: int, grid: tuple[int, int], cls_token: bool) -> paddle.Tensor:
        table = pos_embed.sincos_2d(width, grid, cls_token)[None]
        parameter = self.create_parameter(
            table.shape, default_initializer=initializer.Assign(table)
        )
        parameter.stop_gradient = True  # frozen, but saved: upstream's files hold it
        return parameter

    def add_decoder(
        self,
        latent_dim: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        norm_layer,
        patches: int = 1,
    ) -> None:
        """Layers from `latent_dim` values for so many patches to the pixels of each; tokens and positions are not in it."""
        self.decoder_embed = nn.Linear(latent_dim, patches * embed_dim)
        self.decoder_blocks = Blocks(
            Block(embed_dim, num_heads, mlp_ratio, norm_layer=norm_layer) for _ in range(depth)
        )
        self.decoder_norm = norm_layer(embed_dim)
        self.decoder_pred = nn.Linear(embed_dim, self.patch_size**2 * self.in_chans)

    def decode(self, x: paddle.Tensor) -> paddle.Tensor:
        """Pixels [N, L, p*p*C] for tokens [N, L, D] that know their positions."""
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))

    def draw_patch_projection(self) -> None:
        """Draw the weight of the patch projection as the matrix that it is, [D, C p p], Xavier-uniform."""
        weight = self.patch_embed.proj.weight
        initializer.XavierUniform(fan_in=math.prod(weight.shape[1:]), fan_out=weight.shape[0])(
            weight
        )

    def patchify(self, imgs: paddle.Tensor) -> paddle.Tensor:
        """[N, C, height, width] -> [N, L, p*p*C]: patches in row-major order, within a patch row, column, channel."""
        p, (rows, columns) = self.patch_size, self.grid
        x = imgs.reshape([-1, imgs.shape[1], rows, p, columns, p])
        return x.transpose([0, 2, 4, 3, 5, 1]).reshape([-1, rows * columns, p * p * imgs.shape[1]])

    def unpatchify(self, x: paddle.Tensor) -> paddle.Tensor:
        """The inverse of patchify: [N, L, p*p*C] -> [N, C, height, width]."""
        p, (rows, columns) = self.patch_size, self.grid
        x = x.reshape([-1, rows, columns, p, p, x.shape[2] // p**2])
        return x.transpose([0, 5, 1, 3, 2, 4]).reshape([-1, x.shape[5], rows * p, columns * p])

    def pictures(
        self, imgs: paddle.Tensor, pred: paddle.Tensor, mask: paddle.Tensor
    ) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The prediction [N, L, p*p*C] and the mask [N, L] as pictures [N, C, height, width], the mask 1 where pixels were
        removed. Normalised pixels say nothing of a patch's mean and spread: those of imgs are put in."""
        if self.norm_pix_loss:
            mean, std = self.patch_statistics(imgs)
            pred = pred * std + mean
        return self.unpatchify(pred), self.unpatchify(
            mask.unsqueeze(-1).expand([-1, -1, pred.shape[2]])
        )

    def random_masking(
        self, N: int, mask_ratio: float, noise: paddle.Tensor | None = None
    ) -> tuple:
        """Keep the patches with the smallest noise [N, L], which is drawn here where it is None.

        Returns ids_keep [N, K], the mask [N, L] in the image's order (float32, 1 = removed) and ids_restore [N, L],
        which undoes the shuffle.
        """
        L = self.num_patches
        K = masking.num_visible(L, mask_ratio)
        if K < 1:
            raise InputError(
                f'mask ratio {mask_ratio} keeps none of {L} patches; take a smaller one'
            )
        ids_shuffle = paddle.argsort(
            paddle.rand([N, L]) if noise is None else noise, axis=1, stable=True
        )
        ids_restore = paddle.argsort(ids_shuffle, axis=1)
        return ids_shuffle[:, :K], (ids_restore >= K).astype('float32'), ids_restore

    def secondary_masking(self, mask: paddle.Tensor, visible: int) -> paddle.Tensor:
        """bool [N, L], True where one of the `visible` patches that the mask [N, L] leaves is to be replaced by
        vis_mask_token: a share vis_mask_ratio, so that int(visible (1 - ratio)) stay; drawn anew at each call
        (arXiv:2205.10063, sec. 3.3)."""
        order = paddle.argsort(paddle.rand(mask.shape) + mask, axis=1)  # removed ones come last
        return paddle.argsort(order, axis=1) < visible - masking.num_visible(
            visible, self.vis_mask_ratio
        )

    def patch_statistics(self, imgs: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Mean and standard deviation [N, L, 1] over all values of each patch (unbiased variance, plus 1e-6)."""
        patches = self.patchify(imgs)
        mean = patches.mean(-1, keepdim=True)
        variance = (patches - mean).square().sum(-1, keepdim=True) / (patches.shape[-1] - 1)
        return mean, (variance + 1e-6).sqrt()

    def forward_loss(
        self, imgs: paddle.Tensor, pred: paddle.Tensor, mask: paddle.Tensor
    ) -> paddle.Tensor:
        """Mean error over the removed patches, a scalar; NaN where the mask removes none.

        imgs [N, C, height, width] as the encoder saw them, pred [N, L, p*p*C], mask [N, L].
        """
        with paddle.amp.auto_cast(False):
            # squares of pixel differences and sums over a batch need float32
            target = self.patchify(imgs)
            if self.norm_pix_loss:
                mean, std = self.patch_statistics(imgs)
                target = (target - mean) / std
            loss = self.error(pred.astype('float32') - target).mean(-1)  # [N, L]
            return (loss * mask).sum() / mask.sum()

    def forward(
        self, imgs: paddle.Tensor, mask_ratio: float = 0.75, noise: paddle.Tensor | None = None
    ) -> tuple:
        """(loss, prediction [N, L, p*p*C], mask [N, L], 1 = removed); `noise` [N, L] fixes the mask."""
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, noise)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask


class MaskedAutoencoderViT(Reconstruction):
    """Encode the visible patches, decode all of them, compare with the image where it was hidden."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_layer=nn.LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
    ):
        super().__init__()
        self.sees(img_size, patch_size, in_chans, norm_pix_loss, vis_mask_ratio)
        patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = self.token(embed_dim)
        self.pos_embed = self.fixed_positions(embed_dim, patch_embed.grid, cls_token=True)
        self.mask_token = self.token(decoder_embed_dim)
        self.decoder_pos_embed = self.fixed_positions(
            decoder_embed_dim, patch_embed.grid, cls_token=True
        )
        if vis_mask_ratio:
            self.vis_mask_token = self.token(embed_dim)

        self.patch_embed = patch_embed
        self.blocks = Blocks(
            Block(embed_dim, num_heads, mlp_ratio, norm_layer=norm_layer) for _ in range(depth)
        )
        self.norm = norm_layer(embed_dim)

        self.add_decoder(
            embed_dim, decoder_embed_dim, decoder_depth, decoder_num_heads, mlp_ratio, norm_layer
        )
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Draw every Linear and the patch projection anew: Xavier-uniform weights, zero biases.

        The projection's weight is drawn as the matrix it is, [D, C p p]; its bias keeps PyTorch's default for a
        convolution, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), which upstream leaves in place.
        """
        draw_linears(self, initializer.XavierUniform())
        self.draw_patch_projection()
        bound = math.prod(self.patch_embed.proj.weight.shape[1:]) ** -0.5
        initializer.Uniform(-bound, bound)(self.patch_embed.proj.bias)

    def forward_encoder(
        self, imgs: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor | None = None
    ) -> tuple:
        """Latents [N, 1 + K, D] of the class token and the kept patches; mask and ids_restore as random_masking."""
        x = self.patch_embed(imgs)
        N, _, D = x.shape
        ids_keep, mask, ids_restore = self.random_masking(N, mask_ratio, noise)
        if self.vis_mask_ratio:
            replaced = self.secondary_masking(mask, ids_keep.shape[1]).unsqueeze(-1)
            x = paddle.where(replaced, self.vis_mask_token.astype(x.dtype), x)
        x = paddle.take_along_axis(
            x + self.pos_embed[:, 1:], ids_keep.unsqueeze(-1).expand([-1, -1, D]), axis=1
        )
        cls_token = self.cls_token + self.pos_embed[:, :1]
        x = paddle.concat([cls_token.expand([N, -1, -1]).astype(x.dtype), x], axis=1)
        return self.norm(self.blocks(x)), mask, ids_restore

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, p*p*C] for every patch, from the latents of the kept ones."""
        x = self.decoder_embed(x)
        N, L = ids_restore.shape
        D = x.shape[2]
        hidden = self.mask_token.expand([N, L + 1 - x.shape[1], D]).astype(x.dtype)
        patches = paddle.concat([x[:, 1:], hidden], axis=1)
        patches = paddle.take_along_axis(
            patches, ids_restore.unsqueeze(-1).expand([N, L, D]), axis=1
        )
        return self.decode(paddle.concat([x[:, :1], patches], axis=1) + self.decoder_pos_embed)[
            :, 1:
        ]


def _of_size(name: str, **kwargs) -> MaskedAutoencoderViT:
    size = SIZES[name]
    decoder = {
        'decoder_embed_dim': size.decoder_width,
        'decoder_depth': size.decoder_depth,
        'decoder_num_heads': size.decoder_heads,
    }
    return MaskedAutoencoderViT(
        patch_size=size.patch,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        norm_layer=LayerNorm,
        **{**decoder, **kwargs},
    )


def mae_vit_nano_patch4_dec64d2b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('nano_patch4', **{'img_size': 32, **kwargs})


def mae_vit_nano_patch4_dec64d1b(**kwargs) -> MaskedAutoencoderViT:
    return mae_vit_nano_patch4_dec64d2b(decoder_depth=1, **kwargs)


def mae_vit_nano_patch4_dec64d4b(**kwargs) -> MaskedAutoencoderViT:
    return mae_vit_nano_patch4_dec64d2b(decoder_depth=4, **kwargs)


def mae_vit_small_patch16_dec192d4b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('small_patch16', **kwargs)


def mae_vit_base_patch16_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('base_patch16', **kwargs)


def mae_vit_base_patch16_dec512d2b(**kwargs) -> MaskedAutoencoderViT:
    """The shallow decoder of UM-MAE."""
    return _of_size('base_patch16', decoder_depth=2, **kwargs)


def mae_vit_large_patch16_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('large_patch16', **kwargs)


def mae_vit_huge_patch14_dec512d8b(**kwargs) -> MaskedAutoencoderViT:
    return _of_size('huge_patch14', **kwargs)


mae_vit_nano_patch4 = mae_vit_nano_patch4_dec64d2b
mae_vit_small_patch16 = mae_vit_small_patch16_dec192d4b
mae_vit_base_patch16 = mae_vit_base_patch16_dec512d8b
mae_vit_large_patch16 = mae_vit_large_patch16_dec512d8b
mae_vit_huge_patch14 = mae_vit_huge_patch14_dec512d8b
