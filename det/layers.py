"""Normalisations and convolutions that necks and heads share.

Their initial values are detectron2's, unless others are given. Parameter names are those of mmcv's
ConvModule.
Shapes: maps are [N, channels, rows, columns].
"""

import math

import paddle
from paddle import nn

from util.errors import InputError

GROUPS = 32  # of group normalisation


class ChannelNorm(nn.Layer):
    """Layer normalisation over the channels of a map, at each place on its own."""

    def __init__(self, channels: int, epsilon: float = 1e-6):
        super().__init__()
        one = nn.initializer.Constant(1.0)
        self.weight = self.create_parameter([channels], default_initializer=one)
        self.bias = self.create_parameter([channels], is_bias=True)
        self.epsilon = epsilon

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        last = x.transpose([0, 2, 3, 1])  # [N, rows, columns, channels]
        last = nn.functional.layer_norm(last, last.shape[-1:], self.weight, self.bias, self.epsilon)
        return last.transpose([0, 3, 1, 2])


def batch_norm(channels: int) -> nn.Layer:
    """Batch normalisation over all GPUs; on CPUs, which lack that kernel, over one process."""
    on_gpu = paddle.get_device().startswith('gpu')
    return nn.SyncBatchNorm(channels) if on_gpu else nn.BatchNorm2D(channels)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation with 32 groups; InputError if they do not divide the channels."""
    if channels % GROUPS:
        raise InputError(
            f'{GROUPS} groups of normalisation do not divide {channels} channels; choose a multiple'
        )
    return nn.GroupNorm(GROUPS, channels)


NORMS = {'LN': ('ln', ChannelNorm), 'BN': ('bn', batch_norm), 'GN': ('gn', group_norm)}


def normalisation(kind: str, channels: int) -> nn.Layer:
    """A normalisation of maps by its name: LN (channels), BN (the batch) or GN (groups)."""
    if kind not in NORMS:
        raise InputError(f'norm: {kind!r} is unknown; known are {", ".join(NORMS)}')
    return NORMS[kind][1](channels)


class ConvModule(nn.Layer):
    """A convolution that keeps the size at stride 1, then a normalisation and ReLU if asked for.

    norm: LN, BN, GN or None; a normalised convolution has no bias. weights: their initializer, by
    default He's for the output channels.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        norm: str | None = None,
        relu: bool = False,
        weights: nn.initializer.Initializer | None = None,
        stride: int = 1,
    ):
        super().__init__()
        self.conv = nn.Conv2D(
            in_channels,
            channels,
            kernel,
            stride=stride,
            padding=kernel // 2,
            weight_attr=weights or he_normal(channels * kernel**2),
            bias_attr=False if norm else None,
        )
        self.norm_name = None
        if norm:
            layer = normalisation(norm, channels)
            self.norm_name = NORMS[norm][0]
            setattr(self, self.norm_name, layer)
        self.relu = relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x)
        if self.norm_name:
            x = getattr(self, self.norm_name)(x)
        return nn.functional.relu(x) if self.relu else x


def he_normal(fan_out: int) -> nn.initializer.Initializer:
    """Normal weights with variance 2 / fan_out: detectron2's c2_msra_fill."""
    return nn.initializer.Normal(std=math.sqrt(2 / fan_out))


def xavier_uniform(fan_in: int) -> nn.initializer.Initializer:
    """Uniform weights with variance 1 / fan_in: detectron2's c2_xavier_fill."""
    bound = math.sqrt(3 / fan_in)
    return nn.initializer.Uniform(-bound, bound)


def pytorch_uniform(fan_in: int) -> nn.initializer.Initializer:
    """PyTorch's default for convolutions: U(+-1/sqrt(fan_in)), for weights and biases."""
    bound = fan_in**-0.5
    return nn.initializer.Uniform(-bound, bound)


def twice(in_channels: int, channels: int) -> nn.Conv2DTranspose:
    """A layer that doubles the size of a map, initialised as in PyTorch.

    PyTorch takes the fan-in of a transposed convolution from the output channels.
    """
    uniform = pytorch_uniform(4 * channels)
    return nn.Conv2DTranspose(
        in_channels, channels, 2, stride=2, weight_attr=uniform, bias_attr=uniform
    )
