"""Mixed precision of segmentors: --amp, PaddleSeg's names of it, and PaddleSeg's lists."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from util import amp, cli, device
from util.errors import InputError

# What PaddleSeg computes in low precision and in float32, beyond Paddle's own lists
LOW = ('elementwise_add', 'batch_norm', 'sync_batch_norm')
FLOAT32 = ('bilinear_interp_v2',)
NAMES = {'fp32': 'off', 'fp16': 'float16'}  # PaddleSeg's: ours


def flags(p: argparse.ArgumentParser) -> None:
    """Declare --amp, and PaddleSeg's --precision and --amp_level."""
    cli.amp(p)
    p.add_argument(
        '--precision',
        type=_by_paddleseg,
        default=argparse.SUPPRESS,
        dest='amp',
        metavar='{fp32,fp16}',
        help="PaddleSeg's name: fp16 is --amp float16",
    )
    p.add_argument(
        '--amp_level',
        choices=['O1', 'O2'],
        default='O1',
        help='O2: low precision but for a few operators',
    )


def _by_paddleseg(name: str) -> str:
    if name not in NAMES:
        raise argparse.ArgumentTypeError(f'{name} is none of {", ".join(NAMES)}')
    return NAMES[name]


def caster(asked: str, level: str) -> Callable[[], AbstractContextManager]:
    """A function that makes the context of a forward pass; asked, level: --amp and --amp_level.

    InputError for what the device does not have.
    """
    chosen = device.precision(asked)
    if chosen != 'off' and level == 'O2' and device.kind() == 'cpu':
        raise InputError('--amp_level O2 needs a GPU; on a CPU leave it out')
    return partial(amp.autocast, chosen, level, low=LOW, full=FLOAT32)
