"""Windows, scales and flips against NumPy."""

import tracemalloc

import cv2
import numpy as np
import paddle
import pytest
from paddleseg.core import infer as paddleseg_infer
from paddleseg.transforms import Compose, Normalize

import seg  # noqa: F401
from seg import infer, transforms
from util.errors import InputError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Model:
    """Scores of three classes that depend on the pixel and its place in the window.

    `seen` keeps the inputs.
    """

    def __init__(self):
        self.seen = []

    def __call__(self, x):
        self.seen.append(x.numpy())
        return [paddle.to_tensor(self.scores(x.numpy()))]

    @staticmethod
    def scores(x):
        place = np.arange(x.shape[3], dtype='float32') / 10
        return np.stack([x[:, 0] * 2 + place, x[:, 1] - x[:, 2], x[:, 2] * 3 - place], axis=1)


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape, dtype='float32')


@pytest.mark.parametrize(
    'height, width, tops, lefts',
    [
        (10, 13, [0, 2], [0, 5]),
        (8, 8, [0], [0]),
        (14, 19, [0, 5, 6], [0, 5, 10, 11]),
        (8, 9, [0], [0, 1]),
    ],
)
def test_windows_overlap_in_mmsegmentations_grid(height, width, tops, lefts):
    image, model = noise(1, 3, height, width), Model()
    scores = infer.slide_inference(model, paddle.to_tensor(image), (8, 8), (5, 5)).numpy()
    total, count = np.zeros([1, 3, height, width]), np.zeros([height, width])
    for top in tops:
        for left in lefts:
            window = np.s_[..., top : top + 8, left : left + 8]
            total[window] += Model.scores(image[window])
            count[window] += 1
    np.testing.assert_allclose(scores, total / count, rtol=1e-5, atol=1e-6)
    assert len(model.seen) == len(tops) * len(lefts) and scores.dtype == np.float32


def test_an_image_smaller_than_the_window_is_filled_up_with_the_mean_colour():
    image, model = noise(1, 3, 5, 11), Model()
    scores = infer.slide_inference(model, paddle.to_tensor(image), (8, 8), (5, 5)).numpy()
    assert scores.shape == (1, 3, 5, 11) and [x.shape for x in model.seen] == [(1, 3, 8, 8)] * 2
    np.testing.assert_array_equal(model.seen[0][..., 5:, :], 0)
    np.testing.assert_array_equal(model.seen[0][..., :5, :], image[..., :8])


def test_the_scores_of_a_thin_picture_take_no_more_memory_than_the_picture():
    """As wide as the windows, the sum and its mean would take 490 MB."""
    image = paddle.to_tensor(noise(1, 3, 20000, 1))
    tracemalloc.start()
    scores = infer.slide_inference(Model(), image, (512, 512), (512, 512))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert scores.shape == [1, 3, 20000, 1] and peak < 60e6
    expected = Model.scores(image.numpy())
    np.testing.assert_array_equal(scores.numpy()[:, 1], expected[:, 1])


def prepared(height, width, scale=(64, 16)):
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype('uint8')
    prepare = Compose(
        [transforms.ResizeKeepRatio(scale), Normalize(mean=MEAN.tolist(), std=STD.tolist())]
    )
    data = prepare({'img': picture[..., ::-1].astype('float32')})
    return picture, paddle.to_tensor(data['img'][None]), data['trans_info']


def rescaled(picture, height, width):
    image = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    return ((image / 255 - MEAN) / STD).astype('float32').transpose(2, 0, 1)[None]


def softmax(scores):
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize('batched', [False, True], ids=['predict', 'through a loader'])
def test_several_scales_are_the_mean_of_probabilities_of_the_rescaled_picture(batched):
    picture, image, info = prepared(20, 31)
    if batched:
        loader = paddle.io.DataLoader([{'img': image[0].numpy(), 'trans_info': info}], batch_size=1)
        image, info = next(iter(loader)).values()
    labels, logarithm = infer.multi_scale(
        Model(), image, info, [0.5, 1.0, 1.75], flip_horizontal=True
    )
    total = 0
    for height, width in [(8, 12), (16, 25), (28, 43)]:
        for flip in (1, -1):
            scores = Model.scores(rescaled(picture, height, width)[..., ::flip])
            scores = paddle.nn.functional.interpolate(
                paddle.to_tensor(scores), [20, 31], mode='bilinear'
            ).numpy()
            total = total + softmax(scores)[..., ::flip] / 6
    np.testing.assert_allclose(np.exp(logarithm.numpy()), total, atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), total.argmax(axis=1)[:, None])
    assert labels.dtype == paddle.int32


@pytest.mark.parametrize('ratio, size', [(0.5, (16, 25)), (1.0, (16, 25)), (1.5, (24, 37))])
def test_with_windows_the_short_edge_is_never_below_the_window(ratio, size):
    picture, image, info = prepared(20, 31)
    np.testing.assert_allclose(
        infer.Source(image, info).at(ratio, 16).numpy(), rescaled(picture, *size), atol=1e-5
    )


def test_with_windows_the_short_edge_alone_decides():
    _, image, info = prepared(10, 100)
    assert image.shape[2:] == [6, 64]
    assert infer.Source(image, info).at(0.5, 16).shape[2:] == [16, 160]
    assert infer.Source(image, info).at(0.5, 0).shape[2:] == [3, 32]


def test_without_the_original_the_prepared_image_is_rescaled():
    image = noise(1, 3, 16, 24)
    source = infer.Source(paddle.to_tensor(image), [('resize', (20, 31))])
    found = source.at(1.5, 0).numpy()[0].transpose(1, 2, 0)
    np.testing.assert_allclose(found, cv2.resize(image[0].transpose(1, 2, 0), (36, 24)), atol=1e-6)


def test_one_scale_is_the_scores_brought_to_the_original_size():
    picture, _, _ = prepared(20, 31)
    prepare = Compose(
        [transforms.ResizeKeepRatio((64, 16)), Normalize(mean=MEAN.tolist(), std=STD.tolist())]
    )
    scores = paddle.to_tensor(Model.scores(rescaled(picture, 16, 25)))
    expected = (
        paddle.nn.functional.interpolate(scores, [20, 31], mode='bilinear')
        .numpy()[0]
        .argmax(axis=0)
    )
    np.testing.assert_array_equal(infer.labels(Model(), picture[..., ::-1], prepare), expected)


def test_importing_seg_is_enough_for_paddlesegs_own_inference():
    assert paddleseg_infer.aug_inference is infer.multi_scale
    assert paddleseg_infer.slide_inference is infer.slide_inference


@pytest.mark.parametrize('noted', [True, False], ids=['original', 'prepared'])
def test_a_picture_too_thin_for_its_windows_is_refused_in_one_line(noted):
    """With windows of 512, 1 x 20000 pixels would become 512 x 10240000: 60 GB."""
    prepare = Compose(
        [transforms.ResizeKeepRatio([2048, 512]), Normalize()] if noted else [Normalize()]
    )
    image = np.full([20000, 1, 3], 90, 'uint8')
    image[::2] = 200
    settings = {'aug_eval': True, 'is_slide': True, 'crop_size': (512, 512), 'stride': (341, 341)}
    with pytest.raises(InputError) as error:
        infer.labels(Model(), image, prepare, **settings)
    assert 'a picture of 1 x 20000 pixels would become 512 x 10240000' in str(error.value)
    assert '\n' not in str(error.value)
