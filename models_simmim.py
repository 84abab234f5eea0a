"""SimMIM (arXiv:2111.09886) with pyramid encoders, as the baseline of UM-MAE (arXiv:2205.10063).

The encoder sees all patches, the removed ones as a mask token; one Linear predicts their pixels.
Parameter names equal implus/UM-MAE @ cb7776b. What UM-MAE changed in SimMIM: masks remove patches
of 16 x 16 pixels, at a ratio of 0.75 as in MAE, int(ratio L) of them; and Swin has a coordinate
MLP instead of a table of biases.
Departure, with its test in tests/test_models_simmim.py: images need not be square.
Shapes: N images, C channels, L patches, D width, p patch side in pixels; maps are
[N, rows, columns, D].
"""

import paddle
from paddle import nn
from paddle.nn import initializer

import models_pvt
import models_swin
from layer import LayerNorm, init_pyramid, split_tokens, upsample_mask
from models_mae import Reconstruction
from models_sizes import PYRAMIDS
from util import masking
from util.errors import InputError


class MaskTokens(Reconstruction):
    """The mask token and the decoder of SimMIM, for a pyramid encoder (layer.Pyramid).

    A patch here is a unit of the pyramid.
    """

    error = staticmethod(paddle.abs)  # of a pixel
    num_visible = staticmethod(masking.num_visible_um)

    def add_reconstruction(self, norm_layer, norm_pix_loss: bool, vis_mask_ratio: float) -> None:
        """Add the decoder and initialize all weights. Call it after the encoder's constructor."""
        if vis_mask_ratio:
            raise InputError(
                f'--vis_mask_ratio {vis_mask_ratio}: SimMIM has no secondary masking; leave it out'
            )
        embed = self.patch_embed
        self.configure(
            embed.img_size,
            self.unit,
            embed.in_chans,
            norm_pix_loss=norm_pix_loss,
            vis_mask_ratio=0,
        )
        self.mask_token = self.create_token(self.widths[0])
        self.norm = norm_layer(self.width)
        pixels = self.patch_size**2 * self.in_chans  # values of a patch
        self.decoder_pred = nn.Linear(self.width, 4 * pixels)  # a token predicts 2 x 2 patches
        init_pyramid(self, initializer.XavierUniform())
        self.init_patch_projection()

    def forward_encoder(
        self, imgs: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor | None = None
    ) -> tuple:
        """The last map [N, rows, columns, D]; mask and ids_restore are those of random_masking."""
        _, mask, ids_restore = self.random_masking(imgs.shape[0], mask_ratio, noise)

        # Put the mask token in the place of the removed patches
        x = self.embed(imgs)  # [N, rows, columns, D]
        removed = upsample_mask(mask, x)  # [N, rows, columns, 1]
        x = paddle.where(removed, self.mask_token.astype(x.dtype), x)

        x = self.outputs(x, self.positions())[-1]
        return self.norm(x), mask, ids_restore

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, p*p*C] for every patch, from the last map [N, rows, columns, D].

        ids_restore is not used: the map is in the image's order.
        """
        x = self.decoder_pred(x)  # [N, rows, columns, 4 p*p*C]
        x = split_tokens(x)  # [N, 2 rows, 2 columns, p*p*C]
        return x.flatten(1, 2)


class SimMIMSwin(MaskTokens, models_swin.Swin):
    """A Swin, pre-trained by SimMIM."""

    def __init__(
        self,
        norm_layer=LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
        **encoder,
    ):
        models_swin.Swin.__init__(self, norm_layer=norm_layer, **encoder)
        self.add_reconstruction(norm_layer, norm_pix_loss, vis_mask_ratio)


class SimMIMPVT(MaskTokens, models_pvt.PVT):
    """A PVT with fixed positions, pre-trained by SimMIM."""

    def __init__(
        self,
        norm_layer=LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
        **encoder,
    ):
        models_pvt.PVT.__init__(self, **encoder)
        self.add_reconstruction(norm_layer, norm_pix_loss, vis_mask_ratio)
        self.pos_embed = self.create_fixed_positions(self.widths[0], self.places, cls_token=False)


def simmim_swin_nano_32(**kwargs) -> SimMIMSwin:
    """The Swin of tests and the tour: images of 32 x 32."""
    return SimMIMSwin(**PYRAMIDS['swin_nano_32'], **({'img_size': 32} | kwargs))


def simmim_swin_tiny_256(**kwargs) -> SimMIMSwin:
    """Swin-Tiny of UM-MAE, for images of 256 x 256."""
    return SimMIMSwin(**PYRAMIDS['swin_tiny_256'], **kwargs)


def simmim_pvt_nano_32(**kwargs) -> SimMIMPVT:
    """The PVT of tests and the tour: images of 32 x 32."""
    return SimMIMPVT(**PYRAMIDS['pvt_nano_32'], **({'img_size': 32} | kwargs))


def simmim_pvt_small_256(**kwargs) -> SimMIMPVT:
    """PVT-Small of UM-MAE, for images of 256 x 256."""
    return SimMIMPVT(**PYRAMIDS['pvt_small_256'], **kwargs)
