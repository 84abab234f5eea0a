"""--robustness: the table of ImageNet-C, -A, -R and -Sketch, on small copies of their layouts."""

import json

import numpy as np
import paddle
import pytest
from PIL import Image

import engine_robustness
import main_finetune
import models_variants
import models_zoo
from imagenet_classes import IMAGENET_A, IMAGENET_R, SYNSETS
from util import corruptions, program
from util.errors import InputError

# AlexNet's error at severities 1 to 5, as others have published it, and its mean with one decimal
# in the table of the benchmark's authors
ALEXNET = {
    'gaussian_noise': ((0.69528, 0.82542, 0.93554, 0.98138, 0.99452), 88.6),
    'shot_noise': ((0.71224, 0.85108, 0.93574, 0.98182, 0.99146), 89.4),
    'impulse_noise': ((0.78374, 0.89808, 0.9487, 0.9872, 0.99548), 92.3),
    'defocus_blur': ((0.65624, 0.73202, 0.85036, 0.91364, 0.94714), 82.0),
    'glass_blur': ((0.64308, 0.75054, 0.88806, 0.91622, 0.93344), 82.6),
    'motion_blur': ((0.5843, 0.70048, 0.82108, 0.8975, 0.92638), 78.6),
    'zoom_blur': ((0.70008, 0.76992, 0.80784, 0.84198, 0.87198), 79.8),
    'snow': ((0.71726, 0.88392, 0.86468, 0.9187, 0.94952), 86.7),
    'frost': ((0.6139, 0.79734, 0.8879, 0.89942, 0.9343), 82.7),
    'fog': ((0.67474, 0.7605, 0.84378, 0.8726, 0.945), 81.9),
    'brightness': ((0.4514, 0.48502, 0.54048, 0.62166, 0.7244), 56.5),
    'contrast': ((0.64548, 0.7615, 0.88874, 0.9776, 0.9927), 85.3),
    'elastic_transform': ((0.52596, 0.70116, 0.55686, 0.64076, 0.80554), 64.6),
    'pixelate': ((0.52218, 0.5462, 0.73728, 0.87092, 0.91262), 71.8),
    'jpeg_compression': ((0.51002, 0.54718, 0.57294, 0.65458, 0.74778), 60.7),
}
FLAGS = (
    '--eval --robustness --model vit_nano_patch4 --input_size 8 --num_workers 0 --batch_size 64 '
    '--device cpu --log_dir='
).split()


def accuracies_of(errors):
    return [100 * (1 - error) for error in errors]


def test_alexnet_errors_are_the_published_ones():
    assert corruptions.ALEXNET.keys() == ALEXNET.keys()
    for corruption, (errors, rounded) in ALEXNET.items():
        assert corruptions.ALEXNET[corruption] == pytest.approx(np.mean(errors), abs=1e-6)
        assert 100 * corruptions.ALEXNET[corruption] == pytest.approx(rounded, abs=0.051)


def test_the_mean_corruption_error_of_alexnet_is_100():
    alexnet = {name: accuracies_of(errors) for name, (errors, _) in ALEXNET.items()}
    assert corruptions.mean_corruption_error(alexnet) == pytest.approx(100, abs=1e-3)
    figures = engine_robustness.figures(alexnet)
    assert engine_robustness.line('x', figures).startswith('x: mCE 100.00 (lower is better; CE: ')
    halved = {name: accuracies_of(np.divide(errors, 2)) for name, (errors, _) in ALEXNET.items()}
    assert corruptions.mean_corruption_error(halved) == pytest.approx(50, abs=1e-3)
    del alexnet['fog']
    assert np.isnan(corruptions.mean_corruption_error(alexnet))


def test_the_subsets_are_classes_of_imagenet():
    for subset in (IMAGENET_A, IMAGENET_R):
        assert len(subset) == 200 and subset == sorted(subset) and set(subset) <= set(SYNSETS)


def fill(root, classes, rng):
    """A picture of 8 x 8 pixels in the folder of each class; one file, linked to."""
    root.mkdir(parents=True)
    file = root.parent / f'.{root.name}.png'
    pixels = rng.integers(256, size=[8, 8, 3], dtype='uint8')
    Image.fromarray(pixels).save(file)
    for name in classes:
        (root / name).mkdir()
        (root / name / 'x.png').symlink_to(file)


