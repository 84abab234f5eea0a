"""The encoders of UM-MAE as PaddleSeg's backbones `MAESwin` and `MAEPVT` (recipe: implus/UM-MAE, SEG).

They are the classifiers' encoders (models_swin.py, models_pvt.py) with a projection of each stage's last map, of which the
parameters are called as there; there is no last normalisation.
Shapes: N images, D width of the outputs; maps are [N, D, rows, columns], from `patch_size` to 8 times that apart.
"""
import paddle
from paddle import nn
from paddle.nn import initializer
from paddleseg.cvlibs import manager

import models_pvt
import models_swin
from layer import Pyramid, draw_pyramid
from seg import weights


class Maps(Pyramid):
    """The last map of each stage, projected to one width. Whoever inherits builds the encoder, then calls `add_outputs`."""

    def add_outputs(self, widths: tuple[int, ...], out_width: int, pretrained: str | None) -> None:
        self.projections = [f'fpn{stage}' for stage in range(1, 1 + len(widths))]
        for name, width in zip(self.projections, widths):
            setattr(self, name, nn.Conv2D(width, out_width, 1))
        self.feat_channels = [out_width] * len(widths)
        draw_pyramid(self, initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0))
        if pretrained:
            weights.begin(self, pretrained)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        features = self.features(x)
        return [getattr(self, name)(features[end].transpose([0, 3, 1, 2])) for name, end in zip(self.projections, self.ends)]


@manager.BACKBONES.add_component
class MAESwin(Maps, models_swin.Swin):
    """Maps of images [N, C, img_size, img_size] by Swin; every normalisation has epsilon 1e-5, as there.

    pretrained: weights of a fine-tuned classifier, or of what else has such an encoder, of any code base that util.convert
    knows; they fit any img_size.
    """

    def __init__(self, img_size: int = 512, patch_size: int = 4, in_channels: int = 3, embed_dim: int = 96,
                 depths: tuple[int, ...] = (2, 2, 6, 2), num_heads: tuple[int, ...] = (3, 6, 12, 24), window: int = 16,
                 posmlp_dim: int = 32, mlp_ratio: float = 4.0, drop_path_rate: float = 0.1, fpn_out_dim: int = 768,
                 pretrained: str | None = None):
        models_swin.Swin.__init__(self, img_size, patch_size, in_channels, embed_dim, depths, num_heads, window, posmlp_dim,
                                  mlp_ratio, drop_path_rate, norm_layer=nn.LayerNorm)
        self.add_outputs([embed_dim * 2 ** stage for stage in range(len(depths))], fpn_out_dim, pretrained)


@manager.BACKBONES.add_component
class MAEPVT(Maps, models_pvt.PVT):
    """Maps of images [N, C, img_size, img_size] by PVT, its positions learnt. pretrained: as MAESwin's; positions are
    interpolated to this grid."""

    def __init__(self, img_size: int = 512, patch_size: int = 4, in_channels: int = 3,
                 embed_dims: tuple[int, ...] = (64, 128, 320, 512), depths: tuple[int, ...] = (3, 4, 6, 3),
                 num_heads: tuple[int, ...] = (1, 2, 5, 8), mlp_ratios: tuple[int, ...] = (8, 8, 4, 4),
                 sr_ratios: tuple[int, ...] = (8, 4, 2, 1), drop_path_rate: float = 0.1, fpn_out_dim: int = 768,
                 pretrained: str | None = None):
        models_pvt.PVT.__init__(self, img_size, patch_size, in_channels, embed_dims, depths, num_heads, mlp_ratios,
                                sr_ratios, drop_path_rate)
        self.pos_embed = self.create_parameter([1, self.patch_embed.num_patches, embed_dims[0]], default_initializer=(
            initializer.TruncatedNormal(std=0.02, a=-2.0, b=2.0)))
        self.add_outputs(embed_dims, fpn_out_dim, pretrained)
