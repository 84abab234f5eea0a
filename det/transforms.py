"""Transforms of pictures with boxes and masks, equal to mmdetection's.

Each is called with a sample (see det.dataset) and a NumPy generator, and gives a changed sample, or
None if no box is left, so that another picture takes its place. ViTDet's large-scale jitter is
RandomResize, RandomCrop and Pad.

Names are PaddleDetection's where it has the transform; its Resize rounds the size differently, and
its RandomScaledCrop fails. Samples without boxes, for inference, pass through all of them.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from det.samples import Edges, Sample, crop, finished, resize
from util.errors import InputError


@dataclass
class Decode:
    """Change nothing: det.dataset decodes pictures. PaddleDetection's configs name it."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return sample


@dataclass
class Permute(Decode):
    """Change nothing: in what `build` makes, channels always come first."""


@dataclass
class Resize:
    """Resize within two edges, keeping the shape; target_size: [short, long] in pixels."""

    target_size: Sequence[int]
    keep_ratio: bool = True

    def __post_init__(self):
        self.target_size = _sides(self, 'target_size', self.target_size)
        if self.keep_ratio is not True:
            raise InputError('Resize: keep_ratio is always true here, as in the originals')

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return resize(sample, self.target_size)


@dataclass
class RandomResize:
    """Resize within target_size times a random ratio, keeping the shape.

    target_size: [height, width]; ratio_range: the ratio is uniform in it.
    """

    target_size: Sequence[int]
    ratio_range: Sequence[float] = (0.1, 2.0)

    def __post_init__(self):
        self.target_size = _sides(self, 'target_size', self.target_size)
        smallest, largest = _pair(self, 'ratio_range', self.ratio_range)
        if not 0 < smallest <= largest:
            raise InputError(
                f'RandomResize: ratio_range is two ratios above 0, the smaller one first, '
                f'not {self.ratio_range}'
            )

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        smallest, largest = self.ratio_range
        ratio = rng.random() * (largest - smallest) + smallest
        edges = [max(int(side * ratio), 1) for side in self.target_size]
        return resize(sample, edges)


@dataclass
class RandomCrop:
    """Cut out a random part of crop_size, or what there is of it; crop_size: [height, width].

    recompute_bbox: boxes become those around what is left of the masks, as in ViTDet; without
    masks it changes nothing, as in mmdetection.
    """

    crop_size: Sequence[int]
    recompute_bbox: bool = False

    def __post_init__(self):
        self.crop_size = _sides(self, 'crop_size', self.crop_size)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        height, width = sample['image'].shape[:2]
        new_height = min(height, self.crop_size[0])
        new_width = min(width, self.crop_size[1])
        top = int(rng.integers(0, height - new_height + 1))
        left = int(rng.integers(0, width - new_width + 1))
        return crop(sample, top, left, (new_height, new_width), self.recompute_bbox)


@dataclass
class RandomFlip:
    """Mirror the picture from left to right with the probability `prob`."""

    prob: float = 0.5

    def __post_init__(self):
        if not _is_number(self.prob) or not 0 <= self.prob <= 1:
            raise InputError(f'RandomFlip: prob is a number from 0 to 1, not {self.prob!r}')

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= self.prob:
            return sample
        changed = sample | {'image': sample['image'][:, ::-1]}
        if 'gt_bbox' in sample:
            width = sample['image'].shape[1]
            x1, y1, x2, y2 = sample['gt_bbox'].T
            mirrored = np.stack([width - x2, y1, width - x1, y2], axis=1)
            changed['gt_bbox'] = mirrored.astype('float32')
        if 'gt_segm' in sample:
            changed['gt_segm'] = sample['gt_segm'].flipped()
        return changed


@dataclass
class NormalizeImage:
    """Subtract a mean and divide by a standard deviation, of each channel, RGB.

    is_scale: mean and std are those of pixels from 0 to 1, otherwise from 0 to 255.
    """

    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    is_scale: bool = True

    def __post_init__(self):
        scale = 255 if self.is_scale else 1
        for name in ('mean', 'std'):
            numbers = getattr(self, name)
            if not _are_numbers(numbers, 3):
                raise InputError(f'NormalizeImage: {name} is three numbers, not {numbers!r}')
        self.offsets = np.array(self.mean, 'float64') * scale
        self.divisors = np.array(self.std, 'float64') * scale
        if (self.divisors <= 0).any():
            raise InputError(f'NormalizeImage: std is three numbers above 0, not {self.std!r}')

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        pixels = sample['image'].astype('float32')
        pixels -= self.offsets.astype('float32')
        pixels /= self.divisors.astype('float32')
        return sample | {'image': pixels}


