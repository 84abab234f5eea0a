"""Detection: GFL and Mask R-CNN over a masked autoencoder's encoder, configured as PaddleDetection.

`import det` registers the backbones, necks, heads and architectures with PaddleDetection. The
programs are det/train.py, det/eval.py, det/infer.py and det/export.py.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
from det import repairs

repairs.import_parts()

# isort: split
# these imports register the components
from det import backbone, gfl, mask_rcnn, neck, neck_vit, pyramid, rpn  # noqa: E402, F401
