"""One reader of pictures: every mode of Pillow by hand, damaged EXIF, arrays with nan."""

import colorsys
import io
import json
import struct
import zlib

import numpy as np
import paddle
import pytest
from conftest import ROOT
from PIL import Image

import main_finetune
import main_frozen
import main_infer
import main_linprobe
import main_pretrain
import models_zoo
from demo import visualize
from seg.dataset import read_image
from util.data import pictures
from util.errors import InputError

CASES = ROOT / 'tests/data/pictures'
NOISE = np.random.default_rng(3).integers(0, 256, [6, 5, 4], dtype='uint8')
LEVELS = np.random.default_rng(4).integers(0, 65536, [6, 5])
ORIENTATION, MAKE = 0x0112, 0x010F
WHITE = 255.0


def grey(colours):
    """Luma of ITU-R 601, which Pillow takes for grey."""
    return colours @ [0.299, 0.587, 0.114]


def over_white(colours, alpha):
    share = alpha[..., None] / 255
    return colours * share + WHITE * (1 - share)


def opened(picture, ending, **kwargs):
    """The picture, written to a file and read again."""
    file = io.BytesIO()
    picture.save(file, ending, **kwargs)
    file.seek(0)
    return Image.open(file)


def bits():
    on = NOISE[..., 0] > 127
    colours = np.repeat(on[..., None] * WHITE, 3, axis=2)
    return opened(Image.fromarray(on), 'png'), '1', colours, colours


def plain_grey():
    colours = np.repeat(NOISE[..., :1], 3, axis=2).astype(float)
    return opened(Image.fromarray(NOISE[..., 0]), 'png'), 'L', colours, colours


def grey_with_alpha():
    colours = np.repeat(NOISE[..., :1], 3, axis=2).astype(float)
    picture = opened(Image.fromarray(NOISE[..., :2].copy(), 'LA'), 'png')
    return picture, 'LA', colours, over_white(colours, NOISE[..., 1])


def palette(**kwargs):
    table = np.random.default_rng(5).integers(0, 256, [8, 3], dtype='uint8')
    numbers = NOISE[..., 0] % 8
    picture = Image.fromarray(numbers)
    picture.putpalette(table.ravel().tolist())
    return opened(picture, 'png', **kwargs), 'P', table[numbers].astype(float), numbers


def plain_palette():
    picture, mode, colours, _ = palette()
    return picture, mode, colours, colours


def palette_with_a_hole():
    picture, mode, colours, numbers = palette(transparency=3)
    assert (numbers == 3).any()
    return picture, mode, colours, np.where(numbers[..., None] == 3, WHITE, colours)


def palette_with_alpha():
    alpha = np.array([255, 0, 128, 40, 255, 200, 9, 90], 'uint8')
    picture, mode, colours, numbers = palette(transparency=alpha.tobytes())
    return picture, mode, colours, over_white(colours, alpha[numbers])


def palette_and_alpha_channel():
    picture, _, colours, _ = palette()
    picture = opened(picture.convert('PA'), 'tiff')
    return picture, 'PA', colours, colours


def colour():
    colours = NOISE[..., :3].astype(float)
    return opened(Image.fromarray(NOISE[..., :3].copy()), 'png'), 'RGB', colours, colours


def colour_with_a_hole():
    colours, hole = NOISE[..., :3].astype(float), NOISE[2, 3, :3]
    seen = colours.copy()
    seen[2, 3] = WHITE
    picture = Image.fromarray(NOISE[..., :3].copy())
    return opened(picture, 'png', transparency=tuple(hole.tolist())), 'RGB', colours, seen


def colour_with_alpha():
    colours = NOISE[..., :3].astype(float)
    picture = opened(Image.fromarray(NOISE.copy()), 'png')
    return picture, 'RGBA', colours, over_white(colours, NOISE[..., 3])


def inks():
    colours = (WHITE - NOISE[..., :3]) * (WHITE - NOISE[..., 3:]) / 255
    return opened(Image.fromarray(NOISE.copy(), 'CMYK'), 'tiff'), 'CMYK', colours, colours


