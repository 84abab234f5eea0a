"""Segmentation: UPerNet over a masked autoencoder's encoder, in PaddleSeg.

`import seg` makes the backbone, model, loss, data set and transforms known to PaddleSeg, and mends what PaddleSeg 2.8.0
does not do on Paddle 3; then PaddleSeg's own functions and configs work. The programs are seg/train.py, seg/val.py,
seg/predict.py and seg/export.py.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
# which registers what they hold
from seg import augment, backbone, dataset, loss, model, optimizer, pyramid, repairs, transforms  # noqa: F401

repairs.apply()
