"""The training transforms by hand: sizes, the rule of the crop, colours, the network's input."""

import colorsys
import random

import numpy as np
import paddle
import pytest

import seg  # noqa: F401

# isort: split
from paddleseg.cvlibs import manager
from paddleseg.transforms import Compose

from seg.augment import PhotoMetricDistortion, RandomCropWithCategoryLimit, RandomResize
from util.errors import InputError

RECIPE = [
    {'type': 'RandomResize', 'scale': [256, 64], 'ratio_range': [0.5, 2.0]},
    {'type': 'RandomCropWithCategoryLimit', 'crop_size': [64, 64]},
    {'type': 'RandomHorizontalFlip'},
    {'type': 'PhotoMetricDistortion'},
    {'type': 'Normalize', 'mean': [0.485, 0.456, 0.406], 'std': [0.229, 0.224, 0.225]},
    {'type': 'Padding', 'target_size': [64, 64], 'im_padding_value': 0, 'label_padding_value': 255},
]


def scene(height, width, seed=0):
    """A float32 image [height, width, 3] of whole numbers and a uint8 label [height, width].

    The label has the classes 0, 3, 6 .. 27 and 255.
    """
    rng = np.random.default_rng(seed)
    label = 3 * rng.integers(0, 10, [height, width])
    label[rng.random(label.shape) < 0.1] = 255
    return {
        'img': rng.integers(0, 256, [height, width, 3]).astype('float32'),
        'label': label.astype('uint8'),
        'trans_info': [],
        'gt_fields': ['label'],
    }


def recipe():
    return Compose(
        [
            manager.TRANSFORMS[part['type']](
                **{key: value for key, value in part.items() if key != 'type'}
            )
            for part in RECIPE
        ]
    )


@pytest.fixture
def drawn(monkeypatch):
    """drawn(function=values) lets numpy.random return these, one a call; the list of its calls."""

    def set_draws(**values):
        asked = []
        for name, given in values.items():
            queue = iter(given)
            monkeypatch.setattr(
                np.random,
                name,
                lambda *ends, name=name, queue=queue: (asked.append((name, *ends)), next(queue))[1],
            )
        return asked

    return set_draws


# 64 x .65 is 41.6 pixels; mmsegmentation rounds down to 41
@pytest.mark.parametrize(
    'size, draw, expected',
    [
        ((50, 100), 0.0, (32, 64)),
        ((50, 100), 0.999999, (127, 254)),
        ((50, 100), 1 / 3, (64, 128)),  # the short edge decides
        ((10, 100), 1 / 3, (26, 256)),
        ((100, 10), 0.0, (128, 13)),  # the long edge decides
        ((50, 100), 0.1, (41, 82)),
    ],
)
def test_sizes_between_half_and_double(drawn, size, draw, expected):
    drawn(random=[draw])
    data = RandomResize([256, 64], [0.5, 2.0])(scene(*size))
    assert data['img'].shape == (*expected, 3) and data['label'].shape == expected


def test_a_resized_label_has_the_classes_of_single_pixels_and_the_image_whole_numbers(drawn):
    for draw in (0.0, 0.3, 0.9):
        drawn(random=[draw])
        data, before = RandomResize([256, 64])(scene(30, 47)), scene(30, 47)
        height, width = data['label'].shape
        rows, columns = np.arange(height) * 30 // height, np.arange(width) * 47 // width
        np.testing.assert_array_equal(data['label'], before['label'][rows][:, columns])
        assert (
            data['img'].dtype == np.float32
            and (data['img'] % 1 == 0).all()
            and data['label'].dtype == np.uint8
        )


def test_an_image_is_resized_bilinearly(drawn):
    drawn(random=[0.0])  # to the half: each pixel is the mean of four, rounded
    image = scene(64, 128)['img']
    data = RandomResize([256, 64])({'img': image})
    np.testing.assert_allclose(data['img'], image.reshape(32, 2, 64, 2, 3).mean((1, 3)), atol=0.5)


def test_classes_beyond_a_byte_are_resized_too(drawn):
    drawn(random=[0.9])
    data = scene(20, 20) | {'label': np.arange(400, dtype='int64').reshape(20, 20)}
    assert set(np.unique(RandomResize([256, 64])(data)['label'])) == set(range(400))


def test_a_crop_cuts_image_and_label_at_the_same_place(drawn):
    asked = drawn(randint=[7, 11])
    data, before = RandomCropWithCategoryLimit([20, 10])(scene(40, 60)), scene(40, 60)
    assert asked == [('randint', 31), ('randint', 41)]
    for key in ('img', 'label'):
        np.testing.assert_array_equal(data[key], before[key][7:17, 11:31])