def luma_and_chroma():
    stored = NOISE[..., :3] // 4 + 96  # almost grey, so that all colours exist in RGB
    y, cb, cr = (stored[..., channel].astype(float) for channel in range(3))
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128)
    colours = np.stack([red, green, blue], axis=2).clip(0, 255)
    return Image.fromarray(stored, 'YCbCr'), 'YCbCr', colours, colours


def hue():
    colours = [colorsys.hsv_to_rgb(*values) for values in NOISE[..., :3].reshape(-1, 3) / 255]
    colours = np.array(colours).reshape(6, 5, 3) * 255
    return Image.fromarray(NOISE[..., :3].copy(), 'HSV'), 'HSV', colours, colours


def lab():
    """CIE L*a*b* of the white point D50 to sRGB, by the formulas of CIE 15 and IEC 61966-2-1."""
    stored = np.random.default_rng(6).integers([80, 120, 120], [200, 137, 137], [6, 5, 3])
    light, a, b = stored[..., 0] * 100 / 255, stored[..., 1] - 128, stored[..., 2] - 128
    base = (light + 16) / 116
    parts = np.stack([base + a / 500, base, base - b / 200], axis=2)
    xyz = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29))
    xyz *= [0.9642, 1.0, 0.8249]
    matrix = [[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]]
    linear = (xyz @ np.transpose(matrix)).clip(0, 1)
    curved = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    signed = (stored - [0, 128, 128]).astype('int8').tobytes()
    picture = opened(Image.frombytes('LAB', (5, 6), signed), 'tiff')
    return picture, 'LAB', curved * 255, curved * 255


def sixteen(levels=LEVELS, dtype='<u2', ending='png', mode='I;16', **kwargs):
    colours = np.repeat(levels[..., None] / 257, 3, axis=2)
    return opened(Image.fromarray(levels.astype(dtype)), ending, **kwargs), mode, colours, colours


def sixteen_big_endian():
    return sixteen(dtype='>u2', ending='tiff', mode='I;16B')


def sixteen_with_a_hole():
    """A picture whose transparent level is in the middle; the levels beside it are opaque."""
    levels = LEVELS.copy()
    levels[:2, :2] = [[30000, 30001], [29999, 30000]]
    picture, mode, colours, _ = sixteen(levels, transparency=30000)
    return picture, mode, colours, np.where(levels[..., None] == 30000, WHITE, colours)


def sixteen_bit_map():
    data = b'P5 5 6 65535\n' + LEVELS.astype('>u2').tobytes()
    colours = np.repeat(LEVELS[..., None] / 257, 3, axis=2)
    return Image.open(io.BytesIO(data)), 'I', colours, colours


