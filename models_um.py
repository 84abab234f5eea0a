"""UM-MAE: masked autoencoders with pyramid encoders, by uniform masking (arXiv:2205.10063).

A uniform mask keeps one of every 2 x 2 patches. The kept patches make an image of half the side,
and a pyramid encoder runs on it as on any other image.
Parameter names equal implus/UM-MAE @ cb7776b. UM-MAE's ViT is the one of models_mae.py, given a
uniform mask as noise.
Departures, each with its test in tests/test_models_um.py: the noise of the mask can be given; the
kept patches are gathered before they are embedded; images need not be square.
In the original the visible patches get each other's positions in the decoder, and the published
weights were trained so. `fix_um_positions` gives each patch its own.
Shapes: N images, C channels, L patches, V visible patches, D width, p patch side in pixels; maps
are [N, rows, columns, D].
"""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import initializer

import models_pvt
import models_swin
from layer import LayerNorm, check_images, init_pyramid, split_tokens, upsample_mask
from models_mae import Reconstruction
from models_sizes import PYRAMIDS
from util import constants, sizes
from util.errors import InputError


@constants.kept
def _cells(rows: int, columns: int) -> np.ndarray:
    """The numbers of the four patches of each 2 x 2 cell of a grid, [V, 4]."""
    patches = np.arange(rows * columns)
    cells = patches.reshape(rows // 2, 2, columns // 2, 2)
    return cells.transpose(0, 2, 1, 3).reshape(-1, 4)


class UniformMasking(Reconstruction):
    """The decoder and the masks of UM-MAE, for a pyramid encoder built for images of half the side.

    A patch here is a unit of the pyramid (layer.Pyramid): it is removed and predicted as a whole.
    """

    def add_reconstruction(
        self,
        *,
        decoder_embed_dim: int,
        decoder_depth: int,
        decoder_num_heads: int,
        norm_layer,
        norm_pix_loss: bool,
        vis_mask_ratio: float,
        fix_um_positions: bool,
    ) -> None:
        """Add the decoder and initialize all weights. Call it after the encoder's constructor."""
        embed = self.patch_embed
        img_size = tuple(2 * side for side in embed.img_size)
        self.configure(img_size, self.unit, embed.in_chans, norm_pix_loss, vis_mask_ratio)
        self.places = tuple(2 * side for side in embed.grid)
        self.fix_um_positions = fix_um_positions

        self.norm = norm_layer(self.width)
        if vis_mask_ratio:
            self.vis_mask_token = self.create_token(self.widths[0])
        self.mask_token = self.create_token(decoder_embed_dim)
        self.decoder_pos_embed = self.create_fixed_positions(
            decoder_embed_dim, self.grid, cls_token=False
        )
        self.add_decoder(
            latent_dim=self.width,
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=4.0,
            norm_layer=norm_layer,
            patches=4,  # of each token of the last map
        )
        init_pyramid(self, initializer.XavierUniform())
        self.init_patch_projection()

    def uniform_masking(self, N: int, noise: paddle.Tensor | None = None) -> tuple:
        """Keep the patch with the smallest noise of every 2 x 2; the noise [N, L] is drawn if None.

        Returns the indices of the visible patches [N, V] in the order of their 2 x 2 cells, the
        mask [N, L] (float32, 1 = removed) and ids_restore [N, L], which brings the visible patches,
        followed by the removed ones, into the image's order.
        """
        if noise is None:
            noise = paddle.rand([N, self.num_patches])

        # The four patches of each cell
        cells = _cells(*self.grid)  # [V, 4]

        # The one of them with the smallest noise
        noise = paddle.index_select(noise, cells.flatten(), axis=1)  # [N, L], cell by cell
        noise = noise.reshape([N, -1, 4])  # [N, V, 4]
        chosen = noise.argmin(-1, keepdim=True)  # [N, V, 1]
        cells = cells[None].expand([N, -1, -1])  # [N, V, 4]
        visible = paddle.take_along_axis(cells, chosen, axis=2).squeeze(-1)  # [N, V]

        # Every other patch is removed
        mask = paddle.ones([N, self.num_patches])
        mask = paddle.put_along_axis(mask, visible, paddle.zeros([1, 1]), axis=1)
        by_mask = paddle.argsort(mask, axis=1, stable=True)  # [N, L], visible patches first
        removed = by_mask[:, visible.shape[1] :]  # [N, L - V]

        shuffled = paddle.concat([visible, removed], axis=1)  # [N, L]
        ids_restore = paddle.argsort(shuffled, axis=1)
        return visible, mask, ids_restore

    def compact(self, x: paddle.Tensor, visible: paddle.Tensor) -> paddle.Tensor:
        """The visible patches as a map of half the side, each at the place of its 2 x 2 cell.

        x [1 or N, height, width, D] of any resolution, visible [N, V] ->
        [N, height/2, width/2, D].
        """
        rows, columns = self.grid
        count, height, _, D = x.shape
        side = height // rows  # of a patch, in the units of x

        # Cut the map into patches
        x = x.reshape([-1, rows, side, columns, side, D])
        x = x.transpose([0, 1, 3, 2, 4, 5])  # [1 or N, rows, columns, side, side, D]
        x = x.reshape([-1, side, side, D])  # [L or N L, side, side, D]

        # Take the visible ones; the patches of image i begin at i L
        first = self.num_patches * paddle.arange(count).unsqueeze(-1)  # [1 or N, 1]
        index = (visible + first).flatten()  # [N V]
        x = paddle.gather(x, index)  # [N V, side, side, D]

        # Join them to a map
        x = x.reshape([-1, rows // 2, columns // 2, side, side, D])
        x = x.transpose([0, 1, 3, 2, 4, 5])  # [N, rows/2, side, columns/2, side, D]
        return x.reshape([-1, rows // 2 * side, columns // 2 * side, D])

    def forward_encoder(
        self, imgs: paddle.Tensor, mask_ratio: float = 0.75, noise: paddle.Tensor | None = None
    ) -> tuple:
        """The last map [N, rows, columns, D]; mask and ids_restore are those of uniform_masking."""
        check_images(imgs, self.in_chans, self.img_size)
        if mask_ratio != 0.75:
            raise InputError(
                f'mask ratio {mask_ratio}: uniform masking removes three of every 2 x 2 patches: '
                'use 0.75'
            )
        visible, mask, ids_restore = self.uniform_masking(imgs.shape[0], noise)

        # Compact the images, then embed them
        x = imgs.transpose([0, 2, 3, 1])  # [N, height, width, C]
        x = self.compact(x, visible)  # [N, height/2, width/2, C]
        x = self.embed(x.transpose([0, 3, 1, 2]))  # [N, rows, columns, D]

        # Secondary masking: replace some of the visible patches by a token
        if self.vis_mask_ratio:
            none_removed = paddle.zeros(visible.shape)
            replaced = self.secondary_masking(none_removed, visible.shape[1])  # [N, V]
            token = self.embedded_token().astype(x.dtype)
            x = paddle.where(upsample_mask(replaced, x), token, x)

        positions = self.compact(self.positions(), visible)
        x = self.outputs(x, positions)[-1]
        return self.norm(x), mask, ids_restore

    def embedded_token(self) -> paddle.Tensor:
        """vis_mask_token [1, 1, D] as it stands among embedded patches."""
        return self.vis_mask_token

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, p*p*C] for every patch, from the last map [N, rows, columns, D]."""
        # Each token of the last map stands for 2 x 2 visible patches
        x = self.decoder_embed(x)
        x = split_tokens(x).flatten(1, 2)  # [N, V, D]
        N, V, D = x.shape

        # The position of each patch. The original sorts the positions of the visible patches, but
        # not the patches, which are in the order of their cells
        order = paddle.argsort(ids_restore, axis=1)  # [N, L], visible patches first
        visible, removed = order[:, :V], order[:, V:]
        if not self.fix_um_positions:
            visible = visible.sort(axis=1)
        indices = paddle.concat([visible, removed], axis=1)
        positions = nn.functional.embedding(indices, self.decoder_pos_embed[0])  # [N, L, D]

        # Append mask tokens for the removed patches, decode, and restore the image's order
        mask_tokens = self.mask_token.expand([N, self.num_patches - V, D]).astype(x.dtype)
        x = paddle.concat([x, mask_tokens], axis=1)  # [N, L, D]
        pred = self.decode(x + positions)  # [N, L, p*p*C]
        index = ids_restore.unsqueeze(-1).expand(pred.shape)
        return paddle.take_along_axis(pred, index, axis=1)


def _half(img_size: int | tuple[int, int], multiple: int) -> tuple[int, int]:
    """Half of each side; InputError if a side is not divisible by `multiple`."""
    need = f'{multiple}, which uniform masking needs with this model'
    sizes.check_multiple(img_size, multiple, need)
    return tuple(side // 2 for side in sizes.pair(img_size))


class MaskedAutoencoderSwin(UniformMasking, models_swin.Swin):
    """A Swin, pre-trained by uniform masking.

    `window` is the window over the compacted image: half the window of fine-tuning.
    """

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
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
            norm_layer=norm_layer,
            norm_pix_loss=norm_pix_loss,
            vis_mask_ratio=vis_mask_ratio,
            fix_um_positions=fix_um_positions,
        )

        # A shift by part of a patch would put parts of distant patches into one window
        side = self.patch_size // patch_size  # of a patch, in tokens
        if any(block.attn.shift % side for block in self.blocks):
            raise InputError(
                f'windows of {window} x {window} tokens, shifted by half, cut through patches of '
                f'{side} x {side} tokens; choose a multiple of {2 * side}'
            )

    def check_windows(self, img_size: tuple[int, int], patch_size: int, *windows) -> None:
        """As for a classifier, told in sizes of the whole image; the encoder sees one of half."""
        whole = tuple(2 * side for side in img_size)
        super().check_windows(whole, 2 * patch_size, *windows)

    def embedded_token(self) -> paddle.Tensor:
        """vis_mask_token [1, 1, D], normalised as the embedded patches are."""
        return self.patch_embed.norm(self.vis_mask_token)


class MaskedAutoencoderPVT(UniformMasking, models_pvt.PVT):
    """A PVT with fixed positions, pre-trained by uniform masking.

    `sr_ratios` are for the compacted image: half of those in fine-tuning, and at least 1.
    """

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
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
            norm_layer=norm_layer,
            norm_pix_loss=norm_pix_loss,
            vis_mask_ratio=vis_mask_ratio,
            fix_um_positions=fix_um_positions,
        )
        self.pos_embed = self.create_fixed_positions(self.widths[0], self.places, cls_token=False)


NANO_DECODER = {'decoder_embed_dim': 64, 'decoder_num_heads': 4}


def _swin(size: str, **kwargs) -> MaskedAutoencoderSwin:
    return MaskedAutoencoderSwin(**PYRAMIDS[size], **kwargs)


def _pvt(size: str, **kwargs) -> MaskedAutoencoderPVT:
    return MaskedAutoencoderPVT(**PYRAMIDS[size], **kwargs)


def mae_swin_nano_32_dec64d2b(**kwargs) -> MaskedAutoencoderSwin:
    """The Swin of tests and the tour: images of 32 x 32, a decoder of 2 blocks."""
    return _swin('swin_nano_32', **NANO_DECODER, **({'img_size': 32} | kwargs))


def mae_swin_nano_64_dec64d2b(**kwargs) -> MaskedAutoencoderSwin:
    """The Swin of the tour of detection: images of 64 x 64, a decoder of 2 blocks."""
    return _swin('swin_nano_64', **NANO_DECODER, **({'img_size': 64} | kwargs))


def mae_swin_tiny_256_dec512d2b(**kwargs) -> MaskedAutoencoderSwin:
    """Swin-Tiny of UM-MAE, with a decoder of width 512 and 2 blocks."""
    return _swin('swin_tiny_256', **kwargs)


def mae_swin_large_256_dec512d2b(**kwargs) -> MaskedAutoencoderSwin:
    """Swin-Large with a coordinate MLP of width 32 and a decoder of 2 blocks.

    swin_large_256 cannot start from it: its coordinate MLP is twice as wide.
    """
    narrower = PYRAMIDS['swin_large_256'] | {'posmlp_dim': 32}
    return MaskedAutoencoderSwin(**narrower, **kwargs)


def mae_swin_large_256_dec512d8b64pmd(**kwargs) -> MaskedAutoencoderSwin:
    """Swin-Large with a coordinate MLP of width 64 and a decoder of 8 blocks."""
    return _swin('swin_large_256', decoder_depth=8, **kwargs)


def mae_pvt_nano_32_dec64d2b(**kwargs) -> MaskedAutoencoderPVT:
    """The PVT of tests and the tour: images of 32 x 32, a decoder of 2 blocks."""
    return _pvt('pvt_nano_32', **NANO_DECODER, **({'img_size': 32} | kwargs))


def mae_pvt_small_256_dec512d2b(**kwargs) -> MaskedAutoencoderPVT:
    """PVT-Small of UM-MAE, with a decoder of width 512 and 2 blocks."""
    return _pvt('pvt_small_256', **kwargs)


mae_swin_nano_32 = mae_swin_nano_32_dec64d2b
mae_swin_nano_64 = mae_swin_nano_64_dec64d2b
mae_swin_tiny_256 = mae_swin_tiny_256_dec512d2b
mae_swin_large_256 = mae_swin_large_256_dec512d8b64pmd
mae_pvt_nano_32 = mae_pvt_nano_32_dec64d2b
mae_pvt_small_256 = mae_pvt_small_256_dec512d2b
