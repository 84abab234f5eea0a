"""Pictures of any size and labels with any ignored number train, or one line says the remedy."""

import numpy as np
import pytest
import yaml
from conftest import ROOT
from paddleseg.cvlibs import SegBuilder
from PIL import Image
from test_seg_dataset import write_pair
from test_seg_train import NORMALIZE, TINY, run

import seg  # noqa: F401

# isort: split
from seg import export, flags, predict, train, val
from seg.sizes import Sizes, check_transforms
from util import weights
from util.errors import InputError

SCENES = ROOT / 'seg/configs/upernet_mae/upernet_mae_scenes.yml'
CROP = {'type': 'RandomCropWithCategoryLimit', 'crop_size': [32, 32]}
PADDING = {'type': 'Padding', 'target_size': [32, 32], 'im_padding_value': 0}
LABEL = np.arange(12, dtype='uint8')[:, None].repeat(20, axis=1) % 3  # 20 x 12 pixels of 3 classes


@pytest.fixture
def own(tmp_path):
    """own(transforms, ignore_index, ...) -> a config of a user's two pairs, with three classes."""

    def write(transforms, ignore_index=None, in_data=None, label=LABEL, window=32, batch_size=2):
        for name in 'ab':
            write_pair(tmp_path / f'{name}.jpg', tmp_path / f'{name}.png', label)
        (tmp_path / 'list.txt').write_text('a.jpg a.png\nb.jpg b.png\n')
        said = {'type': 'Dataset', 'dataset_root': str(tmp_path), 'num_classes': 3}
        said |= {'_inherited_': False} | ({} if in_data is None else {'ignore_index': in_data})
        files = str(tmp_path / 'list.txt')
        train = said | {'mode': 'train', 'train_path': files, 'transforms': transforms}
        loss = {'type': 'CrossEntropyOverAllPixelsLoss'}
        loss |= {} if ignore_index is None else {'ignore_index': ignore_index}
        config = {
            '_base_': str(TINY),
            'batch_size': batch_size,
            'loss': {'types': [loss], 'coef': [1, 0.4]},
            'model': {'num_classes': 3, 'backbone': {'img_size': window}},
            'train_dataset': train,
            'val_dataset': said | {'mode': 'val', 'val_path': files, 'transforms': [NORMALIZE]},
        }
        (tmp_path / 'own.yml').write_text(yaml.safe_dump(config))
        return tmp_path / 'own.yml'

    return write


@pytest.mark.parametrize('said_in', ['loss', 'data'])
@pytest.mark.parametrize('ignored', [7, 0, -100, 300])
def test_padding_is_ignored_whatever_the_ignored_number_is(own, ignored, said_in):
    label = np.where(LABEL == 1, 255 if ignored < 0 or ignored > 255 else ignored, LABEL)
    label = np.where(label == 255, 2, label)
    file = own(
        [CROP, NORMALIZE, PADDING],
        **{'ignore_index' if said_in == 'loss' else 'in_data': ignored},
        label=label,
    )
    sample = SegBuilder(flags.configuration(str(file))).train_dataset[0]
    assert (sample['label'][:12, :20] == label).all()
    sample['label'][:12, :20] = ignored
    assert (sample['label'] == ignored).all()


@pytest.mark.parametrize('ignored', [7, -100])
def test_training_goes_on_over_padded_pictures(own, tmp_path, ignored):
    file = own([CROP, NORMALIZE, PADDING], ignored)
    run(train, '--config', file, '--save_dir', tmp_path / 'out', '--iters', 1, '--batch_size', 1)
    bias = weights.read(tmp_path / 'out/iter_1/model.pdparams')['decode_head.conv_seg.bias']
    assert np.isfinite(bias).all() and np.abs(bias).max() > 0  # it has learnt


@pytest.mark.parametrize(
    'kind', ['RandomPaddingCrop', 'RandomRotation', 'RandomAffine', 'PaddingByAspectRatio']
)
def test_every_transform_that_pads_labels_takes_the_losss_number(own, kind):
    arguments = {
        'RandomPaddingCrop': {'crop_size': [32, 32]},
        'RandomAffine': {'size': [32, 32]},
    }.get(kind, {})
    file = own([{'type': kind, **arguments}, NORMALIZE], ignore_index=9)
    transform = SegBuilder(flags.configuration(str(file))).train_dataset.transforms.transforms[0]
    assert transform.label_padding_value == getattr(transform, 'ignore_index', 9) == 9


def test_what_a_config_says_of_padding_stays(own):
    file = own(
        [PADDING | {'label_padding_value': 2}, CROP | {'ignore_index': 1}, NORMALIZE],
        ignore_index=9,
    )
    padding, crop, _ = SegBuilder(
        flags.configuration(str(file))
    ).train_dataset.transforms.transforms
    assert padding.label_padding_value == 2 and crop.ignored == 1


