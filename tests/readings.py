"""A stand-in for what waits on a GPU: every reading of a tensor is counted."""

from collections import Counter

import paddle

from util import figures
from util.progress import Progress

READINGS = (
    'item',
    'numpy',
    'tolist',
    '__array__',
    '__float__',
    '__int__',
    '__index__',
    '__bool__',
    '__nonzero__',
)


class Readings:
    """Counts what is read from tensors, by the iteration in which it is read.

    monkeypatch: of pytest. From here on reading is said to wait, as on a GPU.
    """

    def __init__(self, monkeypatch):
        self.by_iteration = Counter()
        self.iteration = None
        self.depth = 0
        monkeypatch.setattr(figures, 'reading_waits', lambda: True)
        for name in READINGS:
            own = getattr(paddle.Tensor, name, None)
            if own:
                monkeypatch.setattr(paddle.Tensor, name, self.counted(own))
        self.follow(monkeypatch)

    def of(self, iterations):
        """How often each of the first iterations has read."""
        return [self.by_iteration[number] for number in range(iterations)]

    def counted(self, own):
        def reading(*args, **kwargs):
            self.by_iteration[self.iteration] += self.depth == 0
            self.depth += 1
            try:
                return own(*args, **kwargs)
            finally:
                self.depth -= 1

        return reading

    def follow(self, monkeypatch):
        """Note the iteration of each training from the moment when its batch is there."""
        own = Progress.follow

        def follow(progress, batches):
            for self.iteration, batch in enumerate(own(progress, batches)):
                yield batch
            self.iteration = None

        monkeypatch.setattr(Progress, 'follow', follow)
