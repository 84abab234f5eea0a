"""Position tables that are not square: the file says the sides, or they are unknown."""

import numpy as np
import pytest

import main_export
import main_finetune
import main_infer
import main_linprobe
import main_parity
import models_zoo
import seg  # noqa: F401
from util import pos_embed, weights
from util.errors import InputError
from util.weights import paddle_file

# isort: split
from seg.backbone import MAEViT


@pytest.fixture
def file(encoder, tmp_path):
    """file(rows, columns, **flags) -> an encoder whose first position channels are row, column."""

    def file(rows, columns, **flags):
        tensors = {
            name: array
            for name, array in weights.read(encoder)['model'].items()
            if not name.startswith(('decoder', 'mask_token'))
        }
        table = np.zeros([rows * columns + 1, 96], 'float32')
        table[1:, 0], table[1:, 1] = np.divmod(np.arange(rows * columns), columns)
        paddle_file.write(
            tmp_path / 'x.pd', {'model': tensors | {'pos_embed': table[None]}, 'args': flags}
        )
        return tmp_path / 'x.pd'

    return file


def started(path, size):
    """The positions' first two channels [grid, grid, 2] in a model that starts from a file."""
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=size, in_chans=1, num_classes=2, global_pool=True
    )
    start = models_zoo.start_from(model, str(path))
    return model.pos_embed.numpy()[0, 1:, :2].reshape(size // 4, size // 4, 2), start.resized


@pytest.mark.parametrize(
    'flags',
    [{'input_size': [3, 12, 24]}, {'img_size': (12, 24)}, {'image_size': [15, 27]}],
    ids=str,
)
def test_the_sides_that_a_file_says_decide(file, flags):
    """3 x 6 to 6 x 6: columns stay bit for bit; rows are bicubic, symmetric about the middle."""
    table, resized = started(file(3, 6, **flags), 24)
    np.testing.assert_allclose(table[..., 1], np.tile(np.arange(6), (6, 1)), atol=1e-6)
    rows = table[:, 0, 0]
    assert (np.diff(rows) > 0).all()
    assert rows + rows[::-1] == pytest.approx(2 * np.ones(6), abs=1e-5)
    assert np.ptp(table[..., 0], axis=1).max() < 1e-5 and resized == ['pos_embed 18 to 36 patches']


def test_a_table_of_the_right_length_may_be_of_other_sides(file):
    """9 x 4 and 6 x 6 both have 36 places; without sides in the file a table is square."""
    table, resized = started(file(9, 4, img_size=[36, 16]), 24)
    assert (
        resized
        and (np.diff(table[0, :, 1]) > 0).all()
        and np.ptp(table[..., 1], axis=0).max() < 1e-5
    )
    assert started(file(9, 4), 24)[1] == []


def test_grids_by_hand():
    assert pos_embed.grid_of(48, (96, 128)) == (6, 8) and pos_embed.grid_of(48, (128, 96)) == (8, 6)
    assert pos_embed.grid_of(49, (96, 128)) == (7, 7)  # flags of another model: read as a square
    assert pos_embed.grid_of(48) is None and pos_embed.grid_of(48, (224, 224)) is None


def export(path):
    flags = ['--device', 'cpu', '--model', 'vit_nano_patch4']
    flags += ['--resume', str(path), '--out', str(path) + '.out']
    main_export.main(main_export.PARSER.parse_args(flags))


SAID = (
    'pos_embed has 15 positions, of which 14 are for patches. '
    'That is no square number, and the file gives no sides; '
)


@pytest.mark.parametrize(
    'begin, grid',
    [
        (lambda path, classify: classify(main_finetune, '--finetune', path), '4 x 4'),
        (
            lambda path, classify: classify(main_linprobe, '--finetune', path, '--input_size', 32),
            '8 x 8',
        ),
        (lambda path, _: export(path), '3 x 3'),
        (
            lambda path, _: MAEViT(
                32, 4, 1, 96, 4, 3, out_indices=[0, 1, 2, 3], pretrained=str(path)
            ),
            '8 x 8',
        ),
    ],
    ids=['finetune', 'linprobe', 'export', 'seg'],
)
def test_a_length_that_nobody_explains_is_one_line(file, classify, begin, grid):
    path = file(2, 7)
    with pytest.raises(InputError) as error:
        begin(path, classify)
    assert str(error.value) == f'{path}: {SAID}the model has {grid} patches'


def infer(path, classify, *size):
    flags = f'--resume {path} --img_path . --device cpu'
    main_infer.main(main_infer.PARSER.parse_args([*flags.split(), *size]))


def compare(path, classify, *size):
    flags = f'{path} --python /bin/sh --device cpu'
    main_parity.main(main_parity.PARSER.parse_args([*flags.split(), *size]))


def evaluate(path, classify, *size):
    classify(main_finetune, '--eval', '--resume', path, *size)


def visualize(path, classify, *size):
    models_zoo.autoencoder_from(str(path), norm_pix_loss=True)


NO_SIDES = (
    'are for patches. That is no square number, and the file gives no sides; '
    'give them by --input_size H W'
)


@pytest.mark.parametrize('rows, columns, flags', [(6, 8, {}), (4, 8, {'input_size': 32})])
@pytest.mark.parametrize('program', [infer, compare, evaluate, visualize])
def test_a_table_whose_sides_nobody_tells_is_one_line(
    encoder, classify, tmp_path, program, rows, columns, flags
):
    path = written(encoder, tmp_path, rows, columns, flags, program in (infer, evaluate))
    patches = rows * columns
    with pytest.raises(InputError) as error:
        program(path, classify)
    said = f'{path}: pos_embed has {patches + 1} positions, of which {patches} {NO_SIDES}'
    assert str(error.value) == said


def written(encoder, tmp_path, rows, columns, flags, classifies):
    """A file with flags and position tables for a grid, a classifier or a whole autoencoder."""
    tensors = weights.read(encoder)['model']
    tensors = tensors | {
        name: np.zeros([1, rows * columns + 1, tensors[name].shape[-1]], 'float32')
        for name in ('pos_embed', 'decoder_pos_embed')
    }
    if classifies:
        beyond = ('decoder', 'mask_token')
        tensors = {name: a for name, a in tensors.items() if not name.startswith(beyond)}
        tensors['head.weight'] = np.zeros([96, 3], 'float32')
        tensors['head.bias'] = np.zeros([3], 'float32')
    paddle_file.write(tmp_path / 'x.pd', {'model': tensors, 'args': flags})
    return tmp_path / 'x.pd'


def test_the_sides_of_a_file_are_those_of_its_model(encoder, tmp_path):
    """4 x 9 patches are as many as 6 x 6, so the sides in the file decide, or those asked for."""
    recorded = written(encoder, tmp_path, 4, 9, {'img_size': [16, 36]}, classifies=False)
    model, _ = models_zoo.autoencoder_from(str(recorded), norm_pix_loss=True)
    assert (model.grid, model.img_size) == ((4, 9), (16, 36))
    with pytest.raises(InputError, match='has input_size 16 36, but input_size 36 16 was asked'):
        models_zoo.autoencoder_from(str(recorded), norm_pix_loss=True, input_size=[36, 16])

    silent = written(encoder, tmp_path, 4, 9, {}, classifies=False)
    assert models_zoo.autoencoder_from(str(silent), norm_pix_loss=True)[0].grid == (6, 6)
    model, _ = models_zoo.autoencoder_from(str(silent), norm_pix_loss=True, input_size=[36, 16])
    assert model.grid == (9, 4)


def test_weights_are_evaluated_at_their_own_size(encoder, classify, tmp_path):
    path = written(encoder, tmp_path, 4, 9, {'input_size': [16, 36]}, classifies=True)
    with pytest.raises(InputError) as error:
        evaluate(path, classify, '--input_size', '24')
    assert str(error.value) == (
        f'{path}: pos_embed is for 4 x 9 patches, and the model has 6 x 6; give --input_size 16 36'
    )


def test_sides_that_the_file_says_may_be_those_of_a_square(encoder, tmp_path):
    state = weights.read(encoder)
    paddle_file.write(
        tmp_path / 'x.pd', {'model': state['model'], 'args': {'img_size': [1, 16, 16]}}
    )
    model, _ = models_zoo.autoencoder_from(str(tmp_path / 'x.pd'), norm_pix_loss=True)
    assert model.grid == (4, 4)
