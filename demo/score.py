"""Does a masked autoencoder see more than the obvious? Its error against two baselines.

    python demo/score.py --resume CHECKPOINT --data_path demo/data/digits

The error is the mean squared difference over the removed patches of held-out images, with pixels
normalised as in training. The baselines get the same images and masks. One fills every removed
patch with the mean patch of the training images, the other with its nearest visible patch.
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

BATCH_SIZE = 256  # images read at a time


def main(args):
    program.start(args.device, args.seed, deterministic=args.deterministic)
    model, trained = models_zoo.autoencoder_from(args.resume, use_ema=args.use_ema)
    if 'mask_ratio' not in trained:
        raise InputError(
            f'{args.resume} does not say its mask_ratio; give a checkpoint of main_pretrain.py'
        )
    mask_ratio = trained['mask_ratio']

    mean, std = crop.statistics(model.in_chans, trained.get('mean'), trained.get('std'))
    center = crop.CenterCrop(model.img_size, crop.Normalize(mean, std))
    train = load(args.data_path, 'train', center, model.in_chans)
    val = load(args.data_path, 'val', center, model.in_chans)

    rng = np.random.default_rng(args.seed)
    kind = masking.kind_of(trained)
    noise_of = masking.sampler(model.grid, mask_ratio, kind, model.num_visible)
    noise = np.stack([noise_of(rng) for _ in val])  # [N, L]

    images = paddle.to_tensor(val)
    shown, masks = reconstruct(model, images, mask_ratio, paddle.to_tensor(noise))
    truth = model.patchify(images).numpy()  # [N, L, p*p*C]
    guess = model.patchify(shown).numpy()  # [N, L, p*p*C]
    removed = model.patchify(masks).numpy()[:, :, 0] > 0  # [N, L]
    mean_patch = model.patchify(paddle.to_tensor(train)).numpy().mean((0, 1))  # [p*p*C]

    filled = {
        'autoencoder': guess,
        'mean patch': np.broadcast_to(mean_patch, truth.shape),
        'nearest visible': nearest_visible(truth, removed, model.grid),
    }
    print(f'{len(val)} images, mean squared error over the removed patches')
    for name, patches in filled.items():
        print(f'{name:16} {error(truth, patches, removed):.4f}')


def load(data_path: str, split: str, center: crop.CenterCrop, in_chans: int) -> np.ndarray:
    """All images of a split [N, C, height, width], cropped and normalised."""
    found = folder.find(data_path, split, pictures.suffixes(in_chans))
    dataset = loader.EvalSet(found, in_chans, center)
    batches = [images.numpy() for images, _ in loader.EvalLoader(dataset, BATCH_SIZE)]
    return np.concatenate(batches)


def error(truth: np.ndarray, guess: np.ndarray, removed: np.ndarray) -> float:
    """Mean squared error over the removed patches.

    truth and guess [N, L, p*p*C], removed bool [N, L].
    """
    squared = np.square(truth - guess)
    return float(squared[removed].mean())


def nearest_visible(patches: np.ndarray, removed: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Each patch replaced by the closest visible one, the first of several.

    patches [N, L, p*p*C], removed bool [N, L].
    """
    height, width = grid
    numbers = np.arange(height * width)
    places = np.stack(np.divmod(numbers, width), axis=1)  # [L, 2], row and column
    offsets = places[:, None] - places[None]  # [L, L, 2]
    distance = np.square(offsets).sum(-1).astype(float)  # [L, L]

    filled = np.empty_like(patches)
    for image, hidden in enumerate(removed):
        to_visible = np.where(hidden, np.inf, distance)  # [L, L]
        closest = to_visible.argmin(1)
        filled[image] = patches[image, closest]
    return filled


PARSER = cli.parser(__doc__, cli.device, cli.average)
PARSER.add_argument('--resume', required=True, metavar='FILE', help='a pre-training checkpoint')
PARSER.add_argument(
    '--data_path', required=True, metavar='PATH', help='folder with train/ and val/'
)
PARSER.add_argument('--seed', type=cli.number(int, 0), default=1, help='seed of the masks')

if __name__ == '__main__':
    program.run(main, PARSER)
