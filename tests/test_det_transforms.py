"""Transforms of pictures with boxes and masks, by hand and against OpenCV.

tests/originals/test_detect_transforms.py compares whole recipes with mmdetection.
"""

import cv2
import numpy as np
import pytest
from toy_coco import box, content, pixels, read, write

import det  # noqa: F401
from det import masks
from det.samples import crop, rescaled_size, resize
from det.transforms import KNOWN, Chain, Pad, RandomCrop, RandomFlip, build
from util.errors import InputError

RNG = np.random.default_rng(0)
LSJ = [
    {'Decode': {}},
    {'RandomResize': {'target_size': [64, 64], 'ratio_range': [0.1, 2.0]}},
    {'RandomCrop': {'crop_size': [64, 64]}},
    {'RandomFlip': {'prob': 0.5}},
    {'NormalizeImage': {'mean': [0.5, 0.4, 0.3], 'std': [0.1, 0.2, 0.3], 'is_scale': True}},
    {'Pad': {'size': [64, 64]}},
    {'Permute': {}},
]


def sample(height=40, width=60, boxes=((5, 6, 25, 16), (30, 20, 40.5, 28.25))):
    boxes = np.array(boxes, 'float32').reshape(-1, 4)
    return {
        'image': pixels(height, width),
        'gt_bbox': boxes,
        'gt_class': np.arange(len(boxes)),
        'scale_factor': np.ones(2, 'float32'),
    }


def with_masks(plain):
    """The sample with a mask for each box: its rectangle without the corner at the top left."""
    height, width = plain['image'].shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    bitmaps = [
        (columns > x1) & (columns < x2) & (rows > y1) & (rows < y2) & (columns + rows > x1 + y1 + 5)
        for x1, y1, x2, y2 in plain['gt_bbox']
    ]
    rles = [masks.encode(bitmap) for bitmap in bitmaps]
    return plain | {'gt_segm': masks.Masks(rles, height, width)}, np.array(bitmaps, 'uint8')


def around(mask):
    """The tight box around a mask."""
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


# COCO's usual sizes at (1333, 800), as mmdetection's logs show them
@pytest.mark.parametrize(
    'size, edges, expected',
    [
        ((480, 640), (1333, 800), (800, 1067)),
        ((426, 640), (1333, 800), (800, 1202)),
        ((640, 480), (1333, 800), (1067, 800)),
        ((333, 500), (1333, 800), (800, 1201)),
        ((375, 1242), (1333, 800), (402, 1333)),
        ((480, 640), (102, 102), (77, 102)),
        ((1, 500), (10, 10), (1, 10)),
    ],
)
def test_sizes_are_mmcvs(size, edges, expected):
    assert rescaled_size(*size, edges) == expected


def test_boxes_follow_the_picture_when_it_is_resized():
    changed = resize(sample(), (90, 80))  # 40 x 60 -> 60 x 90
    np.testing.assert_array_equal(
        changed['image'], cv2.resize(pixels(40, 60), (90, 60), interpolation=cv2.INTER_LINEAR)
    )
    np.testing.assert_array_equal(changed['gt_bbox'], [[7.5, 9, 37.5, 24], [45, 30, 60.75, 42.375]])
    assert changed['scale_factor'].tolist() == [1.5, 1.5]
    assert changed['im_shape'].tolist() == [60, 90]


def test_the_two_sides_have_their_own_factor():
    changed = resize(sample(40, 61), (33, 33))  # 40 x 61 -> 22 x 33
    np.testing.assert_allclose(changed['scale_factor'], [22 / 40, 33 / 61], rtol=1e-7)
    expected = np.array([5 * 33 / 61, 6 * 22 / 40, 25 * 33 / 61, 16 * 22 / 40])
    np.testing.assert_allclose(changed['gt_bbox'][0], expected, rtol=1e-6)


