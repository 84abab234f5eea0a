"""Sheets of captioned panels that show people what a model does, such as its reconstructions."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util import legend
from util.errors import InputError

# in pixels
GAP = 4  # between panels
CAPTION = 18  # height of a line of text
SMALLEST = 128  # height of a panel; smaller images are enlarged
LARGEST_FONT = 12
SMALLEST_FONT = 7


@dataclass
class Sheet:
    """Panels and their texts, see `sheet`; who shows them may draw them or lay them out anew."""

    rows: list[list[np.ndarray]]
    captions: list[str]
    note: str = ''
    titles: list[list[str]] | None = None

    def drawn(self) -> np.ndarray:
        """All panels and texts as one picture."""
        return sheet(self.rows, self.captions, self.note, self.titles)


def reconstructions(
    images: np.ndarray,
    shown: np.ndarray,
    masks: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    note: str = '',
) -> Sheet:
    """One row per image: original, masked, reconstruction, reconstruction + visible patches.

    images, and shown, what the model makes of them: [N, C, height, width] on the model's scale;
    mean and std undo the normalisation. masks: [N, C, height, width], 1 = removed. note: see
    `sheet`.
    """
    visible = images * (1 - masks)
    columns = {
        'original': images,
        'masked': visible,
        'reconstruction': shown,
        'reconstruction + visible': visible + shown * masks,
    }
    panels = [as_pixels(batch, mean, std) for batch in columns.values()]
    panels[1] = cover(panels[1], masks)
    rows = [list(row) for row in zip(*panels)]
    return Sheet(rows, list(columns), note)


def as_pixels(batch: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalised images [N, C, height, width] as uint8 [N, height, width, 3].

    If C is not 1 or 3, the first three channels are shown, or the first one.
    """
    pixels = batch.transpose(0, 2, 3, 1)  # [N, height, width, C]
    pixels = pixels * np.asarray(std, 'float32') + np.asarray(mean, 'float32')
    pixels = pixels[..., :3]
    if pixels.shape[-1] < 3:
        pixels = pixels[..., :1].repeat(3, axis=-1)
    levels = pixels.clip(0, 1) * 255
    return levels.round().astype('uint8')


def cover(pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Pixels [N, height, width, 3], grey where masks [N, C, height, width] are 1."""
    removed = masks[:, :1].transpose(0, 2, 3, 1) > 0  # [N, height, width, 1]
    return np.where(removed, 128, pixels).astype('uint8')


def enlarged(colours: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Colours [rows, columns, 3] of patches as a picture of this height and width."""
    rows, columns, _ = colours.shape
    height, width = size
    return colours.repeat(height // rows, 0).repeat(width // columns, 1)


def sheet(
    rows: list[list[np.ndarray]],
    captions: list[str],
    note: str = '',
    titles: list[list[str]] | None = None,
) -> np.ndarray:
    """Panels in rows and columns: uint8 [height, width, 3].

    rows: panels uint8 [height, width, 3], all of one size; a row may be shorter than others.
    captions: a line above each column. titles: a line below each panel, in the order of `rows`.
    note: lines of text below all.
    """
    height, width, _ = rows[0][0].shape
    factor = repeats((height,), SMALLEST)
    height *= factor
    width *= factor
    row_height = height + GAP + (CAPTION if titles else 0)
    lines = note.splitlines()
    canvas_width = len(captions) * (width + GAP) + GAP
    above_note = CAPTION + len(rows) * row_height + GAP
    canvas = Image.new('RGB', (canvas_width, above_note + CAPTION * len(lines)), 'white')

    draw = ImageDraw.Draw(canvas)
    for column, caption in enumerate(captions):
        middle = GAP + column * (width + GAP) + width // 2
        _write(draw, caption, (middle, CAPTION // 2 + 1), width, anchor='mm')
    for row, panels in enumerate(rows):
        top = CAPTION + GAP + row * row_height
        for column, pixels in enumerate(panels):
            left = GAP + column * (width + GAP)
            panel = Image.fromarray(pixels).resize((width, height), Image.NEAREST)
            canvas.paste(panel, (left, top))
            if titles:
                middle = (left + width // 2, top + height + CAPTION // 2)
                _write(draw, titles[row][column], middle, width, anchor='mm')
    for number, line in enumerate(lines):
        start = (GAP, above_note + CAPTION * number + CAPTION // 2)
        _write(draw, line, start, canvas_width - GAP, anchor='lm')
    return np.asarray(canvas)


def repeats(sides: tuple[int, ...], least: int) -> int:
    """How often to repeat each pixel, so that the shortest of these sides has `least` pixels."""
    times = -(-least // min(sides))  # rounded up
    return max(1, times)


def repeated(pixels: np.ndarray, least: int) -> np.ndarray:
    """Pixels [height, width, ..], each repeated, so that both sides have at least `least`."""
    times = repeats(pixels.shape[:2], least)
    return pixels.repeat(times, 0).repeat(times, 1)


def write(pixels: np.ndarray, out: Path) -> None:
    """Write a picture uint8 [height, width, 3] to the file of --out; InputError if that fails."""
    try:
        Image.fromarray(pixels).save(out)
    except (OSError, ValueError) as error:
        raise InputError(f'--out {out}: cannot write this picture ({error})') from None


def _write(
    draw: ImageDraw.ImageDraw, text: str, place: tuple[int, int], width: int, anchor: str
) -> None:
    """Write a line of text that should not be wider than `width`; anchor as Pillow names it."""
    draw.text(place, text, fill='black', anchor=anchor, font=_font(text, width))


def _font(text: str, width: int) -> ImageFont.ImageFont:
    """The font of the largest size at which the text fits the width, else of the smallest size."""
    for size in range(LARGEST_FONT, SMALLEST_FONT - 1, -1):
        font = legend.font(text, size)
        if font.getlength(text) <= width:
            break
    return font
