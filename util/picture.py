"""Reconstructions as pictures for people."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP, CAPTION, SMALLEST = 4, 18, 128  # pixels


def panels(
    images: np.ndarray,
    reconstructions: np.ndarray,
    masks: np.ndarray,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    note: str = '',
) -> np.ndarray:
    """One row an image: original, masked, reconstruction, reconstruction + visible. uint8 [height, width, 3].

    All three arrays [N, C, height, width]; images and reconstructions as the model sees them, undone here with mean
    and std; masks 1 = removed. `note` is written below. Of other than 1 or 3 channels the first three, or one, show.
    """
    columns = {
        'original': images,
        'masked': images * (1 - masks),
        'reconstruction': reconstructions,
        'reconstruction + visible': images * (1 - masks) + reconstructions * masks,
    }
    shown = [_visible(batch, mean, std) for batch in columns.values()]
    grey = np.broadcast_to(masks[:, :1].transpose(0, 2, 3, 1) > 0, shown[1].shape)
    shown[1] = np.where(grey, 128, shown[1]).astype('uint8')

    factor = max(1, -(-SMALLEST // images.shape[2]))
    height, width = images.shape[2] * factor, images.shape[3] * factor
    canvas = Image.new(
        'RGB',
        (
            len(shown) * (width + GAP) + GAP,
            CAPTION + len(images) * (height + GAP) + GAP + (CAPTION if note else 0),
        ),
        'white',
    )
    draw = ImageDraw.Draw(canvas)
    for column, (caption, batch) in enumerate(zip(columns, shown)):
        left = GAP + column * (width + GAP)
        draw.text(
            (left + width // 2, CAPTION // 2 + 1),
            caption,
            fill='black',
            anchor='mm',
            font=_font(caption, width),
        )
        for row, pixels in enumerate(batch):
            panel = Image.fromarray(pixels).resize((width, height), Image.NEAREST)
            canvas.paste(panel, (left, CAPTION + GAP + row * (height + GAP)))
    if note:
        draw.text(
            (GAP, canvas.height - CAPTION // 2),
            note,
            fill='black',
            anchor='lm',
            font=_font(note, canvas.width),
        )
    return np.asarray(canvas)


def _visible(batch: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalised [N, C, height, width] -> uint8 [N, height, width, 3]."""
    pixels = batch.transpose(0, 2, 3, 1) * np.asarray(std, 'float32') + np.asarray(mean, 'float32')
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].repeat(3, axis=-1)
    return (pixels.clip(0, 1) * 255).round().astype('uint8')


def _font(text: str, width: int) -> ImageFont.ImageFont:
    """The largest size up to 12 at which the text fits."""
    for size in range(12, 6, -1):
        font = ImageFont.load_default(size)
        if font.getlength(text) <= width:
            break
    return font
