"""Augmentation and the evaluation transform against timm 1.0.22 and torchvision.

Compared are policies, erasing, mixup, cutmix and jitter. timm's random draws are noted in its own
process and played back here, so that results can be compared value for value.
"""

import json

import numpy as np
import paddle
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from util.augment import erasing, policies, transform
from util.augment.color import ColorJitter
from util.augment.mixup import Mixup

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEEDS = 12  # a policy and picture


class Playback:
    """A generator that returns noted draws in their order, and checks their kinds."""

    def __init__(self, draws):
        self.draws = iter(draws)

    def __getattr__(self, asked):
        def draw(*args, **kwargs):
            kind, value = next(self.draws)
            assert kind == asked, f'{asked} was drawn where timm drew {kind}'
            value = np.array(value) if isinstance(value, list) else value
            return value.astype('float32') if kind == 'standard_normal' else value

        return draw

    def assert_used_up(self):
        assert next(self.draws, None) is None, 'timm drew more'


@pytest.fixture(scope='module')
def pictures():
    rng = np.random.default_rng(0)
    photographs = [
        np.asarray(Image.fromarray(image).resize((160, 160)))
        for image in load_sample_images().images
    ]
    return {
        'china': photographs[0],
        'flower': photographs[1],
        'noise': rng.integers(256, size=[64, 64, 3], dtype='uint8'),
        'dark': rng.integers(40, size=[48, 48, 3], dtype='uint8'),
    }


def compare(reference, what, cases, ours, **given):
    """Assert that ours(case, playback) equals the reference's array, with the same draws."""
    theirs = reference('augment', what=what, cases=json.dumps(cases), **given)
    noted = json.loads(str(theirs['draws']))
    for number, case in enumerate(cases):
        playback = Playback(noted[number])
        np.testing.assert_array_equal(
            ours(case, playback), theirs[f'result{number}'], err_msg=str(case)
        )
        playback.assert_used_up()


STRINGS = (
    'rand-m9-mstd0.5-inc1 rand-m9-mstd0.5 rand-m7-n4-p0.8-mstd1 rand-m15-mmax20-mstd101-inc1 '
    'rand-n3-tweights rand-m8-t3a-mstd0.5 rand-m6-n5-t3aw-inc1 '
    'v0 v0r-mstd0.5 original originalr 3a '
    'augmix augmix-m5-w4-d2 augmix-m3-b1-mstd0.5-a0.5'
).split()


@pytest.mark.parametrize('aa', STRINGS)
def test_policies_equal_timm_pixel_for_pixel(reference, pictures, aa):
    cases = [
        {'aa': aa, 'picture': name, 'bicubic': bicubic, 'seed': seed}
        for name in pictures
        for seed in range(SEEDS)
        for bicubic in (True, False)
    ]
    built = {
        bicubic: policies.create(aa, MEAN, Image.BICUBIC if bicubic else None)
        for bicubic in (True, False)
    }
    changed = []

    def ours(case, playback):
        before = pictures[case['picture']]
        after = np.asarray(built[case['bicubic']](Image.fromarray(before), playback))
        changed.append((after != before).any())
        return after

    compare(reference, 'policy', cases, ours, **pictures)
    assert sum(changed) > len(changed) / 3


def test_erasing_equals_timm(reference):
    image = np.random.default_rng(0).normal(size=[3, 40, 50]).astype('float32')
    cases = [
        {'mode': mode, 'count': count, 'seed': seed}
        for mode in ('pixel', 'rand', 'const')
        for count in (1, 3)
        for seed in range(20)
    ]
    compare(
        reference,
        'erasing',
        cases,
        lambda case, rng: erasing.RandomErasing(0.9, case['mode'], case['count'])(
            image.copy(), rng
        ),
        image=image,
    )


MIXES = [(0.8, 0, None), (0, 1.0, None), (0.8, 1.0, None), (0, 0, (0.2, 0.8)), (0.8, 0, (0.3, 0.6))]


@pytest.mark.parametrize('mode', ['batch', 'pair', 'elem'])
def test_mixup_and_cutmix_equal_timm(reference, mode):
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=[8, 3, 20, 28]).astype('float32'), rng.integers(10, size=8)
    cases = [
        {
            'mixup': mixup,
            'cutmix': cutmix,
            'minmax': minmax,
            'prob': prob,
            'smoothing': smoothing,
            'mode': mode,
            'seed': seed,
        }
        for mixup, cutmix, minmax in MIXES
        for prob, smoothing in ((1.0, 0.1), (0.6, 0.0))
        for seed in range(15)
    ]

    def ours(case, playback):
        mix = Mixup(
            case['mixup'],
            case['cutmix'],
            case['minmax'],
            case['prob'],
            0.5,
            mode,
            case['smoothing'],
            10,
        )
        mixed, targets = mix(paddle.to_tensor(images), paddle.to_tensor(labels), playback)
        return np.concatenate([mixed.numpy().ravel(), targets.numpy().ravel()])

    compare(reference, 'mixing', cases, ours, images=images, labels=labels)


def test_colour_jitter_equals_torchvision(reference, pictures):
    cases = []
    for name in pictures:
        for seed in range(20):
            rng = np.random.default_rng(seed)
            factors = [rng.uniform(0.6, 1.4) for _ in range(3)]
            cases.append(
                {
                    'picture': name,
                    'rng': seed,
                    'factors': factors,
                    'order': rng.permutation(3).tolist(),
                }
            )
    jitter = ColorJitter(0.4)
    compare(
        reference,
        'jitter',
        cases,
        lambda case, _: np.asarray(
            jitter(Image.fromarray(pictures[case['picture']]), np.random.default_rng(case['rng']))
        ),
        **pictures,
    )


@pytest.mark.parametrize('size, short', [(224, 256), (32, 36), (160, 182), (448, 448), (256, 256)])
def test_evaluation_transform_equals_torchvision(reference, size, short):
    rng = np.random.default_rng(0)
    shapes = {'wide': (427, 640), 'tall': (333, 250), 'odd': (57, 101), 'square': (64, 64)}
    images = {
        name: rng.integers(256, size=[*shape, 3], dtype='uint8') for name, shape in shapes.items()
    }
    plain = transform.Evaluate(size, MEAN, STD)
    compare(
        reference,
        'evaluation',
        [{'picture': name, 'size': size, 'short': short} for name in shapes],
        lambda case, _: plain(Image.fromarray(images[case['picture']])),
        **images,
    )
