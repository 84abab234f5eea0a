"""A data set of one's own by PaddleSeg's `Dataset`, with label files named as in Cityscapes."""

import re

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_seg_train import run

import seg  # noqa: F401

# isort: split
from seg import predict, train, val
from util.errors import InputError

IMAGE, LABEL = 'leftImg8bit/town_{}_leftImg8bit.png', 'gtFine/town_{}_gtFine_labelTrainIds.png'


@pytest.fixture
def own(tmp_path):
    """own(number, label) writes a label; own.config is docs/segment.md's, for three classes."""

    def write(number, label):
        (tmp_path / LABEL.format(0)).parent.mkdir(exist_ok=True)
        label.save(tmp_path / LABEL.format(number))

    rng = np.random.default_rng(0)
    (tmp_path / 'leftImg8bit').mkdir()
    for number in range(6):
        pixels = rng.integers(0, 256, (40, 48, 3)).astype('uint8')
        classes = np.full((40, 48), 255, 'uint8')
        for index in range(3):
            classes[:, index * 15 : index * 15 + 15] = index
            pixels[classes == index] //= index + 1
        Image.fromarray(pixels).save(tmp_path / IMAGE.format(number))
        write(number, Image.fromarray(classes))
    for name, numbers in (('train.txt', range(4)), ('val.txt', (4, 5))):
        lines = [f'{IMAGE.format(i)} {LABEL.format(i)}\n' for i in numbers]
        (tmp_path / name).write_text(''.join(lines))

    page = (ROOT / 'docs/segment.md').read_text()
    config = re.search(r'```yaml\n(.*?)```', page, re.DOTALL)[1]
    config = config.replace('DATA', str(tmp_path)).replace('num_classes: 19', 'num_classes: 3')
    tiny = f'{ROOT}/seg/configs/upernet_mae/upernet_mae_tiny.yml'
    config = re.sub(r'(?<=_base_: ).*', tiny, config)
    write.config = tmp_path / 'own.yml'
    write.config.write_text(f'{config}batch_size: 4\niters: 2\n')
    return write


def test_the_programs_train_evaluate_and_predict(own, tmp_path, capsys):
    run(train, '--config', own.config, '--do_eval', '--save_dir', tmp_path / 'out')
    best = tmp_path / 'out/best_model/model.pdparams'
    run(val, '--config', own.config, '--model_path', best)
    assert '(0 of 3 classes are absent and left out)' in capsys.readouterr().out
    flags = ['--image_path', tmp_path / 'leftImg8bit', '--save_dir', tmp_path / 'predicted']
    run(predict, '--config', own.config, '--model_path', best, *flags)
    drawn = sorted((tmp_path / 'predicted/pseudo_color_prediction').iterdir())
    assert [path.name for path in drawn] == [f'town_{i}_leftImg8bit.png' for i in range(6)]
    assert set(np.unique(np.asarray(Image.open(drawn[0])))) <= {0, 1, 2}


RIGHT = np.zeros((40, 48), 'uint8')


@pytest.mark.parametrize(
    'label, message',
    [
        pytest.param(
            Image.fromarray(RIGHT + 7),
            'has the labels 7; its 3 classes are 0 to 2, and 255 is ignored',
            id='a value outside the classes',
        ),
        pytest.param(
            Image.fromarray(np.zeros((40, 48, 3), 'uint8')),
            r'a label has one channel of class numbers; this is uint8 \[40, 48, 3\]',
            id='a label in RGB',
        ),
        pytest.param(
            Image.fromarray(RIGHT[:30]),
            r'is 48 x 30 pixels, but its image .*town_\d_leftImg8bit.png is 48 x 40',
            id='a label of another size',
        ),
    ],
)
@pytest.mark.parametrize('number, program', [(2, train), (5, val)])
def test_a_label_that_does_not_fit_is_named(own, tmp_path, label, message, number, program):
    own(number, label)
    flags = ['--save_dir', tmp_path / 'out'] if program is train else []
    with pytest.raises(InputError, match=message) as error:
        run(program, '--config', own.config, *flags)
    assert LABEL.format(number) in str(error.value)


@pytest.mark.parametrize('kind', ['palette', '16 bits'])
def test_palettes_and_16_bits_are_read(own, tmp_path, kind):
    if kind == 'palette':
        label = Image.fromarray(RIGHT + 1).convert('P')
        label.putpalette([10, 20, 30, 200, 100, 0, 1, 2, 3])
        label.putdata([1] * RIGHT.size)
    else:
        label = Image.fromarray((RIGHT + 1).astype('uint16'))
    for number in range(4):
        own(number, label)
    run(train, '--config', own.config, '--save_dir', tmp_path / 'out')