def test_a_crop_larger_than_the_image_takes_all_of_it():
    data, before = RandomCropWithCategoryLimit([50, 50])(scene(40, 60)), scene(40, 60)
    assert data['img'].shape == (40, 50, 3)
    assert any((data['label'] == before['label'][:, left : left + 50]).all() for left in range(11))


@pytest.mark.parametrize(
    'pixels, mixed',
    [
        ([1] * 3 + [2] * 2, True),
        ([1] * 3 + [2], False),  # one class may have less than three quarters
        ([1] * 3 + [2] + [255] * 9, False),
        ([255] * 9 + [1, 2], True),  # ignored pixels do not count
        ([1] * 5, False),
        ([1] + [255] * 5, False),
        ([255] * 5, False),
        ([0, 0, 149], True),
    ],
)
def test_the_limit_of_one_class(pixels, mixed):
    assert RandomCropWithCategoryLimit([5, 5]).mixed(np.array([pixels], 'uint8')) == mixed


def test_a_place_of_one_class_is_drawn_again(drawn):
    data = scene(10, 40)
    data['label'][:, :30] = 5
    asked = drawn(randint=[0, 3, 0, 12, 0, 30, 0, 0])
    before = data['label'].copy()
    assert (RandomCropWithCategoryLimit([10, 10])(data)['label'] == before[:, 30:]).all()
    assert len(asked) == 6


def test_the_eleventh_place_is_taken_as_it_comes(drawn):
    columns = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 21]
    asked = drawn(randint=[draw for column in columns for draw in (0, column)])
    data = scene(10, 40) | {'label': np.full([10, 40], 5, 'uint8')}
    before = data['img'].copy()
    assert (RandomCropWithCategoryLimit([10, 10])(data)['img'] == before[:, 20:30]).all()
    assert len(asked) == 22


def test_without_a_limit_the_first_place_is_taken(drawn):
    asked = drawn(randint=[0, 3])
    RandomCropWithCategoryLimit([10, 10], 1.0)(
        scene(10, 40) | {'label': np.full([10, 40], 5, 'uint8')}
    )
    assert len(asked) == 2


LEVELS = np.broadcast_to(np.arange(256, dtype='float32')[None, :, None], [2, 256, 3])


def distorted(image, drawn, switches, uniform=(), **options):
    """(the image after PhotoMetricDistortion, the calls of numpy.random).

    switches: randint's results in the order brightness, contrast first, contrast if it is first,
    saturation, hue (and its shift), contrast if it is last.
    """
    asked = drawn(randint=switches, uniform=uniform)
    return PhotoMetricDistortion(**options)({'img': image})['img'], asked


@pytest.mark.parametrize('delta', [-32, -10.7, 0.5, 31.9])
def test_brightness_is_added_and_rounded_down(drawn, delta):
    image, asked = distorted(LEVELS, drawn, [1, 0, 0, 0, 0], [delta])
    np.testing.assert_array_equal(image, np.floor(np.clip(LEVELS + np.float32(delta), 0, 255)))
    assert asked == [('randint', 2), ('uniform', -32, 32)] + [('randint', 2)] * 4


@pytest.mark.parametrize('first', [True, False])
@pytest.mark.parametrize('factor', [0.5, 0.77, 1.5])
def test_contrast_is_a_factor_of_the_levels(drawn, factor, first):
    image, asked = distorted(LEVELS, drawn, [0, 1, 1, 0, 0] if first else [0, 0, 0, 0, 1], [factor])
    np.testing.assert_array_equal(image, np.floor(np.clip(LEVELS * np.float32(factor), 0, 255)))
    assert asked[3 if first else 5] == ('uniform', 0.5, 1.5)


def colors(seed=0):
    """float32 [8,8,3] RGB, bright enough to tell hue and saturation from whole levels."""
    rng = np.random.default_rng(seed)
    shares = np.array(
        [colorsys.hsv_to_rgb(*hsv) for hsv in rng.uniform([0, 0.3, 0.6], [1, 0.6, 1], [64, 3])]
    )
    return (255 * shares).round().reshape(8, 8, 3).astype('float32')


def recolored(image, change):
    """colorsys' answer, [height, width, 3], levels."""
    hsv = [colorsys.rgb_to_hsv(*pixel / 255) for pixel in image.reshape(-1, 3).astype('float64')]
    return 255 * np.array([colorsys.hsv_to_rgb(*change(*pixel)) for pixel in hsv]).reshape(
        image.shape
    )


@pytest.mark.parametrize('factor', [0.5, 1.0, 1.5])
def test_saturation_is_a_factor(drawn, factor):
    image, asked = distorted(colors(), drawn, [0, 0, 1, 0, 0], [factor])
    expected = recolored(colors(), lambda h, s, v: (h, min(1, s * factor), v))
    np.testing.assert_allclose(image, expected, atol=5)
    assert asked[3] == ('uniform', 0.5, 1.5)