def test_padding_with_what_is_no_class_is_refused_at_once(own):
    file = own([NORMALIZE, PADDING | {'label_padding_value': 255}], ignore_index=9)
    with pytest.raises(
        InputError,
        match=r'own.yml: train_dataset.transforms\[1\]: Padding pads labels with '
        'label_padding_value 255, which is neither ignore_index 9 nor one of 3 classes',
    ):
        flags.configuration(str(file))


def test_losses_with_two_ignored_numbers_are_refused(own):
    types = [
        {'type': 'CrossEntropyOverAllPixelsLoss', 'ignore_index': number} for number in (255, 9)
    ]
    with pytest.raises(InputError, match=r'loss.types have several ignore_index, \[9, 255\]'):
        flags.configuration(str(own([NORMALIZE])), [f'loss.types={types}'])


def assert_refused(file, tmp_path, message, *asked):
    with pytest.raises(InputError, match=message) as caught:
        run(train, '--config', file, '--save_dir', tmp_path / 'out', '--iters', 1, *asked)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('batch_size', [1, 2])
def test_a_picture_smaller_than_the_crop_is_named_with_its_size(own, tmp_path, batch_size, workers):
    assert_refused(
        own([CROP, NORMALIZE], batch_size=batch_size),
        tmp_path,
        r'[ab].jpg with label .*[ab].png \(20 x 12 pixels\) becomes '
        r'20 x 12 by train_dataset.transforms, but the model takes 32 x 32: '
        r'end them with Padding, target_size \[32, 32\]$',
        '--num_workers',
        workers,
    )


def test_a_picture_larger_than_the_window_is_told_to_be_cut(own, tmp_path):
    assert_refused(
        own([NORMALIZE], window=8),
        tmp_path,
        r'\(20 x 12 pixels\) becomes 20 x 12 .* takes 8 x 8: '
        r'end them with RandomCropWithCategoryLimit and Padding, both for \[8, 8\]',
    )
    assert_refused(
        own([NORMALIZE, PADDING | {'target_size': [16, 16]}], window=16),
        tmp_path,
        r'\(20 x 12 pixels\) cannot be prepared \(Padding: The size of image should be less',
    )


def test_the_shipped_scenes_name_a_thin_picture(tmp_path):
    for part in ('training', 'validation'):
        for kind in ('images', 'annotations'):
            (tmp_path / kind / part).mkdir(parents=True)
        for name, size in (('thin', (80, 8)), ('wide', (64, 32))):
            Image.new('RGB', size).save(tmp_path / f'images/{part}/{name}.png')
            Image.new('L', size, 1).save(tmp_path / f'annotations/{part}/{name}.png')
    roots = [f'{part}_dataset.dataset_root={tmp_path}' for part in ('train', 'val')]
    message = (
        r'thin.png \(80 x 8 pixels\) becomes 32 x 1[3-6] by .* the model takes 32 x 32: '
        'end them with Padding'
    )
    assert_refused(SCENES, tmp_path, message, '--batch_size', 2, '--opts', *roots)


@pytest.mark.parametrize(
    'transforms, message',
    [
        (
            [CROP, NORMALIZE, PADDING | {'target_size': [32, 16]}],
            r'Padding, target_size \[32, 16\], is smaller than what comes before it, '
            r'crop_size \[32, 32\]',
        ),
        (
            [CROP, PADDING | {'target_size': [48, 32]}, NORMALIZE],
            r'make 48 x 32 pixels of every picture, but the model takes '
            r'32 x 32: give Padding the target_size \[32, 32\]',
        ),
        (
            [{'type': 'RandomPaddingCrop', 'crop_size': [64, 64]}, NORMALIZE],
            'make 64 x 64 pixels of every picture',
        ),
    ],
)
def test_transforms_that_cannot_make_the_window_are_refused_at_the_start(
    own, tmp_path, transforms, message
):
    assert_refused(own(transforms), tmp_path, f'train_dataset.transforms.* {message}')


@pytest.mark.parametrize(
    'transforms',
    [
        [CROP, NORMALIZE, PADDING],
        [PADDING | {'target_size': [64, 64]}, CROP],
        [NORMALIZE],
        [],
        [
            {'type': 'RandomPaddingCrop', 'crop_size': [64, 64]},
            {'type': 'Resize', 'target_size': [32, 32]},
        ],
        None,
    ],
)
def test_transforms_that_may_make_the_window_are_not_refused(transforms):
    check_transforms(transforms, (32, 32))
    check_transforms(transforms, None)


def test_a_model_of_any_size_needs_one_size_a_batch():
    class Samples:
        pass

    small, large = ({'img': np.zeros([3, edge, 40])} for edge in (30, 50))
    sizes = Sizes(None, batch_size=1)
    for number, sample in enumerate((small, large)):
        sizes.check(Samples(), number, sample)
    sizes = Sizes(None, batch_size=2)
    sizes.check(Samples(), 4, large)
    with pytest.raises(
        InputError,
        match='^sample 7 of Samples becomes 40 x 30 by train_dataset.transforms, but sample 4 of '
        r'Samples becomes 40 x 50: end them with Padding, target_size \[40, 50\]$',
    ):
        sizes.check(Samples(), 7, small)


