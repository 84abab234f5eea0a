"""UM-MAE's encoders as PaddleSeg's backbones `MAESwin` and `MAEPVT` (recipe: implus/UM-MAE, SEG).

They are the classifiers' encoders (models_swin.py, models_pvt.py) with a projection of the last map
of each stage; the parameters have UM-MAE's names. There is no last normalisation.
Shapes: N images, D width of the outputs; maps are [N, D, rows, columns], with strides of 1, 2, 4
and 8 times `patch_size`.
"""

from paddle import nn
from paddle.nn import initializer
from paddleseg.cvlibs import manager

import models_pvt
import models_swin
import models_zoo
from layer import PyramidMaps
from util import log


@manager.BACKBONES.add_component
class MAESwin(PyramidMaps, models_swin.Swin):
    """Maps of images [N, C, height, width] of img_size by Swin.

    All normalisations have epsilon 1e-5, as in UM-MAE. pretrained: weights of a fine-tuned
    classifier, or of another model with such an encoder, of any code base that util.convert knows;
    they fit any img_size. pretrained_ema: take the average where this file holds one beside the
    plain weights.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 512,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 16,
        posmlp_dim: int = 32,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        fpn_out_dim: int = 768,
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        models_swin.Swin.__init__(
            self,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_channels,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            window=window,
            posmlp_dim=posmlp_dim,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            norm_layer=nn.LayerNorm,
        )
        self.add_projections(fpn_out_dim)
        self.feat_channels = [fpn_out_dim] * len(depths)
        if pretrained:
            report = models_zoo.start_from(self, pretrained, use_ema=pretrained_ema)
            log.info(report)


@manager.BACKBONES.add_component
class MAEPVT(PyramidMaps, models_pvt.PVT):
    """Maps of images [N, C, height, width] of img_size by PVT with learnt positions.

    pretrained, pretrained_ema: as for MAESwin; positions are interpolated to this grid.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 512,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dims: tuple[int, ...] = (64, 128, 320, 512),
        depths: tuple[int, ...] = (3, 4, 6, 3),
        num_heads: tuple[int, ...] = (1, 2, 5, 8),
        mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
        sr_ratios: tuple[int, ...] = (8, 4, 2, 1),
        drop_path_rate: float = 0.1,
        fpn_out_dim: int = 768,
        pretrained: str | None = None,
        pretrained_ema: bool = False,
    ):
        models_pvt.PVT.__init__(
            self,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_channels,
            embed_dims=embed_dims,
            depths=depths,
            num_heads=num_heads,
            mlp_ratios=mlp_ratios,
            sr_ratios=sr_ratios,
            drop_path_rate=drop_path_rate,
        )
        self.learn_positions(initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0))
        self.add_projections(fpn_out_dim)
        self.feat_channels = [fpn_out_dim] * len(depths)
        if pretrained:
            report = models_zoo.start_from(self, pretrained, use_ema=pretrained_ema)
            log.info(report)
