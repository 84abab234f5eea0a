"""Results of the paper that the programs and models here cannot repeat.

arXiv:2111.06377, version 3.
"""

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

MASK_RATIO = 'share of the patches removed'
LENGTH = 'length of pre-training, over the usual'
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
    'decoder depth, in blocks': {
        '1': (84.8, 65.5),
        '2': (84.9, 70.0),
        '4': (84.9, 71.9),
        '8': (84.9, 73.5),
        '12': (84.4, 73.3),
    },
    'decoder width': {
        '128': (84.9, 69.1),
        '256': (84.8, 71.3),
        '512': (84.9, 73.5),
        '768': (84.4, 73.1),
        '1024': (84.3, 73.1),
    },
    'mask token in the encoder': {'with': (84.2, 59.6), 'without': (84.9, 73.5)},
    'target': {
        'pixels': (84.9, 73.5),
        'normalised pixels': (85.4, 73.9),
        'PCA': (84.6, 72.3),
        'dVAE tokens': (85.3, 71.6),
    },
    'augmentation': {
        'none': (84.0, 65.7),
        'crop of fixed size': (84.7, 73.1),
        'crop of random size': (84.9, 73.5),
        'and colour jitter': (84.3, 71.9),
    },
    'mask': {
        'random, 75 %': (84.9, 73.5),
        'block, 50 %': (83.9, 72.3),
        'block, 75 %': (82.8, 63.9),
        'grid, 75 %': (84.0, 66.0),
    },
}
# Figure 9: number of ViT-L's blocks that are fine-tuned -> accuracy
PARTIAL = {0: 73.5, 0.5: 79.1, 1: 81.0, 2: 83.1, 4: 84.2, 6: 84.4, 12: 84.6, 18: 84.7, 24: 84.9}


def choices(what: str) -> str:
    """An ablation as one line of text: choice: fine-tuned / linear probe; the next choice."""
    pairs = ABLATIONS[what].items()
    accuracies = [f'{choice}: {tuned} / {probed}' for choice, (tuned, probed) in pairs]
    return '; '.join(accuracies)
