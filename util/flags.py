"""Flags of the programs that train, in groups. A program is a list of groups and its own defaults.

Names and meanings are the official ones (facebookresearch/mae @ efb2a80), and so are the defaults,
except --data_path (the official one is a folder of its authors) and --device.
"""

import argparse

from util import profiling, sizes
from util.cli import Renamed, amp, average, data_timeout, device, number

# Types of flags
count = number(int, 0)
positive = number(int, 1)
amount = number(float, 0)
share = number(float, 0, 1)  # [0, 1)
closed_share = number(float, 0, 1.0001)  # 1 is allowed


def halves(text: str) -> float:
    """A flag's type: 0, 0.5, 1, 1.5 and so on; an int where it is whole."""
    value = amount(text)
    if value % 0.5:
        raise argparse.ArgumentTypeError(f'{text} is no number of halves, such as 2 or 2.5')
    return int(value) if value.is_integer() else value


INERT = 'accepted so that official commands run; no effect: paddle.distributed.launch decides this'


def training(p: argparse.ArgumentParser) -> None:
    """Add the model, its input, the batch and the length of the training."""
    g = p.add_argument_group('training')
    g.add_argument(
        '--model', default='mae_vit_large_patch16', metavar='NAME', help='name of the model'
    )
    g.add_argument(
        '--batch_size',
        type=positive,
        default=64,
        help='images per process and iteration; the effective batch is '
        'batch_size * accum_iter * processes',
    )
    g.add_argument('--epochs', type=positive, default=400, help='epochs to train')
    g.add_argument(
        '--accum_iter',
        type=positive,
        default=1,
        help='iterations whose gradients are accumulated for one optimizer step',
    )
    sizes.flags(g, default=224)
    amp(g, default=None)
    replacement = '--amp bfloat16'
    g.add_argument(
        '--bf16', action=Renamed, const=replacement, help=f"UM-MAE's name of {replacement}"
    )
    g.add_argument(
        '--recompute',
        action='store_true',
        help='save memory: recompute activations in the backward pass',
    )


def rate(p: argparse.ArgumentParser) -> None:
    """Add the learning rate, its schedule and the weight decay."""
    g = p.add_argument_group('optimizer')
    g.add_argument('--weight_decay', type=amount, default=0.05, help='weight decay of AdamW')
    g.add_argument('--lr', type=amount, default=None, help='learning rate; overrides --blr')
    g.add_argument(
        '--blr',
        type=amount,
        default=1e-3,
        help='base learning rate: lr = blr * effective batch / 256',
    )
    g.add_argument(
        '--min_lr', type=amount, default=0.0, help='learning rate at the end of the cosine schedule'
    )
    g.add_argument('--warmup_epochs', type=count, default=40, help='epochs of linear warm-up')


def masking(p: argparse.ArgumentParser) -> None:
    """Add which patches pre-training removes and what it predicts for them."""
    g = p.add_argument_group('masking')
    g.add_argument(
        '--mask_ratio',
        type=share,
        default=0.75,
        help='share of the patches that is removed',
    )
    g.add_argument(
        '--norm_pix_loss',
        action='store_true',
        help='predict each patch normalised by its mean and variance',
    )
    g.add_argument(
        '--mask_regular',
        action='store_true',
        help='uniform masks: one of every 2 x 2 patches is kept (UM-MAE)',
    )
    g.add_argument(
        '--masking',
        choices=['random', 'block', 'grid'],
        default='random',
        help='what is removed (figure 6 of the paper): random patches, random rectangles '
        'of patches, or all patches but the same one of every 2 x 2',
    )
    g.add_argument(
        '--vis_mask_ratio',
        type=share,
        default=0.0,
        help="share of the kept patches that a learnt token replaces (UM-MAE's secondary masking)",
    )
    g.add_argument(
        '--token_size',
        type=positive,
        default=None,
        help='number of mask patches along a side, as in the original; the model decides it, and '
        'a value given here must agree (default: not checked)',
    )
    g.add_argument(
        '--fix_um_positions',
        action='store_true',
        help='give the decoder of a UM-MAE pyramid correct positions; the default are those of the '
        'original, which its weights need',
    )


