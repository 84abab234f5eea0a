"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899), equal to timm 1.0.22 where the draws are the same.

Sample i is mixed with sample N - 1 - i of the batch. A sample keeps the share `keep` of itself, a map over its pixels:
one number everywhere for mixup, 1 outside and 0 inside a box for CutMix.
"""

from dataclasses import dataclass

import numpy as np
import paddle

from util.errors import InputError


@dataclass(frozen=True)
class Mixup:
    """Mix a batch and its labels.

    mixup, cutmix: alpha of the Beta distributions, 0 switches off; minmax: the box's side as shares (min, max) of the
    image's, instead of cutmix's alpha. prob: of mixing at all; switch_prob: of CutMix where both are on. mode: 'batch'
    draws once, 'pair' for each pair (i, N - 1 - i), 'elem' for each sample.
    """

    mixup: float
    cutmix: float
    minmax: tuple[float, float] | None = None
    prob: float = 1.0
    switch_prob: float = 0.5
    mode: str = 'batch'
    smoothing: float = 0.1
    classes: int = 1000

    @property
    def active(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0 or self.minmax is not None

    def check(self, batch_size: int) -> None:
        """InputError for a batch that cannot be mixed, or no box to cut, before any work."""
        if self.minmax is not None and not self.minmax[0] < self.minmax[1]:
            raise InputError(
                f'--cutmix_minmax {self.minmax[0]} {self.minmax[1]}: the first must be smaller'
            )
        if self.active and batch_size % 2:
            raise InputError(f'mixup and cutmix mix pairs: --batch_size {batch_size} must be even')

    def __call__(
        self, images: paddle.Tensor, labels: paddle.Tensor, rng: np.random.Generator
    ) -> tuple[paddle.Tensor, ...]:
        """(images [N, C, height, width], labels [N]) -> mixed images and targets [N, classes]; where mixing is off, the
        images as they are. To be mixed, N must be even."""
        N, _, height, width = images.shape
        self.check(N)
        if not self.active:
            return images, smoothed(labels, self.classes, self.smoothing)
        keep, share = self._draw(N, height, width, rng)
        if keep is not None:
            images = images * _tensor(keep) + images.flip(0) * _tensor(1 - keep)
        targets = smoothed(labels, self.classes, self.smoothing)
        return images, targets * _tensor(share) + targets.flip(0) * _tensor(1 - share)

    def _draw(self, N: int, height: int, width: int, rng) -> tuple[np.ndarray | None, np.ndarray]:
        """Shares of the pixels, broadcast against [N, C, height, width] (None: all), and of the labels, against [N, K]."""
        if self.mode == 'batch':
            share, cut = self._draw_batch(rng)
            if cut and share != 1:
                keep, share = self._box(height, width, share, rng)
                return keep, np.array([[share]])
            return (None if share == 1 else np.full([1, 1, 1, 1], share)), np.array([[share]])
        count = N if self.mode == 'elem' else N // 2
        shares, cuts = self._draw_each(count, rng)
        keep = np.broadcast_to(shares[:, None, None, None], [count, 1, height, width]).copy()
        for i in range(count):
            if cuts[i] and shares[i] != 1:
                keep[i], shares[i] = self._box(height, width, shares[i], rng)
        if self.mode == 'pair':
            keep, shares = (np.concatenate([part, part[::-1]]) for part in (keep, shares))
        return keep, shares[:, None]

    def _alphas(self) -> tuple[float, float]:
        return self.mixup, 1.0 if self.minmax else self.cutmix

    def _draw_batch(self, rng) -> tuple[float, bool]:
        mixup, cutmix = self._alphas()
        if rng.random() >= self.prob:
            return 1.0, False
        cut = rng.random() < self.switch_prob if mixup > 0 and cutmix > 0 else cutmix > 0
        alpha = cutmix if cut else mixup
        return float(rng.beta(alpha, alpha)), bool(cut)

    def _draw_each(self, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
        mixup, cutmix = self._alphas()
        if mixup > 0 and cutmix > 0:
            cuts = rng.random(count) < self.switch_prob
            shares = np.where(cuts, rng.beta(cutmix, cutmix, count), rng.beta(mixup, mixup, count))
        else:
            cuts = np.full(count, cutmix > 0)
            shares = rng.beta(mixup or cutmix, mixup or cutmix, count)
        return np.where(
            rng.random(count) < self.prob, shares.astype('float32'), np.float32(1)
        ), cuts

    def _box(self, height: int, width: int, share: float, rng) -> tuple[np.ndarray, float]:
        """A map [1, 1, height, width] with 0 in a box that leaves `share` of the area, or follows minmax; and the share
        that it really leaves, for the box may stick out."""
        if self.minmax:
            h, w = (
                rng.integers(int(side * self.minmax[0]), int(side * self.minmax[1]))
                for side in (height, width)
            )
            top, left = rng.integers(height - h), rng.integers(width - w)
            bottom, right = top + h, left + w
        else:
            ratio = np.sqrt(1 - share)
            h, w = int(height * ratio), int(width * ratio)
            y, x = rng.integers(height), rng.integers(width)
            top, bottom = np.clip([y - h // 2, y + h // 2], 0, height)
            left, right = np.clip([x - w // 2, x + w // 2], 0, width)
        keep = np.ones([1, 1, height, width])
        keep[:, :, top:bottom, left:right] = 0
        return keep, 1.0 - (bottom - top) * (right - left) / float(height * width)


def smoothed(labels: paddle.Tensor, classes: int, smoothing: float) -> paddle.Tensor:
    """One-hot targets [N, classes] with `smoothing` spread evenly over all classes."""
    off = smoothing / classes
    chosen = paddle.nn.functional.one_hot(labels, classes) > 0
    return paddle.where(chosen, paddle.full([], 1.0 - smoothing + off), paddle.full([], off))


def _tensor(values: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(values.astype('float32'))