def png(depth, colour_type, width, rows, key):
    """The bytes of a PNG by its specification, with the transparent level or colour `key`."""

    def chunk(kind, data):
        check = struct.pack('>I', zlib.crc32(kind + data))
        return struct.pack('>I', len(data)) + kind + data + check

    header = struct.pack('>IIBBBBB', width, len(rows), depth, colour_type, 0, 0, 0)
    parts = [(b'IHDR', header), (b'tRNS', struct.pack(f'>{len(key)}H', *key))]
    parts += [(b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows))), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def few_bits(depth, key):
    """A PNG of the levels 0, 1, 2, 3 with so many bits, one level transparent."""
    packed = sum(level << depth * (3 - level) for level in range(4))
    row = packed.to_bytes(depth * 4 // 8 or 1, 'big')
    levels = np.arange(4) * 255 / (2**depth - 1)
    colours = np.repeat(levels[None, :, None], 3, axis=2)
    seen = colours.copy()
    seen[0, key] = WHITE
    return Image.open(io.BytesIO(png(depth, 0, 4, [row], [key]))), 'L', colours, seen


def two_bits_with_a_hole():
    return few_bits(2, 1)


def four_bits_with_a_hole():
    return few_bits(4, 2)


def one_bit_with_a_hole():
    colours = np.array([0, WHITE, 0, WHITE])[None, :, None].repeat(3, axis=2)
    picture = Image.open(io.BytesIO(png(1, 0, 4, [bytes([0b01010000])], [0])))
    return picture, '1', colours, np.full_like(colours, WHITE)


def deep_colour_with_a_hole():
    row = struct.pack('>6H', 40000, 20000, 5000, 300, 512, 1024)
    picture = Image.open(io.BytesIO(png(16, 2, 2, [row], [300, 512, 1024])))
    colours = np.array([[[40000, 20000, 5000], [300, 512, 1024]]]) / 256
    seen = colours.copy()
    seen[0, 1] = WHITE
    return picture, 'RGB', np.floor(colours), np.floor(seen)


MODES = [
    (bits, 0),
    (plain_grey, 0),
    (grey_with_alpha, 1),
    (plain_palette, 0),
    (palette_with_a_hole, 0),
    (palette_with_alpha, 1),
    (palette_and_alpha_channel, 0),
    (colour, 0),
    (colour_with_a_hole, 0),
    (colour_with_alpha, 1),
    (inks, 1),
    (luma_and_chroma, 1),
    (hue, 1),
    (lab, 2),
    (sixteen, 0.5),
    (sixteen_big_endian, 0.5),
    (sixteen_with_a_hole, 0.5),
    (sixteen_bit_map, 0.5),
    (one_bit_with_a_hole, 0),
    (two_bits_with_a_hole, 0),
    (four_bits_with_a_hole, 0),
    (deep_colour_with_a_hole, 0),
]


@pytest.mark.parametrize('make, tolerance', MODES, ids=[make.__name__ for make, _ in MODES])
def test_every_mode_is_what_a_conversion_by_hand_gives(make, tolerance):
    for as_seen in (False, True):
        for mode in ('RGB', 'L'):
            picture, stored, *views = make()
            assert picture.mode == stored
            expected = views[as_seen]
            expected = grey(expected) if mode == 'L' else expected
            found = np.asarray(pictures.converted(picture, mode, as_seen), dtype=float)
            # grey is computed from a rounded colour, and rounded again
            assert np.abs(found - expected).max() <= tolerance + (0.6 if mode == 'L' else 0) + 1e-9


@pytest.mark.parametrize('dtype', ['int32', 'float32'])
def test_32_bits_stay_refused_in_one_line_with_and_without_a_persons_view(tmp_path, dtype):
    Image.fromarray(np.full([2, 2], 70000, dtype)).save(tmp_path / 'x.tif')
    for as_seen in (False, True):
        with pytest.raises(ValueError, match='^a picture of 32 bits a pixel does not say .*$'):
            pictures.read(tmp_path / 'x.tif', 3, as_seen)
    with pytest.raises(InputError, match='x.tif cannot be read as a picture .*32 bits'):
        read_image(tmp_path / 'x.tif')


def test_a_16_bit_picture_with_a_transparent_level_is_not_white():
    stored = np.asarray(Image.open(CASES / 'g16t.png')).astype(float)
    expected = np.where(stored == 65535, 255, stored / 257)
    assert 50 < expected.mean() < 200
    for found in (
        pictures.read_as_seen(CASES / 'g16t.png', 1),
        pictures.read(CASES / 'g16t.png', 1),
        read_image(CASES / 'g16t.png')[..., 0],
    ):
        assert np.abs(np.asarray(found, dtype=float) - expected).max() <= 0.5


# damaged EXIF


def with_exif(kind):
    """EXIF with a fault of that kind, and the orientation `turned clockwise` if readable."""
    if kind == 'make of a wrong type':
        # 5: a fraction, where text belongs
        tags = [
            (MAKE, 5, 1, 8 + 2 + 2 * 12 + 4),
            (ORIENTATION, 3, 1, 6),
        ]
    elif kind == 'unknown type':
        tags = [(MAKE, 99, 1, 0), (ORIENTATION, 3, 1, 6)]
    elif kind == 'text of no end':  # Pillow stops reading there
        tags = [(MAKE, 2, 2**31, 2**31), (ORIENTATION, 3, 1, 6)]
    else:
        return {'no TIFF': b'nonsense', 'empty': b'', 'cut': b'II*\0\x08\0\0\0\x07'}[kind]
    entries = b''.join(struct.pack('<HHII', *tag) for tag in tags)
    return b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags)) + entries + bytes(12)


