"""timm's reader of shards, and torchvision's reader of ImageNet's devkit, on folders of ours."""

import sys

import numpy as np
import torch_ready  # noqa: F401  before torchvision

# isort: split
from timm.data.readers.reader_wds import ReaderWds
from torchvision.datasets import imagenet


def main(given, computed):
    given = dict(np.load(given))
    found = {}
    for split in ('train', 'val'):
        reader = ReaderWds(str(given['shards']), split=split, input_img_mode='L')
        pairs = list(reader)
        found[f'{split}_pixels'] = np.stack([np.asarray(picture) for picture, _ in pairs])
        found[f'{split}_labels'] = [target for _, target in pairs]
    root = str(given['devkit'])
    imagenet._verify_archive = lambda *args: None  # its MD5 is that of the real one
    imagenet.parse_devkit_archive(root)
    found['wnids'] = imagenet.load_meta_file(root)[1]
    np.savez(computed, **found)


main(*sys.argv[1:])
