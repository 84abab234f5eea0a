"""ADE20K and the user's own pairs: samples, and errors that name the files."""

import shutil

import numpy as np
import paddle
import pytest
from paddleseg.core import evaluate
from paddleseg.datasets import Dataset
from PIL import Image

import seg  # noqa: F401
from seg.dataset import ADE20KDataset, Scenes, checked, read_image
from seg.loading import loading
from seg.transforms import ResizeKeepRatio
from util.errors import InputError

SIZES = [(30, 45), (30, 40), (64, 24)]  # height, width
LABELS = [
    np.random.default_rng(seed).choice([0, 1, 2, 7, 150, 255], (h, w)).astype('uint8')
    for seed, (h, w) in enumerate(SIZES)
]


def write_pair(image, label, values):
    """Write a smooth picture of the label's size, and the label."""
    height, width = values.shape
    coarse = np.random.default_rng(height + width).integers(0, 256, (4, 5, 3)).astype('uint8')
    Image.fromarray(coarse).resize((width, height), Image.BICUBIC).save(image)
    Image.fromarray(values).save(label)


def write_scene(root, classes=150):
    """A data set in ADE20K's layout, with three pairs each for training and validation.

    Classes above `classes` become the last one.
    """
    for part in ('training', 'validation'):
        images, labels = root / 'images' / part, root / 'annotations' / part
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in (2, 0, 1):
            write_pair(
                images / f'{number:03}.jpg',
                labels / f'{number:03}.png',
                np.where(LABELS[number] == 255, 255, LABELS[number].clip(0, classes)).astype(
                    'uint8'
                ),
            )


@pytest.fixture
def scene(tmp_path):
    write_scene(tmp_path)
    return tmp_path


def ade(root, mode='val', transforms=()):
    return ADE20KDataset(list(transforms), str(root), mode)


def test_pairs_are_sorted_and_labels_count_from_0(scene):
    data = ade(scene)
    assert [path[-8:] for path, _ in data.file_list] == ['/000.jpg', '/001.jpg', '/002.jpg']
    assert data.NUM_CLASSES == data.num_classes == 150
    assert data.IGNORE_INDEX == data.ignore_index == 255
    for (height, width), raw, sample in zip(SIZES, LABELS, data):
        assert sample['img'].shape == (3, height, width)
        assert sample['label'].shape == (1, height, width)
        expected = np.vectorize(lambda v: 255 if v in (0, 255) else v - 1)(raw)
        np.testing.assert_array_equal(sample['label'][0], expected)


def test_the_tours_scenes_have_four_classes(scene):
    with pytest.raises(InputError, match='its 4 classes are 1 to 4'):
        Scenes([], str(scene), 'val')[0]
    assert Scenes([], str(scene), 'val').num_classes == Scenes.NUM_CLASSES == 4


def test_training_transforms_change_the_label_with_the_image(scene):
    def flip(data):
        assert data['gt_fields'] == ['label']
        return data | {'img': data['img'][:, ::-1], 'label': data['label'][:, ::-1]}

    plain, flipped = ade(scene, 'train')[0], ade(scene, 'train', [flip])[0]
    np.testing.assert_array_equal(flipped['label'], plain['label'][:, ::-1])
    assert plain['label'].dtype == np.uint8 and plain['label'].shape == SIZES[0]


def spoil(kind, scene):
    image, label = scene / 'images/validation/001.jpg', scene / 'annotations/validation/001.png'
    height, width = SIZES[1]
    grid = np.ones([height, width], 'uint8')
    if kind == 'root':
        shutil.rmtree(scene)
    elif kind == 'folder':
        shutil.rmtree(label.parent)
    elif kind == 'empty':
        [file.unlink() for file in image.parent.iterdir()]
    elif kind == 'pair':
        label.unlink()
    elif kind == 'image':
        image.write_bytes(b'no picture')
    elif kind == 'truncated':
        image.write_bytes(image.read_bytes()[:600])
    elif kind == 'label':
        label.write_bytes(b'')
    else:
        Image.fromarray(
            {
                'size': grid[1:],
                'range': grid * 151,
                'colours': np.stack([grid] * 3, axis=2),
                'sixteen': grid.astype('uint16') * 300,
            }[kind]
        ).save(label)


BEFORE = {
    'root': 'no folder .*images/validation nor .*Expected there: .*annotations/validation.*http',
    'folder': 'no folder .*annotations/validation',
    'empty': 'images/validation holds no picture',
    'pair': '1 files of validation have no partner .*images/validation/001.jpg',
}


