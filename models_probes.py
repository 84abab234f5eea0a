"""Probes: what is trained on the frozen features of an encoder. main_frozen.py trains them.

The attentive probe is the efficient probing of arXiv:2506.10178, after the attentive probing of
arXiv:2202.03026: learnt queries attend to the patches, and their keys are the patches themselves.
(A key projection of cross-attention with one query a head can be merged into the queries.)
Shapes: N images, L patches, D width, M queries, K classes.
"""

import paddle
from paddle import nn
from paddle.nn import functional as F
from paddle.nn import initializer

from models_classifier import FeatureNorm
from util.errors import InputError


def linear(width: int, classes: int) -> nn.Linear:
    """A linear classifier of features [N, D], with the weights of the official linear probe."""
    normal = initializer.TruncatedNormal(std=0.01, a=-2.0, b=2.0)
    return nn.Linear(width, classes, weight_attr=paddle.ParamAttr(initializer=normal))


def check_queries(queries: int, width: int) -> None:
    """InputError if the queries of an attentive probe cannot share the width evenly."""
    if width % queries:
        raise InputError(
            f'--queries {queries} cannot share the {width} features of a patch evenly; '
            'take a divisor'
        )


class Attentive(nn.Layer):
    """Class scores [N, K] of patches [N, L, D].

    Each of M queries takes a mean of the patches, weighted by its attention, and D / M of the D
    values that a linear layer makes of it; a normalisation and a linear classifier follow.
    See check_queries.
    """

    def __init__(self, width: int, classes: int, queries: int):
        super().__init__()
        check_queries(queries, width)
        normal = initializer.Normal(std=0.02)
        self.queries = self.create_parameter([queries, width], default_initializer=normal)
        self.value = nn.Linear(width, width, bias_attr=False)
        self.norm = FeatureNorm(width)
        self.head = linear(width, classes)

    def pool(self, x: paddle.Tensor) -> paddle.Tensor:
        """Features [N, D] of patches [N, L, D]."""
        N, _, D = x.shape
        M = self.queries.shape[0]
        scores = paddle.matmul(self.queries * D**-0.5, x, transpose_y=True)  # [N, M, L]
        attention = F.softmax(scores, axis=-1)
        means = paddle.matmul(attention, x)  # [N, M, D]

        # The values of a mean are the mean of the values; query m keeps the m-th part of them
        weight = self.value.weight.reshape([D, M, D // M]).transpose([1, 0, 2])  # [M, D, D / M]
        pooled = paddle.matmul(means.transpose([1, 0, 2]), weight)  # [M, N, D / M]
        return pooled.transpose([1, 0, 2]).reshape([N, D])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(self.norm(self.pool(x)))
