"""Every model of models_zoo and every output in ONNX Runtime against the live model.

The models have their own blocks, windows, decoders and patches, but are narrow and shallow. A new
name in models_zoo is tested without being listed here.
"""

import dataclasses
import importlib.util

import numpy as np
import paddle
import pytest

# a private part of Paddle
from paddle.jit.dy2static.program_translator import FunctionCache

import main_export
import models_sizes
import models_zoo
from util import exported

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not importlib.util.find_spec('onnxruntime') or not importlib.util.find_spec('paddle2onnx'),
        reason='needs requirements/export.txt',
    ),
]
TOLERANCE = 1e-5  # of the largest output; float32 rounds to some 1e-7, and found are up to 1e-6
HEAD = 8  # channels


def distinct(zoo):
    """One name of each model; aliases are left out."""
    names = {}
    for name, variant in sorted(zoo.items()):
        names.setdefault(variant, name)
    return list(names.values())


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Make all sizes narrow and shallow, but two blocks where windows are shifted."""
    for name, size in models_sizes.SIZES.items():
        smaller = dataclasses.replace(
            size,
            width=HEAD * size.heads,
            depth=1,
            decoder_width=HEAD * size.decoder_heads,
            decoder_depth=1,
        )
        monkeypatch.setitem(models_sizes.SIZES, name, smaller)
    for values in models_sizes.PYRAMIDS.values():
        heads = values['num_heads']
        if 'embed_dim' in values:
            monkeypatch.setitem(values, 'embed_dim', HEAD * heads[0])
            monkeypatch.setitem(values, 'depths', (2, 1, 1, 1))
        else:
            monkeypatch.setitem(values, 'embed_dims', tuple(HEAD * count for count in heads))
            monkeypatch.setitem(values, 'depths', (1, 1, 1, 1))


@pytest.fixture(autouse=True)
def translate_once(monkeypatch):
    """Paddle translates a method anew for each layer that has it; once is enough, and faster."""
    convert = FunctionCache.convert_with_cache

    def by_function(self, method):
        return convert(self, getattr(method, '__func__', method))

    monkeypatch.setattr(FunctionCache, 'convert_with_cache', by_function)


def side(name):
    """The side of the images: the smallest that has several windows or patches."""
    if name.endswith('_256') or '_256_' in name:
        return 128
    if 'patch16' in name or 'patch14' in name:
        return 2 * int(name.partition('patch')[2][:2])
    return 64 if '_64' in name else 32


class Both(paddle.nn.Layer):
    """Images -> [scores, features], each by the layer that main_export.py writes."""

    def __init__(self, model):
        super().__init__()
        self.scores = main_export.Classify(model)
        self.features = main_export.Features(model)

    def forward(self, images):
        return [*self.scores(images), *self.features(images)]


def apart_in_onnx(layer, inputs, folder):
    """The largest difference of any output, for one image and for three."""
    layer.eval()
    samples = [main_export.random_input(inputs, count) for count in (1, 3)]
    expected = [main_export.live(layer, sample) for sample in samples]
    assert all(np.ptp(output) > 0.01 for output in expected[1])
    exported.save(layer, inputs, folder)

    def compare(run):
        found = [run(sample) for sample in samples]
        return max(map(exported.difference, found, expected))

    return exported.to_onnx(folder, inputs, compare)


@pytest.mark.parametrize('name', distinct(models_zoo.CLASSIFIERS))
def test_scores_and_features_equal_those_of_the_live_model(name, tmp_path):
    model = models_zoo.classifier(name, img_size=side(name), num_classes=5, global_pool=True)
    model.reset_head(std=0.5)
    inputs = {'images': [None, 3, side(name), side(name)]}
    assert apart_in_onnx(Both(model), inputs, tmp_path) < TOLERANCE


def test_features_of_the_class_token_equal_those_of_the_live_model(tmp_path):
    """The features of a pre-trained ViT; those of pyramids are a classifier's."""
    model = models_zoo.classifier('vit_nano_patch4', num_classes=5, global_pool=False)
    model.reset_head(std=0.5)
    assert apart_in_onnx(Both(model), {'images': [None, 3, 32, 32]}, tmp_path) < TOLERANCE


@pytest.mark.parametrize('name', distinct(models_zoo.AUTOENCODERS))
def test_reconstructions_equal_those_of_the_live_model(name, tmp_path):
    model = models_zoo.autoencoder(name, img_size=side(name), norm_pix_loss=True)
    inputs = {'images': [None, 3, side(name), side(name)], 'noise': [None, model.num_patches]}
    layer = main_export.Reconstruct(model, mask_ratio=0.75)
    assert apart_in_onnx(layer, inputs, tmp_path) < TOLERANCE
