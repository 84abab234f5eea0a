"""The shared part of all classifiers: a head on the features of an encoder, and ways to train it.

Head, probe and partial fine-tuning follow arXiv:2111.06377 and facebookresearch/mae @ efb2a80
(main_finetune.py, main_linprobe.py); the head of pyramids follows implus/UM-MAE @ cb7776b.
Departure, with its test in tests/test_models_vit.py: FeatureNorm instead of Paddle's BatchNorm.
Shapes: N images, C channels, D width, K classes.
"""

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.nn import initializer

from layer import init_pyramid
from util import optim
from util.errors import InputError

MLP_PARTS = ('norm2', 'mlp')  # of a block


class Classifier(nn.Layer):
    """Class scores [N, K] of images [N, C, height, width]: `forward_features`, then `head`."""

    def reset_head(self, std: float) -> None:
        """Draw the head's weight with standard deviation `std`, and set its bias to 0.

        With --finetune, upstream takes 2e-5 for fine-tuning and 0.01 for linear probing.
        """
        initializer.TruncatedNormal(std=std, a=-2.0, b=2.0)(self.head.weight)
        initializer.Constant(0.0)(self.head.bias)

    def probe(self) -> None:
        """Freeze all but the head, and put a normalisation without parameters before it."""
        for parameter in self.parameters():
            parameter.stop_gradient = True
        for parameter in self.head.parameters():
            parameter.stop_gradient = False
        width = self.head.weight.shape[0]
        self.head = nn.Sequential(FeatureNorm(width), self.head)

    def freeze_blocks(self, count: float) -> None:
        """Freeze the embedding and the first `count` blocks; 0 freezes nothing.

        After half a block comes its MLP: of that block the attention is frozen, and the MLP with
        its normalisation is trained. Partial fine-tuning, arXiv:2111.06377, figure 9.
        """
        if not 0 <= count <= len(self.blocks):
            raise InputError(f'--freeze_blocks {count}: the model has {len(self.blocks)} blocks')
        if count == 0:
            return
        whole = int(count)
        halved = f'blocks.{whole}.' if count > whole else None  # the block whose MLP is trained
        last = len(self.blocks) + 1  # the layer of the head
        for name, parameter in self.named_parameters():
            if optim.layer_of(name, last) <= whole:
                parameter.stop_gradient = True
            elif halved and name.startswith(halved):
                part = name.removeprefix(halved).partition('.')[0]
                parameter.stop_gradient = part not in MLP_PARTS

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        features = self.forward_features(x)  # [N, D]
        return self.head(features)


class PyramidClassifier(Classifier):
    """A classifier on a pyramid encoder (layer.Pyramid): the last map's mean through `fc_norm`.

    A subclass builds the encoder, then calls `add_head`.
    """

    def add_head(
        self, num_classes: int, global_pool: bool, norm_layer: Callable[[int], nn.Layer]
    ) -> None:
        """Add head and normalisation, and initialize all weights as UM-MAE does.

        InputError if global_pool is False: a pyramid has no class token.
        """
        if not global_pool:
            raise InputError(
                f'--cls_token: a {type(self).__name__} has no class token; use --global_pool'
            )
        self.global_pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.width, num_classes)
        self.fc_norm = norm_layer(self.width)
        init_pyramid(self, initializer.XavierUniform())

    def forward_features(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features [N, D] that the head sees."""
        last = self.features(x)[-1]  # [N, rows, columns, D]
        return self.fc_norm(last.mean([1, 2]))


class FeatureNorm(nn.Layer):
    """BatchNorm over [N, D] without affine parameters: epsilon 1e-6, new values count 0.1.

    Evaluation uses the running unbiased variance, as in PyTorch. Paddle's BatchNorm keeps the
    biased one, and has affine parameters even if they are switched off.
    """

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer('_mean', paddle.zeros([width]))
        self.register_buffer('_variance', paddle.ones([width]))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x.astype('float32')
        mean, variance = self._mean, self._variance
        if self.training:
            N = x.shape[0]
            if N < 2:
                raise InputError(
                    'normalising features needs at least 2 images a batch and process; '
                    'raise --batch_size'
                )
            mean = x.mean(0)  # [D]
            variance = (x - mean).square().mean(0)  # [D]
            self._update(mean, variance, N)
        return (x - mean) * (variance + 1e-6).rsqrt()

    @paddle.no_grad()
    def _update(self, mean: paddle.Tensor, variance: paddle.Tensor, N: int) -> None:
        """Move the running statistics a tenth of the way to those of a batch of N."""
        unbiased = variance * (N / (N - 1))
        self._mean.set_value(0.9 * self._mean + 0.1 * mean)
        self._variance.set_value(0.9 * self._variance + 0.1 * unbiased)
