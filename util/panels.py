"""Pictures that show reconstructions to people."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# in pixels
GAP = 4  # between panels
CAPTION = 18  # height of a line of text
SMALLEST = 128  # height of a panel; smaller images are enlarged
LARGEST_FONT = 12
SMALLEST_FONT = 7


def draw(
    images: np.ndarray,
    reconstructions: np.ndarray,
    masks: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    note: str = '',
) -> np.ndarray:
    """One row per image: original, masked, reconstruction, reconstruction + visible patches.

    images, reconstructions: [N, C, height, width] on the model's scale; mean and std undo the
    normalisation. masks: [N, C, height, width], 1 = removed. If C is not 1 or 3, the first three
    channels are shown, or the first one. note: a line of text below the panels.
    Returns uint8 [height, width, 3].
    """
    visible = images * (1 - masks)
    columns = {
        'original': images,
        'masked': visible,
        'reconstruction': reconstructions,
        'reconstruction + visible': visible + reconstructions * masks,
    }
    shown = [_visible(batch, mean, std) for batch in columns.values()]
    removed = masks[:, :1].transpose(0, 2, 3, 1) > 0  # [N, height, width, 1]
    shown[1] = np.where(removed, 128, shown[1]).astype('uint8')  # grey

    # the canvas: a line of captions, the panels, and a line for the note
    factor = -(-SMALLEST // images.shape[2])  # rounded up
    factor = max(1, factor)
    height = images.shape[2] * factor
    width = images.shape[3] * factor
    canvas_width = len(shown) * (width + GAP) + GAP
    canvas_height = CAPTION + len(images) * (height + GAP) + GAP
    if note:
        canvas_height += CAPTION
    canvas = Image.new('RGB', (canvas_width, canvas_height), 'white')

    draw = ImageDraw.Draw(canvas)
    for column, (caption, batch) in enumerate(zip(columns, shown)):
        left = GAP + column * (width + GAP)
        middle = (left + width // 2, CAPTION // 2 + 1)
        draw.text(middle, caption, fill='black', anchor='mm', font=_font(caption, width))
        for row, pixels in enumerate(batch):
            top = CAPTION + GAP + row * (height + GAP)
            panel = Image.fromarray(pixels).resize((width, height), Image.NEAREST)
            canvas.paste(panel, (left, top))
    if note:
        start = (GAP, canvas_height - CAPTION // 2)
        draw.text(start, note, fill='black', anchor='lm', font=_font(note, canvas_width))
    return np.asarray(canvas)


def _visible(batch: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalised [N, C, height, width] -> uint8 [N, height, width, 3]."""
    pixels = batch.transpose(0, 2, 3, 1)  # [N, height, width, C]
    pixels = pixels * np.asarray(std, 'float32') + np.asarray(mean, 'float32')
    pixels = pixels[..., :3]
    if pixels.shape[-1] < 3:
        pixels = pixels[..., :1].repeat(3, axis=-1)
    levels = pixels.clip(0, 1) * 255
    return levels.round().astype('uint8')


def _font(text: str, width: int) -> ImageFont.ImageFont:
    """The font of the largest size at which the text fits the width, else of the smallest size."""
    for size in range(LARGEST_FONT, SMALLEST_FONT - 1, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= width:
            break
    return font
