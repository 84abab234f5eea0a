"""COCO's figures: equal to pycocotools called directly, on whole files and on strangers'."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle_tools
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from toy_coco import SIZES, box, content, read, write

import det  # noqa: F401
from det.detections import Detections
from det.metrics import FIGURES, Evaluation, table
from util.errors import InputError

IDS = [0, 3, 7]


def crowded(seed=0):
    """Objects of all sizes and classes, a crowd among them; the image 8 has none."""
    rng = np.random.default_rng(seed)
    objects = []
    for image in (10, 4):
        height, width = SIZES[image]
        for _ in range(12):
            x, y = rng.uniform(0, [width - 8, height - 8])
            w, h = rng.uniform(4, [width - x, height - y])
            objects.append(box(image, [x, y, w, h], int(rng.choice(IDS))))
    bitmap = np.zeros(SIZES[10], 'uint8')
    bitmap[20:, 30:] = 1
    rle = rle_tools.encode(np.asfortranarray(bitmap))
    crowd = box(10, [30, 20, 30, 20], 7, iscrowd=1)
    return [*objects, crowd | {'segmentation': rle | {'counts': rle['counts'].decode()}}]


def guesses(objects, seed=0, with_masks=True):
    """Detections near most objects, of some wrong classes, and some of nothing: {image: ...}."""
    rng = np.random.default_rng(seed)
    found = {}
    for image, (height, width) in SIZES.items():
        near = [entry['bbox'] for entry in objects if entry['image_id'] == image]
        near += [[1, 1, 20, 20], [9, 9, 5, 5]]
        boxes = np.array(near, 'float64').repeat(2, axis=0)
        boxes[:, 2:] += boxes[:, :2]
        boxes = (boxes + rng.normal(0, 1.0, boxes.shape)).astype('float32')
        classes = [
            IDS.index(entry['category_id']) for entry in objects if entry['image_id'] == image
        ]
        classes = np.array([*classes, 1, 2]).repeat(2)
        wrong = rng.random(len(classes)) < 0.3
        classes[wrong] = rng.integers(0, 3, wrong.sum())
        rows, columns = np.mgrid[:height, :width]
        masks = np.stack(
            [
                (columns >= x1) & (columns < x2) & (rows >= y1) & (rows < y2)
                for x1, y1, x2, y2 in boxes
            ]
        )
        scores = rng.random(len(boxes)).astype('float32')
        found[image] = Detections(boxes, scores, classes, masks if with_masks else None)
    return found


def by_pycocotools(file, results, kind):
    """The figures of COCO results as its authors' example computes them."""
    truth = COCO(str(file))
    evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(FIGURES, evaluation.stats.tolist())), evaluation


def evaluated(data, found, **settings):
    metric = Evaluation(data, **settings)
    for image, detections in found.items():
        metric.add(image, detections)
    return metric


def test_figures_equal_pycocotools(tmp_path):
    objects = crowded()
    write(tmp_path, content(objects))
    found = guesses(objects)
    metric = evaluated(read(tmp_path, allow_empty=True, with_masks=True), found)
    figures = metric.figures(classwise=True)

    results = {'bbox': [], 'segm': []}
    for image, detections in found.items():
        for (x1, y1, x2, y2), score, label, mask in zip(
            detections.boxes.astype('float64'),
            detections.scores.astype('float64'),
            detections.classes,
            detections.masks,
        ):
            common = {'image_id': image, 'category_id': IDS[label], 'score': score}
            rle = rle_tools.encode(np.asfortranarray(mask, 'uint8'))
            rle['counts'] = rle['counts'].decode()
            results['bbox'].append(common | {'bbox': [x1, y1, x2 - x1, y2 - y1]})
            results['segm'].append(common | {'segmentation': rle})
    for kind in ('bbox', 'segm'):
        expected, evaluation = by_pycocotools(tmp_path / 'val.json', results[kind], kind)
        by_class = figures[kind].pop('classes')
        assert figures[kind] == expected
        assert 0.1 < expected['AP'] < 0.9
        for place, name in enumerate(['ant', 'bee', 'cat']):
            precision = evaluation.eval['precision'][:, :, place, 0, 2]
            assert by_class[name] == precision[precision > -1].mean()


