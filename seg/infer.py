"""Inference over PaddleSeg's own: windows of one size, several scales as mmsegmentation averages them, exported models.

`slide_inference` and `multi_scale` have the signatures of paddleseg.core.infer's slide_inference and aug_inference, whose
place seg.repairs gives them. Shapes: K classes; crop_size and stride are (width, height).
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle.nn import functional as F
from paddleseg.core import infer
from paddleseg.deploy.infer import DeployConfig

from seg import transforms
from util import exported
from util.errors import InputError

_slide = infer.slide_inference
MOST_PIXELS = 2**27  # of an image at one scale: 1.5 GB


def slide_inference(
    model: Callable, im: paddle.Tensor, crop_size: tuple[int, int], stride: tuple[int, int]
) -> paddle.Tensor:
    """Mean scores [1, K, height, width] of windows over an image [1, C, height, width], in PaddleSeg's grid.

    An edge shorter than the window is filled up with 0, the mean colour, for that time: the model has a table of positions
    for one size. PaddleSeg hands it the smaller image, and keeps the sum in double precision, which stays in here.
    """
    height, width = im.shape[-2:]
    right, below = max(crop_size[0] - width, 0), max(crop_size[1] - height, 0)
    if right or below:
        im = F.pad(im, [0, right, 0, below])
    return _slide(model, im, crop_size, stride)[:, :, :height, :width].astype('float32')


class Source:
    """An image at any scale. Made from the original that ResizeKeepRatio has noted in `trans_info`, where what followed
    was a normalisation; otherwise from the prepared image."""

    def __init__(self, prepared: paddle.Tensor, trans_info: list):
        self.prepared = prepared[0].numpy().transpose(1, 2, 0)
        self.original = self.edges = None
        if len(trans_info) == 1 and len(trans_info[0]) == 4:
            original, (long, short) = np.asarray(trans_info[0][2]), trans_info[0][3]
            # a data loader makes a batch of it
            original = original[0] if original.ndim == 4 else original
            if self._normalise(original, int(long), int(short)):
                self.original, self.edges = original, (int(long), int(short))

    def _normalise(self, original: np.ndarray, long: int, short: int) -> bool:
        """Find each channel's normalisation, value * slope + offset, from its darkest and its brightest pixel; True if it
        explains the prepared image."""
        plain = transforms.resize(
            original, transforms.rescaled_size(*original.shape[:2], long, short)
        )
        if plain.shape != self.prepared.shape:
            return False
        plain, prepared = (
            array.reshape(-1, array.shape[-1]).astype('float64') for array in (plain, self.prepared)
        )
        channels = range(plain.shape[1])
        low, high = plain.argmin(axis=0), plain.argmax(axis=0)
        span = plain[high, channels] - plain[low, channels]
        self.slope = (prepared[high, channels] - prepared[low, channels]) / np.where(
            span > 0, span, 1
        )
        self.offset = prepared[low, channels] - self.slope * plain[low, channels]
        return np.abs(plain * self.slope + self.offset - prepared).max() < 1e-4

    def at(self, ratio: float, shortest: int) -> paddle.Tensor:
        """[1, C, height, width] at so many times the scale, its short edge at least `shortest` pixels.

        As mmsegmentation, with a shortest edge to keep (`min_size`) the short edge alone decides on the scale.
        """
        height, width = self.prepared.shape[:2]
        if self.original is None:
            factor = max(ratio, shortest / min(height, width))
            image = self._resized(
                self.prepared, (int(height * factor + 0.5), int(width * factor + 0.5))
            )
        else:
            height, width = self.original.shape[:2]
            long, short = (int(edge * ratio) for edge in self.edges)
            if shortest:
                short = max(short, shortest)
                long = short * max(height, width) / min(height, width)
            image = self._resized(
                self.original, transforms.rescaled_size(height, width, long, short)
            )
            image = image * self.slope + self.offset
        return paddle.to_tensor(image.astype('float32').transpose(2, 0, 1)[None])

    def _resized(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if size[0] * size[1] > MOST_PIXELS:
            (height, width), limit = image.shape[:2], MOST_PIXELS >> 20
            raise InputError(
                f'a picture of {width} x {height} pixels would become {size[1]} x {size[0]}, more than {limit} '
                'million, so that its short edge fills a window; crop it, or test at smaller scales'
            )
        return transforms.resize(image, size)


def multi_scale(
    model: Callable,
    im: paddle.Tensor,
    trans_info: list,
    scales: float | list[float] = 1.0,
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    is_slide: bool = False,
    stride: tuple[int, int] | None = None,
    crop_size: tuple[int, int] | None = None,
) -> tuple:
    """(labels int32 [1, 1, height, width], logarithm of the probabilities [1, K, height, width]) at the original size: the
    mean of the probabilities of every scale and flip."""
    source, shortest = Source(im, trans_info), max(crop_size) if is_slide else 0
    flips = infer.flip_combination(flip_horizontal, flip_vertical)
    ratios = np.atleast_1d(scales).tolist()
    total = 0
    for ratio in ratios:
        image = source.at(ratio, shortest)
        for flip in flips:
            scores = infer.inference(
                model,
                infer.tensor_flip(image, flip),
                is_slide=is_slide,
                stride=stride,
                crop_size=crop_size,
            )
            scores = (
                infer.reverse_transform(scores, trans_info, mode='bilinear')
                if trans_info
                else F.interpolate(scores, im.shape[-2:], mode='bilinear')
            )
            total += infer.tensor_flip(F.softmax(scores, axis=1), flip)
    total /= len(ratios) * len(flips)
    return total.argmax(axis=1, keepdim=True, dtype='int32'), total.log()


@paddle.no_grad()
def labels(
    model: Callable,
    image: np.ndarray,
    prepare: Callable,
    aug_eval: bool = False,
    scales: float | list[float] = 1.0,
    flip_horizontal: bool = False,
    flip_vertical: bool = False,
    is_slide: bool = False,
    stride: tuple[int, int] | None = None,
    crop_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Class numbers [height, width] of a picture [height, width, 3], BGR; `prepare` is a Compose of transforms."""
    data = prepare({'img': image.astype('float32')})
    tensor, slide = (
        paddle.to_tensor(data['img'][None]),
        {'is_slide': is_slide, 'stride': stride, 'crop_size': crop_size},
    )
    if aug_eval:
        pred = multi_scale(
            model, tensor, data['trans_info'], scales, flip_horizontal, flip_vertical, **slide
        )[0]
    else:
        pred = infer.inference(model, tensor, data['trans_info'], **slide)[0]
    return pred.numpy()[0, 0]


