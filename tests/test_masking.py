import itertools

import numpy as np
import pytest
from scipy import ndimage

import models_mae
import models_simmim
from util import masking
from util.errors import InputError


def patterns(grid, count, seed=0):
    """Which of the four places each cell of `count` uniform masks keeps: [count, cells]."""
    rng, (rows, columns) = np.random.default_rng(seed), grid
    masks = np.stack([masking.uniform(grid, rng) for _ in range(count)])
    assert masks.dtype == 'float32' and set(np.unique(masks)) == {0, 1}
    cells = (
        masks.reshape(count, rows // 2, 2, columns // 2, 2)
        .transpose(0, 1, 3, 2, 4)
        .reshape(count, -1, 4)
    )
    assert (cells.sum(-1) == 3).all()
    return cells.argmin(-1)


@pytest.mark.parametrize('patches', [49, 64, 100, 144, 196, 256, 1024])
def test_each_original_rounds_in_its_own_way(patches):
    """MAE keeps int(L (1 - r)) patches; UM-MAE's SimMIM removes int(r L)."""
    mae, simmim = models_mae.Reconstruction, models_simmim.MaskTokens
    differing = 0
    for ratio in np.arange(1, 100) / 100:
        kept = np.floor(patches * (1 - ratio))
        removed = np.floor(patches * ratio)
        assert mae.num_visible(patches, ratio) == kept
        assert patches - simmim.num_visible(patches, ratio) == removed
        differing += kept + removed != patches
    assert differing > 10
    # at .6 of 256
    assert (mae.num_visible(256, 0.6), simmim.num_visible(256, 0.6)) == (102, 103)


@pytest.mark.parametrize(
    'grid, pool', [((16, 16), 128), ((14, 14), 100), ((4, 12), 24), ((2, 2), 4)]
)
def test_a_uniform_mask_keeps_one_of_each_cell_from_a_balanced_pool(grid, pool):
    """The counts follow a hypergeometric law.

    From `pool` cards, a quarter of them of each pattern, one card is drawn for each cell.
    """
    cells = grid[0] * grid[1] // 4
    counts = np.stack([(patterns(grid, 2000) == kind).sum(1) for kind in range(4)], 1)
    assert counts.max() <= pool / 4
    assert (counts.sum(1) == cells).all()
    np.testing.assert_allclose(counts.mean(0), cells / 4, rtol=0.1)
    variance = cells * 3 / 16 * (pool - cells) / (pool - 1)
    # independent draws would have about twice this variance
    np.testing.assert_allclose(counts.var(0), variance, rtol=0.12)


def test_each_cell_keeps_any_of_its_four_equally_often_and_no_two_depend_much_on_each_other():
    kept = patterns((8, 8), 4000)
    for kind in range(4):
        np.testing.assert_allclose((kept == kind).mean(0), 0.25, atol=0.03)
    equal = [(kept[:, 0] == kept[:, cell]).mean() for cell in range(1, 16)]
    np.testing.assert_allclose(equal, 7 / 31, atol=0.03)  # the pool holds 8 of each, 32 in all


def test_a_uniform_mask_is_what_its_generator_says():
    masks = [masking.uniform((8, 12), np.random.default_rng(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()


def test_a_grid_keeps_the_same_one_of_every_cell_and_each_as_often():
    rng = np.random.default_rng(0)
    corners = []
    for _ in range(400):
        mask = masking.regular((6, 8), rng).reshape(6, 8)
        assert mask.dtype == 'float32' and (mask == 0).sum() == 12
        rows, columns = np.nonzero(mask == 0)
        assert len({*zip(rows % 2, columns % 2)}) == 1
        corners.append(2 * rows[0] + columns[0])
    # 4 standard deviations
    assert np.unique(corners, return_counts=True)[1] == pytest.approx([100] * 4, abs=35)


def blocks_by_hand(grid, removed, rng):
    """BEiT's algorithm 1 over a set of places, from the same draws."""
    gone, patches = set(), grid[0] * grid[1]
    while len(gone) < removed:
        area = rng.uniform(16 * patches / 196, max(16 * patches / 196, removed - len(gone)))
        aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
        height = max(1, min(grid[0], round(np.sqrt(area * aspect))))
        width = max(1, min(grid[1], round(np.sqrt(area / aspect))))
        top, left = rng.integers(grid[0] - height + 1), rng.integers(grid[1] - width + 1)
        for place in itertools.product(range(top, top + height), range(left, left + width)):
            if len(gone) < removed:
                gone.add(place)
    return [float((row, column) in gone) for row in range(grid[0]) for column in range(grid[1])]


@pytest.mark.parametrize(
    'grid, removed', [((14, 14), 98), ((14, 14), 147), ((8, 8), 48), ((3, 20), 31), ((1, 1), 1)]
)
def test_blocks_are_rectangles_until_exactly_so_many_patches_are_removed(grid, removed):
    ours, theirs = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(50):
        mask = masking.block(grid, removed, ours)
        assert mask.dtype == 'float32' and mask.sum() == removed
        assert mask.tolist() == blocks_by_hand(grid, removed, theirs)


def test_blocks_hang_together_and_are_anywhere():
    """Connected parts of a mask: a few rectangles, where random masks have dozens."""
    rng = np.random.default_rng(0)
    masks = np.stack([masking.block((14, 14), 98, rng).reshape(14, 14) for _ in range(500)])
    parts = np.mean([ndimage.label(mask)[1] for mask in masks])
    scattered = np.mean(
        [ndimage.label(masking.random(196, rng).reshape(14, 14) < 0.5)[1] for _ in range(500)]
    )
    assert parts < 3 < 15 < scattered
    assert masks.mean(0).min() > 0.02 and masks.mean(0).max() < 0.9
    # neither wide nor tall rectangles are preferred
    np.testing.assert_allclose(masks.mean(0), masks.mean(0).T, atol=0.15)


def test_the_sampler_draws_random_noise_or_masks():
    draw = masking.sampler((4, 6), 0.6, 'random')
    noise = draw(np.random.default_rng(0))
    assert (
        noise.shape == (24,)
        and noise.dtype == 'float32'
        and len(set(noise)) == 24
        and 0 <= noise.min() < noise.max() < 1
    )
    for kind, mask in (
        ('uniform', masking.uniform((4, 6), np.random.default_rng(0))),
        ('grid', masking.regular((4, 6), np.random.default_rng(0))),
        ('block', masking.block((4, 6), 18, np.random.default_rng(0))),
    ):
        np.testing.assert_array_equal(
            masking.sampler((4, 6), 0.75, kind)(np.random.default_rng(0)), mask
        )


def test_the_kind_is_what_the_flags_of_new_and_old_trainings_say():
    kinds = {'': 'random', 'block': 'block', 'grid': 'grid'}
    assert [masking.kind_of({'masking': flag} if flag else {}) for flag in kinds] == list(
        kinds.values()
    )
    assert masking.kind_of({'mask_regular': True}) == 'uniform'
    assert masking.kind_of({'mask_regular': True, 'masking': 'random'}) == 'uniform'
    with pytest.raises(InputError, match='--masking grid and --mask_regular are two kinds'):
        masking.kind_of({'mask_regular': True, 'masking': 'grid'})


@pytest.mark.parametrize(
    'grid, ratio, kind, message',
    [
        ((8, 8), 0.7, 'uniform', '--mask_ratio 0.7: --mask_regular removes three of every 2 x 2'),
        ((7, 8), 0.75, 'uniform', '--mask_regular needs an even number .* 7 x 8'),
        ((8, 7), 0.75, 'uniform', '--mask_regular needs an even number .* 8 x 7'),
        ((8, 8), 0.5, 'grid', '--mask_ratio 0.5: --masking grid removes three of every 2 x 2'),
        ((8, 7), 0.75, 'grid', '--masking grid needs an even number .* 8 x 7'),
        ((8, 8), 0.99, 'random', '--mask_ratio 0.99 keeps 0 of 64'),
        ((8, 8), 0.0, 'random', '--mask_ratio 0.0 keeps 64 of 64'),
    ],
)
def test_what_cannot_be_drawn_is_named(grid, ratio, kind, message):
    with pytest.raises(InputError, match=message):
        masking.sampler(grid, ratio, kind)
