"""COCO files as strangers write them: read as the COCO tools read them, or refused by name."""

import functools
import json
import operator
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from toy_coco import CATEGORIES, SIZES, box, content, pixels, read, write

import det  # noqa: F401
from det.dataset import COCODataSet, Unreadable, match_classes
from util.errors import InputError

PLAIN = [
    box(10, [5, 6, 20, 10]),
    box(4, [1, 2, 3, 4], 0),
    box(10, [30, 20, 10.5, 8.25], 3),
    box(8, [0, 0, 64, 64], 0),
]


def test_a_sample_holds_what_the_json_says(tmp_path, capsys):
    data = read(write(tmp_path, content(PLAIN)))
    sample = data.read(0)
    np.testing.assert_array_equal(sample['image'], pixels(40, 60, 10))
    np.testing.assert_array_equal(sample['gt_bbox'], [[5, 6, 25, 16], [30, 20, 40.5, 28.25]])
    assert sample['gt_bbox'].dtype == np.float32 and sample['gt_class'].dtype == np.int64
    assert sample['im_id'] == 10 and sample['origin_shape'].tolist() == [40, 60]
    assert 'gt_segm' not in sample
    assert [data.name(index) for index in range(3)] == data.paths
    assert data.paths[1] == str(tmp_path / 'val/4.png')
    assert capsys.readouterr().out == f'{tmp_path}/val.json: 3 pictures with 4 boxes of 3 classes\n'


def test_classes_are_numbered_by_id_whatever_their_order_in_the_json(tmp_path):
    data = read(write(tmp_path, content(PLAIN)))
    coco = COCO(str(tmp_path / 'val.json'))
    assert data.category_ids == sorted(coco.getCatIds()) == [0, 3, 7]
    assert data.classes == ['ant', 'bee', 'cat']
    assert data.read(0)['gt_class'].tolist() == [2, 1]
    assert data.read(1)['gt_class'].tolist() == [0]


HERE = {'ids': [0, 3, 7], 'names': ['ant', 'bee', 'cat']}


@pytest.mark.parametrize(
    'there, expected',
    [
        (HERE, [0, 1, 2]),
        ({'ids': [7, 0, 2, 3], 'names': ['cat', 'ant', 'dog', 'bee']}, [1, 3, 0]),
        ({'ids': [0, 3], 'names': ['ant', 'bee']}, 'V has the category 7 .cat.* T has neither'),
        ({'ids': [0, 3, 7], 'names': ['ant', 'bee', 'dog']}, "V has .* 7 .cat.* T has 7 as 'dog'"),
        ({'ids': [1, 4, 8], 'names': HERE['names']}, "V has .* 0 .ant.* T has 'ant' as category 1"),
        ({'ids': [7, 3, 0], 'names': HERE['names']}, 'V has .* 0 .ant.* T has'),
    ],
)
def test_classes_match_by_id_and_name(there, expected):
    if isinstance(expected, list):
        assert match_classes(HERE, there, 'V', 'T') == expected
        return
    with pytest.raises(InputError, match=expected):
        match_classes(HERE, there, 'V', 'T')


def test_classes_that_only_the_other_side_has_are_refused_on_request():
    fewer = {'ids': [0, 7], 'names': ['ant', 'cat']}
    assert match_classes(fewer, HERE, 'V', 'T') == [0, 2]
    with pytest.raises(InputError, match='V lacks 1 of the 3 categories of T: bee'):
        match_classes(fewer, HERE, 'V', 'T', exact=True)


def test_pictures_without_boxes_are_left_out_or_kept(tmp_path, capsys):
    write(tmp_path, content(PLAIN[:1]))
    assert [image['id'] for image in read(tmp_path).images] == [10]
    assert '1 pictures with 1 boxes' in capsys.readouterr().out
    data = read(tmp_path, allow_empty=True)
    assert [image['id'] for image in data.images] == list(SIZES)
    assert data.read(1)['gt_bbox'].shape == (0, 4)
    assert data.read(1)['gt_class'].shape == (0,)


