"""A program's command line: a parser made of groups of flags, and flags that programs of several kinds share."""

import argparse
import math
from collections.abc import Callable


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the description's lines as they are and shows each default, unless it is None: then the help says it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        return action.help if action.default in (None, '') else super()._get_help_string(action)


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
    p.add_argument(
        '--data_timeout',
        type=number(float, 0),
        default=600.0,
        metavar='SECONDS',
        help='that a worker may '
        'take for one image, before the run ends; 0: any. Processes on CPUs wait 30 s for each other',
    )


def device(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--device',
        choices=['gpu', 'cuda', 'cpu'],
        default=None,
        help='(default: gpu where Paddle was built for one, else cpu)',
    )


def average(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--use_ema',
        action='store_true',
        help='of a weight file that holds an average beside the plain weights '
        '(model_ema, state_dict_ema), take the average',
    )
