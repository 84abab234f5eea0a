"""transformers and timm open a folder of util.convert and compute what main_infer.py computes."""

import contextlib
import io
import json

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

import main_infer
import models_zoo
from util import convert
from util.convert import __main__ as program

from .conftest import report
from .test_convert import perturbed

KINDS = {'token': 'ViTForImageClassification', 'pooled': 'TimmWrapperForImageClassification'}


@pytest.fixture
def pictures(tmp_path):
    """Photographs, and parts of them that leave an odd number of pixels beside the crop."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    paths = list(map(str, sklearn.datasets.load_sample_images().filenames))
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            picture.save(folder / f'{number}.png')
            picture.crop((0, 20, 283, 400)).save(folder / f'{number}_tall.png')
            picture.resize((101, 63)).save(folder / f'{number}_small.png')
    return sorted(map(str, folder.iterdir()))


@pytest.fixture
def folder(tmp_path):
    """folder('token') -> a weight file with five classes, and its folder for transformers."""

    def make(kind, size=32):
        model = models_zoo.classifier(
            'vit_nano_patch4', num_classes=5, global_pool=kind == 'pooled', img_size=size
        )
        weights = perturbed(model)[1]
        weights['head.weight'] = weights['head.weight'] * 20  # scores that tell pictures apart
        flags = {'mean': [0.4, 0.5, 0.6], 'std': [0.2, 0.3, 0.25], 'input_size': size}
        state = {'model': weights, 'classes': ['an', 'be', 'ce', 'de', 'ef'], 'args': flags}
        convert.write(tmp_path / 'x.pd', state, 'paddle')
        flags = [str(tmp_path / 'x.pd'), str(tmp_path / 'folder'), '--to', 'hf']
        program.main(program.PARSER.parse_args(flags))
        return tmp_path / 'x.pd', tmp_path / 'folder'

    return make


def run(*flags):
    """The lines that main_infer.py prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main_infer.main(main_infer.PARSER.parse_args(['--device', 'cpu', *map(str, flags)]))
    return out.getvalue().splitlines()


@pytest.mark.parametrize('size', [32, [32, 48]])
@pytest.mark.parametrize('kind', KINDS)
def test_transformers_computes_the_same_probabilities(reference, folder, pictures, kind, size):
    file, made = folder(kind, size)
    if size != 32:  # timm resizes for rectangles bilinearly, whatever the folder says
        for path in pictures:
            with Image.open(path) as picture:
                resized = picture.resize((54, 36))  # nothing is left to resize
            resized.save(path)
    theirs = reference('open_folder', opened=str(made), pictures=pictures)
    assert theirs['kind'] == KINDS[kind]
    assert theirs['labels'].tolist() == ['an', 'be', 'ce', 'de', 'ef']

    lines = run('--resume', file, '--img_path', made.parent / 'pictures', '--json', '--topk', '3')
    found = [json.loads(line) for line in lines]
    assert [one['file'] for one in found] == pictures
    best = [[label['names'][0] for label in one['labels']] for one in found]
    ours = np.array([[label['probability'] for label in one['labels']] for one in found])
    assert theirs['best'].tolist() == best
    report(kind, probabilities=np.abs(ours - theirs['scores']).max(), spread=np.ptp(ours))
    np.testing.assert_allclose(theirs['scores'], ours, rtol=0, atol=1e-4)
    assert np.ptp(ours) > 0.1


def test_features_equal_those_of_timm(reference, folder, pictures, tmp_path):
    file, made = folder('pooled')
    theirs = reference('open_folder', opened=str(made), pictures=pictures)

    def ours(*flags):
        run('--resume', file, '--img_path', tmp_path / 'pictures', '--features', path, *flags)
        return np.load(path)

    path = tmp_path / 'features.npz'
    pairs = {
        'mean': (ours()['features'], theirs['pooled']),
        'cls': (ours('--feature', 'cls')['features'], theirs['tokens'][:, 0]),
        'patches': (ours('--feature', 'patches')['features'], theirs['tokens'][:, 1:]),
    }
    for feature in ('cls', 'patches'):
        found = ours('--feature', feature, '--blocks', 0, 2)
        for name in ('block0', 'block2'):
            pairs[f'{name} {feature}'] = found[name], theirs[f'{name}_{feature}']
    errors = {}
    for name, (own, expected) in pairs.items():
        assert own.shape == expected.shape
        errors[name] = np.abs(own - expected).max() / np.abs(expected).max()
    report('features', **errors)
    # rounding differs between processors and orders of summation; found 5e-6 and 1e-5
    assert max(errors.values()) < 3e-5
