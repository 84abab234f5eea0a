"""From GFL's maps to the objects in a picture, in NumPy: the same for live and exported models.

Shapes: K classes, B bins of a distance, n boxes.
"""

from dataclasses import dataclass

import numpy as np

from det import boxes
from det.atss import Grid
from det.detections import Detections
from det.targets import has_area

LEAST = -80.0  # of a logit: e^80 is still a float32


@dataclass
class GFLDecoder:
    """Turns the maps of MAEGFLHead into Detections.

    strides: of the maps. score_threshold: smaller scores are left out. nms_threshold: overlap above
    which the worse of two boxes of a class is removed. nms_top_k: how many pairs of a place and a
    class remain of each map before that. keep_top_k: how many objects remain of a picture.
    """

    strides: list[int]
    score_threshold: float = 0.05
    nms_threshold: float = 0.6
    nms_top_k: int = 1000
    keep_top_k: int = 100

    def __call__(self, maps: list[np.ndarray], batch: dict) -> list[Detections]:
        """The objects of each picture of a batch.

        maps: the scores [N, K, ..] of all levels, then the bins [N, 4 B, ..]; logits.
        batch: `im_shape` [N, 2], (height, width) of each image without its padding, and
        `scale_factor` [N, 2], by which (height, width) of the picture were multiplied.
        """
        shapes = np.asarray(batch['im_shape'], 'float32')
        factors = np.asarray(batch['scale_factor'], 'float32')
        found = []
        for i in range(len(shapes)):
            of_image = [x[i].astype('float32') for x in maps]
            objects = self._decode(of_image, shapes[i], factors[i])
            found.append(objects)
        return found

    def _decode(self, maps: list[np.ndarray], shape: np.ndarray, factor: np.ndarray) -> Detections:
        """The objects of one picture."""
        levels = len(self.strides)
        candidates = []
        for scores, bins, stride in zip(maps[:levels], maps[levels:], self.strides):
            candidates.append(self._candidates(scores, bins, stride))
        corners, scores, classes = (np.concatenate(parts) for parts in zip(*candidates))
        corners = boxes.rescale(boxes.clip(corners, shape), factor)

        # Boxes outside the image have no area any more
        real = has_area(corners)
        corners, scores, classes = corners[real], scores[real], classes[real]
        kept = boxes.suppress(corners, scores, classes, self.nms_threshold, self.keep_top_k)
        return Detections(corners[kept], scores[kept], classes[kept])

    def _candidates(
        self, logits: np.ndarray, bins: np.ndarray, stride: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes [n, 4], scores [n] and classes [n] of the best pairs of a place and a class."""
        classes, rows, columns = logits.shape
        by_class = logits.reshape(classes, -1)
        logits = by_class.T.reshape(-1)  # pairs, by place and then by class
        powers = np.exp(-logits.clip(min=LEAST))
        scores = 1 / (1 + powers)
        pairs = np.flatnonzero(scores > self.score_threshold)
        best = np.argsort(-scores[pairs], kind='stable')[: self.nms_top_k]
        pairs = pairs[best]
        place, label = np.divmod(pairs, classes)

        # The expected distance to each side
        bins = bins.reshape(4, -1, rows * columns)[..., place]  # [4, B, n]
        powers = np.exp(bins - bins.max(axis=1, keepdims=True))
        shares = powers / powers.sum(axis=1, keepdims=True)
        steps = np.arange(bins.shape[1], dtype='float32')[:, None]
        distances = (shares * steps).sum(axis=1).T * stride  # [n, 4]

        centers = Grid(rows, columns, stride).centers()[place]
        return boxes.from_distances(centers, distances), scores[pairs], label
