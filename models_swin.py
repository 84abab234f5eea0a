"""Swin transformer (arXiv:2103.14030) with a coordinate MLP, as in UM-MAE (arXiv:2205.10063).

Parameter names equal implus/UM-MAE @ cb7776b. What UM-MAE changed in Swin: the bias of a pair of
tokens is not read from a table, but computed by an MLP from their distance, so that weights fit any
window and images with removed patches; a map is merged in the first block of a stage, by a
normalisation and a convolution. Normalisations in blocks have epsilon 1e-5, all others 1e-6.
Departure, with its test in tests/test_models_swin.py: the MLP runs once for each distance, not for
each pair.
Shapes: N images, D width of a stage, H heads, W windows of L = window^2 tokens; maps are
[N, rows, columns, D].
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import paddle
from paddle import nn

from layer import Attention, LayerNorm, PatchEmbed, PatchMerge, Pyramid, PyramidBlock
from models_classifier import PyramidClassifier
from models_sizes import PYRAMIDS
from util import constants, lookup, sizes
from util.errors import InputError


def window_partition(x: paddle.Tensor, window: int) -> paddle.Tensor:
    """Cut a map into windows, in row-major order: [N, rows, columns, D] -> [N, W, L, D]."""
    _, rows, columns, D = x.shape
    down, across = rows // window, columns // window  # windows
    x = x.reshape([-1, down, window, across, window, D])
    x = x.transpose([0, 1, 3, 2, 4, 5])  # [N, down, across, window, window, D]
    return x.reshape([-1, down * across, window**2, D])


def window_reverse(windows: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
    """Undo window_partition, with grid = (rows, columns): [N, W, L, D] -> [N, rows, columns, D]."""
    rows, columns = grid
    *_, L, D = windows.shape
    window = round(L**0.5)
    down, across = rows // window, columns // window  # windows
    x = windows.reshape([-1, down, across, window, window, D])
    x = x.transpose([0, 1, 3, 2, 4, 5])  # [N, down, window, across, window, D]
    return x.reshape([-1, rows, columns, D])


def shifted_window_regions(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """The region of each token of a rolled map, int64 [W, 1, L].

    After the roll, the last `shift` rows and columns come from the other end of the map. They share
    windows with those before them: 3 x 3 regions, which must not attend to each other.
    """
    bands = []
    for side in grid:
        borders = [side - window, side - shift]
        bands.append(np.digitize(np.arange(side), borders))  # [side], 0, 1 or 2
    regions = 3 * bands[0][:, None] + bands[1]  # [rows, columns]

    # Cut the regions into windows
    down, across = grid[0] // window, grid[1] // window  # windows
    regions = regions.reshape(down, window, across, window)
    regions = regions.transpose(0, 2, 1, 3)  # [down, across, window, window]
    return regions.reshape(-1, 1, window**2)


@constants.kept
def shifted_window_mask(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """-100 for two tokens that share a window only because the rolled map wraps around, else 0.

    float32 [W, 1, L, L], added to the scores of the attention.
    """
    regions = shifted_window_regions(grid, window, shift)
    same = regions[..., None] == regions[..., None, :]  # [W, 1, L, L]
    return np.where(same, 0, -100).astype('float32')


class WindowAttention(Attention):
    """Attention within windows of a map [N, rows, columns, D] that is first rolled by `shift`.

    The bias of a query and a key is `posmlp` of the logarithms of their distance, down and across.
    """

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool, posmlp_dim: int, window: int, shift: int
    ):
        super().__init__(dim, num_heads, qkv_bias)
        hidden = nn.Conv2D(2, posmlp_dim, 1)
        output = nn.Conv2D(posmlp_dim, num_heads, 1)
        self.posmlp = nn.Sequential(hidden, nn.ReLU(), output)
        self.window = window
        self.shift = shift

    def forward(self, x: paddle.Tensor, coordinates: paddle.Tensor) -> paddle.Tensor:
        """The attended map; coordinates [1 or N, rows, columns, 2] are multiples of one half."""
        coordinates = self._roll(coordinates, -self.shift)
        coordinates = window_partition(coordinates, self.window)  # [1 or N, W, L, 2]
        bias = self.bias(coordinates)  # [1 or N, W, H, L, L]
        return self.attend_windows(x, bias)

    def attend_windows(self, x: paddle.Tensor, bias: paddle.Tensor) -> paddle.Tensor:
        """The attended map, for biases [1 or N, 1 or W, H, L, L] of the pairs in each window."""
        grid = tuple(x.shape[1:3])
        mask = self.mask(grid) if self.shift else None

        # Roll the map, so that this block's windows lie across those of the block before
        x = self._roll(x, -self.shift)
        x = window_partition(x, self.window)  # [N, W, L, D]
        # by name: in an export Paddle starts super() at the class of self, which may be a subclass
        x = Attention.forward(self, x, bias, mask)  # [N, W, L, D]
        x = window_reverse(x, grid)
        return self._roll(x, self.shift)

    def mask(self, grid: tuple[int, int]) -> paddle.Tensor:
        """shifted_window_mask of a map of this size, [W, 1, L, L]."""
        return shifted_window_mask(grid, self.window, self.shift)

    def _roll(self, x: paddle.Tensor, by: int) -> paddle.Tensor:
        """A map [N, rows, columns, any] moved down and right by `by` tokens, around the edges."""
        return paddle.roll(x, [by, by], axis=[1, 2]) if by else x

    def bias(self, coordinates: paddle.Tensor) -> paddle.Tensor:
        """The bias of each pair of tokens at coordinates [.., W, L, 2]: [.., W, H, L, L].

        The last two axes are queries and keys.
        Twice a distance is a whole number below four windows. So the MLP sees each distance once,
        and the pairs look theirs up. Tokens that are farther apart are masked, whatever their bias.
        """
        # The MLP's output for all distances, in steps of one half
        reach = 4 * self.window - 1
        table = self.posmlp(_distances(reach))  # [1, H, distances, distances]
        table = table.flatten(2)[0].t()  # [distances^2, H]

        # Each pair's row of that table
        places = (2 * coordinates).astype('int64')
        down = self._steps_apart(places[..., 0], reach)  # [.., W, L, L]
        across = self._steps_apart(places[..., 1], reach)
        row = down * (2 * reach + 1) + across
        bias = lookup.rows(table, row)  # [.., W, L, L, H]
        return bias.transpose([0, 1, 4, 2, 3])

    def _steps_apart(self, places: paddle.Tensor, reach: int) -> paddle.Tensor:
        """Distances from query to key, clipped to `reach`, plus `reach`: [.., L] -> [.., L, L]."""
        apart = places.unsqueeze(-2) - places.unsqueeze(-1)
        return apart.clip(-reach, reach) + reach


@constants.kept
def _distances(reach: int) -> paddle.Tensor:
    """Logarithms of all distances up to reach / 2, down and across, [1, 2, distances, distances].

    In steps of one half.
    """
    steps = paddle.arange(-reach, reach + 1, dtype='float32') / 2
    logs = steps.sign() * (1 + steps.abs()).log()
    return paddle.stack(paddle.meshgrid(logs, logs))[None]


@constants.kept
def _coordinates(rows: int, columns: int) -> paddle.Tensor:
    """Row and column of each place, [1, rows, columns, 2]."""
    rows = paddle.arange(rows, dtype='float32')
    columns = paddle.arange(columns, dtype='float32')
    return paddle.stack(paddle.meshgrid(rows, columns), axis=-1)[None]


class NormedPatchEmbed(PatchEmbed):
    """Patches [N, L, D], normalised."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, norm_layer):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.norm = norm_layer(embed_dim)

    def project(self, x: paddle.Tensor) -> paddle.Tensor:
        """The same for images of any size that `patch_size` divides."""
        return self.norm(super().project(x))


