"""Damaged files through every reader: pictures, and checkpoints of every format."""

import io
import pickle
import random
import struct
import time

import numpy as np
import paddle
import pytest
from PIL import Image

import models_zoo
from faults.harness import Run
from util import weights
from util.assign import assign_weights
from util.augment import crop, transform
from util.data import folder, loader, pictures, unreadable
from util.errors import InputError
from util.weights import safetensors_file, torch_file

FORMATS = [
    ('png', '1 L LA P RGB RGBA I;16'),
    ('jpg', 'L RGB CMYK'),
    ('tif', '1 L P RGB RGBA CMYK LAB I F I;16'),
    ('bmp', '1 L P RGB'),
    ('ppm', '1 L RGB I'),
    ('webp', 'RGB RGBA'),
]
AMOUNTS = pytest.mark.parametrize('amount', [100, pytest.param(1000, marks=pytest.mark.faults)])


def damage(data, draw):
    """(description, damaged data): bytes flipped, cut, inserted, overwritten, or appended."""
    kind = draw.choice(['flipped', 'cut', 'inserted', 'overwritten', 'appended'])
    data = bytearray(data)
    low, high = draw.choice(
        [(0, len(data)), (0, min(3000, len(data))), (max(0, len(data) - 3000), len(data))]
    )
    # anywhere, or in the first or last bytes, which hold the structure
    place, some = draw.randrange(low, high), draw.randbytes(draw.randint(1, 40))
    if kind == 'flipped':
        for _ in range(draw.choice([1, 1, 3, 20])):
            data[draw.randrange(low, high)] ^= 1 << draw.randrange(8)
    elif kind == 'cut':
        del data[place:]
    elif kind == 'inserted':
        data[place:place] = some
    elif kind == 'overwritten':
        data[place : place + len(some)] = some
    else:
        data += some
    return kind, bytes(data)


def seeds():
    """[(ending, bytes)] of a small picture in every format and colour mode."""
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=[24, 20, 3], dtype='uint8'))
    made = []
    for ending, modes in FORMATS:
        for mode in modes.split():
            grey = np.asarray(noise.convert('L'))
            picture = {
                'I;16': lambda grey=grey: Image.fromarray(grey.astype('uint16') * 257),
                'I': lambda grey=grey: Image.fromarray(grey.astype('int32') * 257),
            }.get(mode, lambda mode=mode: noise.convert(mode))()
            file = io.BytesIO()
            picture.save(file, {'tif': 'tiff', 'jpg': 'jpeg'}.get(ending, ending))
            made.append((ending, file.getvalue()))
    return made