@pytest.mark.parametrize('kind', ['train', 'val', 'predict', 'exported'])
def test_a_small_file_does_not_take_gigabytes(own, tmp_path, kind):
    """1 x 20000 pixels, whose short edge becomes 40."""
    short = {'type': 'ResizeByShort', 'short_size': 40}
    file = own([short, CROP, NORMALIZE, PADDING], label=np.zeros([20000, 1], 'uint8'))
    thin = tmp_path / 'thin.png'
    Image.new('RGB', (1, 20000)).save(thin)
    assert thin.stat().st_size < 300
    (tmp_path / 'list.txt').write_text('thin.png a.png\n')
    flags = ['--config', file, '--opts', f'val_dataset.transforms={[short, NORMALIZE]}']
    out = ['--save_dir', tmp_path / 'out']
    message = r'thin.png.*: a picture of 1 x 20000 pixels would become 40 x 800000, more than 17 '
    if kind == 'exported':
        run(export, *flags, '--save_dir', tmp_path / 'model')
        flags = ['--engine', 'inference', '--model_path', tmp_path / 'model']
    with pytest.raises(InputError, match=message) as error:
        if kind == 'train':
            run(train, *flags, *out, '--batch_size', 1)
        elif kind == 'val':
            run(val, *flags)
        else:
            run(predict, *flags, *out, '--image_path', thin)
    assert '\n' not in str(error.value)


WHOLE = ['--opts', 'test_config.is_slide=false']


def test_an_evaluation_without_a_window_names_a_picture_of_another_size(own, tmp_path):
    file = own([CROP, NORMALIZE, PADDING])
    said = (
        r'[ab].jpg: the transforms make 20 x 12 pixels of it, but the model takes 32 x 32: '
        'slide a window .* Padding'
    )
    with pytest.raises(InputError, match=said):
        run(val, '--config', file, *WHOLE)
    with pytest.raises(InputError, match=said):
        run(
            train, '--config', file, '--save_dir', tmp_path / 'o', '--iters', 1, '--do_eval', *WHOLE
        )
    run(val, '--config', file, *WHOLE, f'val_dataset.transforms={[NORMALIZE, PADDING]}')


@pytest.mark.parametrize('workers', [0, 2])
def test_an_evaluation_at_several_scales_names_the_picture(own, tmp_path, workers):
    """The second picture is not of the window's size at any scale."""
    file = own([CROP, NORMALIZE, PADDING], label=np.zeros([32, 32], 'uint8'))
    write_pair(tmp_path / 'b.jpg', tmp_path / 'b.png', LABEL)
    whole = ['--num_workers', workers, '--opts', 'test_config.is_slide=false']
    message = r'^.*/b.jpg with label .*b.png: the model was built for images \[3, 32, 32\]'
    with pytest.raises(InputError, match=message):
        run(val, '--config', file, '--aug_eval', '--flip_horizontal', *whole)
    whole.append('test_config.aug_eval=true')
    with pytest.raises(InputError, match=message):
        run(
            train, '--config', file, '--save_dir', tmp_path / 'o', '--iters', 1, '--do_eval', *whole
        )


def test_an_error_at_reading_names_its_file_once(own, tmp_path):
    file = own([CROP, NORMALIZE, PADDING])
    (tmp_path / 'b.jpg').write_bytes(b'no picture')
    with pytest.raises(InputError, match='^[^ ]*b.jpg cannot be read as a picture'):
        run(val, '--config', file, '--aug_eval')


def test_a_prediction_without_a_window_names_a_picture_of_another_size(own, tmp_path):
    file, picture = own([CROP, NORMALIZE, PADDING]), tmp_path / 'a.jpg'
    with pytest.raises(
        InputError, match=r'a.jpg \(20 x 12 pixels\): the model was built for images \[3, 32, 32\]'
    ):
        run(
            predict, '--config', file, '--image_path', picture, '--save_dir', tmp_path / 'o', *WHOLE
        )


def test_a_model_of_rectangles_trains_evaluates_and_is_exported(own, tmp_path):
    """img_size is (height, width); the sizes of transforms are (width, height), as PaddleSeg's."""
    crop, padding = CROP | {'crop_size': [48, 32]}, PADDING | {'target_size': [48, 32]}
    file = own([crop, NORMALIZE, padding], window=[32, 48])
    out = tmp_path / 'out'
    run(train, '--config', file, '--save_dir', out, '--iters', 1, '--batch_size', 1)
    trained = out / 'iter_1/model.pdparams'
    slide = '--is_slide --crop_size 48 32 --stride 24 16'.split()
    run(val, '--config', file, '--model_path', trained, *slide)
    run(export, '--config', file, '--model_path', trained, '--save_dir', tmp_path / 'exported')
    described = yaml.safe_load((tmp_path / 'exported/deploy.yaml').read_text())
    assert described['Deploy']['input_shape'] == [-1, 3, 32, 48]
