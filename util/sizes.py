"""Sizes of images and patches: one number for a square, or height and width; and their flags."""

import argparse
from collections.abc import Sequence

from util.cli import number
from util.errors import InputError

Size = int | tuple[int, int] | list[int]


def pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size given as one number or two."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def plain(size: Size) -> int | list[int]:
    """A size as flags and records have it: one number for a square, else [height, width]."""
    height, width = pair(size)
    return height if height == width else [height, width]


def shown(size: Size) -> str:
    """A size for people: `height x width`."""
    height, width = pair(size)
    return f'{height} x {width}'


def words(size: Size) -> str:
    """A size as it is typed behind a flag: one number for a square, else two."""
    value = plain(size)
    return str(value) if isinstance(value, int) else ' '.join(map(str, value))


def image_sides(flags: dict, asked: Size | None = None) -> tuple[int, int] | None:
    """(height, width) of images by a file's flags, ours, timm's and others', or else as asked."""
    for name in ('input_size', 'img_size', 'image_size'):
        value = flags.get(name)
        sides = [value, value] if isinstance(value, int) else value
        if not isinstance(sides, (list, tuple)) or len(sides) not in (2, 3):
            continue
        height, width = sides[-2:]  # timm's input_size has the channels first
        if isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0:
            return height, width
    return pair(asked) if asked else None


def nearest(length: int, multiple: int) -> str:
    """The multiples next to a length that is none, as part of an error: `28 or 32`."""
    below = length // multiple * multiple
    above = below + multiple
    return f'{below} or {above}' if below else str(above)


def check_multiple(size: Size, multiple: int, what: str) -> None:
    """InputError with the nearest sizes unless `multiple`, called `what`, divides both sides."""
    for side, length in zip(('height', 'width'), pair(size)):
        if length % multiple or length < multiple:
            raise InputError(
                f'image {side} {length} is no multiple of {what}; take {nearest(length, multiple)}'
            )


class InputSize(argparse.Action):
    """Takes one number or two, and stores them as `plain` gives them."""

    def __call__(self, parser, namespace, values, option_string=None):
        if len(values) > 2:
            parser.error(
                f'{option_string} takes one number, or height and width, not {len(values)} numbers'
            )
        size = values[0] if len(values) == 1 else values
        setattr(namespace, self.dest, plain(size))


def flags(p: argparse.ArgumentParser, default: int | None = None) -> None:
    """Add the sizes of images and patches; without a default, weights tell their own."""
    own = '' if default else "; default: the weights' own"
    p.add_argument(
        '--input_size',
        type=number(int, 1),
        nargs='+',
        action=InputSize,
        default=default,
        metavar=('H', 'W'),
        help=f'size of the images in pixels: one number for squares, or height and width{own}',
    )
    of_name = "that of the model's name" if default else "the weights' own"
    p.add_argument(
        '--patch_size',
        type=number(int, 1),
        default=None,
        metavar='P',
        help=f'side of the patches of a ViT, in pixels; default: {of_name}',
    )


def check_stages(depths: Sequence[int], **values: Sequence) -> None:
    """InputError unless each of these, given by its name, has one value for each stage."""
    for name, given in values.items():
        if len(given) != len(depths):
            raise InputError(
                f'{name} has {len(given)} values for {len(depths)} stages (depths {list(depths)}); '
                'give one for each'
            )
