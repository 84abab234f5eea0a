"""Batches are on the device before the step that needs them, in all programs."""

from threading import Event

import numpy as np
import paddle
import pytest
from test_data import samples as of_pictures
from test_data import twelve  # noqa: F401  (a fixture)
from test_det_batches import PLAIN, data  # noqa: F401  (a fixture)
from test_det_batches import samples as of_objects
from test_seg_train import scenes  # noqa: F401  (a fixture)

import det.batches
import seg.batches

# isort: split
from paddleseg.transforms import Normalize

from seg.dataset import Scenes
from seg.loading import Loader
from util.data import feed, loader

PROGRAMS = ['ViT', 'seg', 'det']
TENSORS = {'ViT': {'0', '1'}, 'seg': {'img', 'label'}, 'det': {'image'}}


@pytest.fixture
def train(request, twelve, scenes, data):  # noqa: F811
    """The batches of a training of each kind of program, prepared by workers."""

    def train(program):
        if program == 'ViT':
            return loader.TrainLoader(of_pictures(twelve), 3, num_workers=1).batches(0)
        if program == 'det':
            return det.batches.TrainLoader(of_objects(data, PLAIN), 1, num_workers=2).batches(0)
        source = seg.batches.Samples(Scenes([Normalize()], str(scenes)), seed=0)
        return seg.batches.Batches(source, 2, 5, num_workers=1, timeout=60).batches(0, 0)

    return train


def names_of_tensors(batch):
    items = batch.items() if isinstance(batch, dict) else enumerate(batch)
    return {str(name) for name, value in items if isinstance(value, paddle.Tensor)}


@pytest.fixture
def readers(monkeypatch):
    """What each of Paddle's readers was made with: where it copies to, and how."""
    made = []
    own = paddle.base.core.create_py_reader

    def create(queue, names, shapes, dtypes, check, places, is_buffered, drop, pinned, size):
        made.append(([str(place) for place in places], is_buffered, pinned))
        return own(queue, names, shapes, dtypes, check, places, is_buffered, drop, pinned, size)

    monkeypatch.setattr(paddle.base.core, 'create_py_reader', create)
    return made


@pytest.mark.parametrize('program', PROGRAMS)
def test_the_next_batch_is_on_its_way_while_one_is_in_use(train, program, monkeypatch):
    begun = Event()
    moved = []
    own = feed._in_host_memory

    def in_host_memory(array):
        if array.ndim == 4:  # the images of a batch
            moved.append(array)
            if len(moved) == 2:
                begun.set()
        return own(array)

    monkeypatch.setattr(feed, '_in_host_memory', in_host_memory)
    batches = iter(train(program))
    assert names_of_tensors(next(batches)) == TENSORS[program]
    assert begun.wait(60), 'nothing is done before the batch is asked for'
    assert len(list(batches)) > 1


@pytest.mark.parametrize('program', PROGRAMS)
def test_the_reader_itself_copies_to_the_device(train, program, readers, monkeypatch):
    """On a GPU a reader that pins batches, Paddle's default, leaves the copy to the step."""
    monkeypatch.setattr(paddle.io.reader, 'USE_PINNED_MEMORY', True)
    list(train(program))
    here = str(paddle.framework._current_expected_place())
    assert readers == [([here], True, False)]


def test_evaluations_take_the_same_way(twelve, scenes, data, readers):  # noqa: F811
    of_images = loader.EvalSet(of_pictures(twelve).images, 3, lambda picture: np.zeros([3, 8, 8]))
    _, of_boxes = det.batches.evaluated(of_objects(data, PLAIN), 2, 1, timeout=60)
    maps = Scenes([Normalize()], str(scenes), 'val')
    of_maps = Loader(maps, [[0], [1]], num_workers=1, timeout=60)
    for batches in (loader.EvalLoader(of_images, 5, num_workers=1), of_boxes, of_maps):
        list(batches)
    assert [pinned for _, _, pinned in readers] == [False] * 3


def test_arrays_of_any_layout_and_type_arrive_as_they_are():
    given = [
        np.arange(6.0).reshape(2, 3).T,
        np.int64(3) * np.ones([]),
        np.zeros([0, 4], 'uint8'),
        np.array([True, False]),
        np.arange(8, dtype='float16')[::2],
    ]
    for array in given:
        tensor = feed._in_host_memory(array)
        assert list(tensor.shape) == list(array.shape)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype
