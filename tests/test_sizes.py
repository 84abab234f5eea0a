"""Images that are no squares, and patches of another size than the model's name says."""

import json

import numpy as np
import paddle
import pytest
from PIL import Image

import main_export
import main_finetune
import main_infer
import main_linprobe
import main_pretrain
import models_sizes
import models_zoo
from demo import visualize
from util import convert, exported, masking, pos_embed, weights
from util.augment import crop, transform
from util.errors import InputError

IDENTITY = {'mean': (0.0, 0.0, 0.0), 'std': (1.0, 1.0, 1.0)}


def test_the_table_of_a_rectangle_by_the_official_formula():
    """Half of the width is for the column, half for the row: sin, cos of place / 10000^(2i / D)."""
    rows, columns, width = 3, 5, 8
    table = pos_embed.sincos_2d(width, (rows, columns))
    assert table.shape == (1 + rows * columns, width) and (table[0] == 0).all()
    for row in range(rows):
        for column in range(columns):
            expected = []
            for place in (column, row):
                angles = [place, place / 100]
                expected += [*np.sin(angles), *np.cos(angles)]
            np.testing.assert_allclose(table[1 + row * columns + column], expected, atol=1e-6)


RECTANGLES = {
    'mae_vit_nano_patch4': (24, 40, 4),
    'mae_swin_nano_32': (32, 64, 4),
    'mae_pvt_nano_32': (32, 48, 4),
    'simmim_swin_nano_32': (16, 32, 4),
    'simmim_pvt_nano_32': (24, 40, 4),
}


@pytest.mark.parametrize('name', RECTANGLES)
def test_patches_of_a_rectangle_by_hand(name):
    height, width, p = RECTANGLES[name]
    model = models_zoo.autoencoder(name, img_size=(height, width), in_chans=2)
    assert model.grid == (height // p, width // p)
    images = np.random.default_rng(0).normal(size=[2, 2, height, width]).astype('float32')
    patches = model.patchify(paddle.to_tensor(images))
    for place, (row, column) in enumerate(np.ndindex(*model.grid)):
        part = images[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
        expected = part.transpose(0, 2, 3, 1).reshape(2, -1)
        np.testing.assert_array_equal(patches[:, place].numpy(), expected)
    np.testing.assert_array_equal(model.unpatchify(patches).numpy(), images)

    loss, pred, mask = model(paddle.to_tensor(images), 0.75)
    assert pred.shape == patches.shape and np.isfinite(float(loss))
    shown, masks = model.pictures(paddle.to_tensor(images), pred, mask)
    assert shown.shape == masks.shape == list(images.shape)


@pytest.mark.parametrize('kind', masking.KINDS)
def test_masks_of_a_rectangle(kind):
    draw = masking.sampler((4, 10), 0.75, kind)
    mask = draw(np.random.default_rng(0))
    removed = np.argsort(mask, kind='stable')[10:]  # a quarter of 40 is kept
    assert mask.shape == (40,) and len(removed) == 30
    if kind != 'random':
        assert mask.sum() == 30
    if kind in masking.CELLS:
        cells = mask.reshape(2, 2, 5, 2).sum((1, 3))
        assert (cells == 3).all()


@pytest.mark.parametrize(
    'picture, resized',
    [((50, 100), (54, 108)), ((100, 50), (146, 73)), ((37, 50), (54, 73)), ((54, 73), (54, 73))],
)
def test_evaluation_covers_the_rectangle_and_cuts_out_its_middle(picture, resized):
    """48 x 64 / 0.875 is 54 x 73 pixels, which a picture just covers, its aspect ratio kept."""
    pixels = np.random.default_rng(0).integers(0, 256, [*picture, 3], dtype='uint8')
    image = transform.Evaluate((48, 64), **IDENTITY)(Image.fromarray(pixels))
    height, width = resized
    expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.BICUBIC))
    top, left = round((height - 48) / 2), round((width - 64) / 2)
    expected = expected[top : top + 48, left : left + 64].transpose(2, 0, 1)
    np.testing.assert_array_equal(np.round(image * 255), expected)


def test_large_rectangles_are_resized_without_a_margin():
    assert transform.Evaluate((256, 384), **IDENTITY).resize == (256, 384)
    assert transform.Evaluate((224, 448), **IDENTITY).resize == (256, 512)
    assert transform.Evaluate(224, **IDENTITY).resize == (256, 256)


@pytest.mark.parametrize('box', [crop.random_box, crop.single_draw_box])
def test_random_crops_have_the_shape_of_the_rectangle(box):
    cropping = crop.CropAndFlip((16, 32), (0.1, 0.2), box=box)
    rng = np.random.default_rng(0)
    aspects = []
    for _ in range(200):
        left, top, right, bottom = box(1000, 1000, rng, cropping.scale, cropping.ratio)
        aspects.append((right - left) / (bottom - top))
    assert 1.49 < min(aspects) < 1.6 and 2.5 < max(aspects) < 2.68
    assert cropping(Image.new('RGB', (50, 40)), rng).size == (32, 16)


def test_the_middle_of_a_picture_has_the_shape_of_the_rectangle():
    pixels = np.zeros([40, 100, 3], 'uint8')
    pixels[:, 10:90] = 255  # 40 x 80, as 8 x 16 is
    image = crop.CenterCrop((8, 16), crop.Normalize(**IDENTITY))(Image.fromarray(pixels))
    assert image.shape == (3, 8, 16) and (image == 1).all()


ERRORS = {
    'height': ('vit_nano_patch4', (30, 40), 'image height 30 is no multiple of the patch size 4'),
    'nearest': ('vit_nano_patch4', (40, 30), 'take 28 or 32'),
    'small': ('vit_base_patch16', (10, 32), 'take 16'),
    'halved': ('pvt_nano_32', (36, 32), 'image height 36 is no multiple of 8, .*; take 32 or 40'),
    'window': (
        'swin_tiny_256',
        (256, 384),
        r'windows of 16 x 16 do not divide a map of 16 x 24 \(stage 3\); take an input size of '
        '256 or 256 512',
    ),
    'half': ('mae_swin_tiny_256', 320, 'take an input size of 256 or 512'),
    'uniform': ('mae_pvt_small_256', (256, 300), 'no multiple of 64, .*; take 256 or 320'),
}


@pytest.mark.parametrize('name, size, said', ERRORS.values(), ids=ERRORS)
def test_a_size_that_does_not_fit_names_the_nearest(name, size, said):
    make = models_zoo.classifier if name in models_zoo.CLASSIFIERS else models_zoo.autoencoder
    with pytest.raises(InputError, match=said):
        make(name, img_size=size)


def test_the_patch_size_overrides_that_of_the_name():
    model = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=(24, 48), patch_size=8)
    assert model.grid == (3, 6) and model.decoder_pred.weight.shape[1] == 8 * 8 * 3
    assert models_zoo.classifier('vit_nano_patch4', patch_size=2).patch_embed.grid == (16, 16)
    with pytest.raises(InputError, match='--patch_size 8: swin_nano_32 has patches of one size'):
        models_zoo.classifier('swin_nano_32', patch_size=8)


def test_one_number_is_a_square_and_three_are_refused(capsys):
    for words, size in (('16', 16), ('16 16', 16), ('16 24', [16, 24])):
        flags = f'--data_path x --input_size {words}'
        assert main_pretrain.PARSER.parse_args(flags.split()).input_size == size
    with pytest.raises(SystemExit):
        main_pretrain.PARSER.parse_args('--data_path x --input_size 1 2 3'.split())
    assert '--input_size takes one number, or height and width' in capsys.readouterr().err


PRETRAIN = '--model mae_vit_nano_patch4 --epochs 1 --warmup_epochs 0 --hflip 0'
COMMON = '--input_size 16 24 --in_chans 1 --num_workers 0 --batch_size 15 --device cpu --log_dir='


@pytest.fixture(scope='module')
def trained(digits, tmp_path_factory):
    """(autoencoder, classifier) of 16 x 24 pixels and patches of 8, from the programs."""
    folder = tmp_path_factory.mktemp('sizes')

    def train(program, out, flags):
        words = f'{flags} {COMMON} --patch_size 8 --data_path {digits} --output_dir {folder / out}'
        program.main(program.PARSER.parse_args(words.split()))
        return folder / out / 'checkpoint-0.pd'

    autoencoder = train(main_pretrain, 'pretrain', PRETRAIN)
    flags = f'--model vit_nano_patch4 --nb_classes 3 --epochs 1 --finetune {autoencoder}'
    train(main_linprobe, 'probe', flags)
    return autoencoder, train(main_finetune, 'finetune', flags + ' --aa none')


