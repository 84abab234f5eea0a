import numpy as np
import pytest

from util import masking
from util.errors import InputError


def patterns(grid, count, seed=0):
    """Which of the four is kept in each cell of so many uniform masks: [count, cells]."""
    rng, (rows, columns) = np.random.default_rng(seed), grid
    masks = np.stack([masking.uniform(grid, rng) for _ in range(count)])
    assert masks.dtype == 'float32' and set(np.unique(masks)) == {0, 1}
    cells = masks.reshape(count, rows // 2, 2, columns // 2, 2).transpose(0, 1, 3, 2, 4).reshape(count, -1, 4)
    assert (cells.sum(-1) == 3).all()
    return cells.argmin(-1)


@pytest.mark.parametrize('grid, pool', [((16, 16), 128), ((14, 14), 100), ((4, 12), 24), ((2, 2), 4)])
def test_a_uniform_mask_keeps_one_of_each_cell_from_a_balanced_pool(grid, pool):
    """`pool` cards, a quarter of them of each pattern, and as many drawn as there are cells: a hypergeometric law."""
    cells = grid[0] * grid[1] // 4
    counts = np.stack([(patterns(grid, 2000) == kind).sum(1) for kind in range(4)], 1)
    assert counts.max() <= pool / 4
    assert (counts.sum(1) == cells).all()
    np.testing.assert_allclose(counts.mean(0), cells / 4, rtol=0.1)
    variance = cells * 3 / 16 * (pool - cells) / (pool - 1)
    np.testing.assert_allclose(counts.var(0), variance, rtol=0.12)  # of independent draws it would be about twice this


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


def test_the_sampler_draws_random_noise_or_uniform_masks():
    draw = masking.sampler((4, 6), 0.6, regular=False)
    noise = draw(np.random.default_rng(0))
    assert noise.shape == (24,) and noise.dtype == 'float32' and len(set(noise)) == 24 and 0 <= noise.min() < noise.max() < 1
    mask = masking.sampler((4, 6), 0.75, regular=True)(np.random.default_rng(0))
    np.testing.assert_array_equal(mask, masking.uniform((4, 6), np.random.default_rng(0)))


@pytest.mark.parametrize('grid, ratio, regular, message', [
    ((8, 8), 0.7, True, '--mask_ratio 0.7: --mask_regular keeps one of every 2 x 2'),
    ((7, 8), 0.75, True, '--mask_regular needs an even number .* 7 x 8'),
    ((8, 7), 0.75, True, '--mask_regular needs an even number .* 8 x 7'),
    ((8, 8), 0.99, False, '--mask_ratio 0.99 keeps 0 of 64'),
    ((8, 8), 0.0, False, '--mask_ratio 0.0 keeps 64 of 64')])
def test_what_cannot_be_drawn_is_named(grid, ratio, regular, message):
    with pytest.raises(InputError, match=message):
        masking.sampler(grid, ratio, regular)
