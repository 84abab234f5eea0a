"""All weights of a segmentor from a file. (`models_zoo.start_from` begins training from one.)"""

import paddle

import models_zoo
from util import convert, log


def assign_from(model: paddle.nn.Layer, path: str, use_ema: bool = False) -> None:
    """Set every tensor of a segmentor.

    use_ema: take the average where the file holds one beside the plain weights. InputError where
    the file holds another kind of model, or tensors of another shape.
    """
    state, report = convert.read(path, use_ema=use_ema)
    models_zoo.assign(model, state['model'], path)
    log.info(str(report))
