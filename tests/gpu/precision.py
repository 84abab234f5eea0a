"""Precisions, the differences that they may make, and their stand-in on a CPU.

A CPU computes in float32 alone. There, rounding what enters each matrix product to the precision's
bits stands in for the device, so that the comparison has something to find.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import paddle
from paddle.nn import functional


class Precision(NamedTuple):
    """A way to compute, and the allowed relative differences from float32 on the CPU.

    Of an output, of all gradients together (lengths of differences, relative to the length), and of
    the losses of some steps. bits: of a mantissa, with the hidden one. environ: before Paddle.
    """

    amp: str
    environ: dict[str, str]
    bits: int
    output: float
    gradient: float
    losses: float


# Judgement: ten times and more what the stand-in does to ViT-B in pre-training. There, outputs
# differ by 6.6e-4 with 11 bits and by 5.5e-3 with 8, gradients by 4.5e-4 and 3.3e-3, losses by 3e-6
# and 6e-5. Real kernels round more than the inputs of products.
PRECISIONS = {
    'float32': Precision('off', {'NVIDIA_TF32_OVERRIDE': '0'}, 24, 1e-4, 1e-3, 1e-4),
    'TF32': Precision('off', {}, 11, 1e-2, 2e-2, 1e-3),
    'float16': Precision('float16', {}, 11, 1e-2, 2e-2, 1e-3),
    'bfloat16': Precision('bfloat16', {}, 8, 6e-2, 1.5e-1, 5e-3),
}


def missing(name: str, device: str) -> str:
    """Why this device has no such precision; nothing if it has, or stands in for one."""
    if device == 'cpu':
        return ''
    major, minor = paddle.device.cuda.get_device_capability()
    if name == 'TF32' and major < 8:
        return f'TF32 needs compute capability 8.0; this device has {major}.{minor}'
    if name == 'bfloat16' and not paddle.amp.is_bfloat16_supported():
        return 'paddle.amp.is_bfloat16_supported() says no'
    return ''


def rounded(x: paddle.Tensor, bits: int) -> paddle.Tensor:
    """x with a mantissa of so many bits, to the nearest; gradients pass as they are."""
    scale = 2.0 ** (24 - bits) + 1  # Veltkamp's splitting
    with paddle.no_grad():
        product = x * scale
        kept = product - (product - x)
        change = kept - x
    return x + change


@contextlib.contextmanager
def stand_in(bits: int) -> Iterator[None]:
    """Round the inputs of linear layers, convolutions and matrix products."""
    owners = [(functional, 'linear'), (functional, 'conv2d'), (paddle, 'matmul')]
    before = [getattr(owner, name) for owner, name in owners]
    if bits >= 24:
        yield
        return

    def changed(function):
        def call(*args, **kwargs):
            args = [factor(value) for value in args]
            kwargs = {name: factor(value) for name, value in kwargs.items()}
            return function(*args, **kwargs)

        return call

    def factor(value):
        is_bias = not isinstance(value, paddle.Tensor) or value.ndim < 2
        return value if is_bias else rounded(value, bits)

    for (owner, name), function in zip(owners, before):
        setattr(owner, name, changed(function))
    try:
        yield
    finally:
        for (owner, name), function in zip(owners, before):
            setattr(owner, name, function)
