"""Show what a model does with pictures: reconstructions, attention, neighbours, features.

    python demo/visualize.py --img_path PICTURE --resume CHECKPOINT --seed 1 --out panels.png
    python demo/visualize.py --img_path PICTURE --resume CHECKPOINT --visible 0,5,9
    python demo/visualize.py --show attention --img_path PICTURE --resume CHECKPOINT
    python demo/visualize.py --show neighbours --among FOLDER --img_path PICTURE --resume CHECKPOINT

PICTURE may be a folder; each row of the result shows one of its pictures. --show says what:

    reconstruction  original, masked, reconstruction, and reconstruction with the visible patches;
                    the mask is random, or your own (--visible, --mask_file)
    attention       what each head of a block looks at (ViT)
    rollout         attention, multiplied over the blocks (ViT)
    pca             the principal components of the patches' features, as colours
    neighbours      the pictures of the folder --among with the nearest features
"""

import argparse
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import own_mask
import show_attention
import show_neighbours
import show_pca
from show_features import Viewer
from show_reconstruction import MASK_RATIO, Painter

import models_features
import models_zoo
from util import cli, masking, panels, program, sizes
from util.data import pictures
from util.errors import InputError
from util.progress import bar

MOST = 8  # rows of one picture
# what is shown -> the flags that it alone, or it and some others, take
FLAGS = {
    'reconstruction': ('mask_ratio', 'masking', 'visible', 'mask_file', 'norm_pix_loss'),
    'attention': ('block', 'query'),
    'rollout': ('query',),
    'pca': ('block',),
    'neighbours': ('among', 'count', 'block', 'feature'),
}


def main(args):
    check_flags(args)
    program.start(args.device, args.seed, deterministic=args.deterministic)
    show = reconstruction if args.show == 'reconstruction' else of_features
    rows, sheet = show(args)
    panels.write(sheet.drawn(), args.out)
    words = '1 row' if rows == 1 else f'{rows} rows'
    print(f'{words} written to {args.out}')


def check_flags(args):
    """InputError for a flag that has no effect on what is shown, or one that is missing."""
    for flags in FLAGS.values():
        for flag in flags:
            given = getattr(args, flag) is not None
            if given and flag not in FLAGS[args.show]:
                takers = ' or '.join(show for show in FLAGS if flag in FLAGS[show])
                raise InputError(f'--{flag} belongs to --show {takers}, not to {args.show}')
    if args.show == 'neighbours' and args.among is None:
        raise InputError('--show neighbours needs --among FOLDER, the pictures to search')
    if args.masking and (args.visible is not None or args.mask_file is not None):
        raise InputError('--masking draws masks; leave it out beside --visible or --mask_file')


def reconstruction(args):
    """The number of rows and a sheet of reconstructions."""
    model, trained = models_zoo.autoencoder_from(
        args.resume,
        args.model,
        args.norm_pix_loss,
        args.use_ema,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )
    painter = Painter(model, trained)
    mask_ratio, noise_of = masks(args, painter)

    rng = np.random.default_rng(args.seed)
    files = find(args.img_path, model.in_chans)
    rows = [
        painter.paint(painter.read(file), mask_ratio, noise_of(rng))
        for file in bar(files, 'pictures')
    ]
    images, shown, removed = (np.concatenate(arrays) for arrays in zip(*rows))
    return len(rows), painter.sheet(images, shown, removed)


def masks(args, painter):
    """The mask ratio, and a function that draws a picture's noise from a generator."""
    model = painter.model
    if args.visible is None and args.mask_file is None:
        mask_ratio = MASK_RATIO if args.mask_ratio is None else args.mask_ratio
        return mask_ratio, painter.masks(mask_ratio, args.masking)
    if args.visible is not None:
        visible = own_mask.from_numbers(args.visible, model.grid)
    else:
        visible = own_mask.from_picture(args.mask_file, model.grid)
    noise, mask_ratio = own_mask.for_model(visible, model)
    return mask_ratio, lambda rng: noise