class Exported:
    """A model that seg/export.py has written, run by paddle.inference. Called as PaddleSeg calls a model: image tensor
    [N, C, height, width] -> [scores].

    `window` is the (width, height) that it takes, None where it takes any; `test_config` says how it was to be tested.
    """

    def __init__(self, folder: str | Path):
        file = Path(folder) / 'deploy.yaml' if Path(folder).is_dir() else Path(folder)
        try:
            config = DeployConfig(str(file))
            deploy = config.dic['Deploy']
            self.transforms, self.test_config = config.transforms, deploy.get('test_config', {})
            *_, height, width = deploy['input_shape']
            self.window = (width, height) if min(height or 0, width or 0) > 0 else None
        except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise InputError(
                f'{file} is no deploy.yaml of an exported model ({type(error).__name__}: {error})'
            ) from None
        for part in (config.model, config.params):
            if not os.path.isfile(part):
                raise InputError(f'{file} names {part}, which is not there')
        try:  # without oneDNN, whose bilinear interpolation fails on this model
            self.predictor = exported.predictor(config.model, config.params)
        except Exception as error:
            raise InputError(
                f'{config.model}: paddle.inference cannot load it ({exported.gist(error)})'
            ) from None
        if len(self.predictor.get_output_names()) == 1 and deploy.get('output_op') != 'none':
            raise InputError(
                f'{file}: this model gives the {deploy.get("output_op")} of one window and not its scores, '
                'which joining windows needs; export it with seg/export.py'
            )

    def outputs(self, x: np.ndarray) -> list[np.ndarray]:
        """All outputs for float32 [N, C, height, width]; the scores come last."""
        return exported.outputs(self.predictor, [x])

    def __call__(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        if self.window and tuple(x.shape[:1:-1]) != self.window:
            raise InputError(
                f'the exported model takes images of {self.window[0]} x {self.window[1]} pixels, not '
                f'{x.shape[3]} x {x.shape[2]}: slide it over larger ones (--is_slide --crop_size '
                f'{self.window[0]} {self.window[1]} --stride WIDTH HEIGHT)'
            )
        return [paddle.to_tensor(self.outputs(x.numpy())[-1])]
