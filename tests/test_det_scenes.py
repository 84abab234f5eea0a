"""The tour of detection: its scenes, the pictures of boxes, and the table of APs."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from test_readme import parser_of

from demo import make_detection, score_detection
from det import draw
from util.errors import InputError

COUNTS = {'train': 40, 'val': 21}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """The folder of 40 labelled scenes for training, 21 for validation, and 3 without labels."""
    folder = tmp_path_factory.mktemp('tour') / 'detection'
    make_detection.main(folder, seed=0, counts=COUNTS, unlabelled=3)
    return folder


@pytest.fixture(scope='module', params=['train', 'val'])
def part(request, scenes):
    """COCO's own reader over the json of a part, and the folder of its pictures."""
    name = request.param
    truth = COCO(scenes / f'annotations/instances_{name}2017.json')
    return SimpleNamespace(truth=truth, folder=scenes / f'{name}2017', count=COUNTS[name])


def test_the_json_is_what_coco_s_reader_expects(part):
    images = part.truth.loadImgs(part.truth.getImgIds())
    assert [image['id'] for image in images] == [*range(1, part.count + 1)]
    for image in images:
        with Image.open(part.folder / image['file_name']) as picture:
            assert picture.size == (image['width'], image['height']) == (128, 96)
    annotations = part.truth.loadAnns(part.truth.getAnnIds())
    assert [entry['id'] for entry in annotations] == [*range(1, len(annotations) + 1)]
    assert part.truth.getCatIds() == [2, 3, 7]  # with a gap
    assert {entry['category_id'] for entry in annotations} == {2, 3, 7}


def test_boxes_and_areas_are_those_of_the_masks(part):
    for entry in part.truth.loadAnns(part.truth.getAnnIds()):
        code = part.truth.annToRLE(entry)
        assert entry['bbox'] == rle.toBbox(code).tolist()
        assert entry['area'] == rle.area(code)
        if not entry['iscrowd']:
            assert 6 < entry['bbox'][3] <= 56


def test_masks_of_a_scene_do_not_share_pixels(part):
    for image in part.truth.getImgIds():
        entries = part.truth.loadAnns(part.truth.getAnnIds(image))
        shared = sum((part.truth.annToMask(entry) for entry in entries), np.zeros([96, 128], int))
        assert shared.max() <= 1


def test_one_scene_has_a_crowd_and_every_20th_nothing(part):
    crowds = [entry for entry in part.truth.loadAnns(part.truth.getAnnIds()) if entry['iscrowd']]
    assert [entry['image_id'] for entry in crowds] == [1]
    empty = [image for image in part.truth.getImgIds() if not part.truth.getAnnIds(image)]
    assert empty == [*range(20, part.count + 1, 20)]


def test_digits_of_validation_and_of_training_are_other_scans():
    parts = make_detection.split()
    seen = {
        name: {scan.tobytes() for of_class in part.digits for scan in of_class}
        for name, part in parts.items()
    }
    assert not seen['train'] & seen['val']
    assert len(seen['train']) + len(seen['val']) == 537  # all scans of 0, 1 and 2
    # one column apart, so no pixel is in both
    assert all(train.shape[1] == 400 for train in parts['train'].photographs)
    assert all(val.shape[1] == 240 for val in parts['val'].photographs)


@pytest.mark.parametrize('grey', [0, 90, 128, 255])
def test_the_colour_of_a_digit_is_far_from_its_background(grey):
    rng = np.random.default_rng(0)
    wall = np.full([200, 300, 3], grey, 'uint8')
    part = make_detection.Part(make_detection.split()['train'].digits, [wall])
    for number in range(1, 10):
        made = make_detection.scene(rng, part, number)
        for index in range(1, len(made.classes) + 1):
            color = np.median(made.picture[made.owner == index], axis=0)
            assert np.abs(color - grey).max() > 90  # 100 of the whole square, with other digits


def test_the_same_seed_makes_the_same_scenes(scenes, tmp_path):
    for seed, same in ((0, True), (1, False)):
        out = tmp_path / str(seed)
        make_detection.main(out, seed=seed, counts=COUNTS, unlabelled=3)
        files = sorted(file.relative_to(out) for file in out.rglob('*') if file.is_file())
        assert len(files) == 40 + 21 + 3 + 2
        equal = [(out / file).read_bytes() == (scenes / file).read_bytes() for file in files]
        assert all(equal) if same else not any(equal)


GREY = np.full([40, 60, 3], 128, 'uint8')


def test_a_box_is_drawn_on_its_outermost_pixels():
    box = np.array([[10.0, 8.0, 30.0, 25.0]])
    shown = np.asarray(draw.objects(GREY, box, np.array([1]), ['']))
    changed = (shown != 128).any(axis=2)
    expected = np.zeros([40, 60], bool)
    expected[8:25, 10:30] = True
    expected[9:24, 11:29] = False
    assert (changed == expected).all()
    assert (shown[changed] == draw.color(1)).all()


