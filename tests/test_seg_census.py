"""Warnings name classes that labels lack: in training, in evaluation, by the demo."""

import numpy as np
import paddle
import pytest
from paddleseg.core import evaluate
from paddleseg.datasets import Dataset
from PIL import Image
from test_seg_dataset import ade, scene, write_pair  # noqa: F401  (scene is a fixture)
from test_seg_sizes import CROP, PADDING, own  # noqa: F401  (own is a fixture)
from test_seg_train import NORMALIZE, run

import seg  # noqa: F401

# isort: split
import score_scenes

from seg import census, metrics, train, val

MASK = np.array([[0, 255, 0, 0], [0, 0, 255, 0], [0, 255, 0, 0]], 'uint8')  # 3 of 12 pixels ignored


@pytest.fixture(autouse=True)
def no_earlier_evaluation(monkeypatch):
    """An evaluation that another file's test broke off leaves its counts."""
    monkeypatch.setattr(metrics, 'counted', [0, 0])


class Always(paddle.nn.Layer):
    """A degenerate model: the same class everywhere."""

    def __init__(self, chosen, num_classes):
        super().__init__()
        self.chosen, self.num_classes = chosen, num_classes

    def forward(self, x):
        one = paddle.nn.functional.one_hot(
            paddle.full([1, *x.shape[2:]], self.chosen, 'int64'), self.num_classes
        )
        return [one.transpose([0, 3, 1, 2])]


def samples_of(folder, num_classes, *labels):
    """A data set for evaluation with these labels."""
    for number, label in enumerate(labels):
        write_pair(folder / f'{number}.jpg', folder / f'{number}.png', label)
    (folder / 'list.txt').write_text(''.join(f'{n}.jpg {n}.png\n' for n in range(len(labels))))
    return Dataset('val', str(folder), [], num_classes, val_path=str(folder / 'list.txt'))


def said(capsys):
    """The warnings that were printed, without time and level."""
    lines = capsys.readouterr().out.splitlines()
    return [line.partition('[WARNING]\t')[2] for line in lines if '[WARNING]' in line]


def test_masks_of_0_and_255_are_not_perfect_without_a_word(tmp_path, capsys):
    other = np.full([2, 3], 255, 'uint8')
    miou, *_ = evaluate(Always(0, 2), samples_of(tmp_path, 2, MASK, other), print_detail=False)
    assert miou == 1  # absent classes do not count, as in published figures
    assert said(capsys) == [
        '[EVAL] class 1 of 2 classes, counted from 0, is in no label, '
        "and 50.0% of the labels' pixels are ignored. "
        'Is an absent class written in the masks as a number that is ignored?'
    ]


@pytest.mark.parametrize(
    'labels, expected',
    [
        ([[[1, 4]], [[4, 1]]], 'classes 0, 2-3, 5 of 6 classes, counted from 0, are in no label, '
         "and 0.0% of the labels' pixels are ignored"),
        ([[[0, 1, 2, 3, 4, 5, 255, 255]]], None),  # many data sets ignore a quarter of the pixels
        ([[[0, 1, 2, 3, 4, 5]], [[255] * 7]], "53.8% of the labels' pixels are ignored"),
        ([[[255, 255]]], 'classes 0-5 of 6 classes, counted from 0, are in no label, '
         "and 100.0% of the labels' pixels are ignored. "
         'Is an absent class written in the masks as a number that is ignored?'),
    ],
)  # fmt: skip
def test_what_an_evaluation_says_of_its_labels(tmp_path, capsys, labels, expected):
    samples = samples_of(tmp_path, 6, *(np.array(label, 'uint8') for label in labels))
    for _ in range(2):  # the second evaluation counts anew
        evaluate(Always(1, 6), samples, print_detail=False)
    assert said(capsys) == ([f'[EVAL] {expected}'] * 2 if expected else [])


def test_a_class_that_is_predicted_but_in_no_label_is_named(tmp_path, capsys):
    evaluate(Always(2, 3), samples_of(tmp_path, 3, np.array([[0, 1]], 'uint8')), print_detail=False)
    assert said(capsys)[0].startswith('[EVAL] class 2 of 3 classes, counted from 0, is in no label')


def test_ade20ks_layout_counts_0_as_ignored(scene, capsys):  # noqa: F811
    for file in (scene / 'annotations/validation').iterdir():
        with Image.open(file) as label:
            values = np.asarray(label)
        Image.fromarray(np.where(values > 0, 255, 0).astype('uint8')).save(file)
    evaluate(Always(0, 150), ade(scene), print_detail=False)
    assert said(capsys)[0].startswith(
        '[EVAL] classes 0-149 of 150 classes, counted from 0, are in no label, and 100.0%'
    )


