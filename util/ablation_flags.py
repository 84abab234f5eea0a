"""Flags of pre-training for the paper's ablations (arXiv:2111.06377, table 1), and of AdamW.

The defaults are the official programs' settings.
"""

import argparse

from util.augment import crop
from util.flags import amount, count, positive, share


def adamw(p: argparse.ArgumentParser) -> None:
    """Add the limit of the gradients and the second coefficient of AdamW."""
    g = p.add_argument_group('AdamW')
    g.add_argument(
        '--clip_grad',
        type=amount,
        default=None,
        help='largest norm of the gradients (default: no limit)',
    )
    g.add_argument(
        '--beta2',
        type=share,
        default=0.999,
        help="AdamW's beta2; the paper has .95 for pre-training and for training from scratch",
    )


def ablation(p: argparse.ArgumentParser) -> None:
    """Add what the paper varied: decoder, mask tokens, target, augmentation."""
    g = p.add_argument_group('ablations', 'what table 1 of the paper varies')
    g.add_argument(
        '--decoder_depth',
        type=positive,
        default=None,
        help="blocks of a ViT's decoder (default: the model's own)",
    )
    g.add_argument(
        '--decoder_dim',
        type=positive,
        default=None,
        help="width of a ViT's decoder; its heads stay as wide as they are (default: the model's)",
    )
    g.add_argument(
        '--encoder_mask_tokens',
        action='store_true',
        help='let the encoder see a mask token in the place of each removed patch; about 3 times '
        'the computation',
    )
    g.add_argument(
        '--pca_target',
        type=count,
        default=0,
        metavar='N',
        help='predict the first N coefficients of a PCA of the patches instead of pixels; the '
        'paper has 96. The basis comes from training images and is kept in checkpoints. 0: pixels',
    )
    g.add_argument(
        '--augmentation',
        choices=list(crop.BOXES),
        default='random_crop',
        help='crop of random size (--scale); crop of fixed size, 7/8 of the shorter side; or none: '
        'that crop from the middle, not mirrored',
    )
    g.add_argument(
        '--color_jitter',
        type=amount,
        default=None,
        help='strength of random changes of brightness, contrast and saturation (default: none)',
    )
