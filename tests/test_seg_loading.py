"""Batches from our workers equal those of Paddle's loader; an error in a worker names the files."""

import numpy as np
import paddle
import pytest
from test_seg_train import NORMALIZE, scenes  # noqa: F401

import seg  # noqa: F401

# isort: split
from paddleseg.transforms import Normalize

from seg.batches import Samples, Stream
from seg.dataset import Scenes
from seg.loading import Loader, loading
from seg.transforms import ResizeKeepRatio
from util.errors import InputError


def assert_same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_same(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_same(one, other)
    elif isinstance(theirs, paddle.Tensor):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize('num_workers', [0, 3])
@pytest.mark.parametrize('mode', ['train', 'val'])
def test_batches_are_those_of_paddles_loader(scenes, mode, num_workers):  # noqa: F811
    samples = Scenes([ResizeKeepRatio((60, 40)), Normalize()], str(scenes), mode)
    batches = paddle.io.BatchSampler(samples, batch_size=2 if mode == 'train' else 1)
    plain = paddle.io.DataLoader(samples, batch_sampler=batches, return_list=True)
    with loading(timeout=60):
        ours = paddle.io.DataLoader(samples, batch_sampler=batches, num_workers=num_workers)
    assert isinstance(ours, Loader) and len(ours) == len(plain)
    pairs = list(zip(ours, plain, strict=True))
    assert len(pairs) == len(plain) > 3
    for one, other in pairs:
        assert_same(one, other)


@pytest.mark.parametrize('num_workers', [0, 2])
def test_what_a_transform_raises_names_the_files(scenes, capfd, num_workers):  # noqa: F811
    def failing(data):
        raise KeyError('a transform')

    samples = Samples(Scenes([failing], str(scenes)), seed=0)
    image, label = samples.samples.file_list[next(iter(Stream(samples, 1, 0)))[0][1]]
    with pytest.raises(InputError) as error:
        next(iter(Loader(samples, Stream(samples, 1, 0), num_workers, 60)))
    assert (
        str(error.value)
        == f"{image} with label {label} cannot be prepared (KeyError: 'a transform')"
    )
    assert 'Traceback' in capfd.readouterr().err