def test_a_crop_cuts_boxes_and_drops_what_is_outside():
    changed = crop(sample(), top=10, left=20, size=(20, 30))
    np.testing.assert_array_equal(changed['image'], pixels(40, 60)[10:30, 20:50])
    np.testing.assert_array_equal(changed['gt_bbox'], [[0, 0, 5, 6], [10, 10, 20.5, 18.25]])
    changed = crop(sample(), top=18, left=20, size=(20, 30))
    np.testing.assert_array_equal(changed['gt_bbox'], [[10, 2, 20.5, 10.25]])
    assert changed['gt_class'].tolist() == [1]


@pytest.mark.parametrize('sliver, kept', [(0.009, False), (0.011, True)])
def test_a_sliver_of_a_box_is_dropped(sliver, kept):
    boxes = [[5, 5, 10 + sliver, 20], [12, 5, 20, 20]]
    changed = crop(sample(boxes=boxes), top=0, left=10, size=(40, 40))
    assert changed['gt_class'].tolist() == ([0, 1] if kept else [1])


def test_a_crop_without_boxes_asks_for_another_picture():
    assert crop(sample(), top=30, left=0, size=(10, 10)) is None
    assert crop(sample(boxes=[]), top=30, left=0, size=(10, 10))['gt_bbox'].shape == (0, 4)


def test_a_crop_takes_what_there_is_of_a_small_picture():
    changed = RandomCrop([50, 50])(sample(), RNG)
    assert changed['image'].shape == (40, 50, 3)
    assert changed['im_shape'].tolist() == [40, 50]


def test_crops_begin_anywhere():
    rng = np.random.default_rng(0)
    image = np.arange(6 * 7).reshape(6, 7, 1).repeat(3, axis=2).astype('uint8')
    starts = {int(RandomCrop([4, 6])({'image': image}, rng)['image'][0, 0, 0]) for _ in range(200)}
    assert starts == {0, 1, 7, 8, 14, 15}


def test_a_flip_mirrors_boxes():
    changed = RandomFlip(1.0)(sample(), RNG)
    np.testing.assert_array_equal(changed['image'], pixels(40, 60)[:, ::-1])
    np.testing.assert_array_equal(changed['gt_bbox'], [[35, 6, 55, 16], [19.5, 20, 30, 28.25]])
    assert RandomFlip(0.0)(sample(), RNG)['gt_bbox'][0, 0] == 5


def test_about_half_of_the_pictures_are_flipped():
    rng = np.random.default_rng(0)
    flipped = [RandomFlip()(sample(), rng)['gt_bbox'][0, 0] == 35 for _ in range(400)]
    assert 0.42 < np.mean(flipped) < 0.58


def test_padding_and_normalising_by_hand():
    found = build(LSJ[4:6])(sample(), RNG)
    image = pixels(40, 60).transpose(2, 0, 1) / 255
    expected = np.zeros([3, 64, 64])
    mean, std = (np.reshape(values, [3, 1, 1]) for values in ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3]))
    expected[:, :40, :60] = (image - mean) / std
    np.testing.assert_allclose(found['image'], expected, atol=2e-6)
    assert found['image'].dtype == np.float32 and found['image'].flags['C_CONTIGUOUS']
    assert found['im_shape'].tolist() == [40, 60]  # without the padding


@pytest.mark.parametrize(
    'settings, shape, value',
    [
        ({'size_divisor': 32}, (64, 64), [0, 0, 0]),
        ({'size_divisor': 20}, (40, 60), None),
        ({'size': [41, 70], 'fill': 7}, (41, 70), [7, 7, 7]),
        ({'size': [41, 70], 'fill': [124, 116, 104]}, (41, 70), [124, 116, 104]),
    ],
)
def test_padding_fills_below_and_right(settings, shape, value):
    found = Pad(**settings)(sample(), RNG)['image']
    assert found.shape == (*shape, 3)
    np.testing.assert_array_equal(found[:40, :60], pixels(40, 60))
    if value:
        assert (found[40:] == value).all() and (found[:, 60:] == value).all()


