"""Does a masked autoencoder see more than the obvious? Its error on held-out images against two baselines.

    python demo/score.py --resume CHECKPOINT --data_path demo/data/digits

The error is the mean squared difference over the removed patches, of pixels normalised as in training. Baselines, on
the same images with the same masks: every removed patch filled with the mean patch of the training images; with its
nearest visible patch.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import models_zoo
from engine_pretrain import reconstruct
from util import cli, masking, program
from util.augment import crop
from util.data import folder, loader, pictures
from util.errors import InputError


def main(args):
    program.start(args.device, args.seed)
    model, trained = models_zoo.autoencoder_from(args.resume)
    if 'mask_ratio' not in trained:
        raise InputError(
            f'{args.resume} does not say its mask_ratio; a checkpoint of main_pretrain.py is needed'
        )
    normalize = crop.Normalize(
        *crop.statistics(model.in_chans, trained.get('mean'), trained.get('std'))
    )
    center = crop.CenterCrop(model.img_size[0], normalize)
    train, val = (load(args.data_path, split, center, model.in_chans) for split in ('train', 'val'))
    rng = np.random.default_rng(args.seed)
    noise_of = masking.sampler(model.grid, trained['mask_ratio'], masking.kind_of(trained))
    noise = paddle.to_tensor(np.stack([noise_of(rng) for _ in val]))

    images = paddle.to_tensor(val)
    shown, masks = reconstruct(model, images, trained['mask_ratio'], noise)
    truth, guess, removed = (model.patchify(part).numpy() for part in (images, shown, masks))
    removed = removed[:, :, 0] > 0  # [N, L]
    mean_patch = model.patchify(paddle.to_tensor(train)).numpy().mean((0, 1))
    print(f'{len(val)} images, mean squared error over the removed patches')
    for name, filled in (
        ('autoencoder', guess),
        ('mean patch', np.broadcast_to(mean_patch, truth.shape)),
        ('nearest visible', nearest_visible(truth, removed, model.grid)),
    ):
        print(f'{name:16} {error(truth, filled, removed):.4f}')


def load(data_path: str, split: str, center: crop.CenterCrop, in_chans: int) -> np.ndarray:
    found = folder.find(data_path, split, pictures.suffixes(in_chans))
    return np.concatenate(
        [
            images.numpy()
            for images, _ in loader.EvalLoader(loader.EvalSet(found, in_chans, center), 256)
        ]
    )


def error(truth: np.ndarray, guess: np.ndarray, removed: np.ndarray) -> float:
    """Mean squared error over the removed patches; truth and guess [N, L, p*p*C], removed bool [N, L]."""
    return float(np.square(truth - guess)[removed].mean())


def nearest_visible(patches: np.ndarray, removed: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Each patch replaced by the closest one that is not removed (of equally close ones the first)."""
    places = np.stack(np.divmod(np.arange(grid[0] * grid[1]), grid[1]), axis=1)
    distance = np.square(places[:, None] - places[None]).sum(-1).astype(float)
    filled = np.empty_like(patches)
    for i, hidden in enumerate(removed):
        filled[i] = patches[i, np.where(hidden, np.inf, distance).argmin(1)]
    return filled


PARSER = cli.parser(__doc__, cli.device)
PARSER.add_argument('--resume', required=True, metavar='FILE', help='a pre-training checkpoint')
PARSER.add_argument(
    '--data_path', required=True, metavar='PATH', help='folder with train/ and val/'
)
PARSER.add_argument('--seed', type=cli.number(int, 0), default=1, help='seed of the masks')

if __name__ == '__main__':
    program.run(main, PARSER)
