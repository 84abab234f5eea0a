"""SimMIM with pyramid encoders, as UM-MAE has it for a baseline (arXiv:2205.10063; SimMIM itself: arXiv:2111.09886).

The encoder sees all patches, the removed ones as a mask token; one Linear predicts their pixels. Parameter names equal
UM-MAE's (implus/UM-MAE). It differs from SimMIM: patches of 16 x 16 pixels and a mask ratio of .75 as in MAE, and no table
of biases.
Shapes: N images, C channels, L patches, D width, p patch side in pixels; maps are [N, rows, columns, D].
"""

import paddle
from paddle import nn
from paddle.nn import initializer

import models_pvt
import models_swin
from layer import LayerNorm, draw_pyramid, enlarge
from models_mae import Reconstruction
from models_sizes import PYRAMIDS
from util.errors import InputError


class MaskTokens(Reconstruction):
    """What is added to a pyramid encoder (layer.Pyramid), of which a patch here is a unit."""

    error = staticmethod(paddle.abs)

    def add_reconstruction(self, norm_layer, norm_pix_loss: bool, vis_mask_ratio: float) -> None:
        """Called after the encoder's own constructor."""
        if vis_mask_ratio:
            raise InputError(
                f'--vis_mask_ratio {vis_mask_ratio}: SimMIM has no secondary masking; leave it out'
            )
        embed = self.patch_embed
        self.sees(embed.img_size, self.unit, embed.in_chans, norm_pix_loss, 0)
        self.mask_token = self.token(embed.proj.weight.shape[0])
        self.norm = norm_layer(self.width)
        # 2 x 2 patches a token
        self.decoder_pred = nn.Linear(self.width, 4 * self.patch_size**2 * self.in_chans)
        draw_pyramid(self, initializer.XavierUniform())
        self.draw_patch_projection()

    def forward_encoder(
        self, imgs: paddle.Tensor, mask_ratio: float, noise: paddle.Tensor | None = None
    ) -> tuple:
        """The last map [N, rows, columns, D]; mask and ids_restore as random_masking."""
        _, mask, ids_restore = self.random_masking(imgs.shape[0], mask_ratio, noise)
        x = self.embed(imgs)
        x = paddle.where(enlarge(mask, x), self.mask_token.astype(x.dtype), x)
        return self.norm(self.outputs(x, self.positions())[-1]), mask, ids_restore

    def forward_decoder(self, x: paddle.Tensor, ids_restore: paddle.Tensor) -> paddle.Tensor:
        """Prediction [N, L, p*p*C] for every patch, from the last map, which is in the image's order already."""
        return nn.functional.pixel_shuffle(self.decoder_pred(x), 2, data_format='NHWC').flatten(
            1, 2
        )


class SimMIMSwin(MaskTokens, models_swin.Swin):
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
    def __init__(
        self,
        norm_layer=LayerNorm,
        norm_pix_loss: bool = False,
        vis_mask_ratio: float = 0.0,
        **encoder,
    ):
        models_pvt.PVT.__init__(self, **encoder)
        self.add_reconstruction(norm_layer, norm_pix_loss, vis_mask_ratio)
        self.pos_embed = self.fixed_positions(
            self.mask_token.shape[-1], self.places, cls_token=False
        )


def simmim_swin_nano_32(**kwargs) -> SimMIMSwin:
    return SimMIMSwin(**PYRAMIDS['swin_nano_32'], **{'img_size': 32, **kwargs})


def simmim_swin_tiny_256(**kwargs) -> SimMIMSwin:
    return SimMIMSwin(**PYRAMIDS['swin_tiny_256'], **kwargs)


def simmim_pvt_nano_32(**kwargs) -> SimMIMPVT:
    return SimMIMPVT(**PYRAMIDS['pvt_nano_32'], **{'img_size': 32, **kwargs})


def simmim_pvt_small_256(**kwargs) -> SimMIMPVT:
    return SimMIMPVT(**PYRAMIDS['pvt_small_256'], **kwargs)
