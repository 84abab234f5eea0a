"""Anchors on the grids of a pyramid, and their objects by ATSS (arXiv:1912.02424), in NumPy.

An anchor is a square, centred on its place times the stride, without an offset of half a cell. Each
object takes, of its nearest anchors on each level, those whose overlap with it is high.
Equal to mmdetection's ATSSAssigner (2.20) up to anchors at exactly the same distance; but the
distances of all anchors to all objects are never computed.
Shapes: n objects, A anchors of all levels in row-major order, from fine to coarse.
"""

from dataclasses import dataclass

import numpy as np

from det import boxes

SCALE = 8  # side of an anchor, in strides
INSIDE = 0.01  # least distance, in pixels, from an anchor's centre to the edges of its object


@dataclass(frozen=True)
class Grid:
    """The anchors of one level: rows x columns of them, `stride` pixels apart."""

    rows: int
    columns: int
    stride: int

    @property
    def size(self) -> int:
        """The number of anchors."""
        return self.rows * self.columns

    def centers(self) -> np.ndarray:
        """(x, y) of each anchor: float32 [size, 2]."""
        row, column = np.divmod(np.arange(self.size), self.columns)
        return np.stack([column, row], axis=1).astype('float32') * self.stride


def squares(centers: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """The anchors at centers [.., 2] on levels with strides [..]: [.., 4]."""
    half = strides[..., None] * (SCALE / 2)
    return np.concatenate([centers - half, centers + half], axis=-1)


@dataclass
class Targets:
    """What the anchors of a batch of N images should show, [N A] of them in the order of images.

    positive: int64 [P], the numbers of the positive anchors. centers: float32 [P, 2], their places
    (x, y). strides: float32 [P]. boxes, classes: float32 [P, 4] and int64 [P], of their objects.
    valid: bool [N A], False for anchors in the padding of a batch, which show nothing.
    total: the number of positive anchors, where images without any count as having one.
    """

    positive: np.ndarray
    centers: np.ndarray
    strides: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    valid: np.ndarray
    total: int


@dataclass
class Assigned:
    """The positive anchors of an image, in ascending order, and the object of each."""

    anchors: np.ndarray
    objects: np.ndarray


def _nearest_lines(points: np.ndarray, stride: int, lines: int, most: int) -> np.ndarray:
    """The rows (or columns) of a grid nearest to coordinates [n], at most `most`: int64 [n, k]."""
    count = min(most, lines)
    first = np.round(points / stride).astype('int64') - most // 2
    first = first.clip(0, lines - count)
    return first[:, None] + np.arange(count)


def _nearest(
    middles: np.ndarray, grid: Grid, valid: tuple[int, int], topk: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `topk` anchors of a level nearest to points [n, 2] (x, y).

    Gives their numbers within the level, int64 [n, k], and their centres, float32 [n, k, 2].
    valid: the number of rows and columns that may be taken.
    """
    # The nearest anchors lie in as many of the nearest rows and columns. One more on each side,
    # because the middle line of them is rounded
    lines = topk + 2
    rows = _nearest_lines(middles[:, 1], grid.stride, valid[0], lines)  # [n, a]
    columns = _nearest_lines(middles[:, 0], grid.stride, valid[1], lines)  # [n, b]

    # All of these anchors, row by row
    n = len(middles)
    shape = [n, rows.shape[1], columns.shape[1]]
    row = np.broadcast_to(rows[:, :, None], shape).reshape(n, -1)  # [n, a * b]
    column = np.broadcast_to(columns[:, None], shape).reshape(n, -1)
    places = np.stack([column, row], axis=-1)
    centers = places.astype('float32') * grid.stride  # [n, a * b, 2]

    distances = np.square(centers - middles[:, None]).sum(axis=-1)
    nearest = np.argsort(distances, axis=1, kind='stable')[:, :topk]  # [n, k]
    numbers = np.take_along_axis(row * grid.columns + column, nearest, axis=1)
    return numbers, np.take_along_axis(centers, nearest[..., None], axis=1)


def _valid(grid: Grid, shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of anchors whose centres lie in an image of this (height, width)."""
    height, width = shape
    rows = min(grid.rows, int(np.ceil(height / grid.stride)))
    columns = min(grid.columns, int(np.ceil(width / grid.stride)))
    return rows, columns


def valid_anchors(grids: list[Grid], shape: tuple[int, int]) -> np.ndarray:
    """Whether the centre of each anchor lies in an image of this (height, width): bool [A]."""
    flags = []
    for grid in grids:
        rows, columns = _valid(grid, shape)
        inside = np.zeros([grid.rows, grid.columns], bool)
        inside[:rows, :columns] = True
        flags.append(inside.reshape(-1))
    return np.concatenate(flags)


def assign(
    objects: np.ndarray, grids: list[Grid], shape: tuple[int, int], topk: int = 9
) -> Assigned:
    """The positive anchors of an image with these objects, float32 [n, 4].

    shape: (height, width) of the image; other anchors belong to the padding of a batch.
    topk: the number of anchors on each level that are looked at for an object.
    """
    if not len(objects):
        nothing = np.zeros(0, 'int64')
        return Assigned(nothing, nothing)

    # Candidates: the nearest anchors of each level
    middles = (objects[:, :2] + objects[:, 2:]) / 2
    numbers, centers, strides = [], [], []
    before = 0
    for grid in grids:
        number, center = _nearest(middles, grid, _valid(grid, shape), topk)
        numbers.append(before + number)
        centers.append(center)
        strides.append(np.full(number.shape, grid.stride, 'float32'))
        before += grid.size
    numbers = np.concatenate(numbers, axis=1)  # [n, k]
    centers = np.concatenate(centers, axis=1)  # [n, k, 2]
    anchors = squares(centers, np.concatenate(strides, axis=1))  # [n, k, 4]

    # Those that overlap more than mean and deviation, with their centre in the object
    overlaps = boxes.ious(anchors, objects[:, None])  # [n, k]
    deviation = overlaps.std(axis=1, ddof=1)
    least = overlaps.mean(axis=1) + deviation
    edges = np.concatenate([centers - objects[:, None, :2], objects[:, None, 2:] - centers], -1)
    inside = edges.min(axis=-1) > INSIDE  # [n, k]
    positive = (overlaps >= least[:, None]) & inside
    return _best(numbers, overlaps, positive)


def _best(numbers: np.ndarray, overlaps: np.ndarray, positive: np.ndarray) -> Assigned:
    """One object for each positive anchor: the one that it overlaps most, or else the first.

    All [n, k]: for each object its candidates, and whether they are positive.
    """
    objects, place = np.nonzero(positive)
    anchors = numbers[objects, place]
    order = np.lexsort([objects, -overlaps[objects, place], anchors])
    anchors, first = np.unique(anchors[order], return_index=True)
    return Assigned(anchors, objects[order][first])


def targets(
    grids: list[Grid],
    shapes: list[tuple[int, int]],
    objects: list[np.ndarray],
    classes: list[np.ndarray],
    topk: int = 9,
) -> Targets:
    """The targets of a batch: for each image its (height, width), its boxes [n, 4] and classes."""
    centers = np.concatenate([grid.centers() for grid in grids])  # [A, 2]
    strides = np.concatenate([np.full(grid.size, grid.stride, 'float32') for grid in grids])
    positive, anchors, wanted, labels, valid = [], [], [], [], []
    total = 0
    for i, shape in enumerate(shapes):
        assigned = assign(objects[i], grids, shape, topk)
        anchors.append(assigned.anchors)
        positive.append(i * len(centers) + assigned.anchors)
        wanted.append(objects[i][assigned.objects])
        labels.append(classes[i][assigned.objects])
        valid.append(valid_anchors(grids, shape))
        total += max(1, len(assigned.anchors))

    anchors = np.concatenate(anchors)
    return Targets(
        positive=np.concatenate(positive),
        centers=centers[anchors],
        strides=strides[anchors],
        boxes=np.concatenate(wanted),
        classes=np.concatenate(labels),
        valid=np.concatenate(valid),
        total=total,
    )