def test_an_evaluation_that_was_broken_off_is_not_counted(capsys):
    prediction = paddle.zeros([1, 1, 3, 4], 'int32')
    label = paddle.to_tensor(MASK[None, None].astype('int64'))
    metrics.calculate_area(prediction, label, 2)
    areas = metrics.calculate_area(prediction, label, 2)
    metrics.class_measurement(*areas)
    assert said(capsys) == ['[EVAL] class 1 of 2 classes, counted from 0, is in no label']
    metrics.class_measurement(*metrics.calculate_area(prediction, label, 2))
    assert '25.0% of the labels' in said(capsys)[0]


def batches(*labels):
    return [{'label': np.array(label, 'uint8')} for label in labels]


def watched(capsys, labels, iterations, num_classes=3):
    """The warnings after each batch of a training."""

    class Samples:
        ignore_index = 255

    Samples.num_classes = num_classes
    found = []
    given = [({'img': number}, arrays) for number, arrays in enumerate(batches(*labels))]
    for number, both in enumerate(census.watch(iter(given), Samples(), iterations)):
        assert both == given[number]
        found.append(said(capsys))
    assert len(found) == len(labels)
    return found


def test_training_tells_after_an_epoch_what_was_in_no_label(capsys):
    first, second, *later = watched(capsys, [[0, 255], [1, 255], [2, 2]], iterations=2)
    assert first == [] and later == [[]]
    assert second[0].startswith(
        'in the 2 iterations of training so far class 2 of 3 classes, counted from 0, '
        'is in no label, and 50.0% of the'
    )
    assert watched(capsys, [[0, 255], [1, 2]], iterations=2) == [[], []]


def test_training_on_one_class_is_told_early(capsys):
    found = watched(capsys, [[0, 255]] * 12, iterations=12)
    assert [number for number, texts in enumerate(found, 1) if texts] == [10, 12]
    assert 'in the 10 iterations of training so far classes 1-2 of 3' in found[9][0]
    found = watched(capsys, [[0, 1]] * 12, iterations=12)
    # not at 10: there the third class may still come
    assert [number for number, texts in enumerate(found, 1) if texts] == [12]


def test_all_ranks_are_counted_together(monkeypatch, capsys):
    other = [0, 0, 7, 1]  # pixels of three classes and ignored ones on another rank
    monkeypatch.setattr(
        census.dist, 'sum_over_ranks', lambda values: [a + b for a, b in zip(values, other)]
    )
    assert watched(capsys, [[0, 1]], iterations=1) == [[]]
    ((text,),) = watched(capsys, [[0, 255]], iterations=1)
    assert 'class 1 of 3' in text and '20.0% of' in text  # 2 of 10


def test_the_programs_tell_in_training_and_in_evaluation(own, tmp_path, capsys):  # noqa: F811
    label = np.full([12, 20], 255, 'uint8')
    label[:6] = 0
    file = own([CROP, NORMALIZE, PADDING], label=label)
    run(train, '--config', file, '--save_dir', tmp_path / 'out', '--iters', 1, '--do_eval')
    training, evaluation = (text for text in said(capsys) if 'in no label' in text)
    absent = 'classes 1-2 of 3 classes, counted from 0, are in no label'
    share = 1 - 6 * 20 / 32 / 32  # with the padding
    assert training.startswith(
        f'in the 1 iterations of training so far {absent}, and {share:.1%} of the labels'
    )
    assert evaluation.startswith(f'[EVAL] {absent}, and 50.0% of the labels')
    run(val, '--config', file)
    assert any(text.startswith(f'[EVAL] {absent}') for text in said(capsys))


def test_the_demos_score_tells_it_too(tmp_path, capsys):
    values = {'images/validation/0.jpg': 9, 'annotations/validation/0.png': 2, '0.png': 1}
    for name, value in values.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (6, 5), value).save(tmp_path / name)
    flags = ['--data_path', str(tmp_path), '--predictions', str(tmp_path)]
    score_scenes.main(score_scenes.PARSER.parse_args(flags))
    printed = capsys.readouterr()
    assert 'segmentor        1.0000' in printed.out
    expected = (
        'classes 1, 3-4 of 4 classes, counted from 1, are in no label, and 0.0% of the labels'
    )
    assert f'warning: {expected}' in printed.err
