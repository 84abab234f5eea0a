"""Swin transformer (arXiv:2103.14030) as UM-MAE has it (arXiv:2205.10063), with coordinates instead of a table of biases.

Parameter names equal UM-MAE's (implus/UM-MAE). The bias of a pair of tokens is an MLP's of their distance, so that weights
fit any window and images with removed parts; maps are merged in the first block of a stage, by normalisation and a
convolution. Normalisations in blocks have epsilon 1e-5, the others 1e-6, as there.
Departure, with its test in tests/test_models_swin.py: the MLP runs once for each distance and not for each pair.
Shapes: N images, D width of a stage, H heads, W windows of L = window^2 tokens; maps are [N, rows, columns, D].
"""

from functools import lru_cache, partial

import numpy as np
import paddle
from paddle import nn

from layer import Attention, LayerNorm, PatchEmbed, Pyramid, PyramidBlock
from models_classifier import PyramidClassifier
from models_sizes import PYRAMIDS
from util.errors import InputError


def cut(x: paddle.Tensor, window: int) -> paddle.Tensor:
    """Map [N, rows, columns, D] -> windows [N, W, L, D], in row-major order."""
    _, rows, columns, D = x.shape
    x = x.reshape([-1, rows // window, window, columns // window, window, D]).transpose(
        [0, 1, 3, 2, 4, 5]
    )
    return x.reshape([-1, rows * columns // window**2, window**2, D])


def join(windows: paddle.Tensor, grid: tuple[int, int]) -> paddle.Tensor:
    """The inverse of cut."""
    (rows, columns), (*_, L, D) = grid, windows.shape
    side = round(L**0.5)
    x = windows.reshape([-1, rows // side, columns // side, side, side, D]).transpose(
        [0, 1, 3, 2, 4, 5]
    )
    return x.reshape([-1, rows, columns, D])


@lru_cache
def shifted_window_mask(grid: tuple[int, int], window: int, shift: int) -> np.ndarray:
    """float32 [W, 1, L, L]: -100 for two tokens that share a window only because the shifted map wraps around."""
    rows, columns = (np.digitize(np.arange(side), [side - window, side - shift]) for side in grid)
    regions = (rows[:, None] * 3 + columns).reshape(
        grid[0] // window, window, grid[1] // window, window
    )
    regions = regions.transpose(0, 2, 1, 3).reshape(-1, 1, window**2)
    return np.where(regions[..., None] == regions[..., None, :], 0, -100).astype('float32')


class WindowAttention(Attention):
    """Attention over maps [N, rows, columns, D] within windows, on a map rolled by `shift`. Its bias is `posmlp` of the
    logarithms of the distance from query to key, down and across."""

    def __init__(
        self, dim: int, num_heads: int, qkv_bias: bool, posmlp_dim: int, window: int, shift: int
    ):
        super().__init__(dim, num_heads, qkv_bias)
        self.posmlp = nn.Sequential(
            nn.Conv2D(2, posmlp_dim, 1), nn.ReLU(), nn.Conv2D(posmlp_dim, num_heads, 1)
        )
        self.window, self.shift = window, shift

    def forward(self, x: paddle.Tensor, coordinates: paddle.Tensor) -> paddle.Tensor:
        """coordinates [1 or N, rows, columns, 2]: multiples of one half."""
        grid = tuple(x.shape[1:3])
        x, coordinates = (
            cut(self._roll(part, -self.shift), self.window) for part in (x, coordinates)
        )
        bias = self.bias(coordinates)
        if self.shift:
            bias = bias + paddle.to_tensor(shifted_window_mask(grid, self.window, self.shift))
        return self._roll(join(super().forward(x, bias), grid), self.shift)

    def _roll(self, x: paddle.Tensor, by: int) -> paddle.Tensor:
        return paddle.roll(x, [by, by], axis=[1, 2]) if by else x

    def bias(self, coordinates: paddle.Tensor) -> paddle.Tensor:
        """[.., W, H, L, L] for tokens at coordinates [.., W, L, 2]; entry [i, j] is of query i and key j.

        Twice a distance is a whole number below four windows: the MLP sees each of them once, and pairs look theirs up.
        Tokens that are farther apart are masked, so that their bias does not matter.
        """
        reach = 4 * self.window - 1
        steps = paddle.arange(-reach, reach + 1, dtype='float32') / 2
        logs = steps.sign() * (1 + steps.abs()).log()
        # [distances, H]
        table = self.posmlp(paddle.stack(paddle.meshgrid(logs, logs))[None]).flatten(2)[0].t()
        places = (2 * coordinates).astype('int64')
        down, across = (
            (part.unsqueeze(-2) - part.unsqueeze(-1)).clip(-reach, reach)
            + reach  # [.., query, key]
            for part in (places[..., 0], places[..., 1])
        )
        bias = nn.functional.embedding(down * (2 * reach + 1) + across, table)
        return bias.transpose([0, 1, 4, 2, 3])


class NormedPatchEmbed(PatchEmbed):
    """Patches [N, L, D], normalised."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, norm_layer):
        super().__init__(img_size, patch_size, in_chans, embed_dim)
        self.norm = norm_layer(embed_dim)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.norm(super().forward(x))


class Swin(Pyramid):
    """The encoder. Every second block of a stage shifts its windows by half, unless one window is the whole map."""

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
        patch_embed = NormedPatchEmbed(img_size, patch_size, in_chans, embed_dim, norm_layer)
        widths = tuple(embed_dim * 2**stage for stage in range(len(depths)))

        def block(stage, index, rate, merge):
            sides = [side // 2**stage for side in patch_embed.grid]
            clipped = min(window, *sides)
            if any(side % clipped for side in sides):
                raise InputError(
                    f'windows of {clipped} x {clipped} do not divide a map of {sides[0]} x {sides[1]} (stage '
                    f'{stage + 1}); choose another image size'
                )
            shift = clipped // 2 if index % 2 and clipped < min(sides) else 0
            attention = partial(WindowAttention, posmlp_dim=posmlp_dim, window=clipped, shift=shift)
            return PyramidBlock(
                widths[stage],
                num_heads[stage],
                mlp_ratio,
                norm_layer=nn.LayerNorm,
                drop_path=rate,
                attention=attention,
                downsample=merge,
            )

        super().__init__(patch_embed, widths, depths, drop_path_rate, block, merge_norm=norm_layer)

    def positions(self) -> paddle.Tensor:
        """Row and column of each patch, [1, rows, columns, 2]."""
        return paddle.stack(
            paddle.meshgrid(*(paddle.arange(side, dtype='float32') for side in self.places)),
            axis=-1,
        )[None]

    def outputs(self, x: paddle.Tensor, positions: paddle.Tensor) -> list[paddle.Tensor]:
        of_blocks = []
        for block in self.blocks:
            if block.downsample:
                positions = positions[:, ::2, ::2] / 2
            of_blocks.append(positions)
        return self.blocks.outputs(x, of_blocks)


class SwinTransformer(PyramidClassifier, Swin):
    """Class scores [N, K] from images [N, C, height, width]."""

    def __init__(
        self, num_classes: int = 1000, global_pool: bool = True, norm_layer=LayerNorm, **encoder
    ):
        Swin.__init__(self, **encoder, norm_layer=norm_layer)
        self.add_head(num_classes, global_pool, norm_layer)


def swin_nano_32(**kwargs) -> SwinTransformer:
    return SwinTransformer(**PYRAMIDS['swin_nano_32'], **{'img_size': 32, **kwargs})


def swin_tiny_256(**kwargs) -> SwinTransformer:
    return SwinTransformer(**PYRAMIDS['swin_tiny_256'], **kwargs)


def swin_large_256(**kwargs) -> SwinTransformer:
    return SwinTransformer(**PYRAMIDS['swin_large_256'], **kwargs)
