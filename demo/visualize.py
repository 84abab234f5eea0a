"""Show how a masked autoencoder reconstructs pictures.

    python demo/visualize.py --img_path PICTURE --resume CHECKPOINT --seed 1 --out panels.png

PICTURE may be a folder. Each row shows a picture: original, masked, reconstruction, and
reconstruction with the visible patches.
"""

from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
from PIL import Image

import models_zoo
from engine_pretrain import reconstruct
from util import cli, masking, panels, program, sizes
from util.augment import crop
from util.data import pictures
from util.errors import InputError
from util.progress import bar

MOST = 8  # rows of one picture
# norm_pix_loss -> how the shown pixels follow from the prediction
NOTES = {
    True: 'pixels: predicted normalised by patch, '
    'put back with the mean and spread of the true patch',
    False: 'pixels: as predicted',
}


def main(args):
    program.start(args.device, args.seed)
    model, trained = models_zoo.autoencoder_from(
        args.resume,
        args.model,
        args.norm_pix_loss,
        args.use_ema,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )
    kind = kind_of_masks(trained, args.mask_ratio)
    noise_of = masking.sampler(model.grid, args.mask_ratio, kind, model.num_visible)
    mean, std = crop.statistics(model.in_chans, trained.get('mean'), trained.get('std'))
    center = crop.CenterCrop(model.img_size, crop.Normalize(mean, std))

    rng = np.random.default_rng(args.seed)
    rows = []
    for file in bar(find(args.img_path, model.in_chans), 'pictures'):
        pixels = center(pictures.read_as_seen(file, model.in_chans))  # [C, height, width]
        image = paddle.to_tensor(pixels[None])
        noise = paddle.to_tensor(noise_of(rng)[None])
        shown, mask = reconstruct(model, image, args.mask_ratio, noise)
        rows.append([image.numpy(), shown.numpy(), mask.numpy()])
    images, shown, masks = (np.concatenate(arrays) for arrays in zip(*rows))

    share = masks[:, 0].mean()
    note = f'{share:.0%} of the pixels removed; {NOTES[model.norm_pix_loss]}'
    picture = panels.draw(images, shown, masks, mean, std, note=note)
    try:
        Image.fromarray(picture).save(args.out)
    except (OSError, ValueError) as error:
        raise InputError(f'--out {args.out}: cannot write this picture ({error})') from None
    print(f'{len(rows)} rows written to {args.out}')


def kind_of_masks(trained: dict, mask_ratio: float) -> str:
    """The kind of masks that the model was trained with, or random ones for other mask ratios."""
    kind = masking.kind_of(trained)
    # masks made of cells of patches remove three quarters, no other share
    if kind in masking.CELLS and mask_ratio != 0.75:
        return 'random'
    return kind


def find(img_path: Path, in_chans: int) -> list[Path]:
    """The file itself, or the folder's pictures; of more than MOST, some that are evenly spread."""
    if not img_path.exists():
        raise InputError(f'--img_path {img_path}: no such file or folder')
    files = pictures.find(img_path, in_chans)
    if not files:
        suffixes = ' '.join(pictures.suffixes(in_chans))
        raise InputError(f'--img_path {img_path}: no picture in this folder ({suffixes})')
    if len(files) > MOST:
        print(f'{len(files)} pictures found; {MOST} of them, evenly spread, are shown')
    chosen = np.linspace(0, len(files) - 1, min(MOST, len(files)))
    return [files[i] for i in chosen.astype(int)]


PARSER = cli.parser(__doc__, cli.device, cli.average)
PARSER.add_argument(
    '--img_path',
    type=Path,
    required=True,
    metavar='PATH',
    help='a picture, or a folder of pictures',
)
PARSER.add_argument(
    '--resume', required=True, metavar='FILE', help='weights with encoder and decoder'
)
PARSER.add_argument(
    '--model',
    default=None,
    metavar='NAME',
    help='name of the model; needed where the weight file does not say it',
)
PARSER.add_argument(
    '--norm_pix_loss',
    action='store_true',
    default=None,
    help='the weights predict normalised pixels; this flag or --no_norm_pix_loss is needed where '
    'the weight file does not say it',
)
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')
sizes.flags(PARSER)
PARSER.add_argument(
    '--mask_ratio',
    type=cli.number(float, 0, 1),
    default=0.75,
    help='share of the patches that is removed',
)
PARSER.add_argument('--seed', type=cli.number(int, 0), default=1, help='seed of the masks')
PARSER.add_argument('--out', type=Path, default=Path('reconstruction.png'), help='picture to write')

if __name__ == '__main__':
    program.run(main, PARSER)
