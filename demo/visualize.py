"""Show what a masked autoencoder makes of pictures.

    python demo/visualize.py --img_path PICTURE --resume CHECKPOINT --mask_ratio .75 --seed 1 --out panels.png

PICTURE may be a folder. One row a picture: original, masked, reconstruction, reconstruction + visible.
"""

from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
from PIL import Image

import models_zoo
from engine_pretrain import reconstruct
from util import cli, masking, picture, program
from util.augment import crop
from util.data import pictures
from util.errors import InputError
from util.progress import bar

MOST = 8  # rows of one picture
NOTES = {
    True: 'pixels: predicted normalised by patch, put back with the mean and spread of the true patch',
    False: 'pixels: as predicted',
}


def main(args):
    program.start(args.device, args.seed)
    model, trained = models_zoo.autoencoder_from(
        args.resume, args.model, args.norm_pix_loss, args.use_ema
    )
    kind = masking.kind_of(trained)
    if kind in masking.CELLS and args.mask_ratio != 0.75:
        kind = 'random'  # other shares can only be so
    noise_of = masking.sampler(model.grid, args.mask_ratio, kind)
    mean, std = crop.statistics(model.in_chans, trained.get('mean'), trained.get('std'))
    center = crop.CenterCrop(model.img_size[0], crop.Normalize(mean, std))
    rng = np.random.default_rng(args.seed)
    rows = []
    for file in bar(find(args.img_path, model.in_chans), 'pictures'):
        image = paddle.to_tensor(center(pictures.read_as_seen(file, model.in_chans))[None])
        noise = paddle.to_tensor(noise_of(rng)[None])
        rows.append(
            [part.numpy() for part in (image, *reconstruct(model, image, args.mask_ratio, noise))]
        )
    images, shown, masks = (np.concatenate(part) for part in zip(*rows))
    note = f'{masks[:, 0].mean():.0%} of the pixels removed; {NOTES[model.norm_pix_loss]}'
    try:
        Image.fromarray(picture.panels(images, shown, masks, mean, std, note)).save(args.out)
    except (OSError, ValueError) as error:
        raise InputError(f'--out {args.out}: cannot write this picture ({error})') from None
    print(f'{len(rows)} rows written to {args.out}')


def find(img_path: Path, in_chans: int) -> list[Path]:
    """The file, or pictures of the folder, spread evenly over them where there are many."""
    if not img_path.exists():
        raise InputError(f'--img_path {img_path}: no such file or folder')
    files = pictures.find(img_path, in_chans)
    if not files:
        raise InputError(
            f'--img_path {img_path}: no picture in this folder ({" ".join(pictures.suffixes(in_chans))})'
        )
    if len(files) > MOST:
        print(f'{len(files)} pictures found; {MOST} of them, evenly spread, are shown')
    return [files[i] for i in np.linspace(0, len(files) - 1, min(MOST, len(files))).astype(int)]


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
    help='needed where the weights do not say what they are',
)
PARSER.add_argument(
    '--norm_pix_loss',
    action='store_true',
    default=None,
    help='the weights predict normalised pixels; this or the opposite is needed where they do not say',
)
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')
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
