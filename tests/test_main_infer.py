"""Inference as a user runs it: its output, the order, and the pictures."""

import ast
import json
import os
import shutil
import struct

import numpy as np
import paddle
import pytest
from conftest import classifier, pixels
from PIL import Image

import main_finetune
import main_infer
import models_vit
import models_zoo
from imagenet_classes import id2class
from util.data import pictures
from util.errors import InputError

COLOUR = {'mode': 'RGB', 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}


@pytest.fixture(scope='module')
def trained(classify):
    """A grey classifier of the digits 0, 1, 2 with its own statistics and an average of weights."""
    flags = '--lr 2e-3 --epochs 4 --aa none --mean 0.3 --std 0.4 --ema_decay 0.5'.split()
    return classify(main_finetune, *flags)[1] / 'checkpoint-latest.pd'


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    """A file of weights alone, with 1000 classes and a head that tells pictures apart."""
    model = models_zoo.classifier(
        'vit_nano_patch4', img_size=16, num_classes=1000, global_pool=True
    )
    model.reset_head(std=0.5)
    file = tmp_path_factory.mktemp('bare') / 'x.pd'
    paddle.save(model.state_dict(), str(file))
    return file, model


@pytest.fixture
def infer(capsys):
    """infer('--flag', value, ...) -> the lines that the program prints, run within this process."""

    def infer(*flags):
        main_infer.main(main_infer.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))
        return capsys.readouterr().out.splitlines()

    return infer


@pytest.fixture
def scene(tmp_path):
    """A coloured picture that changes when turned, mirrored, grey or inverted, and its file."""
    y, x = np.mgrid[:32, :32]
    picture = Image.fromarray(np.stack([8 * x, 8 * y, x * y % 256], axis=2).astype('uint8'))
    picture.save(tmp_path / 'plain.png')
    return picture, tmp_path / 'plain.png'


def parsed(lines):
    """[(names, probability), ...] of lines such as `['Angora', 'Angora rabbit']: 0.00924970861`."""
    parts = [line.rpartition(': ') for line in lines if line.startswith('[')]
    return [(ast.literal_eval(names), float(probability)) for names, _, probability in parts]


def by_hand(model, image):
    """All (class, probability) of one picture, the most probable first."""
    scores = model(image).numpy()[0].astype('float64')
    probabilities = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return [
        (int(index), pytest.approx(probabilities[index], rel=1e-4)) for index in np.argsort(-scores)
    ]


# output


def test_five_lines_name_the_most_probable_imagenet_classes(infer, bare, scene):
    file, model = bare
    lines = infer('--resume', file, '--model', 'vit_nano_patch4', '--img_path', scene[1])
    assert lines[0] == f'Resume checkpoint {file}' and lines[-6] == 'Inference results:'
    best = by_hand(model, pixels(scene[1], **COLOUR))[:5]
    assert parsed(lines) == [(id2class[str(index)], value) for index, value in best]


def test_the_table_of_imagenet_names_is_whole():
    assert list(id2class) == [str(index) for index in range(1000)] and all(id2class.values())
    names = [id2class[index][0] for index in ('0', '283', '999')]
    assert names == ['tench', 'Persian cat', 'toilet tissue']


def test_a_checkpoint_brings_its_classes_statistics_and_average(infer, trained, digits):
    picture = digits / 'val/1/30.png'
    lines = infer('--resume', trained, '--img_path', picture)
    expected = by_hand(classifier(trained, 'ema'), pixels(picture, mean=(0.3,), std=(0.4,)))
    assert parsed(lines) == [([str(index)], value) for index, value in expected]


def test_a_linear_probe_infers(infer, flawed, digits):
    picture = digits / 'val/1/30.png'
    expected = by_hand(classifier(flawed['probe'], global_pool=False), pixels(picture))
    assert parsed(infer('--resume', flawed['probe'], '--img_path', picture)) == [
        ([str(index)], value) for index, value in expected
    ]


