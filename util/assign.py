"""Arrays into a model's parameters and an optimizer's state: all of them, or an InputError that prints both shapes."""

import numpy as np
import paddle

from util.errors import InputError

# What each optimizer keeps for a parameter
KINDS = {
    'AdamW': {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'},
    'Lars': {'momentum'},
}


def assign_weights(model: paddle.nn.Layer, tensors: dict, path: str) -> None:
    """Set every parameter and buffer of a model.

    InputError names `path`, where the arrays are from, and the first key that differs.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise InputError(
                f'{path} does not fit the model: {name} {list(tensor.shape)} is missing there'
            )
        if list(tensors[name].shape) != list(tensor.shape):
            raise InputError(
                f'{path} does not fit the model: {name} is {list(tensors[name].shape)} there, '
                f'{list(tensor.shape)} here'
            )
        if not np.issubdtype(np.asarray(tensors[name]).dtype, np.floating):
            raise InputError(
                f'{path} does not fit the model: {name} is {tensors[name].dtype} there, and no floating number'
            )
    unknown = [name for name in tensors if name not in own]
    if unknown:
        raise InputError(
            f'{path} does not fit the model: it has {unknown[0]}, which the model has not '
            f'({len(unknown)} such keys)'
        )
    model.set_state_dict(tensors)


def optimizer_state(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> dict[str, dict]:
    """The optimizer's arrays, {parameter: {'moment1': array, ...}}, by the parameters' names in the model.

    Paddle's own names count every layer that the process has made, and mean nothing in another process.
    """
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    structured = {name: {} for name in names.values()}
    for key, tensor in optimizer.state_dict().items():
        if isinstance(tensor, paddle.Tensor):
            parameter = next(name for name in names if key.startswith(name + '_'))
            kind = key[len(parameter) + 1 :].removesuffix('_0')
            structured[names[parameter]][kind] = tensor.numpy()
    return structured


def assign_optimizer_state(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, structured: dict, path: str
) -> None:
    """Set an optimizer's state from what `optimizer_state` gave.

    InputError where the state is another optimizer's or another model's.
    """
    needed = KINDS.get(type(optimizer).__name__, set())
    for name, parameter in model.named_parameters():
        kinds = structured.get(name, {})
        if not isinstance(kinds, dict) or (set(kinds) != needed and not parameter.stop_gradient):
            raise InputError(
                f'{path} has no {" and ".join(sorted(needed))} for {name}: its optimizer state is that of '
                'another program or optimizer'
            )
        for kind, array in kinds.items():
            if list(array.shape) not in (list(parameter.shape), [1]):
                raise InputError(
                    f'{path}: {kind} of {name} is {list(array.shape)} there, {list(parameter.shape)} here'
                )
    names = {name: parameter.name for name, parameter in model.named_parameters()}
    state = {
        f'{names[name]}_{kind}_0': paddle.to_tensor(array)
        for name, kinds in structured.items()
        if name in names
        for kind, array in kinds.items()
    }
    optimizer.set_state_dict(state)