@pytest.mark.parametrize(
    'folder, name, others',
    [
        ('images', '001.webp', '001.jpg and 001.webp'),
        ('images', '001.PNG', '001.PNG and 001.jpg'),
        ('annotations', '001.PNG', '001.PNG and 001.png'),
    ],
)
def test_two_files_of_one_name_are_refused_by_name(scene, folder, name, others):
    Image.new('L', SIZES[1][::-1]).save(scene / folder / 'validation' / name)
    with pytest.raises(
        InputError, match=f'{folder}/validation: 1 files have the name of another .*: {others}; '
    ):
        ade(scene)
    assert len(ade(scene, 'train')) == 3  # the other part is whole


WITHIN = {
    'image': '001.jpg cannot be read as a picture',
    'truncated': '001.jpg cannot be read as a picture',
    'label': '001.png cannot be read as a label',
    'size': '001.png is 40 x 29 pixels, but its image .*001.jpg is 40 x 30',
    'range': '001.png has the labels 151; its 150 classes are 1 to 150',
    'sixteen': '001.png has the labels 300',
    'colours': '001.png: a label has one channel',
}


@pytest.mark.parametrize('kind', BEFORE)
def test_a_data_set_that_is_not_there_is_refused_at_once(scene, kind):
    spoil(kind, scene)
    with pytest.raises(InputError, match=BEFORE[kind]):
        ade(scene)


@pytest.mark.parametrize('kind', WITHIN)
def test_a_bad_file_is_named(scene, kind):
    spoil(kind, scene)
    data = ade(scene)
    assert data[0]['label'].shape == (1, *SIZES[0])
    with pytest.raises(InputError, match=WITHIN[kind]):
        data[1]


@pytest.mark.parametrize('num_workers', [0, 2])
@pytest.mark.parametrize('kind', ['truncated', 'range'])
def test_a_bad_file_ends_an_evaluation_by_its_name(scene, kind, num_workers):
    spoil(kind, scene)

    class Model(paddle.nn.Layer):
        def forward(self, x):
            return [paddle.zeros([1, 150, *x.shape[2:]])]

    with loading(60), pytest.raises(InputError, match=f'^[^ ]*{WITHIN[kind]}'):
        evaluate(Model(), ade(scene), num_workers=num_workers, print_detail=False)


def own(root, **kwargs):
    (root / 'val.txt').write_text('a.jpg a.png\n')
    return Dataset(
        'val',
        str(root),
        [ResizeKeepRatio([32, 16])],
        num_classes=3,
        val_path=str(root / 'val.txt'),
        **kwargs,
    )


def test_paddlesegs_own_list_of_pairs_is_read_and_checked_alike(tmp_path):
    label = np.array([[0, 1, 2, 255]] * 4, 'uint8')
    write_pair(tmp_path / 'a.jpg', tmp_path / 'a.png', label)
    sample = own(tmp_path)[0]
    np.testing.assert_array_equal(sample['label'][0], label)
    assert sample['img'].shape == (3, 16, 16)
    write_pair(tmp_path / 'a.jpg', tmp_path / 'a.png', label + 1)
    with pytest.raises(
        InputError, match='a.png has the labels 3; its 3 classes are 0 to 2, and 255 is ignored'
    ):
        own(tmp_path)[0]


def test_grey_and_16_bit_pictures_become_three_channels_of_8_bits(tmp_path):
    grey = np.arange(256, dtype='uint8').reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / 'grey.png')
    Image.fromarray(grey.astype('uint16') * 257).save(tmp_path / 'deep.png')
    for name in ('grey.png', 'deep.png'):
        np.testing.assert_array_equal(read_image(tmp_path / name), np.stack([grey] * 3, axis=2))


def test_channels_are_blue_green_red_and_the_picture_stands_as_it_was_taken(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype('uint8')
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture must be turned clockwise
    Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), np.rot90(pixels, -1)[..., ::-1])


@pytest.mark.parametrize('number', [0, 1, 150, 151, 254, 255, 256, 300, -1])
def test_numbers_of_a_label_by_hand(number):
    label = np.full([2, 2], number, 'int64')
    if number in (0, 255) or 1 <= number <= 150:
        expected = number - 1 if 1 <= number <= 150 else 255
        assert (checked(label, 'x', 150, 255, first=1) == expected).all()
    else:
        with pytest.raises(
            InputError,
            match=f'x has the labels {number}; its 150 classes are 1 to 150, and 0 or 255',
        ):
            checked(label, 'x', 150, 255, first=1)
