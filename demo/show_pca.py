"""The principal components of patch features, as colours: what a model holds to be alike."""

import math

import numpy as np
import paddle

from models_features import Features
from util import panels, pca
from util.errors import InputError

NAMES = ('1st, red', '2nd, green', '3rd, blue')  # of the components
COMPONENTS = len(NAMES)
TINY = np.finfo('float32').tiny
CUT = 1  # per cent at each end that a colour's range leaves out


def sheet(model, images: np.ndarray, pixels: np.ndarray, block: int | None = None) -> panels.Sheet:
    """A sheet: each picture, its first three components as one colour picture, and each alone.

    images: [N, C, height, width] as the model sees them; pixels: uint8 [N, height, width, 3], the
    same for people. block: whose features; None: the output of the encoder.
    """
    features = patch_features(model, images, block)  # [N, rows, columns, D]
    colours, shares = components(features)
    rows = []
    for picture, of_picture in zip(pixels, colours):
        alone = [of_picture[..., [part] * 3] for part in range(COMPONENTS)]
        shown = [panels.enlarged(one, picture.shape[:2]) for one in (of_picture, *alone)]
        rows.append([picture, *shown])
    captions = [f'{name}: {share:.0%}' for name, share in zip(NAMES, shares)]
    where = 'the encoder' if block is None else f'block {block}'
    note = (
        f'principal components of the patch features of {where}, over all these pictures\n'
        'patches of like colour have like features; percent: share of the variance'
    )
    return panels.Sheet(rows, ['picture', 'components', *captions], note)


@paddle.no_grad()
def patch_features(model, images: np.ndarray, block: int | None) -> np.ndarray:
    """The features of each patch, [N, rows, columns, D]."""
    blocks = None if block is None else [block]
    features = Features(model, 'patches', blocks)
    (tokens,) = features(paddle.to_tensor(images)).values()  # [N, L, D]
    tokens = tokens.numpy()
    N, L, D = tokens.shape
    height, width = images.shape[2:]
    rows = round(math.sqrt(L * height / width))
    return tokens.reshape(N, rows, L // rows, D)


def components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours uint8 [N, rows, columns, 3] of features [N, rows, columns, D], and variances [3].

    The variances are shares of the whole. Each component is scaled to 0..255, its outermost values,
    CUT per cent at each end, are clipped.
    """
    flat = features.reshape(-1, features.shape[-1])  # [patches, D]
    directions = min(len(flat) - 1, flat.shape[1])  # in which the patches can vary
    if directions < COMPONENTS:
        raise InputError(
            f'{len(flat)} patches of {flat.shape[1]} features have no {COMPONENTS} principal '
            'components; give more pictures, or an earlier --block'
        )
    mean, basis = pca.components([flat], COMPONENTS)
    projected = (flat - mean) @ basis  # [patches, 3]
    shares = projected.var(0) / flat.var(0).sum()
    low, high = np.percentile(projected, [CUT, 100 - CUT], axis=0)
    spread = np.maximum(high - low, TINY)
    scaled = (projected - low) / spread
    levels = 255 * scaled.clip(0, 1)
    colours = levels.round().astype('uint8')
    shape = [*features.shape[:-1], COMPONENTS]
    return colours.reshape(shape), shares