@dataclass
class Pad:
    """Add pixels below and on the right, until `size` [height, width] or multiples of a number.

    fill: a number, one for each channel, or `mean`, which is 0 after NormalizeImage.
    """

    size: Sequence[int] | None = None
    size_divisor: int | None = None
    fill: float | Sequence[float] | str = 0

    def __post_init__(self):
        if (self.size is None) == (self.size_divisor is None):
            raise InputError('Pad: give either size, [height, width], or size_divisor')
        if self.size is not None:
            self.size = _sides(self, 'size', self.size)
        elif not _is_side(self.size_divisor):
            raise InputError(
                f'Pad: size_divisor is a whole number above 0, not {self.size_divisor!r}'
            )
        is_fill = self.fill == 'mean' or _is_number(self.fill) or _are_numbers(self.fill, 3)
        if not is_fill:
            raise InputError(f'Pad: fill is a number, three numbers or mean, not {self.fill!r}')

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = sample['image']
        height, width = image.shape[:2]
        new_height, new_width = self._padded_size(height, width)
        if new_height < height or new_width < width:
            raise InputError(
                f'Pad: size {list(self.size)} is less than a picture of {height} x {width} '
                f'(height x width); crop or resize it before'
            )

        padded = np.empty([new_height, new_width, 3], image.dtype)
        padded[:] = self._value(image.dtype)
        padded[:height, :width] = image
        changed = sample | {'image': padded}
        if 'gt_segm' in sample:
            changed['gt_segm'] = sample['gt_segm'].padded(new_height, new_width)
        return changed

    def _padded_size(self, height: int, width: int) -> Edges:
        if self.size is not None:
            return self.size
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def _value(self, dtype: np.dtype) -> float | Sequence[float]:
        if self.fill != 'mean':
            return self.fill
        if dtype == np.uint8:
            raise InputError('Pad: fill: mean must come after NormalizeImage, where the mean is 0')
        return 0


KNOWN = {
    kind.__name__: kind
    for kind in (Decode, Resize, RandomResize, RandomCrop, RandomFlip, NormalizeImage, Pad, Permute)
}


def build(settings: Sequence[dict]) -> 'Chain':
    """The transforms of a config, each a dict with one key: [{'RandomFlip': {'prob': 0.5}}, ...].

    InputError lists the known ones if a name or an argument is none of them.
    """
    if not isinstance(settings, (list, tuple)):
        raise InputError(f'sample_transforms is a list of transforms, not {settings!r}')
    return Chain([_built(entry) for entry in settings])


def _built(entry: dict):
    """One transform of a config."""
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise InputError(f'a transform is one name with its arguments, not {entry!r}')
    [(name, arguments)] = entry.items()
    arguments = arguments or {}
    kind = KNOWN.get(name)
    if kind is None:
        raise InputError(f'there is no transform {name!r}; there are {", ".join(KNOWN)}')
    if not isinstance(arguments, dict):
        raise InputError(f'{name}: arguments are `name: value`, not {arguments!r}')

    known = inspect.signature(kind).parameters
    unknown = [argument for argument in arguments if argument not in known]
    if unknown:
        raise InputError(
            f'{name} has no argument {unknown[0]!r}; it has {", ".join(known) or "none"}'
        )
    required = [key for key, value in known.items() if value.default is value.empty]
    missing = [argument for argument in required if argument not in arguments]
    if missing:
        raise InputError(f'{name} needs the argument {missing[0]}')
    return kind(**arguments)


class Chain:
    """Transforms one after the other, then the form that a batch has (`finished`)."""

    def __init__(self, transforms: list):
        self.transforms = transforms

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        size = sample['image'].shape[:2]
        starts = {
            'origin_shape': np.array(size, 'int64'),
            'im_shape': np.array(size, 'float32'),
            'scale_factor': np.ones(2, 'float32'),
        }
        sample = starts | sample
        for transform in self.transforms:
            sample = transform(sample, rng)
            if sample is None:
                return None
        return finished(sample)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_numbers(values, count: int) -> bool:
    is_list = isinstance(values, (list, tuple)) and len(values) == count
    return is_list and all(map(_is_number, values))


def _is_side(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _pair(transform, name: str, values) -> tuple:
    """Two numbers; InputError names the transform and the argument."""
    if not _are_numbers(values, 2):
        kind = type(transform).__name__
        raise InputError(f'{kind}: {name} is a list of two numbers, not {values!r}')
    return tuple(values)


def _sides(transform, name: str, values) -> Edges:
    """Two lengths in pixels; InputError names the transform and the argument."""
    if not _are_numbers(values, 2) or not all(map(_is_side, values)):
        kind = type(transform).__name__
        raise InputError(
            f'{kind}: {name} is a list of two whole numbers above 0, as [800, 1333], not {values!r}'
        )
    return tuple(values)