def classification(p: argparse.ArgumentParser) -> None:
    """Add the classes, the features of the head, and what fine-tuning starts from."""
    g = p.add_argument_group('classification')
    g.add_argument('--nb_classes', type=positive, default=1000, help='number of classes')
    g.add_argument(
        '--global_pool',
        action='store_true',
        default=True,
        help='classify the mean of the patch tokens',
    )
    g.add_argument(
        '--cls_token', action='store_false', dest='global_pool', help='classify the class token'
    )
    g.add_argument(
        '--finetune',
        default='',
        metavar='FILE',
        help='pre-trained weights to start from, or their https address',
    )
    average(g)
    g.add_argument(
        '--classes_renamed',
        action='store_true',
        help='resume although class names differ from those in the checkpoint, because only the '
        'names changed; the next checkpoint has the new names',
    )
    g.add_argument('--eval', action='store_true', help='only evaluate the weights of --resume')
    g.add_argument(
        '--class_names',
        default=None,
        metavar='FILE',
        help='with --eval: the names of the class folders, one a line in the order of the outputs '
        "(default: those in the weights, or ImageNet's ids for 1000 outputs)",
    )
    g.add_argument(
        '--dist_eval',
        action='store_true',
        help='split the evaluation among the processes: same figures, faster',
    )


def regularization(p: argparse.ArgumentParser) -> None:
    """Add what keeps fine-tuning from overfitting."""
    g = p.add_argument_group('regularization')
    g.add_argument(
        '--drop_path',
        type=share,
        default=0.1,
        help='share of samples that skip the last block; earlier blocks less',
    )
    g.add_argument(
        '--layer_decay',
        type=amount,
        default=0.75,
        help='ratio of the learning rates of a block and the next one',
    )
    g.add_argument(
        '--freeze_blocks',
        type=halves,
        default=0,
        help='blocks that keep their pre-trained weights, and the embedding with them; 11.5 of 12 '
        'trains the MLP of the last block alone',
    )
    g.add_argument(
        '--ema_decay',
        type=share,
        default=0.0,
        help='average the weights with this decay and evaluate the average; 0 turns it off',
    )


def augmentation(p: argparse.ArgumentParser) -> None:
    """Add how training images are varied beyond crop and flip."""
    g = p.add_argument_group('augmentation')
    g.add_argument(
        '--color_jitter',
        type=amount,
        default=None,
        help='strength; only without --aa, as upstream (default: none)',
    )
    g.add_argument(
        '--aa',
        default='rand-m9-mstd0.5-inc1',
        metavar='POLICY',
        help="timm's strings: rand-..., augmix-..., v0, v0r, original, originalr, 3a; none",
    )
    g.add_argument('--smoothing', type=share, default=0.1, help='label smoothing')
    g.add_argument(
        '--reprob',
        type=closed_share,
        default=0.25,
        help='probability of random erasing',
    )
    g.add_argument(
        '--remode',
        choices=['pixel', 'rand', 'const'],
        default='pixel',
        help='value of erased pixels',
    )
    g.add_argument(
        '--recount', type=positive, default=1, help='largest number of erased rectangles'
    )
    g.add_argument(
        '--resplit',
        action='store_true',
        help='no effect, as upstream: it concerns splits of the augmentation',
    )
    g.add_argument('--mixup', type=amount, default=0.0, help='alpha of mixup; 0: off')
    g.add_argument('--cutmix', type=amount, default=0.0, help='alpha of cutmix; 0: off')
    g.add_argument(
        '--cutmix_minmax',
        type=closed_share,
        nargs=2,
        default=None,
        metavar=('MIN', 'MAX'),
        help="sides of cutmix's box, as shares of the image's; overrides --cutmix and turns it on",
    )
    g.add_argument(
        '--mixup_prob',
        type=closed_share,
        default=1.0,
        help='probability of mixup or cutmix',
    )
    g.add_argument(
        '--mixup_switch_prob',
        type=closed_share,
        default=0.5,
        help='probability of cutmix where both are on',
    )
    g.add_argument(
        '--mixup_mode',
        choices=['batch', 'pair', 'elem'],
        default='batch',
        help='what shares one draw: a batch, a pair of images, or one image',
    )