@pytest.fixture(scope='module')
def variants(tmp_path_factory):
    """ImageNet-A and -R; -C with two corruptions, one of them in the folder of its archive."""
    root = tmp_path_factory.mktemp('variants')
    rng = np.random.default_rng(0)
    fill(root / 'imagenet-a', IMAGENET_A, rng)
    fill(root / 'imagenet-r', IMAGENET_R, rng)
    return root


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Weights of a classifier of 1000 classes."""
    program.start('cpu', seed=0)
    model = models_zoo.classifier('vit_nano_patch4', img_size=8, num_classes=1000, global_pool=True)
    path = tmp_path_factory.mktemp('weights') / 'x.pd'
    paddle.save({'model': model.state_dict()}, str(path))
    return path


def run(*flags):
    main_finetune.main(main_finetune.PARSER.parse_args([*FLAGS, *map(str, flags)]))


def test_only_the_outputs_of_the_200_classes_compete(variants, checkpoint, tmp_path, capsys):
    """All images of a set are the same, so the one class with the best score of the 200 hits."""
    folders = [variants / 'imagenet-a', variants / 'imagenet-r']
    run('--resume', checkpoint, '--data_path', *folders, '--output_dir', tmp_path)
    printed = capsys.readouterr().out
    assert 'ImageNet-A: acc1 0.50\n' in printed and 'ImageNet-R: acc1 0.50\n' in printed
    table = json.loads((tmp_path / 'robustness.json').read_text())
    assert table == {
        'weights': str(checkpoint),
        'ImageNet-A': {'acc1': pytest.approx(0.5)},
        'ImageNet-R': {'acc1': pytest.approx(0.5)},
    }


def test_outputs_are_found_by_the_names_of_the_weights():
    class Counting(paddle.nn.Layer):
        def forward(self, x):
            return x

    names = SYNSETS[::-1]
    chosen = models_variants.outputs_of(Counting(), names, IMAGENET_R)
    scores = paddle.arange(1000).unsqueeze(0)
    assert [names[place] for place in chosen(scores)[0].tolist()] == IMAGENET_R


def test_corruptions_are_averaged_over_severities(checkpoint, tmp_path, capsys, monkeypatch):
    """Two corruptions, one in the folder of its archive, with classes reduced to three."""
    classes = SYNSETS[:3]
    monkeypatch.setattr(models_variants, 'SYNSETS', classes)
    rng = np.random.default_rng(0)
    for severity in '12345':
        fill(tmp_path / 'c/fog' / severity, classes, rng)
        fill(tmp_path / 'c/noise/shot_noise' / severity, classes, rng)
    run('--resume', checkpoint, '--data_path', tmp_path / 'c', '--output_dir', '')
    printed = capsys.readouterr().out
    assert printed.count('acc1 33.33') == 10 and 'fog, severity 5: acc1 33.33' in printed
    # one of three images is right at every severity
    expected = {name: 100 * 2 / 3 / corruptions.ALEXNET[name] for name in ('shot_noise', 'fog')}
    for name, error in expected.items():
        assert f'{name} {error:.1f}' in printed
    assert 'ImageNet-C: no mCE without gaussian_noise, impulse_noise' in printed


BAD = {
    'nothing': ('{tmp}/empty', 'is no variant of ImageNet: it has 0 folders, none.'),
    'some classes': ('{tmp}/some', 'is no variant of ImageNet: it has 3 folders, n01440764'),
    'missing': ('{tmp}/nowhere', 'no such folder'),
    'severity': ('{tmp}/c', 'lacks the severities 2, 3, 4, 5'),
}


@pytest.mark.parametrize('path, message', BAD.values(), ids=BAD)
def test_a_folder_that_is_no_variant_is_named(tmp_path, checkpoint, path, message):
    (tmp_path / 'empty').mkdir()
    fill(tmp_path / 'some', SYNSETS[:3], np.random.default_rng(0))
    fill(tmp_path / 'c/snow/1', SYNSETS[:3], np.random.default_rng(0))
    path = path.format(tmp=tmp_path)
    with pytest.raises(InputError) as error:
        run('--resume', checkpoint, '--data_path', path)
    assert str(error.value).startswith(f'--data_path {path}: ') and message in str(error.value)


def test_robustness_needs_evaluation_and_the_classes_of_imagenet(variants, checkpoint):
    args = main_finetune.PARSER.parse_args(['--robustness', '--data_path', 'x', '--device', 'cpu'])
    args.model = 'vit_nano_patch4'
    with pytest.raises(InputError, match='add --eval and --resume'):
        main_finetune.main(args)
    with pytest.raises(InputError, match='have no output for 200 of the classes: n01443537'):
        models_variants.outputs_of(paddle.nn.Linear(1, 1), [], IMAGENET_R)
