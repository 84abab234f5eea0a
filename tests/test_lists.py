"""One reader of lists for all programs: marks, line ends, blank lines, blanks in names."""

import codecs
import os

import pytest
from paddleseg.datasets import Dataset

import main_infer
import seg.predict
from util.data import folder, lists, pictures
from util.errors import InputError

FORMS = {
    'plain': lambda text: text.encode(),
    'mark': lambda text: codecs.BOM_UTF8 + text.encode(),
    'Windows': lambda text: text.replace('\n', '\r\n').encode(),
    'Notepad': lambda text: codecs.BOM_UTF8 + (text + '\n \n\n').replace('\n', '\r\n').encode(),
    'PowerShell': lambda text: codecs.BOM_UTF16_LE + text.replace('\n', '\r\n').encode('utf-16-le'),
    'old Mac': lambda text: text.replace('\n', '\r').encode(),
    'blank lines': lambda text: ('\n\n' + text.replace('\n', '  \n\t\n') + '\n\n').encode(),
}


@pytest.fixture(params=FORMS)
def write(request, tmp_path):
    """write(text) -> a list of it in one of the forms."""

    def write(text, name='list.txt'):
        (tmp_path / name).write_bytes(FORMS[request.param](text))
        return tmp_path / name

    return write


def test_a_list_of_training_images(write, tmp_path):
    found = folder.read_list(
        write('a b/1 x.png 3\nc\u2028\x85.JPG\t0\n图 2.png 12'), pictures.PICTURES
    )
    names = ['a b/1 x.png', 'c\u2028\x85.JPG', '图 2.png']
    assert found.paths == [str(tmp_path / name) for name in names] and found.labels == [3, 0, 12]
    found = folder.read_list(write('a b.png\n2 3.png\n'), pictures.PICTURES)
    assert found.paths == [str(tmp_path / name) for name in ('a b.png', '2 3.png')]
    assert found.labels is None


def test_class_names(write):
    own = [['0'], ['1'], ['2']]
    names = main_infer.class_names(write('Größe\none, the first\n 两 \n'), own)
    assert names == [['Größe'], ['one, the first'], ['两']]


def test_a_list_of_pictures_to_segment(write, tmp_path):
    for name in ('my pic.jpg', 'b.png', 'old.jpg copy.png'):
        (tmp_path / name).touch()
    text = 'my pic.jpg my label.png\nb.png\nmy pic.jpg\nold.jpg copy.png x.png\nold.jpg copy.png'
    found = seg.predict.listed(write(text))
    names = ['my pic.jpg', 'b.png', 'my pic.jpg', 'old.jpg copy.png', 'old.jpg copy.png']
    assert found == [tmp_path / name for name in names]


@pytest.mark.parametrize('separator', [' ', ',', '\t'])
@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
def test_a_list_of_paddleseg(write, tmp_path, mode, separator):
    pairs = [['a.jpg', 'a.png'], ['my pic.jpg', 'my label.png'], ['odd.gif', 'x.png']]
    path = write('\n'.join(separator.join(pair) for pair in pairs))
    data = Dataset(
        mode,
        str(tmp_path),
        [],
        num_classes=2,
        separator=separator,
        **{f'{mode}_path': str(path)},
    )
    assert data.file_list == [[str(tmp_path / name) for name in pair] for pair in pairs]
    assert len(data) == 3 and data.mode == mode


def test_images_without_labels_are_for_tests_alone(write, tmp_path):
    settings = {'num_classes': 2, 'dataset_root': str(tmp_path), 'transforms': []}
    path = str(write('a b.jpg\nc.jpg'))
    found = Dataset('test', test_path=path, **settings).file_list
    assert found == [[str(tmp_path / name), None] for name in ('a b.jpg', 'c.jpg')]
    for mode in ('train', 'val'):
        with pytest.raises(
            InputError, match='list.txt, line [0-9]+: expected `image label`, found'
        ):
            Dataset(mode, **{f'{mode}_path': path}, **settings)


def test_paddlesegs_other_refusals_stay(tmp_path):
    for mode, path, error in (('val', None, ValueError), ('val', 'nowhere', FileNotFoundError)):
        with pytest.raises(error, match='val_path'):
            Dataset(mode, str(tmp_path), [], num_classes=2, val_path=path)
    (tmp_path / 'list.txt').write_text('a.jpg a.png\n')
    with pytest.raises(ValueError, match='img_channels'):
        path = str(tmp_path / 'list.txt')
        Dataset('val', str(tmp_path), [], num_classes=2, img_channels=4, val_path=path)


@pytest.mark.parametrize(
    'text, message',
    [
        ('\na.png 1\n\nb.exe 2\n', "list.txt, line 4: 'b.exe' does not end in one of"),
        ('a.png 1\n\nb.png\nc.png 2', "list.txt, line 3: 'b.png' has no label, which other lines"),
        (b'a.png 1\n\xc4\xd6.png 2', 'list.txt, line 2: this is not a list of images'),
    ],
)
def test_the_line_of_a_fault_is_named(tmp_path, text, message):
    path = tmp_path / 'list.txt'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        folder.read_list(path, pictures.PICTURES)


def test_the_line_of_a_fault_is_named_in_the_other_lists(tmp_path):
    path = tmp_path / 'list.txt'
    path.write_bytes(b'\n\n\xff\xfd.png\n')
    with pytest.raises(
        InputError, match='^--class_names .*list.txt, line 3: this is not a list of'
    ):
        main_infer.class_names(path, [['0']])
    with pytest.raises(InputError, match='^--image_path .*list.txt, line 3: this is not a list of'):
        seg.predict.listed(path)
    path.write_text('\na.png\nb.exe x.png.exe\n')
    with pytest.raises(InputError, match="line 3: 'b.exe' does not end in one of"):
        seg.predict.listed(path)
    with pytest.raises(InputError, match='nowhere: cannot be read'):
        lists.read(tmp_path / 'nowhere', 'list')


def test_class_names_are_counted_without_blank_lines(tmp_path):
    (tmp_path / 'names.txt').write_bytes(codecs.BOM_UTF8 + b'ant\r\nbee\r\n\r\n')
    with pytest.raises(InputError, match='names.txt has 2 lines, but the model has 3 classes'):
        main_infer.class_names(os.fspath(tmp_path / 'names.txt'), [['0'], ['1'], ['2']])