FAULTS = ['make of a wrong type', 'unknown type', 'text of no end', 'no TIFF', 'empty', 'cut']


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('ending', ['png', 'jpg', 'webp'])
@pytest.mark.parametrize('fault', FAULTS)
def test_an_intact_picture_with_damaged_exif_is_read_and_turned_where_it_says_so(
    tmp_path, fault, ending
):
    exif = with_exif(fault)
    exif = exif if ending == 'png' else b'Exif\0\0' + exif
    lossless = {'lossless': True} if ending == 'webp' else {}
    picture = Image.fromarray(NOISE[..., :3].copy())
    picture.save(tmp_path / f'plain.{ending}', **lossless)
    picture.save(tmp_path / f'x.{ending}', exif=exif, **lossless)
    plain = np.asarray(Image.open(tmp_path / f'plain.{ending}'))
    upright = np.rot90(plain, -1) if fault in FAULTS[:2] else plain
    np.testing.assert_array_equal(pictures.read_as_seen(tmp_path / f'x.{ending}', 3), upright)
    np.testing.assert_array_equal(read_image(tmp_path / f'x.{ending}'), upright[..., ::-1])
    np.testing.assert_array_equal(pictures.read(tmp_path / f'x.{ending}', 3), plain)  # training


@pytest.mark.parametrize('orientation', range(9))
def test_every_orientation_is_turned_as_exif_says(tmp_path, orientation):
    """The standard says at which sides of the scene the first row and the first column are."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(NOISE[..., :3].copy()).save(tmp_path / 'x.png', exif=exif)
    stored = NOISE[..., :3]
    upright = {
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: stored[::-1].transpose(1, 0, 2),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: stored[:, ::-1].transpose(1, 0, 2),
    }.get(orientation, stored)
    np.testing.assert_array_equal(pictures.read_as_seen(tmp_path / 'x.png', 3), upright)


def test_the_pictures_of_the_bug_reports_are_read():
    stored = Image.open(CASES / 'make.jpg').convert('RGB').transpose(Image.ROTATE_270)
    np.testing.assert_array_equal(pictures.read_as_seen(CASES / 'make.jpg', 3), stored)
    stored = Image.open(CASES / 'exif.png').convert('RGB')
    np.testing.assert_array_equal(pictures.read_as_seen(CASES / 'exif.png', 3), stored)


# arrays with nan

BAD_ARRAYS = {
    'NaN': (np.float32, np.nan, '1 of 300 values are NaN or infinite'),
    'infinite': (np.float64, -np.inf, '1 of 300 values are NaN or infinite'),
    'too large': (np.float64, 1e39, '1 of 300 values are NaN or infinite in float32'),
    'half': (np.float16, np.inf, '1 of 300 values are NaN or infinite'),
    'complex': (np.complex64, 1j, 'of complex64 holds no pixels'),
}


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('kind', BAD_ARRAYS)
def test_an_array_without_numbers_is_one_line_everywhere(tmp_path, kind):
    dtype, value, message = BAD_ARRAYS[kind]
    array = np.ones([10, 6, 5], dtype)
    array[3, 4, 1] = value
    np.save(tmp_path / 'x.npy', array)
    for read in (pictures.read, pictures.read_as_seen):
        with pytest.raises((ValueError, InputError), match=message) as error:
            read(tmp_path / 'x.npy', 5)
        assert '\n' not in str(error.value)
    np.save(tmp_path / 'y.npy', np.ones([0, 6, 5], 'float32'))
    with pytest.raises(ValueError, match='holds no pixels'):
        pictures.read(tmp_path / 'y.npy', 5)


@pytest.fixture(scope='module')
def arrays(tmp_path_factory):
    """Two classes of float arrays of 4 channels; one array of each split has a nan."""
    root = tmp_path_factory.mktemp('arrays')
    rng = np.random.default_rng(0)
    for split, count in (('train', 120), ('val', 4)):
        for number in range(count):
            array = rng.random([16, 16, 4], dtype='float32') + number % 2
            array[3, 4, 1] = np.inf if number == 3 and split == 'val' else array[3, 4, 1]
            array[5, 6, 2] = np.nan if number == 7 and split == 'train' else array[5, 6, 2]
            file = root / split / str(number % 2) / f'{number:03}.npy'
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, array)
    return root


FLAGS = (
    '--model vit_nano_patch4 --input_size 16 --in_chans 4 --nb_classes 2 --num_workers 0 --log_dir='
)
CHANNELS = ['--mean', *['0.5'] * 4, '--std', *['0.5'] * 4, '--device', 'cpu']


@pytest.fixture(scope='module')
def of_arrays(tmp_path_factory):
    """{kind: a file of weights with 4 channels}, the files that programs start from."""
    root = tmp_path_factory.mktemp('weights')
    said = {'input_size': 16, 'in_chans': 4, 'mean': [0.5] * 4, 'std': [0.5] * 4}
    classifier = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, in_chans=4, num_classes=2, global_pool=True
    )
    probe = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, in_chans=4, num_classes=2, global_pool=True
    )
    probe.probe()
    autoencoder = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=16, in_chans=4)
    for name, model, about in (
        ('classifier', classifier, {'model': 'vit_nano_patch4', 'nb_classes': 2}),
        ('probe', probe, {'model': 'vit_nano_patch4', 'nb_classes': 2}),
        ('autoencoder', autoencoder, {'model': 'mae_vit_nano_patch4', 'norm_pix_loss': True}),
    ):
        args = said | about | {'global_pool': True}
        paddle.save({'model': model.state_dict(), 'args': args}, str(root / f'{name}.pd'))
    return root


def run(program, *flags):
    program.main(program.PARSER.parse_args(list(map(str, flags))))


def test_programs_that_need_every_picture_name_the_array(arrays, of_arrays, tmp_path):
    """Both --eval, main_frozen.py, inference as JSON, and visualize.py."""
    common = [*FLAGS.split(), *CHANNELS, '--data_path', arrays, '--batch_size', 8]
    frozen = ['--model', 'vit_nano_patch4', '--input_size', 16, '--in_chans', 4, *CHANNELS]
    frozen += ['--num_workers', 0, '--output_dir', tmp_path]
    bad = arrays / 'val/1/003.npy'
    out = ['--img_path', bad.parent, '--device', 'cpu', '--resume']
    runs = (
        (main_finetune, [*common, '--eval', '--resume', of_arrays / 'classifier.pd'], bad),
        (
            main_linprobe,
            [*common, '--eval', '--global_pool', '--resume', of_arrays / 'probe.pd'],
            bad,
        ),
        (main_frozen, [*frozen, '--data_path', arrays], arrays / 'train/1/007.npy'),
        (main_infer, [*out, of_arrays / 'classifier.pd', '--json'], bad),
        (visualize, [*out, of_arrays / 'autoencoder.pd', '--out', tmp_path / 'x.png'], bad),
    )
    for program, flags, file in runs:
        with pytest.raises(
            InputError, match=f'{file}.*1 of 1024 values are NaN or infinite'
        ) as error:
            run(program, *flags)
        assert '\n' not in str(error.value)


def test_training_takes_a_neighbour_for_such_an_array(arrays, tmp_path, capsys):
    flags = FLAGS.replace('vit_nano', 'mae_vit_nano').replace('--nb_classes 2 ', '').split()
    flags += [*CHANNELS, '--data_path', arrays, '--batch_size', 120, '--epochs', 1]
    run(main_pretrain, *flags, '--warmup_epochs', 0, '--output_dir', tmp_path)
    said = capsys.readouterr()
    assert f'warning: unreadable image {arrays}/train/1/007.npy (ValueError: 1 of 1024' in said.err
    losses = [
        json.loads(line)['train_loss'] for line in (tmp_path / 'log.txt').read_text().splitlines()
    ]
    assert len(losses) == 1 and np.isfinite(losses).all()