class Swin(Pyramid):
    """The encoder. Every second block of a stage shifts its windows by half a window.

    If a map is not larger than a window, one window is the whole map and nothing is shifted.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 256,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        num_heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = 16,
        posmlp_dim: int = 32,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        norm_layer=LayerNorm,
    ):
        sizes.check_stages(depths, num_heads=num_heads)
        patch_embed = NormedPatchEmbed(img_size, patch_size, in_chans, embed_dim, norm_layer)
        self.check_windows(patch_embed.img_size, patch_size, len(depths), window)
        widths = tuple(embed_dim * 2**stage for stage in range(len(depths)))

        def block(stage: int, index: int, rate: float, merge: PatchMerge | None) -> PyramidBlock:
            sides = _map_of(patch_embed.grid, stage)
            attention = self.attention(window, sides, stage, index)
            return PyramidBlock(
                widths[stage],
                num_heads[stage],
                mlp_ratio,
                norm_layer=nn.LayerNorm,
                drop_path=rate,
                attention=partial(attention, posmlp_dim=posmlp_dim),
                downsample=merge,
            )

        super().__init__(patch_embed, widths, depths, drop_path_rate, block, merge_norm=norm_layer)

    def check_windows(
        self, img_size: tuple[int, int], patch_size: int, stages: int, window: int
    ) -> None:
        """InputError with the nearest sizes unless windows divide the map of each stage."""
        grid = tuple(side // patch_size for side in img_size)
        multiple = 2 ** (stages - 1)  # of patches; Pyramid refuses others
        stage = _undivided(grid, stages, window)
        if stage is None or any(side % multiple for side in grid):
            return
        sides = _map_of(grid, stage)
        clipped = min(window, *sides)
        fitting = [
            tuple(side * patch_size for side in other)
            for other in _divided(grid, multiple, stages, window)
        ]
        take = ' or '.join(map(sizes.words, fitting))
        raise InputError(
            f'windows of {clipped} x {clipped} do not divide a map of {sizes.shown(sides)} '
            f'(stage {stage + 1}); take an input size of {take}'
        )

    def attention(
        self, window: int, sides: list[int], stage: int, index: int
    ) -> Callable[..., WindowAttention]:
        """The attention of a block: number `index` of its stage, over maps with these sides."""
        clipped = min(window, *sides)  # at most the whole map
        shifted = index % 2 == 1 and clipped < min(sides)
        return partial(WindowAttention, window=clipped, shift=clipped // 2 if shifted else 0)

    def positions(self) -> paddle.Tensor:
        """Row and column of each patch, [1, rows, columns, 2]."""
        return _coordinates(*self.places)

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        """The output map of each block; positions [1 or N, rows, columns, 2] are rows and columns.

        Where a map is halved, a token takes the position of its first quarter, halved.
        """
        of_blocks = []
        for block in self.blocks:
            if block.downsample:
                positions = positions[:, ::2, ::2] / 2
            of_blocks.append(positions)
        return self.blocks.outputs(x, of_blocks)


def _map_of(grid: tuple[int, int], stage: int) -> list[int]:
    """Rows and columns of the map of a stage, for a grid of patches."""
    return [side // 2**stage for side in grid]


def _undivided(grid: tuple[int, int], stages: int, window: int) -> int | None:
    """The first stage whose map windows do not divide, for a grid of patches; None if they do."""
    for stage in range(stages):
        rows, columns = _map_of(grid, stage)
        clipped = min(window, rows, columns)
        if not clipped or rows % clipped or columns % clipped:
            return stage
    return None


def _divided(
    grid: tuple[int, int], multiple: int, stages: int, window: int
) -> list[tuple[int, int]]:
    """The two nearest grids of which windows divide all maps; squares if `grid` is one."""
    most = max(grid) + multiple * window
    candidates = []
    for rows in range(multiple, most, multiple):
        for columns in range(multiple, most, multiple):
            if grid[0] == grid[1] and rows != columns:
                continue
            if _undivided((rows, columns), stages, window) is None:
                candidates.append((rows, columns))

    def distance(other):
        apart = abs(other[0] - grid[0]) + abs(other[1] - grid[1])
        return apart, -other[0] * other[1]  # of two as near, the larger one

    return sorted(sorted(candidates, key=distance)[:2])


class SwinTransformer(PyramidClassifier, Swin):
    """Class scores [N, K] from images [N, C, height, width]."""

    def __init__(
        self, num_classes: int = 1000, global_pool: bool = True, norm_layer=LayerNorm, **encoder
    ):
        Swin.__init__(self, **encoder, norm_layer=norm_layer)
        self.add_head(num_classes, global_pool, norm_layer)


def swin_nano_32(**kwargs) -> SwinTransformer:
    """The Swin of tests and the tour: images of 32 x 32."""
    return SwinTransformer(**PYRAMIDS['swin_nano_32'], **({'img_size': 32} | kwargs))


def swin_nano_64(**kwargs) -> SwinTransformer:
    """The Swin of the tour of detection: images of 64 x 64."""
    return SwinTransformer(**PYRAMIDS['swin_nano_64'], **({'img_size': 64} | kwargs))


def swin_tiny_256(**kwargs) -> SwinTransformer:
    """Swin-Tiny of UM-MAE, for images of 256 x 256."""
    return SwinTransformer(**PYRAMIDS['swin_tiny_256'], **kwargs)


def swin_large_256(**kwargs) -> SwinTransformer:
    """Swin-Large of UM-MAE, for images of 256 x 256, with a coordinate MLP of width 64."""
    return SwinTransformer(**PYRAMIDS['swin_large_256'], **kwargs)
