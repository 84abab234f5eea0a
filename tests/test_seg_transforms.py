"""Sizes and pixels of the test resize."""

import cv2
import numpy as np
import pytest
from paddleseg.transforms import (
    Compose,
    Normalize,
    Resize,
    ResizeByLong,
    ResizeByShort,
    functional,
)

import seg  # noqa: F401
from seg import transforms
from seg.transforms import ResizeKeepRatio, rescaled_size
from util.errors import InputError


# the long edge is at most 2048, the short one at most 512
@pytest.mark.parametrize(
    'size, expected',
    [
        ((512, 683), (512, 683)),
        ((683, 512), (683, 512)),
        ((256, 341), (512, 682)),  # the short edge decides
        ((1000, 1501), (512, 769)),
        ((300, 301), (512, 514)),
        ((333, 250), (682, 512)),
        ((100, 1000), (205, 2048)),
        ((1000, 100), (2048, 205)),
        ((512, 2048), (512, 2048)),
    ],
)
def test_sizes_are_mmcvs(size, expected):
    assert rescaled_size(*size, 2048, 512) == expected


def picture(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype('uint8')


def test_a_transform_keeps_no_memory_of_the_image_before():
    transform = ResizeKeepRatio([256, 64])
    for seed, size, expected in [
        (0, (20, 200), (26, 256)),
        (1, (32, 48), (64, 96)),
        (0, (20, 200), (26, 256)),
    ]:
        assert (
            transform({'img': picture(seed, *size), 'trans_info': []})['img'].shape[:2] == expected
        )


@pytest.mark.parametrize('dtype', ['uint8', 'float32'])
def test_whole_numbers_are_resized_as_such(dtype):
    image = picture(0, 30, 47)
    data = ResizeKeepRatio([256, 64])({'img': image.astype(dtype), 'trans_info': []})
    np.testing.assert_array_equal(
        data['img'], cv2.resize(image, (100, 64), interpolation=cv2.INTER_LINEAR)
    )
    assert data['img'].dtype == np.float32 and len(np.unique(data['img'] % 1)) == 1
    ((name, size, original, edges),) = data['trans_info']
    assert (name, size, edges) == ('resize', (30, 47), (256, 64))
    np.testing.assert_array_equal(original, image)


def test_the_network_sees_red_green_blue_normalised_by_imagenets_figures():
    bgr = np.zeros([64, 64, 3], 'float32') + [0, 51, 255]
    prepare = Compose(
        [
            ResizeKeepRatio([64, 64]),
            Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    seen = prepare({'img': bgr.astype('float32')})['img']
    np.testing.assert_allclose(
        seen[:, 5, 7], [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225], rtol=1e-5
    )


def test_a_wrong_scale_is_named():
    with pytest.raises(InputError, match='ResizeKeepRatio: scale'):
        ResizeKeepRatio([512])


def test_a_very_narrow_picture_keeps_a_pixel():
    assert rescaled_size(3, 9000, 2048, 512) == (1, 2048)


def run(transform, *sizes):
    """The sizes that pictures and their labels of these sizes get, one after the other."""
    found = []
    for size in sizes:
        data = {
            'img': picture(0, *size).astype('float32'),
            'trans_info': [],
            'gt_fields': ['label'],
        }
        data = transform(data | {'label': np.zeros(size, 'uint8')})
        assert data['label'].shape == data['img'].shape[:2]
        assert data['trans_info'] == [('resize', size)]
        found.append(data['img'].shape[:2])
    return found


@pytest.mark.parametrize('size', [(30, 47), (47, 30), (5, 100), (33, 33)])
def test_the_short_edge_is_resized_as_paddleseg_does(size):
    image = picture(1, *size).astype('float32')
    for short in (12, 61):
        data = ResizeByShort(short)({'img': image, 'trans_info': []})
        np.testing.assert_array_equal(data['img'], functional.resize_short(image, short))


def test_thin_pictures_keep_a_pixel():
    assert run(ResizeByLong(10), (100, 1), (1, 300)) == [(10, 1), (1, 10)]
    assert run(Resize((10, 10), keep_ratio=True), (100, 1), (1, 300)) == [(10, 1), (1, 10)]
    assert run(ResizeByShort(8, max_size=32), (1000, 2), (2, 1000)) == [(32, 1), (1, 32)]


def test_a_thin_picture_leaves_the_short_edge_of_the_next_one():
    short = ResizeByShort(8, max_size=32)
    assert run(short, (10, 20), (10, 100), (10, 20)) == [(8, 16), (3, 30), (8, 16)]


@pytest.mark.parametrize('size', [(20000, 1), (1, 20000)])
def test_a_thin_picture_is_not_enlarged_without_limit(size):
    with pytest.raises(InputError, match='would become .*, more than 17 million, .* a max_size'):
        ResizeByShort(512)({'img': picture(0, *size), 'trans_info': []})


def test_a_large_picture_may_be_enlarged_in_proportion():
    transforms.check_enlarged((6000, 5000), (12000, 10000), '')
    for before, after in [((6000, 5000), (12001, 10000)), ((9000, 9000), (12000, 12000))]:
        with pytest.raises(InputError, match='more than'):
            transforms.check_enlarged(before, after, '')
