import numpy as np
import pytest

from util.pos_embed import sincos_2d


@pytest.mark.parametrize(
    'dim, grid, total, second',
    [
        (768, 14, 69594.4938, 0.815251),
        (512, 14, 46340.3331, 0.801962),
        (1280, 16, 149578.4058, 0.825805),
    ],
)
def test_tables_have_the_golden_values_of_the_official_code(dim, grid, total, second):
    table = sincos_2d(dim, (grid, grid))
    quarters = [0, dim // 4, dim // 2, 3 * dim // 4]
    assert table.shape == (grid**2 + 1, dim) and table.dtype == np.float32
    assert table.sum(dtype='float64') == pytest.approx(total, abs=1e-3)
    assert not table[0].any()
    assert table[1, quarters] == pytest.approx([0, 1, 0, 1])
    assert table[2, quarters] == pytest.approx([0.841471, 0.540302, 0, 1], abs=1e-6)
    assert table[1 + grid, quarters] == pytest.approx([0, 1, 0.841471, 0.540302], abs=1e-6)
    assert table[2, 1] == pytest.approx(second, abs=1e-6)


def test_a_grid_need_not_be_square():
    table = sincos_2d(16, (2, 5), cls_token=False)
    square = sincos_2d(16, (5, 5), cls_token=False).reshape(5, 5, 16)
    np.testing.assert_array_equal(table.reshape(2, 5, 16), square[:2])


def test_a_width_that_4_does_not_divide_is_refused():
    with pytest.raises(ValueError, match='30'):
        sincos_2d(30, (2, 2))
