"""A legend and a caption below a picture: which colour is which class."""

import functools

from PIL import Image, ImageDraw, ImageFont

Entry = tuple[str, tuple[int, int, int]]  # a text, and its colour: red, green, blue

# Pillow's own font has no Chinese, Japanese and Korean; these are looked for on the machine
WIDE_FONTS = ('NotoSansCJK-Regular.ttc', 'wqy-microhei.ttc', 'DroidSansFallback.ttf', 'simhei.ttf')
TEXT = 1 / 40  # height of a text as a share of the picture's mean side, but at least and at most
SMALLEST_TEXT, LARGEST_TEXT = 11, 28  # pixels
NARROWEST = 240  # pixels; a narrower picture gets white to its right, so that texts fit
INK = 'black'


def below(picture: Image.Image, entries: list[Entry], caption: str) -> Image.Image:
    """The picture with a white strip below it: the caption, then a patch of colour for each entry.

    The pixels of the picture stay as they are, at the upper left.
    """
    height = round(TEXT * sum(picture.size) / 2)
    size = min(max(height, SMALLEST_TEXT), LARGEST_TEXT)
    gap = size // 2
    line = round(1.5 * size)
    width = max(picture.width, NARROWEST)
    places, rows = _places(entries, size, width - 2 * gap)

    strip = gap + line * (rows + 1)
    sheet = Image.new('RGB', (width, picture.height + strip), 'white')
    sheet.paste(picture)
    canvas = ImageDraw.Draw(sheet)
    middle = picture.height + gap // 2 + line // 2
    _write(canvas, (gap, middle), _shortened(caption, size, width - 2 * gap), size)
    for (text, colour), (left, row) in zip(entries, places):
        x = gap + left
        y = middle + line * (row + 1)
        canvas.rectangle([x, y - size // 2, x + size, y + size // 2], fill=colour, outline=INK)
        room = width - gap - x - size - gap
        _write(canvas, (x + size + gap, y), _shortened(text, size, room), size)
    return sheet


def _places(entries: list[Entry], size: int, width: int) -> tuple[list[tuple[int, int]], int]:
    """(left edge, row) of each entry, in columns of one width; and the number of rows."""
    if not entries:
        return [], 0
    widest = max(_length(text, size) for text, _ in entries)
    column = round(widest) + 3 * size
    columns = max(width // column, 1)
    places = []
    for number in range(len(entries)):
        row, place = divmod(number, columns)
        places.append((place * column, row))
    return places, row + 1


def _write(canvas: ImageDraw.ImageDraw, start: tuple[int, int], text: str, size: int) -> None:
    letters = font(text, size)
    canvas.text(start, text, fill=INK, anchor='lm', font=letters)


def _shortened(text: str, size: int, width: int) -> str:
    """The text, with its end cut off where it is longer than the width in pixels."""
    if _length(text, size) <= width:
        return text
    while text and _length(f'{text} ...', size) > width:
        text = text[:-1]
    return f'{text} ...'


def _length(text: str, size: int) -> float:
    letters = font(text, size)
    return letters.getlength(text)


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Letters of a height in pixels for a text, with Chinese, Japanese and Korean if installed."""
    return _font(size, is_wide=not text.isascii())


@functools.cache
def _font(size: int, is_wide: bool) -> ImageFont.FreeTypeFont:
    for name in WIDE_FONTS if is_wide else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
