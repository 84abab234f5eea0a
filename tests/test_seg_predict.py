"""Which pictures are predicted, and what is drawn of a prediction."""

import numpy as np
from paddleseg.utils import visualize
from test_seg_dataset import write_pair

import seg.predict


def test_pictures_are_found_in_folders_and_lists_and_keep_their_names(tmp_path):
    for name in ('a.jpg', 'a.png', 'deep/b.bmp', '.hidden/c.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_pair(tmp_path / name, tmp_path / 'label.tmp.png', np.zeros([8, 9], 'uint8'))
    (tmp_path / 'label.tmp.png').unlink()
    assert [tuple(map(str, names)) for _, *names in seg.predict.find(str(tmp_path))] == [
        ('a.jpg', 'a.jpg.png'),
        ('a.png', 'a.png.png'),
        ('deep/b.bmp', 'deep/b.png'),
    ]
    for folder in ('out/added_prediction', 'out/pseudo_color_prediction'):
        # of an earlier run, into the pictures' folder
        (tmp_path / folder).mkdir(parents=True)
        write_pair(
            tmp_path / folder / 'a.png', tmp_path / folder / 'label.png', np.zeros([8, 9], 'uint8')
        )
    assert (
        len(seg.predict.find(str(tmp_path), str(tmp_path / 'out')))
        == 3
        < len(seg.predict.find(str(tmp_path)))
    )
    (tmp_path / 'list.txt').write_text('a.jpg label.png\n\ndeep/b.bmp\n')
    found = [file for file, *_ in seg.predict.find(str(tmp_path / 'list.txt'))]
    assert found == [tmp_path / 'a.jpg', tmp_path / 'deep/b.bmp']


def test_overlays_are_paddlesegs(tmp_path):
    label = np.arange(72, dtype='uint8').reshape(8, 9)
    write_pair(tmp_path / 'a.png', tmp_path / 'label.png', label)
    colors = seg.predict.palette(None)
    added, mask = seg.predict.drawn(
        seg.predict.dataset.read_image(tmp_path / 'a.png'), label, colors
    )
    theirs = visualize.visualize(str(tmp_path / 'a.png'), label, colors.ravel().tolist())
    assert np.abs(np.asarray(added).astype(int) - theirs[..., ::-1]).max() <= 1
    np.testing.assert_array_equal(mask, label)
    assert mask.getpalette()[:9] == visualize.get_color_map_list(256)[:9]
    assert seg.predict.palette([1, 2, 3])[0].tolist() == [1, 2, 3]


def test_pictures_named_from_another_folder_get_results_below_save_dir(tmp_path):
    (tmp_path / 'lists').mkdir()
    write_pair(tmp_path / 'a.png', tmp_path / 'label.png', np.zeros([8, 9], 'uint8'))
    (tmp_path / 'lists/list.txt').write_text('../a.png\n')
    ((file, name, mask),) = seg.predict.find(str(tmp_path / 'lists/list.txt'))
    assert file == tmp_path / 'a.png' and '..' not in name.parts + mask.parts
    assert not (name.is_absolute() or mask.is_absolute())
