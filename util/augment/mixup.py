"""Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899).

Equal to timm 1.0.22 if the random draws are the same.

Sample i is mixed with sample N - 1 - i of the batch. `keep` is a map with the share of each pixel
that a sample keeps of itself: one number everywhere for mixup, 1 outside and 0 inside a box for
CutMix. `share` is the same for the label. Shapes: N images, C channels, K classes.
"""

from dataclasses import dataclass

import numpy as np
import paddle

from util.errors import InputError


@dataclass(frozen=True)
class Mixup:
    """Mix a batch and its labels.

    mixup, cutmix: alpha of the Beta distributions; 0 turns it off.
    minmax: the side of CutMix's box as shares (min, max) of the image's side, instead of an area
    drawn with cutmix's alpha.
    prob: probability of mixing. switch_prob: probability of CutMix if both are on.
    mode: 'batch' draws once, 'pair' for each pair (i, N - 1 - i), 'elem' for each sample.
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
        """Whether mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0 or self.minmax is not None

    def check(self, batch_size: int) -> None:
        """InputError if a batch of this size cannot be mixed or minmax leaves no box."""
        if self.minmax is not None:
            smallest, largest = self.minmax
            if not smallest < largest:
                raise InputError(f'--cutmix_minmax {smallest} {largest}: the first must be smaller')
        if self.active and batch_size % 2:
            raise InputError(f'mixup and cutmix mix pairs: --batch_size {batch_size} must be even')

    def __call__(
        self, images: paddle.Tensor, labels: paddle.Tensor, rng: np.random.Generator
    ) -> tuple[paddle.Tensor, ...]:
        """Mixed images [N, C, height, width] and targets [N, K], from images and labels [N].

        Images stay as they are if mixing is off; otherwise N must be even.
        """
        N, _, height, width = images.shape
        self.check(N)
        targets = smoothed(labels, self.classes, self.smoothing)
        if not self.active:
            return images, targets
        keep, share = self._draw(N, height, width, rng)
        if keep is not None:
            images = _mixed(images, keep)
        return images, _mixed(targets, share)

    def _draw(self, N: int, height: int, width: int, rng) -> tuple[np.ndarray | None, np.ndarray]:
        """(keep, share): keep broadcasts against [N, C, height, width], share against [N, K].

        keep is None if all pixels are kept.
        """
        if self.mode == 'batch':
            return self._draw_for_batch(height, width, rng)

        # one draw for each sample, or for each pair and its mirror image
        count = N if self.mode == 'elem' else N // 2
        shares, cuts = self._draw_each(count, rng)
        keep = np.broadcast_to(shares[:, None, None, None], [count, 1, height, width]).copy()
        for i in range(count):
            if cuts[i] and shares[i] != 1:
                keep[i], shares[i] = self._box(height, width, shares[i], rng)
        if self.mode == 'pair':
            keep = np.concatenate([keep, keep[::-1]])  # [N, 1, height, width]
            shares = np.concatenate([shares, shares[::-1]])  # [N]
        return keep, shares[:, None]

    def _draw_for_batch(self, height: int, width: int, rng) -> tuple[np.ndarray | None, np.ndarray]:
        """As _draw, one draw for the whole batch."""
        share, is_cut = self._draw_one(rng)
        keep = None
        if share != 1:
            if is_cut:
                keep, share = self._box(height, width, share, rng)
            else:
                keep = np.full([1, 1, 1, 1], share)
        return keep, np.array([[share]])

    def _alphas(self) -> tuple[float, float]:
        """The alphas of mixup and CutMix; with minmax, CutMix is on but does not use its own."""
        return self.mixup, 1.0 if self.minmax else self.cutmix

    def _draw_one(self, rng) -> tuple[float, bool]:
        """(share, whether CutMix makes it); the share is 1 if nothing is mixed."""
        mixup, cutmix = self._alphas()
        if rng.random() >= self.prob:
            return 1.0, False
        is_cut = cutmix > 0
        if mixup > 0 and cutmix > 0:
            is_cut = rng.random() < self.switch_prob
        alpha = cutmix if is_cut else mixup
        return float(rng.beta(alpha, alpha)), bool(is_cut)

    def _draw_each(self, count: int, rng) -> tuple[np.ndarray, np.ndarray]:
        """As _draw_one, `count` times: shares and booleans, both [count]."""
        mixup, cutmix = self._alphas()
        if mixup > 0 and cutmix > 0:
            cuts = rng.random(count) < self.switch_prob
            cutmix_shares = rng.beta(cutmix, cutmix, count)
            mixup_shares = rng.beta(mixup, mixup, count)
            shares = np.where(cuts, cutmix_shares, mixup_shares)
        else:
            cuts = np.full(count, cutmix > 0)
            alpha = mixup or cutmix
            shares = rng.beta(alpha, alpha, count)
        is_mixed = rng.random(count) < self.prob
        return np.where(is_mixed, shares.astype('float32'), np.float32(1)), cuts

    def _box(self, height: int, width: int, share: float, rng) -> tuple[np.ndarray, float]:
        """(keep, share): a map [1, 1, height, width] with 0 inside a box and 1 outside.

        The box covers 1 - `share` of the area, or follows minmax. The share is computed anew,
        because a box that reaches over the image's edge is cut.
        """
        if self.minmax:
            smallest, largest = self.minmax
            h = rng.integers(int(height * smallest), int(height * largest))
            w = rng.integers(int(width * smallest), int(width * largest))
            top = rng.integers(height - h)
            left = rng.integers(width - w)
            bottom = top + h
            right = left + w
        else:
            ratio = np.sqrt(1 - share)
            h = int(height * ratio)
            w = int(width * ratio)
            y = rng.integers(height)  # the centre
            x = rng.integers(width)
            half_h = h // 2
            half_w = w // 2
            top, bottom = np.clip([y - half_h, y + half_h], 0, height)
            left, right = np.clip([x - half_w, x + half_w], 0, width)
        keep = np.ones([1, 1, height, width])
        keep[:, :, top:bottom, left:right] = 0
        box_area = (bottom - top) * (right - left)
        return keep, 1.0 - box_area / float(height * width)


def smoothed(labels: paddle.Tensor, classes: int, smoothing: float) -> paddle.Tensor:
    """One-hot targets [N, classes] with `smoothing` spread evenly over all classes."""
    off = smoothing / classes
    on = 1.0 - smoothing + off
    is_label = paddle.nn.functional.one_hot(labels, classes) > 0  # [N, classes]
    return paddle.where(is_label, paddle.full([], on), paddle.full([], off))


def _mixed(values: paddle.Tensor, keep: np.ndarray) -> paddle.Tensor:
    """`keep` of each sample plus the rest of its partner, the sample in the mirrored place."""
    return values * _tensor(keep) + values.flip(0) * _tensor(1 - keep)


def _tensor(values: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(values.astype('float32'))
