"""Segmentation: UPerNet over a masked autoencoder's encoder, in PaddleSeg.

`import seg` registers the backbones, model, loss, data sets, optimizer and transforms with
PaddleSeg, and repairs PaddleSeg 2.8.0 where it fails on Paddle 3; then PaddleSeg's own functions
and configs work. The programs are seg/train.py, seg/val.py, seg/predict.py and seg/export.py.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
# these imports register the components
from seg import (  # noqa: F401
    augment,
    backbone,
    dataset,
    loss,
    model,
    optimizer,
    pyramid,
    repairs,
    schedule,
    transforms,
)

repairs.apply()