def test_names_come_from_a_file(infer, trained, digits, tmp_path):
    (tmp_path / 'names.txt').write_text('zero\none, the first\ntwo\n')
    flags = ['--resume', trained, '--img_path', digits / 'val/1/30.png']
    named = parsed(infer(*flags, '--class_names', tmp_path / 'names.txt'))
    assert named == [
        ([['zero', 'one, the first', 'two'][int(name)]], value)
        for (name,), value in parsed(infer(*flags))
    ]


@pytest.mark.parametrize('where', ['{}', '{}/*/*.png', '{}/**/*.png'])
def test_a_folder_or_glob_gives_all_pictures_in_order_whatever_the_batch(
    infer, trained, digits, where
):
    flags = ['--resume', trained, '--img_path', where.format(digits / 'val'), '--topk', '1']
    files = sorted((digits / 'val').glob('*/*'))
    lines = infer(*flags)[-2 * len(files) :]
    assert lines[::2] == [f'{file}:' for file in files]
    singly = [
        (names, pytest.approx(value, abs=1e-6))
        for file in files
        for names, value in parsed(infer('--resume', trained, '--img_path', file, '--topk', '1'))
    ]
    assert parsed(lines) == singly
    for batch in (1, 3):
        assert parsed(infer(*flags, '--batch_size', batch)) == singly


def test_json_is_one_object_a_line_and_nothing_else(infer, trained, digits):
    found = [
        json.loads(line)
        for line in infer(
            '--resume', trained, '--img_path', digits / 'val', '--json', '--topk', '2'
        )
    ]
    assert [one['file'] for one in found] == [
        str(file) for file in sorted((digits / 'val').glob('*/*'))
    ]
    best = classifier(trained, 'ema')
    for one in found:
        assert [(label['id'], label['probability']) for label in one['labels']] == by_hand(
            best, pixels(one['file'], mean=(0.3,), std=(0.4,))
        )[:2]
        assert all(label['names'] == [str(label['id'])] for label in one['labels'])


