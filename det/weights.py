"""All weights of a detector from a file. (`models_zoo.start_from` begins training from one.)"""

import paddle

import models_zoo
from util import convert, log


def assign_from(model: paddle.nn.Layer, path: str) -> dict:
    """Set every tensor of a detector, and return the file's other entries.

    InputError where the file holds another kind of model, or tensors of another shape.
    """
    state, report = convert.read(path)
    models_zoo.assign(model, state['model'], path)
    log.info(str(report))
    return {key: value for key, value in state.items() if key not in ('model', 'optimizer')}