def test_boxes_grow_with_the_picture():
    box = np.array([[10.0, 8.0, 30.0, 25.0]])
    shown = np.asarray(draw.objects(GREY, box, np.array([0]), [''], times=3))
    assert shown.shape == (120, 180, 3)
    rows, columns = np.nonzero((shown != 128).any(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (24, 74, 30, 89)


@pytest.mark.parametrize('corner', [(0, 0), (55, 35), (58, 0), (-5, 38)])
def test_a_label_stays_within_the_picture(corner):
    x, y = corner
    box = np.array([[x, y, x + 6, y + 6]], float)
    for text in ('zero 0.95', '数字零 0.95'):
        shown = np.asarray(draw.objects(GREY, box, np.array([2]), [text]))
        paint = (shown == draw.color(2)).all(axis=2)
        assert shown.shape == GREY.shape and paint.sum() > 100  # the ground of the text


def test_the_first_object_lies_on_top():
    masks = np.zeros([2, 40, 60], bool)
    masks[0, :20], masks[1, :30] = True, True
    boxes = np.zeros([2, 4])
    shown = np.asarray(draw.objects(GREY, boxes, np.array([0, 1]), ['', ''], masks))
    for row, number in ((10, 0), (25, 1)):
        mixed = 0.55 * 128 + 0.45 * np.array(draw.color(number))
        assert np.abs(shown[row, 30] - mixed).max() <= 0.5
    assert (shown[35, 30] == 128).all()


def test_no_object_leaves_the_picture_as_it_was():
    nothing = np.zeros([0, 4])
    shown = draw.objects(GREY, nothing, np.zeros(0, int), [], np.zeros([0, 40, 60], bool))
    assert (np.asarray(shown) == GREY).all()


def test_classes_have_colours_of_their_own():
    colors = [draw.color(number) for number in range(80)]
    assert len(set(colors)) == 80
    apart = [np.abs(np.subtract(*pair)).max() for pair in itertools.pairwise(colors)]
    assert min(apart) > 80


@pytest.fixture
def results(scenes, tmp_path):
    """results(name, kept, shift) -> a folder with the truth as results, as det/eval.py writes them.

    kept: the share of the objects; shift: of the boxes, in shares of their width.
    """
    truth = json.loads((scenes / 'annotations/instances_val2017.json').read_text())

    def results(name, kept=1.0, shift=0.0):
        folder = tmp_path / name
        folder.mkdir()
        boxes, masks = [], []
        objects = [entry for entry in truth['annotations'] if not entry['iscrowd']]
        for entry in objects[: round(kept * len(objects))]:
            left, top, width, height = entry['bbox']
            result = {'image_id': entry['image_id'], 'category_id': entry['category_id']}
            result['score'] = 0.9
            boxes.append(result | {'bbox': [left + shift * width, top, width, height]})
            code = rle.frPyObjects(entry['segmentation'], 96, 128)
            masks.append(result | {'segmentation': code | {'counts': code['counts'].decode()}})
        (folder / 'bbox.json').write_text(json.dumps(boxes))
        (folder / 'mask.json').write_text(json.dumps(masks))
        return folder

    return results


def scored(scenes, *flags):
    words = ['--data_path', scenes, *flags]
    score_detection.main(score_detection.PARSER.parse_args(list(map(str, words))))


def test_the_truth_scores_1_and_a_shift_less(scenes, results, tmp_path, capsys):
    perfect, shifted = results('perfect'), results('shifted', shift=0.2)
    out = tmp_path / 'x.png'
    scored(scenes, '--random', shifted, '--pretrained', perfect, '--out', out)
    of_boxes, of_masks = capsys.readouterr().out.split('mask AP')
    lines = [line.split() for line in of_boxes.splitlines()]
    # two thirds of the boxes are shared by both: an overlap of .667 counts up to .65
    assert lines[2][:3] == ['random', '0.400', '1.000']
    assert lines[3] == ['pre-trained', *['1.000'] * 5, '1.000']
    assert lines[4][:4] == ['mean', 'gain', '0.600', '0.000']
    assert of_masks.splitlines()[2].split() == ['random', *['1.000'] * 5, '1.000']
    with Image.open(out) as picture:
        assert picture.size == (3 * (3 * 128 + 4) + 4, 2 * (24 + 3 * 96 + 4) + 4)


def test_a_seed_without_detections_scores_0(scenes, results, capsys):
    perfect, nothing = results('perfect'), results('nothing', kept=0)
    (perfect / 'mask.json').unlink()
    scored(scenes, '--random', nothing, perfect, '--pretrained', perfect, perfect)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[2] == ['random', *['0.500'] * 5, '0.000,', '1.000']
    assert lines[4] == ['mean', 'gain', *['0.500'] * 5]


def test_results_that_are_none_are_named(scenes, results):
    perfect, broken = results('perfect'), results('broken')
    (broken / 'bbox.json').write_text('[')
    with pytest.raises(InputError, match='broken/bbox.json cannot be read as json'):
        scored(scenes, '--random', broken, '--pretrained', perfect)


def test_objects_are_small_medium_or_large_by_their_box():
    entry = {'bbox': [0, 0, 20, 20], 'area': 3, 'iscrowd': 0, 'image_id': 1, 'category_id': 2}
    entry |= {'id': 1}
    image = {'id': 1, 'width': 128, 'height': 96}
    truth = {'images': [image], 'annotations': [entry], 'categories': [{'id': 2, 'name': 'zero'}]}
    found = {'image_id': 1, 'category_id': 2, 'bbox': [0, 0, 20, 20], 'score': 0.5}
    values = score_detection.figures(truth, [found], 'bbox')
    assert [values[0], values[1], values[3]] == pytest.approx([1, 1, 1])
    assert np.isnan([values[2], values[4]]).all()


@pytest.mark.slow
def test_the_scenes_program_refuses_a_folder_that_exists(scenes, run_program):
    result = run_program('demo/make_detection.py', '--out', scenes)
    assert result.returncode == 2 and 'exists already' in result.stderr
    assert parser_of('demo/make_detection.py').parse_args([]).seed == 0
    assert (ROOT / 'demo/make_detection.py').is_file()
