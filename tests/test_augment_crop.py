import resource

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from util.augment import crop, transform
from util.augment.resize import resized_part
from util.errors import InputError


def noise_picture(width, height, channels=3):
    pixels = np.random.default_rng(0).integers(256, size=[height, width, channels], dtype='uint8')
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


@pytest.mark.parametrize('width, height', [(500, 375), (32, 32), (20, 400), (3, 2), (1, 1)])
def test_crops_stay_inside_and_follow_the_recipe(width, height):
    rng = np.random.default_rng(0)
    boxes = np.array([crop.random_box(width, height, rng, (0.2, 1.0)) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (left < right).all() and (right <= width).all()
    assert (top >= 0).all() and (top < bottom).all() and (bottom <= height).all()
    if (width, height) == (500, 375):
        share = (right - left) * (bottom - top) / (width * height)
        assert 0.19 < share.min() < 0.22 and share.max() <= 1
        aspect = np.log((right - left) / (bottom - top))
        assert abs(aspect).max() < np.log(4 / 3) + 0.01 and abs(aspect.mean()) < 0.05


def test_an_image_too_long_for_any_draw_is_cropped_in_its_middle():
    assert crop.random_box(10, 400, np.random.default_rng(0), (0.5, 1.0)) == (0, 193, 10, 206)
    assert crop.random_box(400, 10, np.random.default_rng(0), (0.5, 1.0)) == (193, 0, 206, 10)


@pytest.mark.parametrize('channels', [1, 3])
def test_normalisation_by_table_equals_the_formula_bit_by_bit(channels):
    picture = noise_picture(40, 30, channels)
    mean, std = crop.statistics(channels, None, None)
    pixels = np.asarray(picture).reshape(30, 40, channels).transpose(2, 0, 1)
    mean32, std32 = np.float32(mean)[:, None, None], np.float32(std)[:, None, None]
    expected = (pixels.astype('float32') / np.float32(255) - mean32) / std32
    np.testing.assert_array_equal(crop.Normalize(mean, std)(picture), expected)


def test_arrays_are_cropped_and_resized_like_pictures():
    picture = noise_picture(40, 30)
    box = (3, 5, 33, 25)
    expected = np.asarray(crop.resized_crop(picture, box, (16, 12)), dtype='float32')
    array = crop.resized_crop(np.asarray(picture, dtype='float32'), box, (16, 12))
    assert array.shape == (16, 12, 3)
    # pictures round to whole grey levels
    np.testing.assert_allclose(array.clip(0, 255), expected, atol=1)


def test_the_fast_crop_averages_where_it_shrinks_and_is_near_the_official_one():
    pixels = np.asarray(noise_picture(42, 30))
    shrunk = np.asarray(
        crop.fast_resized_crop(Image.fromarray(pixels), (2, 0, 42, 30), (15, 20)), dtype=float
    )
    means = pixels[:, 2:].reshape([15, 2, 20, 2, 3]).mean((1, 3))
    assert abs(shrunk - means).max() <= 0.5
    photograph = Image.fromarray(load_sample_image('china.jpg'))
    for box in ((100, 60, 500, 380), (200, 100, 360, 240), (10, 20, 270, 200)):
        fast, official = (
            np.asarray(resize(photograph, box, (224, 224)), dtype=float)
            for resize in (crop.fast_resized_crop, crop.resized_crop)
        )
        assert abs(fast - official).mean() < 2.5 and abs((fast - official).mean()) < 0.1, box
    grey = photograph.convert('L')
    assert crop.CropAndFlip(32, (0.2, 1), fast=True)(grey, np.random.default_rng(0)).mode == 'L'


def test_as_many_images_are_mirrored_as_asked():
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 8, dtype='uint8'), [32, 1]))
    for hflip in (0, 0.5, 1):
        augment, rng = crop.CropAndFlip(8, (0.2, 1), hflip), np.random.default_rng(0)
        falling = [
            np.diff(np.asarray(augment(ramp, rng), dtype=float)).mean() < 0 for _ in range(1000)
        ]
        assert abs(np.mean(falling) - hflip) <= (0.05 if hflip == 0.5 else 0)


