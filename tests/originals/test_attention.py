"""The attention maps of demo/visualize.py equal those of Hugging Face and timm."""

import json

import numpy as np
import paddle

import models_attention
import models_features

from .conftest import SIZES, report


def test_attention_of_each_head_equals_the_originals(made, reference):
    files = {'hf': made('nano', 'hf_classifier'), 'timm': made('nano', 'class_token')}
    images = np.random.default_rng(0).normal(size=[2, 3, 32, 32]).astype('float32')
    found = reference('attention', size=json.dumps(SIZES['nano']), images=images)
    for name, file in files.items():
        model, _ = models_features.model_from(str(file))
        ours = np.stack(models_attention.weights_of(model, paddle.to_tensor(images)))
        theirs = found[name]
        assert ours.shape == theirs.shape == (4, 2, 3, 65, 65)
        difference = np.abs(ours - theirs).max() / theirs.max()
        report(name, difference=difference)
        assert difference < 1e-5