def test_the_mean_is_0_after_normalising():
    mean_of_it = {'Pad': {'size': [64, 64], 'fill': 'mean'}}
    after = build([LSJ[4], mean_of_it])(sample(), RNG)['image']
    before = build([{'Pad': {'size': [64, 64], 'fill': [127.5, 102, 76.5]}}, LSJ[4]])
    assert not after[:, 40:].any()
    np.testing.assert_allclose(after, before(sample(), RNG)['image'], atol=0.04)  # whole numbers
    with pytest.raises(InputError, match='fill: mean must come after NormalizeImage'):
        build([mean_of_it])(sample(), RNG)


def test_masks_are_those_of_opencv_applied_step_by_step():
    plain = sample(97, 71, [(5, 6, 40, 70), (30, 20, 60, 90)])
    given, bitmaps = with_masks(plain)
    changed = crop(resize(given, (151, 151)), top=20, left=9, size=(100, 64))
    changed = Pad(size=[128, 128])(RandomFlip(1.0)(changed, RNG), RNG)
    found = Chain([])(changed, RNG)['gt_segm']

    height, width = rescaled_size(97, 71, (151, 151))
    for mask, bitmap in zip(found, bitmaps):
        large = cv2.resize(bitmap, (width, height), interpolation=cv2.INTER_NEAREST)
        expected = np.zeros([128, 128], 'uint8')
        expected[:100, :64] = large[20:120, 9:73][:, ::-1]
        np.testing.assert_array_equal(mask, expected)


def test_nearest_pixels_are_opencvs():
    rng = np.random.default_rng(0)
    for before, after in rng.integers(1, 1500, (300, 2)):
        numbers = np.arange(before, dtype='float32')[None]
        expected = cv2.resize(numbers, (int(after), 1), interpolation=cv2.INTER_NEAREST)[0]
        found = masks.Masks([], 1, before).resized(1, after).columns
        np.testing.assert_array_equal(found, expected)


def test_boxes_are_recomputed_from_what_is_left_of_the_masks():
    """Of the first box only the corner without mask is in the part: it is dropped."""
    given, _ = with_masks(sample(40, 60, [(10, 10, 30, 30), (2, 20, 30, 40)]))
    plain = crop(given, top=0, left=0, size=(22, 12))
    np.testing.assert_array_equal(plain['gt_bbox'], [[10, 10, 12, 22], [2, 20, 12, 22]])
    tight = crop(given, top=0, left=0, size=(22, 12), tight=True)
    np.testing.assert_array_equal(tight['gt_bbox'], [[10, 14, 12, 22], [6, 20, 12, 22]])
    assert crop(given, top=0, left=0, size=(12, 12), tight=True) is None


def test_an_object_whose_mask_is_cropped_away_is_dropped():
    given, _ = with_masks(sample(40, 60, [(10, 10, 30, 30), (2, 2, 30, 40)]))
    found = Chain([])(crop(given, top=0, left=0, size=(12, 12)), RNG)
    assert found['gt_class'].tolist() == [1] and found['gt_segm'].shape == (1, 12, 12)


@pytest.mark.parametrize('masked', [True, False])
def test_large_scale_jitter_keeps_everything_in_the_picture(tmp_path, masked):
    objects = [box(10, [5, 6, 20, 10]), box(8, [0, 0, 64, 64], 0), box(8, [50, 40, 9, 9], 3)]
    data = read(write(tmp_path, content(objects)), with_masks=masked)
    chain = build(LSJ)
    scales = []
    for number in range(60):
        found = chain(data.read(number % 2), np.random.default_rng([0, number]))
        if found is None:
            continue
        scales.append(found['scale_factor'][0] * max(found['origin_shape']) / 64)
        height, width = found['im_shape']
        boxes = found['gt_bbox']
        assert (boxes >= 0).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert found['image'].shape == (3, 64, 64)
        if masked:
            assert found['gt_segm'].shape == (len(boxes), 64, 64)
            tight = np.array([around(mask) for mask in found['gt_segm']])
            assert np.abs(tight - boxes).max() < 2.5  # masks are the whole boxes here
    assert min(scales) < 0.3 and max(scales) > 1.7 and len(scales) > 40