def test_programs_record_the_size_and_read_it_again(trained, digits, tmp_path, capsys):
    autoencoder, classifier = trained
    for file in trained:
        flags = weights.read(file)['args']
        assert (flags['input_size'], flags['patch_size']) == ([16, 24], 8)
    capsys.readouterr()

    words = f'--eval --resume {classifier} --data_path {digits} --model vit_nano_patch4 {COMMON}'
    words += ' --patch_size 8 --nb_classes 3 --output_dir='
    main_finetune.main(main_finetune.PARSER.parse_args(words.split()))
    assert 'acc1' in capsys.readouterr().out

    picture = sorted((digits / 'val/1').iterdir())[0]
    shown = tmp_path / 'shown.png'
    words = f'--img_path {picture} --resume {autoencoder} --out {shown} --device cpu'
    visualize.main(visualize.PARSER.parse_args(words.split()))
    with Image.open(shown) as panels:
        assert panels.width > panels.height

    words = f'--resume {classifier} --img_path {picture} --device cpu --json'
    main_infer.main(main_infer.PARSER.parse_args(words.split()))
    live = json.loads(capsys.readouterr().out.splitlines()[-1])['labels']

    # The exported classifier gives the same, and its record tells the size
    folder = tmp_path / 'exported'
    words = f'--resume {classifier} --out {folder} --device cpu'
    main_export.main(main_export.PARSER.parse_args(words.split()))
    about = exported.description(folder)
    assert about['inputs'] == {'images': [None, 1, 16, 24]}
    assert (about['input_size'], about['resize'], about['patch_size']) == ([16, 24], [18, 27], 8)
    capsys.readouterr()
    words = f'--resume {folder} --img_path {picture} --device cpu --json --input_size 16 24'
    main_infer.main(main_infer.PARSER.parse_args(words.split()))
    served = json.loads(capsys.readouterr().out.splitlines()[-1])['labels']
    for one, other in zip(live, served):
        assert one['id'] == other['id']
        assert one['probability'] == pytest.approx(other['probability'], abs=1e-4)
    with pytest.raises(InputError, match='has input_size 16 24, but input_size 24 16 was asked'):
        words = f'--resume {folder} --img_path {picture} --device cpu --input_size 24 16'
        main_infer.main(main_infer.PARSER.parse_args(words.split()))


