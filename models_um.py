"""UM-MAE: masked autoencoders with pyramid encoders, by uniform masking (arXiv:2205.10063).

Of every 2 x 2 patches one is kept, so that the kept ones make an image of half the side, and a pyramid encoder runs on
it as on any other. Parameter names equal UM-MAE's (implus/UM-MAE). Its ViT is the ordinary one of models_mae.py, given a
uniform mask as noise. Departures, each with its test in tests/test_models_um.py: noise can be handed in; the kept patches
are gathered before they are embedded; images need not be square.
In the original the decoder's positions of visible patches are in another order than the patches; weights were trained so.
`fix_um_positions` puts them right.
Shapes: N images, C channels, L patches, V of them visible, D width, p patch side in pixels; maps are [N, rows, columns, D].
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import initializer

import models_pvt
import models_swin
from layer import LayerNorm, check_images, draw_pyramid, enlarge, pair
from models_mae import Reconstruction
from models_sizes import PYRAMIDS
from util.errors import InputError


class UniformMasking(Reconstruction):
    """What is added to a pyramid encoder (layer.Pyramid) that is built for images of half the side.

    A patch here is a unit of the pyramid: it is removed as a whole, and predicted as a whole.
    """

    def add_reconstruction(
        self,
        decoder_embed_dim: int,
        decoder_depth: int,
        decoder_num_heads: int,
        mlp_ratio: float,
        norm_layer,
        norm_pix_loss: bool,
        vis_mask_ratio: float,
        fix_um_positions: bool,
    ) -> None:
        """Called after the encoder's own constructor."""
        embed = self.patch_embed
        width = embed.proj.weight.shape[0]
        self.sees(
            [2 * side for side in embed.img_size],
            self.unit,
            embed.in_chans,
            norm_pix_loss,
            vis_mask_ratio,
        )
        self.places = tuple(2 * side for side in embed.grid)
        self.fix_um_positions = fix_um_positions
        self.norm = norm_layer(self.width)
        if vis_mask_ratio:
            self.vis_mask_token = self.token(width)
        self.mask_token = self.token(decoder_embed_dim)
        self.decoder_pos_embed = self.fixed_positions(decoder_embed_dim, self.grid, cls_token=False)
        self.add_decoder(
            self.width,
            decoder_embed_dim,
            decoder_depth,
            decoder_num_heads,
            mlp_ratio,
            norm_layer,
            patches=4,
        )
        draw_pyramid(self, initializer.XavierUniform())
        self.draw_patch_projection()

    def uniform_masking(self, N: int, noise: paddle.Tensor | None = None) -> tuple:
        """Keep the patch with the smallest noise of every 2 x 2; noise [N, L] is drawn here where it is None.

        Returns the kept patches' numbers [N, V] in the order of their 2 x 2 cells, the mask [N, L] (float32,
        1 = removed) and ids_restore [N, L], which brings these, and the removed ones after them, into the image's order.
        """
        rows, columns = self.grid
        cells = (
            np.arange(rows * columns)
            .reshape(rows // 2, 2, columns // 2, 2)
            .transpose(0, 2, 1, 3)
            .reshape(-1, 4)
        )
        cells = paddle.to_tensor(cells)  # [V, 4], the patches of each cell
        noise = paddle.rand([N, self.num_patches]) if noise is None else noise
        chosen = (
            paddle.index_select(noise, cells.flatten(), axis=1)
            .reshape([N, -1, 4])
            .argmin(-1, keepdim=True)
        )
        visible = paddle.take_along_axis(cells[None].expand([N, -1, -1]), chosen, axis=2).squeeze(
            -1
        )
        mask = paddle.put_along_axis(paddle.ones([N, self.num_patches]), visible, 0.0, axis=1)
        removed = paddle.argsort(mask, axis=1, stable=True)[:, visible.shape[1] :]
        return visible, mask, paddle.argsort(paddle.concat([visible, removed], axis=1), axis=1)

    def compact(self, x: paddle.Tensor, visible: paddle.Tensor) -> paddle.Tensor:
        """[1 or N, height, width, any] -> [N, height/2, width/2, any]: of every 2 x 2 patches the visible one."""
        (rows, columns), (count, height, _, D) = self.grid, x.shape
        side = height // rows
        x = (
            x.reshape([-1, rows, side, columns, side, D])
            .transpose([0, 1, 3, 2, 4, 5])
            .reshape([-1, side, side, D])
        )
        visible = visible + self.num_patches * paddle.arange(count).unsqueeze(-1)
        x = paddle.gather(x, visible.flatten()).reshape(
            [-1, rows // 2, columns // 2, side, side, D]
        )
        return x.transpose([0, 1, 3, 2, 4, 5]).reshape(
            [-1, rows // 2 * side, columns // 2 * side, D]
        )

    def forward_encoder(
        self, imgs: paddle.Tensor, mask_ratio: float = 0.75, noise: paddle.Tensor | None = None
    ) -> tuple:
        """The last map [N, rows, columns, D]; mask and ids_restore as uniform_masking."""
        check_images(imgs, self.in_chans, self.img_size)
        if mask_ratio != 0.75:
            raise InputError(
                f'mask ratio {mask_ratio}: uniform masking keeps one of every 2 x 2 patches, which is 0.75'
            )
        visible, mask, ids_restore = self.uniform_masking(imgs.shape[0], noise)
        x = self.embed(self.compact(imgs.transpose([0, 2, 3, 1]), visible).transpose([0, 3, 1, 2]))
        if self.vis_mask_ratio:
            replaced = self.secondary_masking(paddle.zeros(visible.shape), visible.shape[1])
            x = paddle.where(enlarge(replaced, x), self.embedded_token().astype(x.dtype), x)
        return (
            self.norm(self.outputs(x, self.compact(self.positions(), visible))[-1]),
            mask,
            ids_restore,
        )

    def embedded_token(self) -> paddle.Tensor:
        """vis_mask_token [1, 1, D] as it stands among embedded patches."""
        return self.vis_mask_token

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, p*p*C] for every patch, from the last map."""
        x = nn.functional.pixel_shuffle(self.decoder_embed(x), 2, data_format='NHWC').flatten(1, 2)
        (N, V, D), L = x.shape, self.num_patches
        order = paddle.argsort(ids_restore, axis=1)
        visible = order[:, :V] if self.fix_um_positions else order[:, :V].sort(axis=1)
        positions = nn.functional.embedding(
            paddle.concat([visible, order[:, V:]], axis=1), self.decoder_pos_embed[0]
        )
        x = paddle.concat([x, self.mask_token.expand([N, L - V, D]).astype(x.dtype)], axis=1)
        pred = self.decode(x + positions)
        return paddle.take_along_axis(pred, ids_restore.unsqueeze(-1).expand(pred.shape), axis=1)


def _half(img_size: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    for side in pair(img_size):
        if side % multiple:
            raise InputError(
                f'image side {side} is no multiple of {multiple}, as uniform masking of this model needs'
            )
    return tuple(side // 2 for side in pair(img_size))


class MaskedAutoencoderSwin(UniformMasking, models_swin.Swin):
    """`window` is that of the compacted image: half of what the encoder will have in fine-tuning."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 256,
        patch_size: int = 4,
        in_chans: int = 3,
        window: int = 8,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        norm_layer=LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
        fix_um_positions: bool = False,
        **encoder,
    ):
        models_swin.Swin.__init__(
            self,
            _half(img_size, 16 * patch_size),
            patch_size,
            in_chans,
            window=window,
            norm_layer=norm_layer,
            **encoder,
        )
        self.add_reconstruction(
            decoder_embed_dim,
            decoder_depth,
            decoder_num_heads,
            4.0,
            norm_layer,
            norm_pix_loss,
            vis_mask_ratio,
            fix_um_positions,
        )
        side = self.patch_size // patch_size
        if any(block.attn.shift % side for block in self.blocks):
            # A window would see parts of patches, as no window of a whole image does, farther apart than two windows.
            raise InputError(
                f'windows of {window} x {window} tokens, shifted by half, cut through patches of {side} x '
                f'{side} tokens; choose a multiple of {2 * side}'
            )

    def embedded_token(self) -> paddle.Tensor:
        return self.patch_embed.norm(self.vis_mask_token)


class MaskedAutoencoderPVT(UniformMasking, models_pvt.PVT):
    """`sr_ratios` are those of the compacted image; the positions are fixed."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 256,
        patch_size: int = 4,
        in_chans: int = 3,
        sr_ratios: tuple[int, ...] = (4, 2, 1, 1),
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        norm_layer=LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
        fix_um_positions: bool = False,
        **encoder,
    ):
        models_pvt.PVT.__init__(
            self,
            _half(img_size, 16 * patch_size),
            patch_size,
            in_chans,
            sr_ratios=sr_ratios,
            **encoder,
        )
        self.add_reconstruction(
            decoder_embed_dim,
            decoder_depth,
            decoder_num_heads,
            4.0,
            norm_layer,
            norm_pix_loss,
            vis_mask_ratio,
            fix_um_positions,
        )
        self.pos_embed = self.fixed_positions(
            self.patch_embed.proj.weight.shape[0], self.places, cls_token=False
        )


NANO_DECODER = {'decoder_embed_dim': 64, 'decoder_num_heads': 4}


def mae_swin_nano_32_dec64d2b(**kwargs) -> MaskedAutoencoderSwin:
    return MaskedAutoencoderSwin(
        **PYRAMIDS['swin_nano_32'], **NANO_DECODER, **{'img_size': 32, **kwargs}
    )


def mae_swin_tiny_256_dec512d2b(**kwargs) -> MaskedAutoencoderSwin:
    return MaskedAutoencoderSwin(**PYRAMIDS['swin_tiny_256'], **kwargs)


def mae_swin_large_256_dec512d2b(**kwargs) -> MaskedAutoencoderSwin:
    """Not what mae_swin_large_256 is: its coordinate MLP is narrower, so that swin_large_256 cannot begin from it."""
    return MaskedAutoencoderSwin(**{**PYRAMIDS['swin_large_256'], 'posmlp_dim': 32}, **kwargs)


def mae_swin_large_256_dec512d8b64pmd(**kwargs) -> MaskedAutoencoderSwin:
    return MaskedAutoencoderSwin(**PYRAMIDS['swin_large_256'], decoder_depth=8, **kwargs)


def mae_pvt_nano_32_dec64d2b(**kwargs) -> MaskedAutoencoderPVT:
    return MaskedAutoencoderPVT(
        **PYRAMIDS['pvt_nano_32'], **NANO_DECODER, **{'img_size': 32, **kwargs}
    )


def mae_pvt_small_256_dec512d2b(**kwargs) -> MaskedAutoencoderPVT:
    return MaskedAutoencoderPVT(**PYRAMIDS['pvt_small_256'], **kwargs)


mae_swin_nano_32 = mae_swin_nano_32_dec64d2b
mae_swin_tiny_256 = mae_swin_tiny_256_dec512d2b
mae_swin_large_256 = mae_swin_large_256_dec512d8b64pmd
mae_pvt_nano_32 = mae_pvt_nano_32_dec64d2b
mae_pvt_small_256 = mae_pvt_small_256_dec512d2b
