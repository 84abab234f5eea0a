"""The recipe's loss."""

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddleseg.cvlibs import manager


@manager.LOSSES.add_component
class CrossEntropyOverAllPixelsLoss(nn.Layer):
    """Cross-entropy of scores [N, K, height, width] and labels [N, height, width].

    The sum over the pixels that are not ignored is divided by the number of all pixels, as in
    mmsegmentation (`avg_non_ignore=False`); PaddleSeg's own loss divides by those that are not
    ignored. The result has shape [1], because PaddleSeg 2.8.0's trainer takes its first element.
    """

    def __init__(self, ignore_index: int = 255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logit: paddle.Tensor, label: paddle.Tensor) -> paddle.Tensor:
        height, width = label.shape[-2:]
        classes = label.astype('int64').reshape([0, 1, height, width])  # [N, 1, height, width]
        losses = F.cross_entropy(
            logit.astype('float32'),
            classes,
            axis=1,
            ignore_index=self.ignore_index,
            reduction='none',
        )
        return losses.mean().reshape([1])