def test_the_files_hold_what_was_evaluated(tmp_path):
    objects = crowded()
    write(tmp_path, content(objects))
    metric = evaluated(read(tmp_path, allow_empty=True, with_masks=True), guesses(objects))
    boxes, masks = metric.write(tmp_path / 'new/out')
    assert (boxes.name, masks.name) == ('bbox.json', 'mask.json')
    figures = metric.figures()
    for kind, path in (('bbox', boxes), ('segm', masks)):
        results = json.loads(path.read_text())
        assert by_pycocotools(tmp_path / 'val.json', results, kind)[0] == figures[kind]
    first = json.loads(boxes.read_text())[0]
    assert list(first) == ['image_id', 'category_id', 'score', 'bbox'] and len(first['bbox']) == 4


def truth_of(data):
    """The truth as if a model had found it."""
    for index in range(len(data)):
        sample = data.read(index)
        bitmaps = sample['gt_segm'].bitmaps().astype(bool) if data.with_masks else None
        scores = np.linspace(1, 0.5, len(sample['gt_bbox']))
        yield sample['im_id'], Detections(sample['gt_bbox'], scores, sample['gt_class'], bitmaps)


@pytest.mark.parametrize('with_masks', [True, False])
def test_the_truth_has_an_ap_of_1(tmp_path, with_masks):
    """With gaps between ids, ids of 0 and twice, a crowd, and a picture without objects."""
    objects = [entry | {'id': number // 2} for number, entry in enumerate(crowded())]
    data = read(write(tmp_path, content(objects)), allow_empty=True, with_masks=with_masks)
    figures = evaluated(data, dict(truth_of(data))).figures()
    assert set(figures) == ({'bbox', 'segm'} if with_masks else {'bbox'})
    for numbers in figures.values():
        assert numbers['AP'] == numbers['AP50'] == numbers['AR100'] == 1


def test_pycocotools_itself_counts_ids_of_0_and_twice_wrong(tmp_path):
    """The trap that the numbering avoids; the reason for it is gone when this fails."""
    objects = [
        box(10, [1, 1, 9, 9], id=0),
        box(10, [20, 20, 9, 9], id=5),
        box(4, [1, 1, 9, 9], id=5),
    ]
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    metric = evaluated(data, dict(truth_of(data)))
    assert metric.figures()['bbox']['AP'] == 1
    found, _ = by_pycocotools(tmp_path / 'val.json', metric.results['bbox'], 'bbox')
    assert found['AP'] < 1


def test_a_crowd_swallows_what_lies_in_it(tmp_path):
    objects = [box(10, [1, 1, 20, 20]), box(10, [25, 1, 30, 30], iscrowd=1)]
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    boxes = np.array([[1, 1, 21, 21], [30, 5, 40, 15], [45, 5, 50, 20]], 'float32')
    best_in_crowd = Detections(boxes, np.array([0.1, 0.9, 0.8]), np.array([2, 2, 2]))
    ap = evaluated(data, {10: best_in_crowd}).figures()['bbox']['AP']
    assert ap == pytest.approx(1)


def nothing(masks=None):
    return Detections(np.zeros([0, 4], 'float32'), np.zeros(0), np.zeros(0, 'int64'), masks)


def test_no_detection_at_all_has_an_ap_of_0(tmp_path):
    data = read(write(tmp_path, content(crowded())), allow_empty=True, with_masks=True)
    empty = nothing(np.zeros([0, *SIZES[10]], bool))
    metric = evaluated(data, {10: empty})
    for numbers in metric.figures().values():
        assert numbers['AP'] == numbers['AP50'] == numbers['AR100'] == 0
    assert [json.loads(path.read_text()) for path in metric.write(tmp_path)] == [[], []]
    assert Evaluation(data).figures()['bbox']['AP'] == 0


def test_without_truth_figures_are_minus_1_and_the_table_says_so(tmp_path):
    data = read(write(tmp_path, content([])), allow_empty=True)
    figures = evaluated(data, guesses([], with_masks=False)).figures(classwise=True)
    assert figures['bbox']['AP'] == -1
    lines = table(figures).splitlines()
    assert lines[1].split() == ['bbox'] + ['-'] * 12
    assert lines[2].split() == ['bbox', '-', 'ant']


def test_the_table_shows_three_digits_and_pycocotools_prints_nothing(tmp_path, capsys):
    objects = crowded()
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    capsys.readouterr()
    figures = evaluated(data, guesses(objects, with_masks=False)).figures()
    assert capsys.readouterr().out == ''
    head, line = (text.split() for text in table(figures).splitlines())
    assert head == list(FIGURES)
    numbers = [f'{value:.3f}' if value >= 0 else '-' for value in figures['bbox'].values()]
    assert line == ['bbox', *numbers]


def test_classes_in_another_order_are_suspected(tmp_path, capsys):
    objects = crowded()
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    found = dict(truth_of(data))
    for detections in found.values():
        detections.classes = (detections.classes + 1) % 3
    figures = evaluated(data, found).figures()
    assert figures['bbox']['AP50'] < 0.06
    assert 'without regard to classes: are the classes of the model' in capsys.readouterr().err


def test_a_weak_model_is_not_suspected(tmp_path, capsys):
    objects = crowded()
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    found = guesses([], with_masks=False)
    assert evaluated(data, found).figures()['bbox']['AP50'] < 0.06
    assert capsys.readouterr().err == ''


def test_classes_of_the_model_are_matched_by_id_and_name(tmp_path):
    objects = crowded()
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    wider = {'ids': [9, 7, 3, 0], 'names': ['dog', 'cat', 'bee', 'ant']}
    found = dict(truth_of(data))
    for detections in found.values():
        detections.classes = np.array([3, 2, 1])[detections.classes]
    metric = evaluated(data, found, categories=wider)
    assert metric.figures()['bbox']['AP'] == 1
    assert {result['category_id'] for result in metric.results['bbox']} == set(IDS)
    with pytest.raises(InputError, match="val.json has the category 0 'ant', but the model has"):
        Evaluation(data, {'ids': [1, 3, 7], 'names': ['ant', 'bee', 'cat']})


def test_pictures_that_are_not_evaluated_are_warned_of(tmp_path, capsys):
    Evaluation(read(write(tmp_path, content(crowded()))))
    warning = capsys.readouterr().err
    assert 'only 2 of 3 pictures are evaluated; allow_empty: true' in warning


ONE = (np.array([[1, 1, 9, 9]], 'float32'), np.array([0.5]), np.array([0]))
REFUSED = {
    'unknown image': ([(5, nothing())], 'val.json has no image with the id 5'),
    'twice': ([(10, nothing()), (10, nothing())], 'id 10 was evaluated twice'),
    'NaN': ([(10, Detections(ONE[0] * np.nan, *ONE[1:]))], 'id 10 are not finite'),
    'class': ([(10, Detections(*ONE[:2], np.array([3])))], 'found class 3, .* has 3 categories'),
    'mask': (
        [(10, Detections(*ONE, np.ones([1, 60, 40], bool)))],
        r'id 10 is \[60, 40\] .*, the image \[40, 60\]',
    ),
}


@pytest.mark.parametrize('fault', REFUSED)
def test_what_does_not_fit_is_refused_by_name(tmp_path, fault):
    added, said = REFUSED[fault]
    metric = Evaluation(read(write(tmp_path, content(crowded())), allow_empty=True))
    with pytest.raises(InputError, match=said):
        for image, detections in added:
            metric.add(image, detections)


def test_masks_need_those_of_the_json(tmp_path):
    objects = crowded()
    found = guesses(objects)
    write(tmp_path, content(objects))
    with pytest.raises(InputError, match='with_masks: true in EvalDataset'):
        evaluated(read(tmp_path, allow_empty=True), found).figures()
    del objects[0]['segmentation']
    write(tmp_path, content(objects))
    data = read(tmp_path, allow_empty=True, with_masks=True)
    with pytest.raises(InputError, match='id 10 has no segmentation'):
        evaluated(data, found).figures()


def test_broken_boxes_count_as_in_pycocotools(tmp_path):
    """Training clips and drops them; evaluation takes the json as it is."""
    objects = [
        box(10, [-10, 5, 30, 30]),
        box(10, [20, 20, 0, 5], area=3),
        box(4, [70, 5, 5, 5]),
        box(4, [1, 1, 9, 9]),
    ]
    data = read(write(tmp_path, content(objects)), allow_empty=True)
    metric = evaluated(data, dict(truth_of(data)))
    expected, _ = by_pycocotools(tmp_path / 'val.json', metric.results['bbox'], 'bbox')
    assert metric.figures()['bbox'] == expected
    assert expected['AP'] < 1
