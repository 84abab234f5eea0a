"""All weights of a detector from a file. (`models_zoo.start_from` begins training from one.)"""

import paddle

import models_zoo
from det import checkpoints
from util import convert, log, weights
from util.assign import assign_weights


def assign_from(model: paddle.nn.Layer, path: str) -> dict:
    """Set every tensor of a detector, and return the file's other entries, such as `categories`.

    The file is one of det/train.py, or one that the converter knows. InputError where it holds
    another kind of model, or tensors of another shape.
    """
    state = weights.read(path)
    tensors = state.get('model', state)
    own = model.state_dict()
    if tensors.keys() == own.keys():
        assign_weights(model, tensors, path)
        entries = checkpoints.classes_beside(path) if tensors is state else state
    else:
        entries, report = convert.read(path)
        models_zoo.assign(model, entries['model'], path)
        log.info(str(report))
    return {key: value for key, value in entries.items() if key not in ('model', 'optimizer')}