def test_a_sample_depends_on_its_generator_alone(tmp_path):
    data = read(write(tmp_path, content([box(10, [5, 6, 20, 10])])))
    chain = build(LSJ)
    runs = [chain(data.read(0), np.random.default_rng([3, 1])) for _ in range(2)]
    for name, value in runs[0].items():
        np.testing.assert_array_equal(value, runs[1][name])


def test_pictures_without_boxes_pass_for_inference():
    found = build(LSJ)({'image': pixels(40, 60)}, RNG)
    assert sorted(found) == ['im_shape', 'image', 'origin_shape', 'scale_factor']
    assert found['origin_shape'].tolist() == [40, 60]


REFUSED = [
    ({'Flip': {}}, "there is no transform 'Flip'; there are Decode, Resize, RandomResize"),
    ({'RandomFlip': {'p': 0.5}}, "RandomFlip has no argument 'p'; it has prob"),
    ({'Decode': {'a': 1}}, "Decode has no argument 'a'; it has none"),
    ({'RandomCrop': {}}, 'RandomCrop needs the argument crop_size'),
    ({'RandomFlip': 0.5}, 'RandomFlip: arguments are `name: value`, not 0.5'),
    ({'RandomFlip': {}, 'Pad': {}}, 'a transform is one name with its arguments'),
    (5, 'a transform is one name with its arguments, not 5'),
    ({'RandomFlip': {'prob': 2}}, 'RandomFlip: prob is a number from 0 to 1, not 2'),
    ({'RandomFlip': {'prob': 'a'}}, 'RandomFlip: prob is a number from 0 to 1'),
    ({'Resize': {'target_size': 800}}, r'Resize: target_size is a list of two whole .* not 800'),
    ({'Resize': {'target_size': [800, 0]}}, 'target_size is a list of two whole numbers above 0'),
    ({'Resize': {'target_size': [8, 8], 'keep_ratio': False}}, 'keep_ratio is always true here'),
    ({'RandomResize': {'target_size': [9, 9], 'ratio_range': [2, 1]}}, 'the smaller one first'),
    ({'RandomResize': {'target_size': [9, 9], 'ratio_range': [0, 1]}}, 'two ratios above 0'),
    (
        {'RandomResize': {'target_size': [9, 9], 'ratio_range': 1}},
        'is a list of two numbers, not 1',
    ),
    ({'NormalizeImage': {'std': [1, 0, 1]}}, 'std is three numbers above 0'),
    ({'NormalizeImage': {'mean': [1, 0]}}, r'mean is three numbers, not \[1, 0\]'),
    ({'Pad': {}}, 'Pad: give either size, .* or size_divisor'),
    ({'Pad': {'size': [9, 9], 'size_divisor': 3}}, 'Pad: give either size'),
    ({'Pad': {'size_divisor': 0}}, 'Pad: size_divisor is a whole number above 0, not 0'),
    (
        {'Pad': {'size_divisor': 4, 'fill': 'grey'}},
        "fill is a number, three numbers or mean, not 'g",
    ),
]


@pytest.mark.parametrize('entry, said', REFUSED)
def test_a_wrong_transform_is_refused_in_one_line(entry, said):
    with pytest.raises(InputError, match=said) as error:
        build([entry])
    assert '\n' not in str(error.value)


def test_the_list_may_be_written_in_pure_names_and_must_be_a_list():
    assert len(build(['Decode', {'Permute': None}]).transforms) == 2
    assert set(KNOWN) >= {'Decode', 'Permute'}
    with pytest.raises(InputError, match='sample_transforms is a list of transforms'):
        build({'Decode': {}})


def test_padding_does_not_cut():
    with pytest.raises(InputError, match=r'Pad: size \[40, 50\] is less than a picture of 40 x 60'):
        Pad(size=[40, 50])(sample(), RNG)
