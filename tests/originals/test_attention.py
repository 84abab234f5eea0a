"""The attention maps of demo/visualize.py equal those of Hugging Face and timm."""

import json

import numpy as np
import paddle
import pytest

import models_attention
import models_features

from .conftest import SIZES, report


@pytest.fixture
def files(made):
    """The files of both code bases, by name; both lie in the folder of the reference."""
    return {'hf': made('nano', 'hf_classifier'), 'timm': made('nano', 'class_token')}


@pytest.mark.parametrize('name', ['hf', 'timm'])
def test_attention_of_each_head_equals_the_originals(files, reference, name):
    images = np.random.default_rng(0).normal(size=[2, 3, 32, 32]).astype('float32')
    theirs = reference('attention', size=json.dumps(SIZES['nano']), images=images)[name]

    model, _ = models_features.model_from(str(files[name]))
    ours = np.stack(models_attention.weights_of(model, paddle.to_tensor(images)))
    assert ours.shape == theirs.shape == (4, 2, 3, 65, 65)
    difference = np.abs(ours - theirs).max() / theirs.max()
    report(name, difference=difference)
    assert difference < 1e-5
