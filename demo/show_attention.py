"""What a ViT attends to, as pictures: the heads of a block, or the rollout over all blocks."""

import matplotlib
import numpy as np
import paddle
from own_mask import check_patch

import models_attention
from models_vit import Encoder
from util import panels
from util.errors import InputError

COLOURS = 'inferno'
OPACITY = 0.65  # of the colours over the grey picture
MARK = (0, 255, 0)  # the colour around the query
MOST_COLUMNS = 6  # blocks shown of a rollout


def heads(
    model: Encoder,
    images: np.ndarray,
    pixels: np.ndarray,
    block: int | None = None,
    query: str | int = 'cls',
) -> panels.Sheet:
    """A sheet: each picture, the heads' attention in a block (None: the last), and their mean.

    images: [N, C, height, width] as the model sees them; pixels: uint8 [N, height, width, 3], the
    same for people. query: as in models_attention.seen_by.
    """
    weights = models_attention.weights_of(model, paddle.to_tensor(images))
    block = len(weights) - 1 if block is None else block
    if block >= len(weights):
        raise InputError(f'--block {block}: the model has the blocks 0 to {len(weights) - 1}')
    grid = model.patch_embed.grid
    if not isinstance(query, str):
        check_patch('--query', query, grid)

    looks = models_attention.seen_by(weights[block], query)  # [N, H, L]
    mean = looks.mean(1, keepdims=True)
    maps = np.concatenate([looks, mean], axis=1)  # [N, H + 1, L]
    captions = [f'head {head}' for head in range(looks.shape[1])]
    note = (
        f'attention of {described(query)} in block {block} (of 0 to {len(weights) - 1})\n'
        'bright: much, scaled to the largest share that one patch gets'
    )
    return sheet(pixels, maps, grid, [*captions, 'mean'], note=note, query=query)


def rollout(
    model: Encoder, images: np.ndarray, pixels: np.ndarray, query: str | int = 'cls'
) -> panels.Sheet:
    """A sheet: each picture, and the rollout of its attention up to some blocks and the last."""
    weights = models_attention.weights_of(model, paddle.to_tensor(images))
    grid = model.patch_embed.grid
    if not isinstance(query, str):
        check_patch('--query', query, grid)
    totals = models_attention.rollout(weights)

    columns = min(MOST_COLUMNS, len(totals))
    shown = np.linspace(0, len(totals) - 1, columns).astype(int)  # blocks
    looks = [models_attention.seen_by(totals[block], query) for block in shown]  # [N, L] each
    maps = np.stack(looks, axis=1)  # [N, blocks, L]
    captions = [f'blocks 0 to {block}' if block else 'block 0' for block in shown]
    note = (
        f'rollout: where the content of {described(query)} comes from\n'
        'bright: much, scaled to the largest share that comes from one patch'
    )
    return sheet(pixels, maps, grid, captions, note=note, query=query)


def sheet(
    pixels: np.ndarray,
    maps: np.ndarray,
    grid: tuple[int, int],
    captions: list[str],
    *,
    note: str,
    query: str | int,
) -> panels.Sheet:
    """Pictures uint8 [N, height, width, 3], each with its maps [N, columns, L] laid over it."""
    rows, titles = [], []
    for picture, of_picture in zip(pixels, maps):
        laid = [overlay(picture, one.reshape(grid)) for one in of_picture]
        rows.append([marked(picture, grid, query), *laid])
        largest = [f'largest {one.max():.1%}' for one in of_picture]
        titles.append(['', *largest])
    return panels.Sheet(rows, ['picture', *captions], note, titles)


def overlay(picture: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A picture uint8 [height, width, 3] in grey, coloured by weights [rows, columns]."""
    shares = weights / max(weights.max(), np.finfo('float32').tiny)
    colours = matplotlib.colormaps[COLOURS](shares)[..., :3] * 255  # [rows, columns, 3]
    enlarged = panels.enlarged(colours, picture.shape[:2])
    grey = picture.mean(-1, keepdims=True)
    mixed = OPACITY * enlarged + (1 - OPACITY) * grey
    return mixed.round().astype('uint8')


def marked(picture: np.ndarray, grid: tuple[int, int], query: str | int) -> np.ndarray:
    """The picture, with a frame around the query if that is a patch."""
    if isinstance(query, str):
        return picture
    rows, columns = grid
    height, width = picture.shape[0] // rows, picture.shape[1] // columns  # of a patch
    row, column = divmod(query, columns)
    top, left = row * height, column * width
    framed = picture.copy()
    patch = framed[top : top + height, left : left + width]
    patch[[0, -1]] = MARK
    patch[:, [0, -1]] = MARK
    return framed


def described(query: str | int) -> str:
    """The query in words."""
    words = {'cls': 'the class token', 'mean': 'all patches, averaged'}
    return words.get(query, f'patch {query} (green frame)')
