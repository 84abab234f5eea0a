"""The legend below pictures: colours, texts, and the picture as it was."""

import matplotlib
import numpy as np
import pytest
from PIL import Image

import det.draw
import det.infer
import seg.predict
from det.detections import Detections
from seg import classes, dataset
from util import legend, panels

RED, BLUE = (200, 0, 0), (0, 0, 200)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype('uint8')


def colours_below(sheet, height):
    """How many pixels of each colour the strip has."""
    strip = np.asarray(sheet)[height:].reshape(-1, 3)
    found, counts = np.unique(strip, axis=0, return_counts=True)
    return {tuple(colour): count for colour, count in zip(found.tolist(), counts.tolist())}


@pytest.mark.parametrize('size', [(40, 52), (300, 500), (900, 700)])
def test_the_picture_stays_and_every_entry_has_its_colour(size):
    picture = noise(*size)
    sheet = legend.below(Image.fromarray(picture), [('one', RED), ('two', BLUE)], 'two classes')
    np.testing.assert_array_equal(np.asarray(sheet)[: size[0], : size[1]], picture)
    assert sheet.height > size[0] and sheet.width == max(size[1], legend.NARROWEST)
    found = colours_below(sheet, size[0])
    assert found[RED] == found[BLUE] > 50
    # letters of the caption and of the entries
    assert found[0, 0, 0] > 50


def test_many_entries_get_rows_and_long_texts_end_within_the_sheet():
    entries = [(f'class {number}', (number, 1, 1)) for number in range(100)]
    sheet = legend.below(Image.new('RGB', (200, 50)), entries, 'word ' * 100)
    found = colours_below(sheet, 50)
    assert all(found[number, 1, 1] > 20 for number in range(100))
    right = np.asarray(sheet)[50:, -2:]
    assert (right == 255).all()
    assert legend.below(Image.new('RGB', (200, 50)), [], 'nothing').height < sheet.height


def test_texts_of_legends_and_panels_take_a_wide_font_where_they_need_it(monkeypatch):
    """A file of Matplotlib's stands for a font with Chinese."""
    wide = f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf'
    monkeypatch.setattr(legend, 'WIDE_FONTS', ('none.ttf', wide))
    monkeypatch.setattr(legend, '_font', legend._font.__wrapped__)  # nothing kept
    for letters in (legend.font('猫/三.png', 12), panels._font('猫/三.png', 100)):
        assert letters.path == wide
    for letters in (legend.font('cat/3.png', 12), panels._font('cat/3.png', 100)):
        assert letters.path != wide


def test_a_segmented_picture_names_its_classes_by_share(monkeypatch):
    labels = np.full([40, 60], 2)
    labels[:10] = 20  # a quarter
    colors = seg.predict.palette(None)
    told = {}
    monkeypatch.setattr(legend, 'below', lambda *args: told.update(args=args))
    seg.predict.with_legend(None, labels, colors, classes.ADE20K)
    _, entries, caption = told['args']
    assert entries == [('sky 75.0%', tuple(colors[2])), ('car 25.0%', tuple(colors[20]))]
    assert caption.startswith('2 classes')
    labels[0, 0] = 12  # 1 pixel of 2400
    seg.predict.with_legend(None, labels, colors, classes.ADE20K)
    assert told['args'][1][2][0] == 'person < 0.1%'
    labels[0, 0] = 20
    seg.predict.with_legend(None, labels, colors, ['a', 'b', 'c'])
    assert [text for text, _ in told['args'][1]] == ['c 75.0%', 'class 20 25.0%']


def test_data_sets_name_all_their_classes(tmp_path):
    assert len(set(classes.ADE20K)) == dataset.ADE20KDataset.NUM_CLASSES
    assert len(dataset.Scenes.NAMES) == dataset.Scenes.NUM_CLASSES
    (tmp_path / 'names.txt').write_text('road\ntraffic light\n')
    assert classes.read(str(tmp_path / 'names.txt')) == ['road', 'traffic light']


def test_a_picture_of_objects_counts_them_by_class(monkeypatch):
    told = {}
    monkeypatch.setattr(legend, 'below', lambda *args: told.update(args=args))
    found = Detections(np.zeros([3, 4]), np.array([0.9, 0.8, 0.7]), np.array([2, 0, 2]))
    caption = det.infer.caption(found, 0.25)
    det.draw.with_legend(None, found.classes, ['cat', 'dog', 'cow'], caption)
    assert told['args'][1:] == (
        [('cat: 1', det.draw.color(0)), ('cow: 2', det.draw.color(2))],
        '3 objects with a score of at least 0.25',
    )
