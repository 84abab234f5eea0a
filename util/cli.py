"""A program's command line: a parser made of groups of flags, and flags that many programs share.

The groups of the programs that train are in util/flags.py.
"""

import argparse
import math
from collections.abc import Callable


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and shows each default unless it is None or empty."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default in (None, ''):
            return action.help
        return super()._get_help_string(action)


class Renamed(argparse.Action):
    """A flag of an original that has another name here: an error says which."""

    def __init__(self, option_strings, dest, const, **kwargs):
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, const=const, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f'{option_string}: use {self.const} instead')


def parser(description: str, *groups: Callable) -> argparse.ArgumentParser:
    """A parser with the flags of each group."""
    p = argparse.ArgumentParser(
        description=description, allow_abbrev=False, formatter_class=Formatter
    )
    for group in groups:
        group(p)
    return p


def number(kind: type, low: float, below: float = math.inf) -> Callable[[str], float]:
    """A flag's type: an int or float in [low, below)."""

    def convert(text):
        value = kind(text)
        if not low <= value < below:  # also catches NaN
            raise argparse.ArgumentTypeError(f'{text} is not in [{low}, {below})')
        return value

    convert.__name__ = kind.__name__  # argparse says "invalid int value" with it
    return convert


def data_timeout(p: argparse.ArgumentParser) -> None:
    """Add the time after which a stuck worker ends the run."""
    p.add_argument(
        '--data_timeout',
        type=number(float, 0),
        default=600.0,
        metavar='SECONDS',
        help='end the run if a worker takes longer for one image; 0: no limit. '
        'Processes on CPUs wait at most 30 s for each other',
    )


def device(p: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the choice of the device and of deterministic kernels, which util/device.py explains."""
    p.add_argument(
        '--device',
        default=default,
        metavar='NAME',
        help='gpu or its synonym cuda, cpu, or any other that Paddle has, such as xpu, npu; gpu:1 '
        'is the second one' + ('' if default else ' (default: a GPU if there is one, else cpu)'),
    )
    p.add_argument(
        '--deterministic',
        action='store_true',
        help='on a GPU: slower kernels that give the same bits again; the first line of output '
        'names what has none',
    )


def comparing_device(p: argparse.ArgumentParser) -> None:
    """Add the same for programs that compare results in float32, which is exact on CPUs."""
    device(p, default='cpu')


def amp(p: argparse.ArgumentParser, default: str | None = 'off', bare: str | None = None) -> None:
    """Add the choice of mixed precision; bare: what --amp means without a value, None for error."""
    p.add_argument(
        '--amp',
        nargs='?' if bare else None,
        const=bare,
        choices=['off', 'float16', 'bfloat16'],
        default=default,
        help='mixed precision; on a CPU bfloat16 alone, if the processor has it'
        + ('' if default else ' (default: float16 on a GPU, off on a CPU)'),
    )


def average(p: argparse.ArgumentParser) -> None:
    """Add the choice between a file's plain weights and their average."""
    p.add_argument(
        '--use_ema',
        action='store_true',
        help='take the averaged weights of a file that holds them beside the plain ones '
        '(model_ema, state_dict_ema)',
    )


def model(p: argparse.ArgumentParser) -> None:
    """Add the name of the model in a weight file."""
    p.add_argument(
        '--model', default=None, metavar='NAME', help='needed where the weights do not say it'
    )


def no_legend(p: argparse.ArgumentParser) -> None:
    """Add the switch for pictures that keep their size."""
    p.add_argument(
        '--no_legend',
        action='store_true',
        help='write pictures of their own size, without the legend of classes below them',
    )
