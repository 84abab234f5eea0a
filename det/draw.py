"""Boxes, masks and class names drawn into pictures.

Shapes: n objects; boxes are [n, 4], x1 y1 x2 y2 in pixels; masks are [n, height, width].
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from util import legend

GOLDEN = 0.618  # of a turn between the hues of two classes: all of them stay apart
MASK = 0.45  # opacity of a mask
LINE = 1 / 250  # width of a line, and
TEXT = 1 / 32  # height of a text, as shares of the picture's mean side
SMALLEST_TEXT = 11  # pixels
DARK = 140  # luminance up to which a colour gets white text


def color(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a class."""
    hue = number * GOLDEN % 1
    value = 1 - 0.15 * (number % 3)
    channels = colorsys.hsv_to_rgb(hue, 0.85, value)
    red, green, blue = (round(255 * channel) for channel in channels)
    return red, green, blue


def objects(
    picture: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    texts: list[str],
    masks: np.ndarray | None = None,
    times: int = 1,
) -> Image.Image:
    """A picture, uint8 [height, width, 3], with its objects; the first one is drawn on top.

    texts: the label of each box. times: how often a pixel of the picture is repeated.
    """
    if masks is not None:
        picture = with_masks(picture, masks, classes)
    picture = picture.repeat(times, axis=0).repeat(times, axis=1)
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    side = sum(image.size) / 2
    width = max(round(LINE * side), 1)
    size = max(round(TEXT * side), SMALLEST_TEXT)

    for index in reversed(range(len(boxes))):
        left, top, right, bottom = (round(float(edge) * times) for edge in boxes[index])
        # a box ends before its last edge, a rectangle of Pillow contains it
        corners = [left, top, max(right - 1, left), max(bottom - 1, top)]
        paint = color(int(classes[index]))
        canvas.rectangle(corners, outline=paint, width=width)
        if texts[index]:
            write(canvas, (left, top), texts[index], paint, size)
    return image


def with_masks(picture: np.ndarray, masks: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The picture with the colour of its class laid over each object; the first one is on top."""
    mixed = picture.astype(float)
    for mask, number in zip(masks[::-1], classes[::-1]):
        paint = np.asarray(color(int(number)), dtype=float)
        where = mask.astype(bool)
        mixed[where] = (1 - MASK) * picture[where] + MASK * paint
    return mixed.round().astype('uint8')


def write(
    canvas: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    paint: tuple[int, int, int],
    size: int,
) -> None:
    """Write a text on a coloured ground above a corner, or below it at the picture's upper edge."""
    letters = legend.font(text, size)
    margin = max(size // 8, 1)
    x1, y1, x2, y2 = canvas.textbbox((0, 0), text, font=letters)
    width = round(x2 - x1) + 2 * margin
    height = round(y2 - y1) + 2 * margin

    # The ground stays within the picture
    left, bottom = corner
    left = max(min(left, canvas.im.size[0] - width), 0)
    top = bottom - height if bottom >= height else max(bottom, 0)
    canvas.rectangle([left, top, left + width - 1, top + height - 1], fill=paint)

    red, green, blue = paint
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    ink = 'white' if luminance <= DARK else 'black'
    canvas.text((left + margin - x1, top + margin - y1), text, fill=ink, font=letters)


def with_legend(
    picture: Image.Image, classes: np.ndarray, names: list[str], caption: str
) -> Image.Image:
    """A picture with the classes of its objects below it: colour, name and number of objects.

    classes: of each object. names: of all classes.
    """
    numbers, counts = np.unique(classes, return_counts=True)
    entries = []
    for number, count in zip(numbers.tolist(), counts.tolist()):
        entries.append((f'{names[number]}: {count}', color(number)))
    return legend.below(picture, entries, caption)