def test_a_crop_takes_a_share_of_the_area_within_scale():
    for scale in [(0.5, 0.6), (1, 1)]:
        for seed in range(50):
            left, top, right, bottom = crop.random_box(
                64, 64, np.random.default_rng(seed), scale, ratio=(1, 1)
            )
            assert scale[0] - 0.03 <= (right - left) * (bottom - top) / 64**2 <= scale[1] + 0.03
    for scale in [(0, 1), (0.5, 0.2), (0.5, 1.5)]:
        with pytest.raises(InputError, match='--scale'):
            crop.CropAndFlip(8, scale)


def test_the_centre_crop_takes_the_middle():
    pixels = np.zeros([10, 30, 3], 'uint8')
    pixels[:, 10:20] = 255
    normalize = crop.Normalize((0.0,) * 3, (1.0,) * 3)
    assert (crop.CenterCrop(5, normalize)(Image.fromarray(pixels)) == 1).all()


def test_statistics_default_to_imagenets_and_are_checked():
    assert crop.statistics(3, None, None) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert crop.statistics(2, [0, 1], [1, 2]) == ((0, 1), (1, 2))
    for arguments, message in [
        ((4, None, None), '--in_chans 4 needs --mean and --std'),
        ((3, [0.5], None), '--mean has 1'),
        ((1, None, [0.0]), '--std 0.0'),
    ]:
        with pytest.raises(InputError, match=message):
            crop.statistics(*arguments)


# pictures that are much longer than wide

SHAPES = [  # (width, height) before and after
    ((1, 200), (16, 3200)),
    ((3, 401), (18, 2406)),
    ((333, 7), (12178, 256)),
    ((97, 13), (500, 67)),
    ((501, 3), (123, 18)),
    ((2, 2), (9, 7)),
]


@pytest.mark.parametrize('before, after', SHAPES)
@pytest.mark.parametrize('kind', ['L', 'RGB', 'float'])
def test_a_part_of_a_resized_picture_is_pillows_to_the_bit(before, after, kind):
    (width, height), (w, h) = before, after
    rng = np.random.default_rng(width)
    side = min(w, h)
    # black and white, so that bicubic overshoots
    pixels = rng.integers(0, 2, [height, width, 3], dtype='uint8') * 255
    pixels[:: max(1, height // 50)] //= 3
    picture = Image.fromarray(pixels).convert('RGB' if kind == 'float' else kind)
    picture = pixels / np.float32(255) if kind == 'float' else picture
    whole = np.asarray(crop.resized_crop(picture, (0, 0, width, height), (h, w)))
    for left, top in ((0, 0), (w - side, h - side), ((w - side) // 2, (h - side) // 3)):
        box = left, top, left + side, top + side
        part = resized_part(picture, (h, w), box)
        assert type(part) is type(picture)
        np.testing.assert_array_equal(part, whole[top : top + side, left : left + side])


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('kind', ['picture', 'array'])
def test_a_thin_picture_needs_no_more_than_its_crop(monkeypatch, turned, kind):
    """The result equals that of resizing the whole picture, bit for bit."""
    plain = transform.Evaluate(32, *crop.statistics(3, None, None))
    pixels = np.random.default_rng(1).integers(0, 256, [1500, 2, 3], dtype='uint8')
    pixels = pixels.transpose(1, 0, 2).copy() if turned else pixels
    picture = Image.fromarray(pixels) if kind == 'picture' else pixels / np.float32(255)
    whole = plain(picture)
    monkeypatch.setattr(transform, 'MOST_PIXELS', 2**16)
    monkeypatch.setattr(transform, 'resized_crop', None)  # it would resize the whole picture
    np.testing.assert_array_equal(plain(picture), whole)


def test_the_thinnest_picture_is_prepared_within_bounds():
    plain = transform.Evaluate(224, *crop.statistics(3, None, None))
    shade = (9, 90, 200)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = plain(Image.new('RGB', (1, 20000), shade))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000  # kilobytes; the whole resized picture would take 5 million
    expected = (np.array(shade) / 255 - crop.IMAGENET['mean']) / crop.IMAGENET['std']
    np.testing.assert_allclose(
        image, np.broadcast_to(expected[:, None, None], [3, 224, 224]), atol=1e-6
    )