def test_links_are_followed_and_what_macos_leaves_is_passed_over(infer, trained, digits, tmp_path):
    (tmp_path / 'linked').symlink_to(digits / 'val/1')
    shutil.copytree(digits / 'val/2', tmp_path / 'album.jpg')
    for name in ('._30.png', '.DS_Store', 'album.jpg/._x.png', 'album.jpg/.y/z.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'\0\5\x16\7')
    (tmp_path / 'album.jpg/loop').symlink_to(tmp_path)
    expected = [
        str(tmp_path / place / file.name)
        for place, number in (('album.jpg', 2), ('linked', 1))
        for file in sorted((digits / f'val/{number}').iterdir())
    ]
    for path in (tmp_path, f'{tmp_path}/**/*.png'):
        found = infer('--resume', trained, '--img_path', path, '--json', '--topk', '1')
        assert [json.loads(line)['file'] for line in found] == expected and len(expected) > 2


@pytest.mark.parametrize('batch', [3, 32])
def test_workers_change_nothing_and_the_rate_is_said(capsys, trained, digits, batch):
    outputs = []
    for count in (0, 2):
        flags = f'--device cpu --json --batch_size {batch} --num_workers {count}'.split()
        flags += ['--resume', str(trained), '--img_path', str(digits / 'val')]
        main_infer.main(main_infer.PARSER.parse_args(flags))
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out and len(outputs[0].out.splitlines()) == 10
    for said in outputs:
        words = said.err.splitlines()[-1].split()
        assert words[:3] == ['10', 'pictures', 'in'] and words[6] == 'images/s'
        assert float(words[3]) >= 0 and float(words[5]) > 0 and said.err.endswith('(live, fp32)\n')


def test_a_broken_picture_is_named_by_a_worker_as_well(infer, trained, digits, tmp_path):
    shutil.copytree(digits / 'val', tmp_path / 'val')
    (tmp_path / 'val/2/99.png').write_bytes(b'\x89PNG broken')
    flags = '--batch_size 3 --num_workers 2'.split()
    with pytest.raises(InputError, match='val/2/99.png cannot be read as a picture of 1 channels'):
        infer(*flags, '--resume', trained, '--img_path', tmp_path / 'val')


# pictures as a person sees them


def grey(picture, file):
    picture.convert('L').save(file)
    return picture.convert('L').convert('RGB')


def palette(picture, file):
    quantized = picture.quantize(200)
    quantized.save(file)
    return quantized.convert('RGB')


def palette_with_a_hole(picture, file):
    quantized = picture.quantize(8)
    quantized.save(file, transparency=3)
    seen = np.array(quantized.convert('RGB'))
    seen[np.asarray(quantized) == 3] = 255
    assert (np.asarray(quantized) == 3).sum() > 16
    return Image.fromarray(seen)


def cut_out(picture, file):
    opaque = np.tri(32, dtype=bool)
    Image.fromarray(np.dstack([picture, 255 * opaque.astype('uint8')])).save(file)
    return Image.fromarray(np.where(opaque[..., None], picture, 255).astype('uint8'))


def four_inks(picture, file):
    Image.fromarray(
        np.dstack([255 - np.asarray(picture), np.zeros([32, 32], 'uint8')]), 'CMYK'
    ).save(file)
    return picture


def sixteen_bits(picture, file):
    eight = np.asarray(picture.convert('L'))
    Image.fromarray(
        (eight * 257.0 + np.tile([-100, 100], 16)).clip(0, 65535).astype('uint16')
    ).save(file)
    with Image.open(file) as saved:
        assert saved.mode == 'I;16'
    return Image.fromarray(eight).convert('RGB')


def sixteen_bits_with_a_hole(picture, file):
    levels = np.asarray(picture.convert('L')).astype('uint16') * 257
    # equal in 8 bits, but the second is opaque
    levels[3:9, 5:20], levels[3:9, 20:25] = 20000, 20001
    Image.fromarray(levels).save(file, transparency=20000)
    seen = (levels / 257).round().astype('uint8')
    seen[3:9, 5:20] = 255
    return Image.fromarray(seen).convert('RGB')


def damaged_exif(picture, file):
    """Its EXIF has a fraction in place of the maker's name, and the orientation `turned`."""
    entries = struct.pack('<HHIIHHII', 0x010F, 5, 1, 50, 0x0112, 3, 1, 6)
    picture.transpose(Image.ROTATE_90).save(
        file, exif=b'II*\0\x08\0\0\0\x02\0' + entries + bytes(30), lossless=True
    )
    return picture


def turned_camera(picture, file):
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is at the right of what is stored
    picture.transpose(Image.ROTATE_90).save(file, exif=exif)
    return picture


@pytest.mark.parametrize(
    'save, ending',
    [
        (grey, 'png'),
        (palette, 'png'),
        (palette_with_a_hole, 'png'),
        (cut_out, 'png'),
        (four_inks, 'tif'),
        (sixteen_bits, 'png'),
        (turned_camera, 'png'),
        (sixteen_bits_with_a_hole, 'png'),
        (damaged_exif, 'webp'),
    ],
)
def test_a_picture_of_any_mode_is_what_a_person_sees(infer, bare, scene, tmp_path, save, ending):
    """All of these keep every visible value, so the tolerance is only that of arithmetic."""
    seen = save(scene[0], tmp_path / f'mode.{ending}')
    seen.save(tmp_path / 'seen.png')
    top, plain = (
        parsed(
            infer('--resume', bare[0], '--model', 'vit_nano_patch4', '--img_path', tmp_path / name)
        )
        for name in (f'mode.{ending}', 'seen.png')
    )
    assert top == [(names, pytest.approx(value, rel=1e-5)) for names, value in plain]


def test_half_transparent_parts_are_half_white(scene, tmp_path):
    alpha = np.tile(np.arange(0, 256, 8, dtype='uint8'), [32, 1])
    Image.fromarray(np.dstack([scene[0], alpha])).save(tmp_path / 'x.png')
    share = alpha[..., None] / 255
    seen = np.asarray(pictures.read_as_seen(tmp_path / 'x.png', 3))
    difference = seen - (np.asarray(scene[0]) * share + 255 * (1 - share))
    assert abs(difference).max() <= 1


# errors

BAD = {
    'classes': ('--nb_classes 4', '{trained} has nb_classes 3, but nb_classes 4 was asked for'),
    'pooling': (
        '--cls_token',
        '{trained} has global_pool True, but global_pool False was asked for',
    ),
    'model': (
        '--model vit_small_patch16',
        '{trained} has model vit_nano_patch4, but model vit_small_patch16 was asked for',
    ),
    'size': ('--input_size 32', '{trained} has input_size 16, but input_size 32 was asked for'),
    'names': (
        '--class_names {names}',
        '--class_names {names} has 2 lines, but the model has 3 classes',
    ),
    'no names': ('--class_names /nowhere', '--class_names /nowhere: cannot be read'),
    'no model': ('--resume {odd}', '{odd} does not say its model; give --model'),
    'unknown model': ('--resume {odd} --model vit_bass', "no model 'vit_bass'"),
    'pre-training': (
        '--resume {encoder}',
        '{encoder} holds a masked autoencoder, which has no classes',
    ),
    'no weights': ('--resume /nowhere.pd', '/nowhere.pd: no such file'),
    'no picture': ('--img_path /nowhere.png', '--img_path /nowhere.png: no picture there'),
    'no match': ('--img_path {folder}/*.bmp', '--img_path {folder}/*.bmp: no picture there'),
    'empty folder': ('--img_path {folder}/empty', '--img_path {folder}/empty: no picture there'),
    'broken': (
        '--img_path {folder}',
        '{folder}/broken.png cannot be read as a picture of 1 channels',
    ),
}


@pytest.mark.parametrize('flags, message', BAD.values(), ids=BAD)
def test_bad_input_is_named(infer, trained, encoder, digits, tmp_path, flags, message):
    (tmp_path / 'names.txt').write_text('zero\none\n')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG broken')
    odd = models_vit.VisionTransformer(
        img_size=16, patch_size=8, embed_dim=24, depth=1, num_heads=2, global_pool=True
    )
    paddle.save(odd.state_dict(), str(tmp_path / 'odd.pd'))
    named = {
        'trained': trained,
        'odd': tmp_path / 'odd.pd',
        'encoder': encoder,
        'names': tmp_path / 'names.txt',
        'folder': tmp_path,
    }
    with pytest.raises(InputError) as error:
        infer(
            '--resume',
            trained,
            '--img_path',
            digits / 'val/1/30.png',
            *flags.format(**named).split(),
        )
    assert message.format(**named) in str(error.value) and '\n' not in str(error.value)


def test_names_that_the_terminal_cannot_show_are_escaped(run_program, trained, digits, tmp_path):
    """The names are Chinese in a terminal for ASCII, and bytes that are no text in any encoding."""
    for name in ('\u56fe 1.png', os.fsdecode(b'\xff.png')):
        shutil.copy(digits / 'val/1/30.png', tmp_path / name)
    flags = ['--device', 'cpu', '--resume', trained, '--img_path', tmp_path]
    result = run_program('main_infer.py', *flags, PYTHONIOENCODING='ascii')
    assert result.returncode == 0, result.stderr
    assert r'\u56fe 1.png:' in result.stdout and r'\udcff.png:' in result.stdout


def test_bad_input_is_one_line_and_exit_code_2(run_program, trained):
    result = run_program(
        'main_infer.py', '--resume', trained, '--img_path', '/nowhere', '--device', 'cpu'
    )
    (error,) = (line for line in result.stderr.splitlines() if 'error' in line)
    assert result.returncode == 2
    assert error.startswith('main_infer.py: error: --img_path /nowhere: no picture there')
    assert 'Traceback' not in result.stderr