def test_onnx_of_a_rectangle_equals_the_live_model(trained, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('paddle2onnx')
    words = f'--resume {trained[1]} --out {tmp_path} --device cpu --onnx'
    main_export.main(main_export.PARSER.parse_args(words.split()))
    images = np.random.default_rng(0).standard_normal([3, 1, 16, 24], dtype='float32')
    found = exported.Exported(tmp_path, 'onnx')(images)[0]
    live = models_zoo.classifier_from(trained[1])[0](paddle.to_tensor(images))
    np.testing.assert_allclose(found, live.numpy(), rtol=1e-4, atol=1e-5)


def test_the_reconstruction_of_a_rectangle_is_exported(trained, tmp_path):
    words = f'--resume {trained[0]} --out {tmp_path} --device cpu'
    main_export.main(main_export.PARSER.parse_args(words.split()))
    about = exported.description(tmp_path)
    assert about['inputs'] == {'images': [None, 1, 16, 24], 'noise': [None, 6]}


def test_pre_training_goes_on_from_a_rectangle_to_another(trained, digits, tmp_path, capsys):
    words = f'{PRETRAIN} --input_size 24 24 --patch_size 8 --in_chans 1 --num_workers 0'
    words += f' --batch_size 15 --device cpu --log_dir= --output_dir= --data_path {digits}'
    words += f' --start_from {trained[0]}'
    main_pretrain.main(main_pretrain.PARSER.parse_args(words.split()))
    said = capsys.readouterr().out
    assert 'resized: pos_embed 6 to 9 patches, decoder_pos_embed 6 to 9 patches' in said
    with pytest.raises(InputError, match='has patches of 8 x 8 pixels, and the model of 4 x 4'):
        words = words.replace('--patch_size 8', '--patch_size 4')
        main_pretrain.main(main_pretrain.PARSER.parse_args(words.split()))


def test_features_of_a_rectangle_and_their_export(trained, digits, tmp_path):
    """The encoder's features of each patch, 2 x 3; the exported encoder gives the class token's."""
    found = {}
    for name, flags in {'patches': '--feature patches', 'cls': '--patch_size 8'}.items():
        file = tmp_path / f'{name}.npz'
        words = f'--resume {trained[0]} --img_path {digits / "val/1"} --features {file} {flags}'
        main_infer.main(main_infer.PARSER.parse_args([*words.split(), '--device', 'cpu']))
        found[name] = np.load(file)['features']
    assert found['patches'].shape[1:] == (6, 96)

    words = f'--resume {trained[0]} --out {tmp_path / "out"} --what features --device cpu'
    main_export.main(main_export.PARSER.parse_args(words.split()))
    words = f'--resume {tmp_path / "out"} --img_path {digits / "val/1"} --device cpu'
    words += f' --features {tmp_path / "served.npz"} --input_size 16 24'
    main_infer.main(main_infer.PARSER.parse_args(words.split()))
    served = np.load(tmp_path / 'served.npz')['features']
    np.testing.assert_allclose(served, found['cls'], atol=1e-4)


def test_the_folder_for_transformers_tells_the_rectangle(trained, tmp_path):
    """timm's transforms resize rectangles to the size of ours, and CLIPImageProcessor cannot."""
    state = weights.read(trained[1])
    size = models_sizes.size_of(state['model'])
    convert.write(tmp_path / 'hf', state, 'hf', size)
    config = json.loads((tmp_path / 'hf/config.json').read_text())
    assert config['model_args']['img_size'] == [16, 24]
    assert config['model_args']['patch_size'] == 8
    assert config['pretrained_cfg']['input_size'] == [1, 16, 24]
    assert config['pretrained_cfg']['crop_pct'] == 0.875
    assert not (tmp_path / 'hf/preprocessor_config.json').exists()
    assert 'CLIPImageProcessor' not in (tmp_path / 'hf/README.md').read_text()

    state = weights.read(trained[0])
    with pytest.raises(InputError, match='for square images, but these are of 16 x 24 pixels'):
        convert.write(tmp_path / 'mae', state, 'hf', size)


def test_weights_of_another_patch_size_are_refused(trained):
    model = models_zoo.classifier('vit_nano_patch4', img_size=16, in_chans=1)
    with pytest.raises(InputError, match='has patches of 8 x 8 pixels, and the model of 4 x 4'):
        models_zoo.start_from(model, str(trained[0]))


def test_positions_of_a_rectangle_are_interpolated_to_another(trained):
    """From 2 x 3 to 3 x 2 patches: by Paddle's bicubic interpolation of the map, transposed."""
    model = models_zoo.classifier('vit_nano_patch4', img_size=(24, 16), patch_size=8, in_chans=1)
    start = models_zoo.start_from(model, str(trained[0]))
    assert start.resized == ['pos_embed 6 to 6 patches']
    table = weights.read(trained[0])['model']['pos_embed'][0, 1:].reshape(2, 3, -1)
    # sine-cosine tables: the channels of the column are constant down, those of the row across
    ours = model.pos_embed.numpy()[0, 1:].reshape(3, 2, -1)
    half = table.shape[-1] // 2
    assert np.ptp(ours[..., :half], axis=0).max() < 1e-5
    assert np.ptp(ours[..., half:], axis=1).max() < 1e-5


@pytest.mark.parametrize('name', ['simmim_swin_nano_32', 'mae_swin_nano_32', 'mae_pvt_nano_32'])
def test_pyramids_come_back_from_their_file_in_their_size(name, tmp_path):
    """SimMIM's Swin has no table of positions: only the record tells its size."""
    size = [32, 64]
    model = models_zoo.autoencoder(name, img_size=size, in_chans=1)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    flags = {'model': name, 'norm_pix_loss': False, 'input_size': size}
    weights.paddle_file.write(tmp_path / 'x.pd', {'model': state, 'args': flags})
    assert models_zoo.autoencoder_from(str(tmp_path / 'x.pd'))[0].img_size == (32, 64)
