"""Checks that prepared pictures are of one size, which batches need, and fit into the model.

Sizes are (width, height) in pixels, as crop_size and target_size are.
"""

import paddle
from paddle.nn import Layer

from seg import config as config_file
from seg import dataset
from seg.model import UPerNetMAE
from util.errors import InputError

# Transforms that change no size
SAME_SIZE = (
    'Normalize',
    'PhotoMetricDistortion',
    'RandomBlur',
    'RandomDistort',
    'RandomHorizontalFlip',
    'RandomNoise',
    'RandomVerticalFlip',
)


def window_of(network: Layer) -> tuple[int, int] | None:
    """The one size that a model takes; None where it takes any."""
    if not isinstance(network, UPerNetMAE) or not hasattr(network.backbone, 'patch_embed'):
        return None
    height, width = network.backbone.patch_embed.img_size
    return width, height


def check_transforms(transforms: list[dict], window: tuple[int, int] | None) -> None:
    """InputError where transforms make pictures of several sizes, or not of the window's."""
    crop = None  # the largest size so far, None where it is not known
    made = None  # the size of every picture so far, None where they may differ
    for item in transforms or []:
        kind = item['type']
        arguments = config_file.settings(item)
        if kind in SAME_SIZE:
            continue
        if kind == 'Padding':
            made = tuple(arguments['target_size'])
            if crop and (made[0] < crop[0] or made[1] < crop[1]):
                raise InputError(
                    f'train_dataset.transforms: Padding, target_size {list(made)}, is smaller '
                    f'than what comes before it, crop_size {list(crop)}'
                )
            crop = made
        elif kind in ('RandomCropWithCategoryLimit', 'RandomPaddingCrop'):
            crop = tuple(arguments['crop_size'])
            made = crop if kind == 'RandomPaddingCrop' else None
        else:
            crop = made = None

    if window and made and made != window:
        raise InputError(
            f'train_dataset.transforms make {_shown(made)} pixels of every picture, but the '
            f'model takes {_shown(window)}: give Padding the target_size {list(window)}, or the '
            f'backbone another img_size'
        )


class Fits:
    """The last transform of an evaluation without sliding windows: it refuses other sizes."""

    def __init__(self, window: tuple[int, int]):
        self.window = window

    def __call__(self, data: dict) -> dict:
        size = data['img'].shape[1::-1]
        if size != self.window:
            raise InputError(
                f'the transforms make {_shown(size)} pixels of it, but the model takes '
                f'{_shown(self.window)}: slide a window over it (test_config.is_slide, crop_size '
                f'and stride), or end val_dataset.transforms with Padding or Resize'
            )
        return data


def check_evaluation(samples: paddle.io.Dataset, network: Layer, settings: dict) -> None:
    """Add a last transform to `samples` that refuses pictures of a size the model cannot take."""
    window = window_of(network)
    tested_whole = not settings.get('is_slide') and not settings.get('aug_eval')
    transforms = getattr(getattr(samples, 'transforms', None), 'transforms', None)
    if window and tested_whole and isinstance(transforms, list):
        transforms.append(Fits(window))


class Sizes:
    """The size that all training pictures of a run must have once they are prepared.

    It is the model's window, or, where the model takes any size, that of the first picture that a
    process prepares; batches of one picture may then differ.
    """

    def __init__(self, window: tuple[int, int] | None, batch_size: int):
        self.size = window
        self.free = window is None and batch_size == 1
        self.why = 'the model takes' if window else ''

    def check(self, samples: paddle.io.Dataset, index: int, sample: dict) -> None:
        """InputError where a prepared picture, `img` [C, height, width], has another size."""
        size = sample['img'].shape[:0:-1]
        name = dataset.name_of(samples, index)
        if self.size is None:
            self.size, self.why = size, f'{name} becomes'
        if size == self.size or self.free:
            return

        advice = 'end them with Padding, target_size'
        if any(edge > most for edge, most in zip(size, self.size)):
            advice = 'end them with RandomCropWithCategoryLimit and Padding, both for'
        raise InputError(
            f'{name} {_before(samples, index)}becomes {_shown(size)} by train_dataset.transforms, '
            f'but {self.why} {_shown(self.size)}: {advice} {list(self.size)}'
        )


def refused(samples: paddle.io.Dataset, index: int, error: ValueError) -> InputError:
    """The error of a transform that does not take a picture, with the picture and the transform."""
    compose = getattr(samples, 'transforms', None)
    transforms = getattr(compose, 'transforms', [])
    where = ''
    level = error.__traceback__
    while level is not None:
        owner = level.tb_frame.f_locals.get('self')
        if any(owner is transform for transform in transforms):
            where = f'{type(owner).__name__}: '
        level = level.tb_next
    name = dataset.name_of(samples, index)
    return InputError(f'{name} {_before(samples, index)}cannot be prepared ({where}{error})')


def _before(samples: paddle.io.Dataset, index: int) -> str:
    """The size of a picture in its file, as a part of a sentence; '' where there is no file."""
    if not hasattr(samples, 'file_list'):
        return ''
    path = samples.file_list[index][0]
    height, width = dataset.read_image(path).shape[:2]
    return f'({width} x {height} pixels) '


def _shown(size: tuple[int, int]) -> str:
    return f'{size[0]} x {size[1]}'