def of_features(args):
    """The number of rows and a sheet of anything but reconstructions."""
    viewer = Viewer(
        args.resume,
        args.use_ema,
        model=args.model,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )
    model = viewer.model
    files = find(args.img_path, viewer.channels)
    if args.show == 'neighbours':
        blocks = None if args.block is None else [args.block]
        features = models_features.Features(model, args.feature, blocks)
        others = find(args.among, viewer.channels, '--among', most=None)
        among = show_neighbours.Among(features, viewer.read, others)
        count = args.count or 5
        return len(files), show_neighbours.sheet(among, viewer.as_pixels, files, count)

    images = np.stack([viewer.read(file) for file in bar(files, 'pictures')])
    pixels = viewer.as_pixels(images)
    query = args.query
    if query is None:
        query = 'mean' if model.global_pool else 'cls'  # what the head sees
    if args.show == 'attention':
        sheet = show_attention.heads(model, images, pixels, args.block, query)
    elif args.show == 'rollout':
        sheet = show_attention.rollout(model, images, pixels, query)
    else:
        sheet = show_pca.sheet(model, images, pixels, args.block)
    return len(files), sheet


def find(
    path: Path, in_chans: int, flag: str = '--img_path', most: int | None = MOST
) -> list[Path]:
    """The file itself, or the folder's pictures; of more than `most`, some that are evenly spread.

    flag: the one that named the path, for errors.
    """
    if not path.exists():
        raise InputError(f'{flag} {path}: no such file or folder')
    files = pictures.find(path, in_chans)
    if not files:
        suffixes = ' '.join(pictures.suffixes(in_chans))
        raise InputError(f'{flag} {path}: no picture in this folder ({suffixes})')
    if most is None or len(files) <= most:
        return files
    print(f'{len(files)} pictures found; {most} of them, evenly spread, are shown')
    chosen = np.linspace(0, len(files) - 1, most)
    return [files[i] for i in chosen.astype(int)]


def numbers(text: str) -> list[int]:
    """The type of --visible: whole numbers between commas."""
    words = [word.strip() for word in text.split(',')]
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no list of patches; give their numbers from 0, such as 0,5,9'
        )
    return [int(word) for word in words]


def query_of(text: str) -> str | int:
    """The type of --query: cls, mean or the number of a patch."""
    if text in ('cls', 'mean'):
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f'{text} is neither cls, nor mean, nor the number of a patch'
        )
    return int(text)


PARSER = cli.parser(__doc__, cli.device, cli.average)
PARSER.add_argument(
    '--img_path',
    type=Path,
    required=True,
    metavar='PATH',
    help='a picture, or a folder of pictures',
)
PARSER.add_argument(
    '--resume',
    required=True,
    metavar='FILE',
    help='weights; for reconstructions with encoder and decoder',
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
PARSER.add_argument('--show', choices=list(FLAGS), default='reconstruction', help='see above')
PARSER.add_argument(
    '--masking',
    choices=masking.KINDS,
    default=None,
    help='the kind of masks (default: that of the training)',
)
MASKS = PARSER.add_mutually_exclusive_group()
MASKS.add_argument(
    '--mask_ratio',
    type=cli.number(float, 0, 1),
    default=None,
    help=f'share of the patches that is removed (default: {MASK_RATIO})',
)
MASKS.add_argument(
    '--visible',
    type=numbers,
    default=None,
    metavar='0,5,9',
    help='keep just these patches, counted row by row from 0',
)
MASKS.add_argument(
    '--mask_file',
    type=Path,
    default=None,
    metavar='PNG',
    help='keep the patches that are white in this picture, remove the black ones',
)
PARSER.add_argument(
    '--block',
    type=cli.number(int, 0),
    default=None,
    help='whose attention or features, from 0 (default: the last, or the output of the encoder)',
)
PARSER.add_argument(
    '--query',
    type=query_of,
    default=None,
    help='who looks: cls, mean (all patches, averaged), or the number of a patch '
    "(default: what the model's head sees; cls for a pre-trained ViT)",
)
PARSER.add_argument(
    '--among', type=Path, default=None, metavar='FOLDER', help='where neighbours are searched'
)
PARSER.add_argument(
    '--count',
    type=cli.number(int, 1),
    default=None,
    help='neighbours of each picture (default: 5)',
)
PARSER.add_argument(
    '--feature',
    choices=['cls', 'mean'],
    default=None,
    help='the features that neighbours share: of the class token, or the mean of the patches '
    "(default: what the model's head sees; cls for a pre-trained ViT)",
)
PARSER.add_argument('--seed', type=cli.number(int, 0), default=1, help='seed of the masks')
PARSER.add_argument('--out', type=Path, default=Path('reconstruction.png'), help='picture to write')

if __name__ == '__main__':
    program.run(main, PARSER)