@pytest.mark.parametrize('steps', [-18, -5, 0, 17])
def test_hue_is_turned_by_two_degrees_a_step_and_wraps(drawn, steps):
    # on both sides of 0
    red = np.array([[[250, 120, 120], [250, 120, 135], [250, 135, 120]]], 'float32')
    for before in (colors(), red):
        image, asked = distorted(before, drawn, [0, 0, 0, 1, steps, 0])
        np.testing.assert_allclose(
            image, recolored(before, lambda h, s, v: ((h + steps / 180) % 1, s, v)), atol=5
        )
        assert asked[4] == ('randint', -18, 18)


def test_contrast_comes_before_or_after_the_colours(drawn):
    color = np.array([[[200, 100, 150]]], 'float32')
    first, _ = distorted(color, drawn, [0, 1, 1, 1, 0], [1.5, 0.5])
    last, _ = distorted(color, drawn, [0, 0, 1, 0, 1], [0.5, 1.5])
    # contrast first gives 255, 150, 225, then the saturation is halved
    np.testing.assert_allclose(first.ravel(), [255, 202, 240], atol=2)
    np.testing.assert_allclose(last.ravel(), [255, 225, 255], atol=2)  # 200, 150, 175 times 1.5


def test_a_distorted_image_has_whole_levels_and_keeps_its_type():
    for seed in range(10):
        np.random.seed(seed)
        image = PhotoMetricDistortion()(scene(9, 13, seed))['img']
        assert (
            image.dtype == np.float32
            and (image % 1 == 0).all()
            and image.min() >= 0
            and image.max() <= 255
        )
        assert PhotoMetricDistortion()({'img': image.astype('uint8')})['img'].dtype == np.uint8


def test_what_is_padded_is_0_after_normalising_and_ignored():
    np.random.seed(0)
    random.seed(0)
    data = recipe()(scene(20, 200))
    height = int((data['label'] != 255).any(1).sum())
    assert data['img'].shape == (3, 64, 64) and data['img'].dtype == np.float32 and 0 < height < 64
    assert (data['img'][:, height:] == 0).all() and (data['img'][:, :height] != 0).all()
    assert data['label'].shape == (64, 64) and data['label'].dtype == np.uint8
    levels = data['img'][:, :height] * np.reshape([0.229, 0.224, 0.225], [3, 1, 1]) + np.reshape(
        [0.485, 0.456, 0.406], [3, 1, 1]
    )
    np.testing.assert_allclose(levels * 255, np.round(levels * 255), atol=1e-4)
    assert set(np.unique(data['label'])) <= {*range(0, 30, 3), 255}


def test_two_generators_decide_everything():
    """PaddleSeg's flip draws from the module random, all of ours from numpy.random."""

    def run(seed):
        np.random.seed(seed)
        random.seed(seed)
        data = recipe()(scene(90, 120))
        return np.concatenate([data['img'].ravel(), data['label'].ravel()])

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()


def test_pictures_of_all_sizes_make_a_batch():
    class Scenes(paddle.io.Dataset):
        def __getitem__(self, index):
            return recipe()(scene(*[(20, 200), (300, 30), (64, 64), (90, 120)][index]))

        def __len__(self):
            return 4

    batch = next(iter(paddle.io.DataLoader(Scenes(), batch_size=4)))
    assert batch['img'].shape == [4, 3, 64, 64] and batch['label'].shape == [4, 64, 64]


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: RandomResize([512]), 'RandomResize: scale'),
        (lambda: RandomResize([2048, 0]), 'RandomResize: scale'),
        (lambda: RandomResize(ratio_range=[2, 0.5]), 'ratio_range'),
        (lambda: RandomResize(ratio_range=[0, 1]), 'ratio_range'),
        (lambda: RandomCropWithCategoryLimit([512]), 'crop_size'),
        (lambda: RandomCropWithCategoryLimit([0, 5]), 'crop_size'),
        (lambda: RandomCropWithCategoryLimit(category_max_ratio=0), 'category_max_ratio'),
        (lambda: RandomCropWithCategoryLimit(category_max_ratio=75), 'category_max_ratio'),
        (lambda: PhotoMetricDistortion(contrast_range=[1.5, 0.5]), 'contrast_range'),
        (lambda: PhotoMetricDistortion(saturation_range=[-1, 1]), 'saturation_range'),
        (lambda: PhotoMetricDistortion(brightness_delta=-1), 'brightness_delta'),
        (lambda: PhotoMetricDistortion(hue_delta=0), 'hue_delta'),
        (lambda: PhotoMetricDistortion()({'img': np.zeros([4, 4, 1], 'float32')}), r'\[4, 4, 1\]'),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