def crop(p: argparse.ArgumentParser) -> None:
    """Add the random crop and flip of training images."""
    g = p.add_argument_group('crop')
    g.add_argument(
        '--scale',
        type=closed_share,
        nargs=2,
        default=[0.08, 1.0],
        metavar=('MIN', 'MAX'),
        help='smallest and largest share of the area that the random crop takes',
    )
    g.add_argument(
        '--hflip',
        type=closed_share,
        default=0.5,
        help='probability of a mirrored image; use 0 where left and right matter, as in text',
    )
    g.add_argument(
        '--fast_resize',
        action='store_true',
        help='resize crops by OpenCV: twice as fast, but a few grey levels off the official pixels',
    )


def data(p: argparse.ArgumentParser) -> None:
    """Add where images are, how they are read and by how many processes."""
    g = p.add_argument_group('data')
    g.add_argument(
        '--data_path',
        required=True,
        nargs='+',
        metavar='PATH',
        help='folder with train/<class>/<image> or train.txt or train_list.txt (lines of `path '
        "label`), tar shards, parquet, or ImageNet's own archives; for pre-training, any folder of "
        'images or a list; several are joined',
    )
    g.add_argument(
        '--in_chans',
        type=positive,
        default=3,
        help='channels: 1 reads images as greyscale, 3 as RGB; other numbers read .npy files '
        '[height, width, channels] and need --mean and --std',
    )
    g.add_argument(
        '--mean',
        type=float,
        nargs='+',
        default=None,
        help="mean of each channel, for values in [0, 1] (default for images: ImageNet's)",
    )
    g.add_argument(
        '--std', type=float, nargs='+', default=None, help='standard deviation of each channel'
    )
    g.add_argument('--num_workers', type=count, default=10, help='processes that prepare batches')
    data_timeout(g)
    g.add_argument(
        '--pin_mem',
        action='store_true',
        default=True,
        help='no effect: batches go to a GPU through pinned memory in any case',
    )
    g.add_argument('--no_pin_mem', action='store_false', dest='pin_mem')


def runtime(p: argparse.ArgumentParser) -> None:
    """Add where output goes, resuming, checkpoints, and flags without effect."""
    g = p.add_argument_group('run')
    g.add_argument(
        '--output_dir',
        default='./output_dir',
        metavar='DIR',
        help='folder of checkpoints and log.txt; empty: none',
    )
    g.add_argument(
        '--log_dir',
        default='./output_dir',
        metavar='DIR',
        help='folder of VisualDL records; empty: none',
    )
    device(g)
    g.add_argument('--seed', type=count, default=0, help='seed of all random numbers')
    g.add_argument(
        '--resume',
        default='',
        metavar='FILE',
        help='checkpoint to resume from, or its https address; `auto`: the newest undamaged one in '
        '--output_dir, if any',
    )
    g.add_argument(
        '--start_epoch',
        type=count,
        default=0,
        help='first epoch, counted from 0; --resume sets it',
    )
    g.add_argument(
        '--save_every',
        type=positive,
        default=20,
        help='epochs between two checkpoints; the last epoch is always saved',
    )
    g.add_argument(
        '--save_every_iters',
        type=count,
        default=0,
        help='also save after this many iterations, at the next optimizer step; 0 turns it off',
    )
    g.add_argument(
        '--keep',
        type=count,
        default=0,
        help='number of newest checkpoints to keep; 0 keeps all',
    )
    g.add_argument(
        '--print_freq',
        type=positive,
        default=20,
        help='iterations between two progress lines',
    )
    profiling.flag(g)
    inert = p.add_argument_group('inert', INERT)
    inert.add_argument('--world_size', type=int, default=1, help='no effect')
    inert.add_argument('--local_rank', type=int, default=-1, help='no effect')
    inert.add_argument('--dist_on_itp', action='store_true', help='no effect')
    inert.add_argument('--dist_url', default='env://', help='no effect')
