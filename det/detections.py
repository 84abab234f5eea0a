"""What a detector finds in a picture."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Detections:
    """The objects found in one picture, by descending score.

    boxes: float32 [n, 4], x1 y1 x2 y2 in pixels of the original picture. scores: float32 [n].
    classes: int64 [n]. masks: bool [n, height, width] of the original picture, or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> 'Detections':
        """Those with a score of at least `threshold`."""
        kept = self.scores >= threshold
        masks = None if self.masks is None else self.masks[kept]
        return Detections(self.boxes[kept], self.scores[kept], self.classes[kept], masks)