def test_without_any_box_a_line_says_why(tmp_path):
    write(tmp_path, content([box(10, [1, 1, 5, 5], iscrowd=1), box(4, [1, 1, 0, 5])]))
    with pytest.raises(
        InputError,
        match='no picture to use: .*0 pictures with 0 boxes.*; left out: 1 crowds, '
        '1 boxes without area, 3 pictures without a box',
    ):
        read(tmp_path)


def test_small_pictures_are_left_out_on_request(tmp_path, capsys):
    data = read(write(tmp_path, content(PLAIN)), min_side=32)
    assert [image['id'] for image in data.images] == [10, 8]
    assert '1 pictures with a side below 32 pixels' in capsys.readouterr().out


def test_crowds_are_not_trained(tmp_path, capsys):
    crowd = box(10, [1, 1, 30, 30], iscrowd=1)
    data = read(write(tmp_path, content([*PLAIN, crowd])))
    assert len(data.read(0)['gt_bbox']) == 2
    assert data.objects.crowd.tolist() == [False] * 4 + [True]
    assert 'left out: 1 crowds' in capsys.readouterr().out


BOXES = {  # x, y, width, height -> x1, y1, x2, y2 in a picture 60 wide and 40 high
    (-5, -5, 20, 20): [0, 0, 15, 15],
    (50, 30, 20, 20): [50, 30, 60, 40],
    (-10, -10, 100, 100): [0, 0, 60, 40],
    (60, 10, 5, 5): 'boxes outside the picture',
    (10, -8, 5, 5): 'boxes outside the picture',
    (10, 10, 0, 5): 'boxes without area',
    (10, 10, 5, -5): 'boxes without area',
    (10, 10, 0.5, 5): 'boxes without area',
}


@pytest.mark.parametrize('given', BOXES)
def test_boxes_are_clipped_or_dropped_and_counted(tmp_path, capsys, given):
    expected = BOXES[given]
    good = box(10, [5, 6, 20, 10])
    odd = box(10, list(given), area=9)
    found = read(write(tmp_path, content([good, odd]))).read(0)['gt_bbox'].tolist()
    line = capsys.readouterr().out
    if isinstance(expected, str):
        assert found == [[5, 6, 25, 16]]
        assert f'left out: 1 {expected}' in line
    else:
        assert found == [[5, 6, 25, 16], expected]
        assert 'repaired: 1 boxes clipped to the picture' in line


def test_objects_of_no_image_or_no_category_are_left_out_as_pycocotools_does(tmp_path, capsys):
    others = [box(99, [1, 1, 5, 5]), box(10, [1, 1, 5, 5], 99)]
    data = read(write(tmp_path, content([*PLAIN, *others])))
    assert len(data.objects.image) == 4
    line = capsys.readouterr().out
    assert 'left out: 1 objects of an unknown image, 1 objects of an unknown category' in line


def test_missing_areas_are_derived_and_missing_iscrowd_is_0(tmp_path, capsys):
    triangle = box(10, [5, 5, 20, 20], segmentation=[[5, 5, 25, 5, 5, 25]])
    without_mask = box(4, [1, 2, 3, 4], 0)
    for entry in (triangle, without_mask):
        del entry['area'], entry['iscrowd']
    del without_mask['segmentation']
    data = read(write(tmp_path, content([triangle, without_mask])))
    drawn = rle_tools.frPyObjects(triangle['segmentation'], 40, 60)
    assert data.objects.areas.tolist() == [rle_tools.area(drawn)[0], 12]
    assert not data.objects.crowd.any()
    line = capsys.readouterr().out
    assert '2 objects without area, which was derived, 2 objects without iscrowd' in line


@pytest.mark.parametrize(
    'ids, said',
    [
        ([0, 1, 2, 3], '1 annotation id 0'),
        ([5, 5, 6, 6], '2 annotation ids that occur twice or are missing'),
    ],
)
def test_ids_that_pycocotools_takes_for_others_are_counted(tmp_path, capsys, ids, said):
    objects = [entry | {'id': key} for entry, key in zip(PLAIN, ids)]
    assert len(read(write(tmp_path, content(objects))).objects.image) == 4
    assert f'repaired: {said}' in capsys.readouterr().out


