"""The pictures that are predicted, and the drawings of a prediction."""

from pathlib import Path

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
        # an earlier run wrote into the pictures' folder
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


def names_of(folder, *pictures):
    """The answer of find for empty files: picture -> its result, its mask."""
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return {
        str(file.relative_to(folder)): (str(name), str(mask))
        for file, name, mask in seg.predict.find(str(folder))
    }


def test_pictures_of_one_name_in_several_folders_have_results_of_their_own(tmp_path):
    found = names_of(tmp_path, 'x/s0.jpg', 'y/s0.jpg', 'y/s0.tif', 'y/z/s0.jpg')
    assert found == {
        'x/s0.jpg': ('x/s0.jpg', 'x/s0.png'),
        'y/s0.jpg': ('y/s0.jpg', 'y/s0.jpg.png'),
        'y/s0.tif': ('y/s0.tif', 'y/s0.tif.png'),
        'y/z/s0.jpg': ('y/z/s0.jpg', 'y/z/s0.png'),
    }


def test_a_picture_called_as_the_mask_of_another_keeps_its_own(tmp_path):
    found = names_of(tmp_path, 'a.bmp', 'a.jpg', 'a.jpg.png', 'a.jpg.png.png')
    assert [mask for _, mask in found.values()] == [
        'a.bmp.png',
        'a.jpg.png',
        'a.jpg.png.png',
        'a.jpg.png.png.png',
    ]


def test_a_list_names_pictures_inside_and_outside_of_its_folder_and_one_twice(tmp_path):
    root = tmp_path / 'lists'
    inside = root.joinpath(*tmp_path.parts[1:], 'a.png')  # below the folder as the other is below /
    inside.parent.mkdir(parents=True)
    for file in (inside, tmp_path / 'a.png'):
        file.touch()
    (root / 'list.txt').write_text(f'{inside}\n../a.png\n{tmp_path}/lists/../a.png\n')
    found = seg.predict.find(str(root / 'list.txt'))
    assert [file for file, *_ in found] == [inside, tmp_path / 'a.png']
    assert [Path('/', name) for _, name, _ in found] == [inside, tmp_path / 'a.png']
    assert len({mask for *_, mask in found}) == 2


def test_results_of_an_earlier_run_are_announced_before_they_are_replaced(tmp_path, capsys):
    names_of(tmp_path / 'first', 'deep/a.jpg', 'b.jpg')
    names_of(tmp_path / 'second', 'deep/a.jpg', 'c.jpg')
    out = str(tmp_path / 'out')
    for _, _, mask in seg.predict.find(str(tmp_path / 'first')):
        (tmp_path / 'out/pseudo_color_prediction' / mask).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'out/pseudo_color_prediction' / mask).touch()
    seg.predict.warn_of_earlier(seg.predict.find(str(tmp_path / 'second')), out)
    assert '1 of 2 masks in' in (said := capsys.readouterr().err) and 'such as deep/a.png' in said
    seg.predict.warn_of_earlier(seg.predict.find(str(tmp_path / 'second')), str(tmp_path / 'other'))
    assert capsys.readouterr().err == ''
