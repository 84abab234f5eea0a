"""Import this before mmpretrain, so that it does without the packages of other references.

It imports mmdet where that is installed, which refuses mmcv-lite; and where pycocotools is, its
models of language, which do not know these transformers.
"""

import sys

import importlib_metadata
import torch_ready  # noqa: F401  before transformers and timm, which mmpretrain imports

sys.modules['mmdet'] = None
find = importlib_metadata.distribution


def distribution(name):
    """importlib_metadata's, without pycocotools."""
    if name == 'pycocotools':
        raise importlib_metadata.PackageNotFoundError(name)
    return find(name)


importlib_metadata.distribution = distribution
