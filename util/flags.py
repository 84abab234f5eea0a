"""Flags of the programs that train, in groups. A program is a list of groups and its own defaults.

Names and meanings are the official ones (facebookresearch/mae @ efb2a80), and so are the defaults, except --data_path
(the official one is a folder of its authors) and --device.
"""

import argparse

from util.cli import average, data_timeout, device, number

INERT = (
    'accepted so that official commands run; without effect: paddle.distributed.launch decides this'
)


def training(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('training')
    g.add_argument(
        '--model', default='mae_vit_large_patch16', metavar='NAME', help='name of the model'
    )
    g.add_argument(
        '--batch_size',
        type=number(int, 1),
        default=64,
        help='images a process and iteration; the effective '
        'batch is batch_size * accum_iter * processes',
    )
    g.add_argument('--epochs', type=number(int, 1), default=400, help='epochs to train')
    g.add_argument(
        '--accum_iter',
        type=number(int, 1),
        default=1,
        help='iterations whose gradients make one optimizer step',
    )
    g.add_argument(
        '--input_size',
        type=number(int, 1),
        default=224,
        help='side of the square images, in pixels',
    )
    g.add_argument(
        '--amp',
        choices=['off', 'float16', 'bfloat16'],
        default=None,
        help='mixed precision, on a GPU only (default: float16 on a GPU, off on a CPU)',
    )
    g.add_argument(
        '--recompute',
        action='store_true',
        help='save memory: compute activations again in the backward pass',
    )


def rate(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('optimizer')
    g.add_argument(
        '--weight_decay', type=number(float, 0), default=0.05, help='weight decay of AdamW'
    )
    g.add_argument(
        '--lr', type=number(float, 0), default=None, help='learning rate as it is; overrides --blr'
    )
    g.add_argument(
        '--blr',
        type=number(float, 0),
        default=1e-3,
        help='base rate: lr = blr * effective batch / 256',
    )
    g.add_argument(
        '--min_lr', type=number(float, 0), default=0.0, help='where the cosine schedule ends'
    )
    g.add_argument(
        '--warmup_epochs', type=number(int, 0), default=40, help='epochs of linear warm-up'
    )


def masking(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('masking')
    g.add_argument(
        '--mask_ratio',
        type=number(float, 0, 1),
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
        help='what is removed '
        '(figure 6 of the paper): patches, rectangles of patches, all but one and the same of every 2 x 2',
    )
    g.add_argument(
        '--vis_mask_ratio',
        type=number(float, 0, 1),
        default=0.0,
        help="share of the kept patches that a learnt token replaces (UM-MAE's secondary masking)",
    )
    g.add_argument(
        '--token_size',
        type=number(int, 1),
        default=None,
        help='patches a side that masks are made of; the '
        'model decides, and this is compared with it (default: not)',
    )
    g.add_argument(
        '--fix_um_positions',
        action='store_true',
        help='give the decoder of a UM-MAE pyramid the right '
        "positions; by default they are the original's, which its weights need",
    )


def classification(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('classification')
    g.add_argument('--nb_classes', type=number(int, 1), default=1000, help='number of classes')
    g.add_argument(
        '--global_pool',
        action='store_true',
        default=True,
        help='features: the mean of the patch tokens',
    )
    g.add_argument(
        '--cls_token', action='store_false', dest='global_pool', help='features: the class token'
    )
    g.add_argument(
        '--finetune', default='', metavar='FILE', help='pre-trained weights to begin from'
    )
    average(g)
    g.add_argument(
        '--classes_renamed',
        action='store_true',
        help='resume though classes have other names than in the '
        'checkpoint, because each means what it meant; the next checkpoint has the new names',
    )
    g.add_argument('--eval', action='store_true', help='only evaluate the weights of --resume')
    g.add_argument(
        '--class_names',
        default=None,
        metavar='FILE',
        help='with --eval: the names of the class folders, one a '
        "line in the order of the outputs (default: what the weights say, or ImageNet's ids where they have "
        '1000 outputs)',
    )
    g.add_argument(
        '--dist_eval',
        action='store_true',
        help='share the evaluation among the processes: the same figures, sooner',
    )


def regularization(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('regularization')
    g.add_argument(
        '--drop_path',
        type=number(float, 0, 1),
        default=0.1,
        help='share of samples that skip the last block',
    )
    g.add_argument(
        '--clip_grad',
        type=number(float, 0),
        default=None,
        help='largest norm of the gradients; default: any',
    )
    g.add_argument(
        '--beta2',
        type=number(float, 0, 1),
        default=0.999,
        help='of AdamW; .95 from scratch in the paper',
    )
    g.add_argument(
        '--layer_decay',
        type=number(float, 0),
        default=0.75,
        help='ratio of the rates of two blocks in a row',
    )
    g.add_argument(
        '--freeze_blocks',
        type=number(int, 0),
        default=0,
        help='blocks that keep their pre-trained weights',
    )
    g.add_argument(
        '--ema_decay',
        type=number(float, 0, 1),
        default=0.0,
        help='average the weights with this decay and evaluate the average; 0: not',
    )


def augmentation(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('augmentation')
    g.add_argument(
        '--color_jitter',
        type=number(float, 0),
        default=None,
        help='strength; only without --aa, as upstream (default: none)',
    )
    g.add_argument(
        '--aa',
        default='rand-m9-mstd0.5-inc1',
        metavar='POLICY',
        help="timm's strings: rand-..., augmix-..., v0, v0r, original, originalr, 3a; none",
    )
    g.add_argument('--smoothing', type=number(float, 0, 1), default=0.1, help='label smoothing')
    g.add_argument(
        '--reprob',
        type=number(float, 0, 1.0001),
        default=0.25,
        help='probability of random erasing',
    )
    g.add_argument(
        '--remode',
        choices=['pixel', 'rand', 'const'],
        default='pixel',
        help='what erased pixels become',
    )
    g.add_argument(
        '--recount', type=number(int, 1), default=1, help='most rectangles that are erased'
    )
    g.add_argument(
        '--resplit',
        action='store_true',
        help='inert, as upstream: it is about splits of the augmentation',
    )
    g.add_argument('--mixup', type=number(float, 0), default=0.0, help='alpha of mixup; 0: off')
    g.add_argument('--cutmix', type=number(float, 0), default=0.0, help='alpha of cutmix; 0: off')
    g.add_argument(
        '--cutmix_minmax',
        type=number(float, 0, 1.0001),
        nargs=2,
        default=None,
        metavar=('MIN', 'MAX'),
        help="shares of the side for cutmix's box; overrides alpha and switches cutmix on",
    )
    g.add_argument(
        '--mixup_prob',
        type=number(float, 0, 1.0001),
        default=1.0,
        help='probability of mixup or cutmix',
    )
    g.add_argument(
        '--mixup_switch_prob',
        type=number(float, 0, 1.0001),
        default=0.5,
        help='of cutmix where both are on',
    )
    g.add_argument(
        '--mixup_mode',
        choices=['batch', 'pair', 'elem'],
        default='batch',
        help='what one draw is for',
    )


def crop(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('crop')
    g.add_argument(
        '--scale',
        type=number(float, 0, 1.0001),
        nargs=2,
        default=[0.08, 1.0],
        metavar=('MIN', 'MAX'),
        help='smallest and largest share of the area that the random crop takes',
    )
    g.add_argument(
        '--hflip',
        type=number(float, 0, 1.0001),
        default=0.5,
        help='probability of a mirrored image; 0 for what has a left and a right, such as text',
    )
    g.add_argument(
        '--fast_resize',
        action='store_true',
        help='resize the crops by OpenCV: pictures are ready in half the '
        'time, and differ by some grey levels from the official ones',
    )


def data(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('data')
    g.add_argument(
        '--data_path',
        required=True,
        metavar='PATH',
        help='folder with train/<class>/<image>, or a text file with one `path` or `path label` a line',
    )
    g.add_argument(
        '--in_chans',
        type=number(int, 1),
        default=3,
        help='channels: 1 reads pictures as greyscale, 3 as '
        'RGB; other numbers read .npy files [height, width, channels] and need --mean and --std',
    )
    g.add_argument(
        '--mean',
        type=float,
        nargs='+',
        default=None,
        help="mean of each channel, of values scaled to [0, 1]; ImageNet's for pictures",
    )
    g.add_argument(
        '--std', type=float, nargs='+', default=None, help='standard deviation of each channel'
    )
    g.add_argument(
        '--num_workers', type=number(int, 0), default=10, help='processes that prepare batches'
    )
    data_timeout(g)
    g.add_argument(
        '--pin_mem',
        action='store_true',
        default=True,
        help='batches in pinned memory, for faster copies to a GPU',
    )
    g.add_argument('--no_pin_mem', action='store_false', dest='pin_mem')


def runtime(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group('run')
    g.add_argument(
        '--output_dir',
        default='./output_dir',
        metavar='DIR',
        help='checkpoints and log.txt; empty: none',
    )
    g.add_argument(
        '--log_dir', default='./output_dir', metavar='DIR', help='VisualDL records; empty: none'
    )
    device(g)
    g.add_argument('--seed', type=number(int, 0), default=0, help='seed of everything random')
    g.add_argument(
        '--resume',
        default='',
        metavar='FILE',
        help='checkpoint to go on from; `auto`: the newest whole one in --output_dir, if any',
    )
    g.add_argument(
        '--start_epoch',
        type=number(int, 0),
        default=0,
        help='first epoch, counted from 0; --resume sets it',
    )
    g.add_argument(
        '--save_every',
        type=number(int, 1),
        default=20,
        help='save every so many epochs, and after the last',
    )
    g.add_argument(
        '--save_every_iters',
        type=number(int, 0),
        default=0,
        help='also save every so many iterations, at the next optimizer step; 0: not',
    )
    g.add_argument(
        '--keep',
        type=number(int, 0),
        default=0,
        help='keep so many of the newest checkpoints; 0: all',
    )
    g.add_argument(
        '--print_freq',
        type=number(int, 1),
        default=20,
        help='iterations between two lines of progress',
    )
    inert = p.add_argument_group('inert', INERT)
    inert.add_argument('--world_size', type=int, default=1, help='inert')
    inert.add_argument('--local_rank', type=int, default=-1, help='inert')
    inert.add_argument('--dist_on_itp', action='store_true', help='inert')
    inert.add_argument('--dist_url', default='env://', help='inert')
