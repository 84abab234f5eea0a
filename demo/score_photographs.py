"""Score and draw reconstructions of photographs, beside three ways to fill in what is missing.

    python demo/score_photographs.py --resume demo/weights/mae_vit_nano_patch8_photographs.pd \\
        --data_path demo/photographs --out photographs.png

The error is the mean squared difference over the removed pixels, normalised as in training. The
other ways get the same pictures and masks: the mean of the visible pixels, the nearest visible
pixel, and cubic interpolation of the visible pixels (Clough-Tocher, the nearest pixel outside their
hull). The picture shows up to eight photographs, evenly spread, with the error of each.
"""

from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
from scipy.interpolate import griddata
from show_reconstruction import MASK_RATIO, kind_of_masks
from visualize import MOST, find

import models_zoo
from engine_pretrain import reconstruct
from util import cli, masking, panels, program
from util.augment import crop
from util.data import pictures

NOTE = (
    'rows: original; visible part; what the autoencoder adds; cubic interpolation\n'
    'above: the error of the autoencoder over the removed pixels. The pictures are not selected'
)


def main(args):
    program.start(args.device, args.seed, deterministic=args.deterministic)
    model, trained = models_zoo.autoencoder_from(args.resume, use_ema=args.use_ema)
    mean, std = crop.statistics(model.in_chans, trained.get('mean'), trained.get('std'))
    center = crop.CenterCrop(model.img_size, crop.Normalize(mean, std))
    files = find(args.data_path, model.in_chans, '--data_path', most=None)
    images = [center(pictures.read_as_seen(file, model.in_chans)) for file in files]
    images = np.stack(images)  # [N, C, height, width]

    # A mask for each picture
    mask_ratio = trained.get('mask_ratio', MASK_RATIO)
    kind = kind_of_masks(trained, mask_ratio)
    noise_of = masking.sampler(model.grid, mask_ratio, kind, model.num_visible)
    rng = np.random.default_rng(args.seed)
    noise = np.stack([noise_of(rng) for _ in files])  # [N, L]
    noise = paddle.to_tensor(noise)
    shown, masks = reconstruct(model, paddle.to_tensor(images), mask_ratio, noise)
    shown, masks = shown.numpy(), masks.numpy()  # [N, C, height, width]
    removed = masks[:, 0] > 0  # [N, height, width]

    # What the model and the other ways put there
    filled = {'autoencoder': np.where(masks > 0, shown, images)}
    for name, fill in WAYS.items():
        filled[name] = np.stack([fill(*one) for one in zip(images, removed)])
    errors = {name: error(images, guess, removed) for name, guess in filled.items()}
    print(f'{len(files)} photographs, mean squared error over the removed pixels')
    for name, of_pictures in errors.items():
        print(f'{name:16} {of_pictures.mean():.4f}')

    rows = [images, images, filled['autoencoder'], filled['cubic']]
    rows = [panels.as_pixels(row, mean, std) for row in rows]
    rows[1] = panels.cover(rows[1], masks)
    panels.write(draw(rows, errors['autoencoder']), args.out)
    print(f'wrote {args.out}')


def error(truth: np.ndarray, guess: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Mean squared error over the removed pixels of each picture, [N].

    truth and guess [N, C, height, width], removed bool [N, height, width].
    """
    squared = np.square(truth - guess).mean(1)  # [N, height, width]
    total = (squared * removed).sum((1, 2))
    return total / removed.sum((1, 2))


def mean_visible(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """An image [C, height, width] with the mean of its visible pixels in place of the others."""
    visible = image[:, ~removed]  # [C, visible]
    filled = image.copy()
    filled[:, removed] = visible.mean(1, keepdims=True)
    return filled


def interpolated(image: np.ndarray, removed: np.ndarray, method: str) -> np.ndarray:
    """An image [C, height, width] whose removed pixels follow from the visible ones.

    method: of scipy.interpolate.griddata; NaN, outside the visible pixels' hull, stays NaN.
    """
    visible = ~removed
    values = image[:, visible].T  # [visible, C]
    found = griddata(np.argwhere(visible), values, np.argwhere(removed), method)
    filled = image.copy()
    filled[:, removed] = found.T
    return filled


def nearest(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Each removed pixel replaced by the nearest visible one."""
    return interpolated(image, removed, 'nearest')


def cubic(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """Cubic interpolation of the visible pixels, the nearest one outside their hull."""
    filled = interpolated(image, removed, 'cubic')
    return np.where(np.isnan(filled), nearest(image, removed), filled)


WAYS = {'mean of visible': mean_visible, 'nearest visible': nearest, 'cubic': cubic}


def draw(rows: list[np.ndarray], errors: np.ndarray) -> np.ndarray:
    """A sheet with a column a picture; rows of uint8 [N, height, width, 3], errors [N]."""
    count = min(MOST, len(errors))
    chosen = np.linspace(0, len(errors) - 1, count).astype(int)
    worst = chosen[errors[chosen].argmax()]
    captions = {number: f'{errors[number]:.2f}' for number in chosen}
    captions[worst] += ' (worst)'
    columns = [list(row[chosen]) for row in rows]
    return panels.sheet(columns, list(captions.values()), NOTE)


PARSER = cli.parser(__doc__, cli.device, cli.average)
PARSER.add_argument('--resume', required=True, metavar='FILE', help='a pre-training checkpoint')
PARSER.add_argument(
    '--data_path',
    type=Path,
    required=True,
    metavar='PATH',
    help='folder of photographs that the model has not been trained on',
)
PARSER.add_argument('--seed', type=cli.number(int, 0), default=1, help='seed of the masks')
PARSER.add_argument('--out', type=Path, default=Path('photographs.png'), help='picture to write')

if __name__ == '__main__':
    program.run(main, PARSER)
