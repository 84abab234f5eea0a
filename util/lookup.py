"""Rows of a learnt table, looked up by number, without atomic additions in the gradient.

The gradient of a row is the sum over all places that show it, often some thousands. Paddle's kernel
for GPUs adds them one by one, in any order and in the type of the table. Here the places are sorted
by row, and each row's run is added up in pieces: always in the same order, in float32.
On CPUs it is Paddle's own operation, which adds in the order of the places.
"""

from functools import cached_property

import paddle
from paddle.autograd import PyLayer
from paddle.nn import functional as F

PIECE = 64  # values that are added at a time
MOST = 2**22  # places that are sorted at a time, which bounds the memory


class Index:
    """The row of a table, with so many rows, at each place: numbers int64 [..].

    What the gradient needs is prepared when it is first asked for, and kept.
    """

    def __init__(self, numbers: paddle.Tensor, rows: int):
        self.numbers = numbers
        self.rows = rows

    @cached_property
    def runs(self) -> list['Runs']:
        """The runs of each part of the places."""
        flat = self.numbers.flatten()
        return [Runs(flat[i : i + MOST], self.rows) for i in range(0, len(flat), MOST)]

    def sums(self, values: paddle.Tensor) -> paddle.Tensor:
        """The sum of each row's values, float32 [rows, D], of values [.., D] at the places."""
        flat = values.reshape([-1, values.shape[-1]])
        total = paddle.zeros([self.rows, flat.shape[-1]])
        for number, runs in enumerate(self.runs):
            first = number * MOST
            total = total + runs.sums(flat[first : first + MOST])
        return total


class Runs:
    """The places [M] of numbers, sorted by their rows, so that each row has a run of them."""

    def __init__(self, numbers: paddle.Tensor, rows: int):
        self.numbers = numbers
        self.rows = rows

    @cached_property
    @paddle.no_grad()
    def order(self) -> paddle.Tensor:
        """All places, sorted by their rows: [M]."""
        return paddle.argsort(self.numbers, stable=True)

    @cached_property
    @paddle.no_grad()
    def levels(self) -> list[tuple[paddle.Tensor, paddle.Tensor]]:
        """What is added up, level after level: which of the values before, and which of them count.

        [pieces, PIECE] each. The last level has one piece for each row, and then pieces of zeros.
        How many there are follows from shapes alone, so that nothing is read from the device.
        """
        runs = paddle.gather(self.numbers, self.order)
        row = paddle.arange(self.rows, dtype=runs.dtype)
        starts = paddle.searchsorted(runs, row)  # of each row's run
        ends = paddle.searchsorted(runs, row, right=True)
        levels = []
        values = longest = len(runs)  # of a level; of a run, at most
        while longest > 1 or not levels:
            # The pieces of each row, at least one, follow those of the row before
            taken = (ends - starts + PIECE - 1) // PIECE
            after = taken.clip(min=1).cumsum()
            before = after - taken.clip(min=1)
            pieces = values // PIECE + self.rows  # at most

            # The values of each piece
            number = paddle.arange(pieces, dtype=runs.dtype)
            owner = paddle.searchsorted(after, number, right=True).clip(max=self.rows - 1)
            nth = number - paddle.gather(before, owner)  # piece of its row
            first = paddle.gather(starts, owner) + PIECE * nth
            places = first.unsqueeze(-1) + paddle.arange(PIECE, dtype=runs.dtype)
            counts = places < paddle.gather(ends, owner).unsqueeze(-1)
            levels.append((places.clip(max=values - 1), counts))
            starts, ends, values = before, after, pieces
            longest = -(-longest // PIECE)
        return levels

    def sums(self, values: paddle.Tensor) -> paddle.Tensor:
        """The sum of each row's values, float32 [rows, D], of values [M, D] at the places."""
        values = paddle.gather(values.astype('float32'), self.order)
        for places, counts in self.levels:
            parts = paddle.gather(values, places.flatten())
            parts = parts.reshape([*places.shape, values.shape[-1]])  # [pieces, PIECE, D]
            parts = paddle.where(counts.unsqueeze(-1), parts, paddle.zeros([1]))
            values = parts.sum(axis=1)
        return values[: self.rows]


class Rows(PyLayer):
    """table [rows, D] -> [.., D]."""

    @staticmethod
    def forward(ctx, table, index):
        ctx.index = index
        ctx.dtype = table.dtype
        return F.embedding(index.numbers, table)

    @staticmethod
    def backward(ctx, dy):
        """The gradient of the table."""
        return ctx.index.sums(dy).astype(ctx.dtype)


def is_atomic(table: paddle.Tensor) -> bool:
    """Whether Paddle would add the gradients of a table in any order, as everywhere but on CPUs."""
    return paddle.in_dynamic_mode() and not table.place.is_cpu_place()


def rows(table: paddle.Tensor, index: Index | paddle.Tensor) -> paddle.Tensor:
    """The row of a table [rows, D] at each place of an index [..]: [.., D].

    Several tables of one height may share an Index, whose places are then sorted once.
    """
    if not isinstance(index, Index):
        index = Index(index, table.shape[0])
    if is_atomic(table) and not table.stop_gradient:
        return Rows.apply(table, index)
    return F.embedding(index.numbers, table)