def ellipse(height, width):
    rows, columns = np.mgrid[:height, :width]
    return ((rows / height - 0.5) ** 2 + (columns / width - 0.4) ** 2 < 0.06).astype('uint8')


def in_form(bitmap, form):
    """A bitmap as COCO's json may hold it."""
    rle = rle_tools.encode(np.asfortranarray(bitmap))
    if form == 'compressed':
        return rle | {'counts': rle['counts'].decode()}
    flat = bitmap.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {'size': list(bitmap.shape), 'counts': [0, *counts] if flat[0] else counts}


@pytest.mark.parametrize('form', ['compressed', 'uncompressed'])
def test_rle_is_no_crowd(tmp_path, form):
    bitmap = ellipse(40, 60)
    entry = box(10, [5, 5, 20, 20], segmentation=in_form(bitmap, form))
    masks = read(write(tmp_path, content([entry])), with_masks=True).read(0)['gt_segm']
    np.testing.assert_array_equal(masks.bitmaps(), bitmap[None])


@pytest.mark.parametrize('shape', ['one', 'two parts', 'without a list of its own', 'and a line'])
def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path, shape):
    one, other = [5, 5, 25.5, 8, 7, 25], [30, 10, 50, 10, 50, 30, 30, 30]
    polygons = {'one': [one], 'two parts': [one, other], 'and a line': [one, [1, 1, 2, 2]]}
    entry = box(10, [5, 5, 20, 20], segmentation=polygons.get(shape, one))
    masks = read(write(tmp_path, content([entry])), with_masks=True).read(0)['gt_segm']

    plain = tmp_path / 'plain.json'
    plain.write_text(
        json.dumps(content([entry | {'segmentation': polygons.get(shape, [one])[:2]}]))
    )
    coco = COCO(str(plain))
    if shape == 'and a line':  # pycocotools takes four numbers for a box
        coco.anns[1]['segmentation'] = [one]
    np.testing.assert_array_equal(masks.bitmaps(), coco.annToMask(coco.anns[1])[None])


def test_objects_without_a_mask_are_left_out_where_masks_are_trained(tmp_path, capsys):
    entries = [box(10, [5, 5, 20, 20]), box(10, [1, 1, 5, 5], segmentation=[])]
    write(tmp_path, content(entries))
    assert len(read(tmp_path).read(0)['gt_bbox']) == 2
    sample = read(tmp_path, with_masks=True).read(0)
    assert len(sample['gt_bbox']) == len(sample['gt_segm']) == 1
    assert 'left out: 1 objects without a mask' in capsys.readouterr().out


# Pictures of other sizes than labelled; 10.png is 60 wide and 40 high


def labelled(root, width, height, orientation=None):
    """A data set of one picture that EXIF may turn, with its size as the json says."""
    write(root, content([box(10, [1, 1, 9, 9])], {10: (height, width)}), {})
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    Image.fromarray(pixels(40, 60)).save(root / 'val/10.png', exif=exif)
    return read(root)


@pytest.mark.parametrize(
    'size, orientation, turned',
    [
        ((60, 40), None, 0),
        ((60, 40), 6, 0),  # the size of the picture as it is stored
        ((40, 60), 6, 3),  # np.rot90 turns to the left
        ((40, 60), 8, 1),
        ((60, 40), 3, 2),
    ],
)
def test_exif_turns_a_picture_if_it_then_has_the_labelled_size(tmp_path, size, orientation, turned):
    found = labelled(tmp_path, *size, orientation).read(0)['image']
    np.testing.assert_array_equal(found, np.rot90(pixels(40, 60), turned))


@pytest.mark.parametrize('orientation', [None, 3])
def test_another_size_than_labelled_is_refused_by_name(tmp_path, orientation):
    data = labelled(tmp_path, 40, 60, orientation)
    with pytest.raises(
        InputError, match='10.png is 60 x 40 pixels, but the annotation file says 40 x 60'
    ) as error:
        data.read(0)
    assert not isinstance(error.value, Unreadable)  # training must not skip it


