"""The state of a training run in one file, `checkpoint-{epoch}.pd`.

Top-level keys as upstream: model, optimizer, epoch, scaler, args. `paddle.load` reads it. The optimizer's state is
kept by the names that the parameters have in the model: Paddle's own names count every layer made in the process.
"""
from pathlib import Path

import paddle

from util import dist, weights
from util.errors import InputError
from util.weights import paddle_file


def path_of(output_dir: str, epoch: int) -> Path:
    return Path(output_dir) / f'checkpoint-{epoch}.pd'


def save(output_dir: str, epoch: int, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, step,
         args: dict) -> None:
    """Write the state after `epoch` (counted from 0), on the main process. args is a plain dict, the program's flags;
    an empty output_dir saves nothing."""
    if not output_dir or not dist.is_main():
        return
    paddle_file.write(path_of(output_dir, epoch), {
        'model': {name: tensor.numpy() for name, tensor in model.state_dict().items()},
        'optimizer': optimizer_state(model, optimizer),
        'epoch': epoch,
        'scaler': step.state_dict(),
        'args': args,
    })


def resume(path: str, model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, step) -> int:
    """Load a checkpoint into model, optimizer and step; the epoch to go on with."""
    state = weights.read(path)
    for key in ('model', 'optimizer', 'epoch'):
        if key not in state:
            raise InputError(f'--resume {path}: this is no checkpoint of a training run, it has no {key!r}')
    load_model(model, state['model'], path)
    set_optimizer_state(model, optimizer, state['optimizer'])
    step.load_state_dict(state.get('scaler', {}))
    return state['epoch'] + 1


def load_model(model: paddle.nn.Layer, tensors: dict, path: str) -> None:
    """Set every parameter and buffer of `model`; InputError names the first key that differs."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise InputError(f'{path} does not fit the model: {name} {list(tensor.shape)} is missing there')
        if list(tensors[name].shape) != list(tensor.shape):
            raise InputError(f'{path} does not fit the model: {name} is {list(tensors[name].shape)} there, '
                             f'{list(tensor.shape)} here')
    extra = [name for name in tensors if name not in own]
    if extra:
        raise InputError(f'{path} does not fit the model: it has {extra[0]}, which the model has not '
                         f'({len(extra)} such keys)')
    model.set_state_dict(tensors)


def optimizer_state(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, dict]:
    """{parameter: {'moment1': array, ...}}, by the parameters' names in the model."""
    state = {key: value for key, value in optimizer.state_dict().items() if isinstance(value, paddle.Tensor)}
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    structured = {name: {} for name in names.values()}
    for key, tensor in state.items():
        parameter = next(name for name in names if key.startswith(name + '_'))
        structured[names[parameter]][key[len(parameter) + 1:].removesuffix('_0')] = tensor.numpy()
    return structured


def set_optimizer_state(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, structured: dict) -> None:
    """The inverse of optimizer_state."""
    names = {name: parameter.name for name, parameter in model.named_parameters()}
    optimizer.set_state_dict({f'{names[name]}_{kind}_0': paddle.to_tensor(array)
                              for name, kinds in structured.items() for kind, array in kinds.items()})
