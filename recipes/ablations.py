"""The paper's ablations, transfer and robustness: its results, and the flags that repeat them.

arXiv:2111.06377, version 3. The recipes made from them are in paper.py.
"""

from dataclasses import dataclass

COLUMNS = ('ViT-B', 'ViT-L', 'ViT-H', 'ViT-H at 448')
# table, measure, one value for each column, None where the paper has none
TRANSFER = [
    ('13', 'ImageNet-C, mean corruption error (lower is better)', (51.7, 41.8, 33.8, 36.8)),
    ('13', 'ImageNet-A, accuracy', (35.9, 57.1, 68.2, 76.7)),
    ('13', 'ImageNet-R, accuracy', (48.3, 59.9, 64.4, 66.5)),
    ('13', 'ImageNet-Sketch, accuracy', (34.5, 45.3, 49.6, 50.9)),
    ('6', 'iNaturalist 2017, accuracy', (70.5, 75.7, 79.3, 83.4)),
    ('6', 'iNaturalist 2018, accuracy', (75.4, 80.1, 83.0, 86.8)),
    ('6', 'iNaturalist 2019, accuracy', (80.5, 83.4, 85.7, 88.3)),
    ('6', 'Places205, accuracy', (63.9, 65.8, 65.9, 66.8)),
    ('6', 'Places365, accuracy', (57.9, 59.4, 59.8, 60.3)),
    ('4', 'COCO with Mask R-CNN, box AP', (50.3, 53.3, None, None)),
    ('4', 'COCO with Mask R-CNN, mask AP', (44.9, 47.2, None, None)),
    ('5', 'ADE20K with UPerNet, mIoU', (48.1, 53.6, None, None)),
    ('7', 'pixels not normalised: ImageNet-1K, accuracy', (83.3, 85.1, 86.2, None)),
    ('7', 'pixels not normalised: COCO, box AP', (49.5, 52.8, None, None)),
    ('7', 'pixels not normalised: ADE20K, mIoU', (48.0, 51.8, None, None)),
]


@dataclass(frozen=True)
class Choice:
    """One choice of an ablation.

    name: part of names of recipes and folders. flags: the changes to the usual pre-training, None
    where there is no pre-training. length: its epochs relative to the usual ones. encoder: that of
    the small scale.
    """

    name: str
    flags: str | None = ''
    length: float = 1
    encoder: str = 'vit_nano_patch4'


MASK_RATIO = 'share of the patches removed'
LENGTH = 'length of pre-training, over the usual'
DEPTH = 'decoder depth, in blocks'
WIDTH = 'decoder width'
TOKENS = 'mask token in the encoder'
TARGET = 'target'
AUGMENTATION = 'augmentation'
MASK = 'mask'
# ViT-L, 800 epochs, pixels not normalised (table 1, and the numbers in figures 5 and 7):
# what was varied -> choice -> accuracy of fine-tuning, of a linear probe
ABLATIONS = {
    MASK_RATIO: {
        '0.1': (83.2, 54.6),
        '0.2': (83.4, 58.9),
        '0.3': (83.4, 61.7),
        '0.4': (84.7, 67.0),
        '0.5': (84.9, 69.9),
        '0.6': (85.0, 71.8),
        '0.7': (84.9, 73.2),
        '0.75': (84.9, 73.5),
        '0.8': (84.5, 71.8),
        '0.9': (83.0, 66.1),
    },
    LENGTH: {
        '0.125': (82.3, 57.3),
        '0.25': (83.3, 64.4),
        '0.5': (84.3, 69.7),
        '1': (84.9, 73.5),
        '2': (85.1, 75.1),
    },
    DEPTH: {
        '1': (84.8, 65.5),
        '2': (84.9, 70.0),
        '4': (84.9, 71.9),
        '8': (84.9, 73.5),
        '12': (84.4, 73.3),
    },
    WIDTH: {
        '128': (84.9, 69.1),
        '256': (84.8, 71.3),
        '512': (84.9, 73.5),
        '768': (84.4, 73.1),
        '1024': (84.3, 73.1),
    },
    TOKENS: {'with': (84.2, 59.6), 'without': (84.9, 73.5)},
    TARGET: {
        'pixels': (84.9, 73.5),
        'normalised pixels': (85.4, 73.9),
        'PCA': (84.6, 72.3),
        'dVAE tokens': (85.3, 71.6),
    },
    AUGMENTATION: {
        'none': (84.0, 65.7),
        'crop of fixed size': (84.7, 73.1),
        'crop of random size': (84.9, 73.5),
        'and colour jitter': (84.3, 71.9),
    },
    MASK: {
        'random, 75 %': (84.9, 73.5),
        'block, 50 %': (83.9, 72.3),
        'block, 75 %': (82.8, 63.9),
        'grid, 75 %': (84.0, 66.0),
    },
}
# The choices of ABLATIONS that differ from the usual pre-training and that a program here can make:
# all but dVAE tokens
CHOICES = {
    MASK_RATIO: {
        ratio: Choice(f'ratio_{ratio}', f'--mask_ratio {ratio}')
        for ratio in ABLATIONS[MASK_RATIO]
        if ratio != '0.75'
    },
    LENGTH: {
        length: Choice(f'length_{length}', length=float(length))
        for length in ABLATIONS[LENGTH]
        if length != '1'
    },
    DEPTH: {
        depth: Choice(f'depth_{depth}', f'--decoder_depth {depth}')
        for depth in ABLATIONS[DEPTH]
        if depth != '8'
    },
    WIDTH: {
        width: Choice(f'width_{width}', f'--decoder_dim {width}')
        for width in ABLATIONS[WIDTH]
        if width != '512'
    },
    TOKENS: {'with': Choice('encoder_mask_tokens', '--encoder_mask_tokens')},
    TARGET: {
        'normalised pixels': Choice('normalised', '--norm_pix_loss'),
        'PCA': Choice('pca', '--pca_target 96'),
    },
    AUGMENTATION: {
        'none': Choice('no_augmentation', '--augmentation none'),
        'crop of fixed size': Choice('fixed_crop', '--augmentation fixed_crop'),
        'and colour jitter': Choice('color_jitter', '--color_jitter 0.4'),
    },
    MASK: {
        'block, 50 %': Choice('block_50', '--masking block --mask_ratio 0.5'),
        'block, 75 %': Choice('block_75', '--masking block'),
        'grid, 75 %': Choice('grid_75', '--masking grid'),
    },
}
# Figure 9: number of ViT-L's blocks that are fine-tuned -> accuracy
PARTIAL = {0: 73.5, 0.5: 79.1, 1: 81.0, 2: 83.1, 4: 84.2, 6: 84.4, 12: 84.6, 18: 84.7, 24: 84.9}


def choices(what: str) -> str:
    """An ablation as one line of text: choice: fine-tuned / linear probe; the next choice."""
    pairs = ABLATIONS[what].items()
    accuracies = [f'{choice}: {tuned} / {probed}' for choice, (tuned, probed) in pairs]
    return '; '.join(accuracies)
