"""What all classifiers have in common: a head on features, and ways to train it.

Shapes: N images, D width, K classes.
"""

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import draw_pyramid
from util import optim
from util.errors import InputError


class Classifier(nn.Layer):
    """Class scores [N, K] of images [N, C, height, width], by `head` from what `forward_features` makes of them."""

    def reset_head(self, std: float) -> None:
        """Draw the head's weight anew with this deviation, its bias 0: 2e-5 to fine-tune, .01 to probe."""
        initializer.TruncatedNormal(std=std, a=-2.0, b=2.0)(self.head.weight)
        initializer.Constant(0.0)(self.head.bias)

    def probe(self) -> None:
        """Leave only the head to be trained, behind a normalisation of the features without parameters."""
        for parameter in self.parameters():
            parameter.stop_gradient = True
        for parameter in self.head.parameters():
            parameter.stop_gradient = False
        self.head = nn.Sequential(FeatureNorm(self.head.weight.shape[0]), self.head)

    def freeze_blocks(self, count: int) -> None:
        """Keep the embedding and the first `count` blocks as they are (partial fine-tuning, arXiv:2111.06377 fig. 9)."""
        if not 0 <= count <= len(self.blocks):
            raise InputError(f'--freeze_blocks {count}: the model has {len(self.blocks)} blocks')
        for name, parameter in self.named_parameters():
            if count and optim.layer_of(name, last=len(self.blocks) + 1) <= count:
                parameter.stop_gradient = True

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.forward_features(x))


class PyramidClassifier(Classifier):
    """The head of a pyramid encoder (layer.Pyramid): the mean over the last map, through `fc_norm`, as in UM-MAE.

    Whoever inherits builds the encoder, then calls this.
    """

    def add_head(
        self, num_classes: int, global_pool: bool, norm_layer: Callable[[int], nn.Layer]
    ) -> None:
        if not global_pool:
            raise InputError(
                f'--cls_token: a {type(self).__name__} has no class token; --global_pool is what it does'
            )
        self.global_pool, self.num_classes = global_pool, num_classes
        self.head = nn.Linear(self.width, num_classes)
        self.fc_norm = norm_layer(self.width)
        draw_pyramid(self, initializer.XavierUniform())

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features [N, D] that the head sees."""
        return self.fc_norm(self.features(x)[-1].mean([1, 2]))


class FeatureNorm(nn.Layer):
    """BatchNorm without affine parameters over [N, D], epsilon 1e-6, momentum .1 of the new value.

    Paddle's keeps affine parameters even where they are switched off, and the biased variance; this keeps PyTorch's
    unbiased one, which evaluation uses.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer('_mean', paddle.zeros([width]))
        self.register_buffer('_variance', paddle.ones([width]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x.astype('float32')
        mean, variance = self._mean, self._variance
        if self.training:
            if x.shape[0] < 2:
                raise InputError(
                    'normalising features needs at least 2 images a batch and process; raise --batch_size'
                )
            mean = x.mean(0)
            variance = (x - mean).square().mean(0)
            with paddle.no_grad():
                unbiased = variance * (x.shape[0] / (x.shape[0] - 1))
                self._mean.set_value(0.9 * self._mean + 0.1 * mean)
                self._variance.set_value(0.9 * self._variance + 0.1 * unbiased)
        return (x - mean) * (variance + 1e-6).rsqrt()
