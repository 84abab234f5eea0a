"""The samples and batches of detection, in training and in evaluation."""

import numpy as np
import pytest
from toy_coco import box, content, read, write

from det import batches, transforms
from util.errors import InputError

PICTURES = {10: (40, 60), 4: (50, 30), 8: (64, 64)}  # id: height, width
OBJECTS = [box(10, [2, 3, 9, 8]), box(4, [5, 6, 20, 30], 0), box(8, [40, 40, 20, 20], 3)]
VARIED = [
    {'RandomResize': {'target_size': [48, 48], 'ratio_range': [0.5, 2.0]}},
    {'RandomCrop': {'crop_size': [24, 24]}},
    {'RandomFlip': {'prob': 0.5}},
    {'NormalizeImage': {}},
    {'Pad': {'size': [24, 24]}},
]
PLAIN = [{'NormalizeImage': {}}]


@pytest.fixture
def data(tmp_path):
    return read(write(tmp_path, content(OBJECTS)), with_masks=True)


def samples(data, steps, seed=0):
    return batches.Samples(data, transforms.build(steps), seed)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_sample_depends_on_seed_epoch_and_number_alone(data):
    first, second = samples(data, VARIED), samples(data, VARIED)
    second.sample((0, 2))  # another order changes nothing
    for key in ((0, 0), (3, 1)):
        assert_same(first.sample(key), second.sample(key))
    assert not np.array_equal(first.sample((0, 0))['image'], first.sample((1, 0))['image'])
    other = samples(data, VARIED, seed=1)
    assert not np.array_equal(first.sample((0, 0))['image'], other.sample((0, 0))['image'])


def test_where_a_crop_leaves_no_box_another_picture_is_taken(data):
    steps = [{'RandomCrop': {'crop_size': [8, 8]}}, *PLAIN]
    varied = samples(data, steps)
    taken = {int(varied.sample((epoch, 0))['im_id']) for epoch in range(40)}
    assert len(taken) > 1  # the object of the first picture is small beside it
    for epoch in range(40):
        assert len(varied.sample((epoch, 0))['gt_bbox'])


def test_a_damaged_picture_is_replaced_by_the_next_in_training_alone(data):
    damaged = data.paths[1]
    with open(damaged, 'wb') as file:
        file.write(b'none')
    training = samples(data, PLAIN)
    replaced = training.sample((0, 1))
    assert replaced['unreadable'] == 1
    assert replaced['im_id'] == data.images[2]['id']
    assert training.sample((0, 0))['unreadable'] == -1
    with pytest.raises(InputError, match='4.png cannot be read .*evaluation needs every image'):
        training.sample(1)


def test_a_batch_is_padded_with_zeros_to_its_largest_image(data):
    whole = samples(data, PLAIN)
    parts = [whole.sample(number) for number in range(3)]
    moved, batch = batches.collate(parts)
    assert moved['image'].shape == (3, 3, 64, 64)
    for part, image, masks in zip(parts, moved['image'], batch['gt_segm']):
        _, height, width = part['image'].shape
        np.testing.assert_array_equal(image[:, :height, :width], part['image'])
        assert not image[:, height:].any() and not image[:, :, width:].any()
        assert masks.shape == (1, 64, 64)
    np.testing.assert_array_equal(batch['im_shape'], [[40, 60], [50, 30], [64, 64]])
    np.testing.assert_array_equal(batch['gt_bbox'][0], [[2, 3, 11, 11]])


def test_a_batch_larger_than_the_data_set_is_refused(data):
    with pytest.raises(InputError, match='TrainReader.batch_size 4 is larger than'):
        batches.TrainLoader(samples(data, PLAIN), batch_size=4)


@pytest.mark.parametrize('workers', [0, 2])
def test_an_evaluation_has_each_picture_once(data, workers):
    order, prepared = batches.evaluated(samples(data, PLAIN), 2, workers, timeout=60)
    ids = [batch['im_id'].tolist() for batch in prepared]
    assert ids == [[10, 4], [8]]
    assert order == [[0, 1], [2]]
