"""Inference where PaddleSeg's own does not suffice.

Sliding windows of one size, several scales as mmsegmentation averages them, and exported models.
seg.repairs puts `slide_inference` and `multi_scale` in the place of paddleseg.core.infer's
slide_inference and aug_inference, whose signatures they have.
Shapes: K classes; crop_size and stride are (width, height).
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import paddle
import yaml
from paddle.nn import functional as F
from paddleseg.core import infer
from paddleseg.deploy.infer import DeployConfig

from seg import transforms
from util import exported, onnx_file
from util.errors import InputError

_slide = infer.slide_inference


def slide_inference(
    model: Callable, im: paddle.Tensor, crop_size: tuple[int, int], stride: tuple[int, int]
) -> paddle.Tensor:
    """Mean scores [1, K, height, width] of windows over an image [1, C, height, width].

    The grid of windows is PaddleSeg's. A window that the image does not fill is padded with 0, the
    mean colour, because the model has a table of positions for one size; PaddleSeg gives the model
    a smaller window. The sum is in double precision, the result in single precision.
    """
    height, width = im.shape[-2:]
    right = max(crop_size[0] - width, 0)
    below = max(crop_size[1] - height, 0)

    # The windows are padded, not the image: the sum of a thin picture would be as wide as a window
    def of_window(window: paddle.Tensor) -> list[paddle.Tensor]:
        return model(F.pad(window, [0, right, 0, below]))

    is_filled = not right and not below
    scores = _slide(model if is_filled else of_window, im, crop_size, stride)
    return scores.astype('float32')


class Source:
    """An image at any scale.

    It is made from the original that ResizeKeepRatio has put into `trans_info`, if the transforms
    after that were a normalisation; otherwise from the prepared image.
    """

    def __init__(self, prepared: paddle.Tensor, trans_info: list):
        self.prepared = prepared[0].numpy().transpose(1, 2, 0)  # [height, width, C]
        self.original = None
        self.edges = None
        if len(trans_info) != 1 or len(trans_info[0]) != 4:
            return
        _, _, noted, edges = trans_info[0]
        original = np.asarray(noted)
        if original.ndim == 4:
            original = original[0]  # a data loader made a batch of it
        long, short = (int(edge) for edge in edges)
        if self._normalise(original, long, short):
            self.original = original
            self.edges = (long, short)

    def _normalise(self, original: np.ndarray, long: int, short: int) -> bool:
        """Find the normalisation of each channel, value * slope + offset.

        It follows from the darkest and the brightest pixel. True if it explains all pixels of the
        prepared image.
        """
        height, width = original.shape[:2]
        size = transforms.rescaled_size(height, width, long, short)
        plain = transforms.resize(original, size)
        if plain.shape != self.prepared.shape:
            return False
        num_channels = plain.shape[2]
        plain = plain.reshape(-1, num_channels).astype('float64')  # [pixels, C]
        prepared = self.prepared.reshape(-1, num_channels).astype('float64')

        channels = range(num_channels)
        darkest = (plain.argmin(axis=0), channels)
        brightest = (plain.argmax(axis=0), channels)
        span = plain[brightest] - plain[darkest]
        prepared_span = prepared[brightest] - prepared[darkest]
        self.slope = prepared_span / np.where(span > 0, span, 1)
        self.offset = prepared[darkest] - self.slope * plain[darkest]

        errors = np.abs(plain * self.slope + self.offset - prepared)
        return errors.max() < 1e-4

    def at(self, ratio: float, shortest: int) -> paddle.Tensor:
        """The image [1, C, height, width] at `ratio` times its scale.

        Its short edge has at least `shortest` pixels. If `shortest` is not 0, the short edge alone
        decides on the scale, as in mmsegmentation with `min_size`.
        """
        if self.original is None:
            height, width = self.prepared.shape[:2]
            factor = max(ratio, shortest / min(height, width))
            size = int(height * factor + 0.5), int(width * factor + 0.5)
            image = self._resized(self.prepared, size)
        else:
            height, width = self.original.shape[:2]
            long, short = (int(edge * ratio) for edge in self.edges)
            if shortest:
                short = max(short, shortest)
                long = short * max(height, width) / min(height, width)
            size = transforms.rescaled_size(height, width, long, short)
            image = self._resized(self.original, size)
            image = image * self.slope + self.offset
        channels_first = image.astype('float32').transpose(2, 0, 1)
        return paddle.to_tensor(channels_first[None])

    def _resized(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        transforms.check_enlarged(
            image.shape[:2],
            size,
            'its short edge fills a window; crop it, or test at smaller scales',
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
    """Labels and logarithms of the probabilities, averaged over all scales and flips.

    Both are at the original size: int32 [1, 1, height, width] and [1, K, height, width].
    """
    source = Source(im, trans_info)
    shortest = max(crop_size) if is_slide else 0
    flips = infer.flip_combination(flip_horizontal, flip_vertical)
    ratios = np.atleast_1d(scales).tolist()

    total = 0
    for ratio in ratios:
        image = source.at(ratio, shortest)
        for flip in flips:
            flipped = infer.tensor_flip(image, flip)
            scores = infer.inference(
                model, flipped, is_slide=is_slide, stride=stride, crop_size=crop_size
            )
            if trans_info:
                scores = infer.reverse_transform(scores, trans_info, mode='bilinear')
            else:
                scores = F.interpolate(scores, im.shape[-2:], mode='bilinear')
            probabilities = F.softmax(scores, axis=1)
            total += infer.tensor_flip(probabilities, flip)
    total /= len(ratios) * len(flips)

    labels_of_pixels = total.argmax(axis=1, keepdim=True, dtype='int32')
    return labels_of_pixels, total.log()


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
    """Class numbers [height, width] of a picture [height, width, 3], BGR.

    prepare: a Compose of transforms. The other arguments are those of test_config.
    """
    data = prepare({'img': image.astype('float32')})
    tensor = paddle.to_tensor(data['img'][None])  # [1, C, height, width]
    windows = {'is_slide': is_slide, 'stride': stride, 'crop_size': crop_size}
    if aug_eval:
        pred, _ = multi_scale(
            model,
            tensor,
            data['trans_info'],
            scales=scales,
            flip_horizontal=flip_horizontal,
            flip_vertical=flip_vertical,
            **windows,
        )
    else:
        pred, _ = infer.inference(model, tensor, data['trans_info'], **windows)
    return pred.numpy()[0, 0]


class Exported:
    """A model that seg/export.py has written, run by paddle.inference, or by ONNX Runtime.

    engine: `inference` or `onnx`.

    It is called as PaddleSeg calls a model: [scores] of images [N, C, height, width]. `window` is
    the (width, height) that it takes, None where it takes any size. `transforms` and `test_config`
    are those of the config it was exported with.
    """

    def __init__(self, folder: str | Path, engine: str = 'inference'):
        file = Path(folder)
        if file.is_dir():
            file = file / 'deploy.yaml'
        try:
            config = DeployConfig(str(file))
            deploy = config.dic['Deploy']
            self.transforms = config.transforms
            self.test_config = deploy.get('test_config', {})
            *_, height, width = deploy['input_shape']
            is_fixed = min(height or 0, width or 0) > 0
            self.window = (width, height) if is_fixed else None
        except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise InputError(
                f'{file} is no deploy.yaml of an exported model ({type(error).__name__}: {error})'
            ) from None

        if engine == 'onnx':
            self.run = self._onnx(file.parent)
        else:
            self.run = self._inference(file, config, deploy.get('output_op'))

    def _inference(self, file: Path, config: DeployConfig, output_op: str | None) -> Callable:
        """The model in paddle.inference, as a function: list of arrays -> list of arrays.

        file: deploy.yaml.
        """
        for part in (config.model, config.params):
            if not os.path.isfile(part):
                raise InputError(f'{file} names {part}, which is not there')
        try:  # without oneDNN, whose bilinear interpolation fails on this model
            predictor = exported.predictor(config.model, config.params)
        except Exception as error:
            raise InputError(
                f'{config.model}: paddle.inference cannot load it ({exported.gist(error)})'
            ) from None
        if len(predictor.get_output_names()) == 1 and output_op != 'none':
            raise InputError(
                f'{file}: this model gives the {output_op} of one window but not its scores, '
                'which are needed to join windows; export it with seg/export.py'
            )
        return partial(exported.outputs, predictor)

    def _onnx(self, folder: Path) -> Callable:
        """The model in ONNX Runtime, as a function: list of arrays -> list of arrays."""
        file = folder / exported.ONNX
        if not file.is_file():
            raise InputError(f'{folder} has no {exported.ONNX}; export the model with --onnx')
        onnx_file.runtime()
        try:
            return onnx_file.session(file, ['x'])
        except Exception as error:
            raise InputError(
                f'{file}: ONNX Runtime cannot load it ({exported.gist(error)})'
            ) from None

    def outputs(self, x: np.ndarray) -> list[np.ndarray]:
        """All outputs for images, float32 [N, C, height, width]; the scores come last."""
        return self.run([x])

    def __call__(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        height, width = x.shape[2:]
        if self.window and (width, height) != self.window:
            window_width, window_height = self.window
            raise InputError(
                f'the exported model takes images of {window_width} x {window_height} pixels, '
                f'not {width} x {height}: slide it over larger ones '
                f'(--is_slide --crop_size {window_width} {window_height} --stride WIDTH HEIGHT)'
            )
        scores = self.outputs(x.numpy())[-1]
        return [paddle.to_tensor(scores)]