def test_a_missing_size_is_that_of_the_picture(tmp_path):
    what = content(PLAIN)
    del what['images'][0]['height']
    data = read(write(tmp_path, what))
    assert (data.images[0]['width'], data.images[0]['height']) == (60, 40)


def test_grey_and_16_bit_pictures_become_rgb(tmp_path):
    data = read(write(tmp_path, content(PLAIN)))
    grey = pixels(40, 60)[..., 0]
    for kind in (grey, grey.astype('uint16') * 257):
        Image.fromarray(kind).save(tmp_path / 'val/10.png')
        np.testing.assert_array_equal(data.read(0)['image'], np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize('damage', ['empty', 'cut', 'text', 'gone'])
def test_a_damaged_picture_is_unreadable_by_name(tmp_path, damage):
    data = read(write(tmp_path, content(PLAIN)))
    file = tmp_path / 'val/10.png'
    whole = file.read_bytes()
    if damage == 'gone':
        file.unlink()
    else:
        file.write_bytes({'empty': b'', 'cut': whole[: len(whole) // 2], 'text': b'none'}[damage])
    with pytest.raises(Unreadable, match='val/10.png cannot be read as a picture'):
        data.read(0)


@pytest.mark.parametrize('in_json, on_disk', [('NFC', 'NFC'), ('NFC', 'NFD'), ('NFD', 'NFC')])
def test_names_of_all_languages_are_found(tmp_path, in_json, on_disk):
    name = 'Zürich 図 é.png'
    what = content(PLAIN)
    what['images'][0]['file_name'] = unicodedata.normalize(in_json, name)
    write(tmp_path, what)
    (tmp_path / 'val/10.png').rename(tmp_path / 'val' / unicodedata.normalize(on_disk, name))
    assert read(tmp_path).read(0)['image'].shape == (40, 60, 3)


def test_a_json_may_begin_with_a_mark_and_lack_annotations(tmp_path):
    what = content([])
    del what['annotations']  # as COCO's lists of test images
    write(tmp_path, '\ufeff' + json.dumps(what))
    assert len(read(tmp_path, allow_empty=True)) == 3


# What is refused


GONE = object()
ENTRIES = [  # what is changed in a good json, to what, and what the error should say
    ('images', GONE, 'val.json has no `images`; it has annotations, categories'),
    ('categories', GONE, 'val.json has no `categories`; it has images, annotations'),
    ('categories', [], 'val.json has no category'),
    ('images', {'10.png': 1}, '`images` is an object; expected a list'),
    ('annotations', 5, '`annotations` is a number; expected a list'),
    ('annotations.1', 'a', r'annotations\[1\] is "a"; expected an object'),
    ('images.2.id', 10, r'images\[2\] has the id 10 of images\[0\]'),
    ('images.1.id', GONE, r'images\[1\]: id is missing; expected a whole number'),
    ('images.1.id', '4', r'images\[1\]: id is "4"; expected a whole number'),
    ('images.1.id', 2**63, r'images\[1\]: id is 9223372036854775808; expected a whole number'),
    ('images.1.id', True, r'images\[1\]: id is true; expected a whole number'),
    ('images.1.file_name', None, r'images\[1\]: file_name is null; expected text'),
    ('images.1.file_name', 'ä.png', 'val.json: 1 of 3 pictures are not in image_dir .*/val: ä.png'),
    ('images.1.height', 0, r'images\[1\] has the height 0'),
    ('images.1.width', 2.5, r'images\[1\]: width is 2.5; expected a whole number'),
    ('categories.2.id', 7, r"categories\[2\] has the id 7 of the category 'cat'"),
    ('categories.2.name', GONE, r'categories\[2\]: name is missing'),
    ('annotations.1.iscrowd', 'no', r'annotations\[1\] \(id 2\): iscrowd is "no"; expected 0 or 1'),
    ('annotations.1.image_id', None, r'annotations\[1\] \(id 2\): image_id is null'),
    ('annotations.1.category_id', GONE, r'annotations\[1\] \(id 2\): category_id is missing'),
]
NO_BOXES = (
    *(GONE, None, 'box', [1, 2, 3], ['1', '2', '3', '4'], [1, 2, float('nan'), 4]),
    *([1, 2, float('inf'), 4], [[1, 2], 3, 4, 5], {'x': 1}, [10**400, 1, 1, 1], [True, 1, 1, 1]),
)
NO_BOX = r'annotations\[1\] \(id 2\): bbox is .*; expected four finite numbers'
ENTRIES += [('annotations.1.bbox', value, NO_BOX) for value in NO_BOXES]


@pytest.mark.parametrize('place, value, said', ENTRIES)
def test_a_fault_is_refused_in_one_line_that_names_the_entry(tmp_path, place, value, said):
    what = content(PLAIN)
    *parents, last = [int(part) if part.isdigit() else part for part in place.split('.')]
    owner = functools.reduce(operator.getitem, parents, what)
    if value is GONE:
        del owner[last]
    else:
        owner[last] = value
    write(tmp_path, what)
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'text, said',
    [
        ('{"images": [', 'val.json is no json: .*line 1'),
        ('\x00\x01', 'val.json is no json'),
        ('', 'val.json is no json'),
        ('[' * 100000, 'val.json is no json'),
        ('[1]', 'val.json is a list; COCO has an object with images'),
        ('null', 'val.json is null; COCO has an object with images'),
        ('{}', 'val.json has no `images`; it has nothing'),
    ],
)
def test_a_json_that_is_none_is_refused_in_one_line(tmp_path, text, said):
    write(tmp_path, text)
    with pytest.raises(InputError, match=said) as error:
        read(tmp_path)
    assert '\n' not in str(error.value)


MASKS = {
    'half a corner': ([[1, 1, 5, 5, 9]], r'has the polygon \[1, 1, 5, 5, 9\]; expected finite'),
    'text': ([['a'] * 6], 'has the polygon .*; expected finite numbers'),
    'NaN': ([[1, 1, 5, float('nan'), 9, 9]], 'has the polygon .*; expected finite numbers'),
    'a number': (5, 'has the segmentation 5; expected polygons .* or RLE'),
    'another size': (in_form(ellipse(60, 40), 'compressed'), r'RLE of size \[60, 40\].*\[40, 60\]'),
    'sum': ({'size': [40, 60], 'counts': [0, 9]}, r'counts \[0, 9\]; expected .* 40 x 60'),
    'negative': ({'size': [40, 60], 'counts': [-1, 2401]}, 'counts .*; expected'),
    'damaged': ({'size': [40, 60], 'counts': 'zz~~!!'}, 'has a damaged RLE: "zz~~!!"'),
    'no counts': ({'size': [40, 60]}, 'has the RLE counts null; expected numbers or text'),
}


@pytest.mark.parametrize('fault', MASKS)
def test_a_mask_that_is_none_is_refused_by_the_name_of_its_entry(tmp_path, fault):
    segmentation, said = MASKS[fault]
    write(tmp_path, content([*PLAIN, box(10, [1, 1, 5, 5], segmentation=segmentation)]))
    assert len(read(tmp_path)) == 3  # without masks nobody looks at it
    with pytest.raises(InputError, match=rf'val.json: annotations\[4\] \(id 5\) .*{said}'):
        read(tmp_path, with_masks=True)


@pytest.mark.parametrize(
    'gone, said',
    [
        ('', 'dataset_dir .* is no folder .looked in .*annotations/instances_train2017.json'),
        ('val', 'image_dir .*/val is no folder'),
        ('val.json', 'anno_path .*/val.json is no file'),
    ],
)
def test_places_that_are_missing_are_named(tmp_path, gone, said):
    root = tmp_path / 'data'
    root.mkdir()
    write(root, content(PLAIN))
    path = root / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(InputError, match=said):
        COCODataSet(str(root), 'val', 'val.json')


def test_the_order_of_categories_in_the_json_changes_nothing(tmp_path):
    first = read(write(tmp_path, content(PLAIN)))
    second = read(write(tmp_path, content(PLAIN, categories=CATEGORIES[::-1])))
    assert first.categories == second.categories
    for index in range(3):
        np.testing.assert_array_equal(first.read(index)['gt_class'], second.read(index)['gt_class'])