def bombs(root):
    """Pictures that are small on the disk and large, or endless, in memory."""
    Image.new('1', (20000, 20000)).save(root / 'large.png')
    size = struct.pack('>IIBBBBB', 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    (root / 'larger.png').write_bytes(
        b'\x89PNG\r\n\x1a\n' + struct.pack('>I', len(size)) + b'IHDR' + size + bytes(60)
    )
    (root / 'empty.jpg').touch()
    (root / 'text.png').write_text('<html>not found</html>')
    (root / 'itself.png').symlink_to(root / 'itself.png')
    (root / 'nowhere.png').symlink_to(root / 'gone')
    (root / 'folder.png').mkdir()


def damaged_pictures(root, amount):
    root.mkdir(parents=True)
    draw, whole = random.Random(0), seeds()
    for number in range(amount):
        ending, data = whole[number % len(whole)]
        _, data = damage(data, draw)
        if number % 10 == 0:
            ending = draw.choice(['png', 'jpg', 'tif', 'webp'])  # not the file's real format
        (root / f'{number:04} ü 图.{ending}').write_bytes(data)
    bombs(root)


@AMOUNTS
@pytest.mark.filterwarnings('ignore')
def test_damaged_pictures_end_no_training_and_no_inference(
    tmp_path, tally, amount, monkeypatch, capfd
):
    damaged_pictures(tmp_path / 'train/a b', amount)
    monkeypatch.setattr(unreadable, 'SHARE', 1.0)
    images = folder.find(str(tmp_path), 'train', pictures.PICTURES)
    for in_chans in (1, 3):
        augment = transform.Train(
            crop.CropAndFlip(16, (0.2, 1)), *crop.statistics(in_chans, None, None)
        )
        samples = loader.TrainSet(images, in_chans, augment, lambda index, rng: np.int64(0), 0)
        data, seen = loader.TrainLoader(samples, 1, num_workers=2, timeout=30), 0
        batches = iter(data.batches(0))
        for _ in range(len(images)):
            with tally(f'damaged pictures, training, {in_chans} channels'):
                batch, _ = next(batches)
                assert batch.shape == [1, in_chans, 16, 16] and np.isfinite(batch.numpy()).all()
                seen += 1
        assert seen == len(images) and not list(batches)
        for path in images.paths:
            with tally(f'damaged pictures, inference, {in_chans} channels'):
                try:
                    assert pictures.read_as_seen(path, in_chans).mode == pictures.MODES[in_chans]
                except InputError as error:
                    assert path in str(error)
    named = capfd.readouterr().err
    assert all(
        f'/{name}' in named
        for name in ('larger.png', 'empty.jpg', 'text.png', 'itself.png', 'nowhere.png')
    )


def test_every_colour_mode_reads_as_it_looks(tmp_path):
    """Undamaged files give the grey that was written.

    Exempt are modes of 32 bits a pixel, which do not tell which number is white.
    """
    for ending, modes in FORMATS:
        for mode in modes.split():
            file = tmp_path / f'{mode}.{ending}'
            if mode in ('I', 'F', 'I;16'):
                picture = Image.fromarray(
                    np.full(
                        [8, 8], 200 * 257, {'I': 'int32', 'F': 'float32', 'I;16': 'uint16'}[mode]
                    )
                )
            else:
                picture = Image.new('RGB', (8, 8), (200, 200, 200)).convert(mode)
            picture.save(file)
            if mode in ('I', 'F') and ending == 'tif':
                with pytest.raises(ValueError, match='32 bits'):
                    pictures.read(file, 3)
            else:
                assert np.asarray(pictures.read(file, 3)).mean() == pytest.approx(
                    200, abs=3 if mode != '1' else 60
                ), mode


@pytest.mark.processes
@pytest.mark.slow
def test_a_program_survives_what_happens_to_its_folder(tmp_path, tally):
    """Odd names, links in a circle, a wrong ending, and files that vanish during the run."""
    root = tmp_path / 'data/train/ä b/图 ☃'
    root.mkdir(parents=True)
    for number in range(300):
        Image.new('L', (16, 16), number % 256).save(root / f"{number} 'x' é.png")
    (root / 'loop').symlink_to(root.parent)
    (root / "299 'x' é.png").rename(root / '299.jpg')
    with tally('files that vanish during a run'):
        flags = (
            '--model mae_vit_nano_patch4 --input_size 16 --in_chans 1 --epochs 40 '
            '--warmup_epochs 1 --device cpu --log_dir= --batch_size 100 --num_workers 2 '
            '--save_every 100'
        ).split()
        flags += ['--data_path', tmp_path / 'data', '--output_dir', tmp_path / 'out']
        run = Run('main_pretrain.py', *flags)
        run.until('epoch 2/40')
        (root / "7 'x' é.png").unlink()
        (root / "200 'x' é.png").write_bytes(b'')
        run.until('unreadable image ' + str(root / "7 'x' é.png")).until("200 'x' é.png")
        run.kill(run.process.pid, by=15)
        assert run.end()[0] == 75


# checkpoints


def legacy(state):
    """A file in PyTorch's format before 1.6, of float32 tensors in dense order."""

    class Name:
        def __init__(self, module, name):
            self.text = f'c{module}\n{name}\n'.encode()

    class Pickler(pickle._Pickler):
        def save(self, value, save_persistent_id=True):
            if isinstance(value, Name):
                return self.write(value.text)
            return super().save(value, save_persistent_id)

        def persistent_id(self, value):
            return tuple(value) if isinstance(value, list) else None

        def reducer_override(self, value):
            if not isinstance(value, np.ndarray):
                return NotImplemented
            storage = [
                'storage',
                Name('torch', 'FloatStorage'),
                keys[id(value)],
                'cpu',
                value.size,
                None,
            ]
            stride = tuple(size // 4 for size in np.ascontiguousarray(value).strides)
            return callable_name, (storage, 0, value.shape, stride, False, {})

    callable_name = type('Call', (Name,), {'__call__': lambda self: None})(
        'torch._utils', '_rebuild_tensor_v2'
    )
    keys = {id(array): str(number) for number, array in enumerate(state.values())}
    file = io.BytesIO()
    for part in (torch_file.LEGACY, torch_file.VERSION, {'little_endian': True}):
        file.write(pickle.dumps(part, 2))
    Pickler(file, 2).dump({'model': state})
    file.write(pickle.dumps(list(keys.values()), 2))
    for array in state.values():
        file.write(struct.pack('<q', array.size) + array.tobytes())
    return file.getvalue()


@pytest.fixture(scope='module')
def formats(encoder, tmp_path_factory):
    """{format: bytes} of one state, of float32 arrays."""
    root, state = tmp_path_factory.mktemp('formats'), weights.read(encoder)['model']
    paddle.save(
        {'model': {name: paddle.to_tensor(array) for name, array in state.items()}},
        str(root / 'x.pdparams'),
    )
    torch_file.write(root / 'x.pth', {'model': state})
    safetensors_file.write(root / 'x.safetensors', state, {})
    return {
        '.pd': encoder.read_bytes(),
        '.pdparams': (root / 'x.pdparams').read_bytes(),
        'legacy .pth': legacy(state),
        'zip .pth': (root / 'x.pth').read_bytes(),
        '.safetensors': (root / 'x.safetensors').read_bytes(),
    }


CHECKED = ('.pd', 'zip .pth')  # these formats have checksums


@AMOUNTS
def test_a_damaged_checkpoint_is_refused_or_whole(formats, tmp_path, tally, amount):
    """A format without checksum cannot notice a changed number in a tensor; only that passes."""
    model = models_zoo.autoencoder('mae_vit_nano_patch4', img_size=16, in_chans=1)
    file = tmp_path / 'x'
    draw, whole = random.Random(0), None
    for name, data in formats.items():
        file.write_bytes(data)
        state = weights.read(file)
        state = {key: np.array(array) for key, array in state.get('model', state).items()}
        whole = whole or state
        assert all((state[key] == array).all() for key, array in whole.items()), name
        for _ in range(amount // len(formats)):
            kind, damaged = damage(data, draw)
            file.write_bytes(damaged)
            begun = time.monotonic()
            outcome = read(file, model, whole)
            with tally(f'damaged {name}, {kind}: {outcome}'):
                assert time.monotonic() - begun < 30
                assert outcome in ('refused', 'whole') or (
                    name not in CHECKED and kind in ('flipped', 'overwritten')
                )


def read(file, model, whole):
    """How loading ends: 'refused' by an InputError, or whole; other errors are raised."""
    try:
        tree = weights.read(file)
        tensors = tree.get('model', tree)
        if not all(isinstance(array, np.ndarray) for array in tensors.values()):
            return 'refused'  # by the code that would use it, as load_state_dict below
        assign_weights(model, tensors, 'x')
    except InputError as error:
        assert '\n' not in str(error)
        return 'refused'
    return (
        'whole'
        if all(np.array_equal(tensors[name], array) for name, array in whole.items())
        else 'other numbers'
    )
