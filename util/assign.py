"""Set a model's parameters or an optimizer's state from arrays: all of them, or none.

An array that is missing or does not fit is an InputError, which prints both shapes.
"""

from collections.abc import Callable

import numpy as np
import paddle

from util.errors import InputError

# What each optimizer keeps for a parameter
KINDS = {
    'AdamW': {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'},
    'Adam': {'moment1', 'moment2', 'beta1_pow_acc', 'beta2_pow_acc'},
    'Momentum': {'velocity'},
    'Lars': {'momentum'},
}


def assign_weights(model: paddle.nn.Layer, tensors: dict, path: str) -> None:
    """Set every parameter and buffer of a model.

    An InputError names `path`, the file of the arrays, and the first key that differs.
    """
    misfit = f'{path} does not fit the model:'
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in tensors:
            raise InputError(f'{misfit} {name} {list(tensor.shape)} is missing there')
        array = tensors[name]
        theirs = list(array.shape)
        ours = list(tensor.shape)
        if theirs != ours:
            raise InputError(f'{misfit} {name} is {theirs} there, {ours} here')
        is_floating = np.issubdtype(np.asarray(array).dtype, np.floating)
        if paddle.is_floating_point(tensor) and not is_floating:
            raise InputError(f'{misfit} {name} is {array.dtype} there, not a floating-point type')

    unknown = [name for name in tensors if name not in own]
    if unknown:
        raise InputError(
            f'{misfit} it has {unknown[0]}, which the model does not have '
            f'({len(unknown)} such keys)'
        )
    model.set_state_dict(tensors)


def optimizer_state(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer
) -> dict[str, dict]:
    """The optimizer's arrays by the model's names: {parameter: {'moment1': array, ...}}.

    Paddle's own names count every layer that the process has made, so another process would not
    find them.
    """
    structured_names = {}
    for name, parameter in model.named_parameters():
        structured_names[parameter.name] = name

    state = {name: {} for name in structured_names.values()}
    for key, tensor in optimizer.state_dict().items():
        if isinstance(tensor, paddle.Tensor):
            # a key is <parameter>_<kind>_0
            parameter = next(name for name in structured_names if key.startswith(name + '_'))
            kind = key.removeprefix(parameter + '_').removesuffix('_0')
            state[structured_names[parameter]][kind] = tensor.numpy()
    return state


def state_tensor(key: str, array: np.ndarray) -> paddle.Tensor:
    """An array of an optimizer's state where Paddle has it: the powers of betas are on the CPU."""
    place = paddle.CPUPlace() if key.endswith('_pow_acc_0') else None
    return paddle.to_tensor(array, place=place)


def assign_optimizer_state(
    model: paddle.nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    structured: dict,
    path: str,
    keeps_state_of: Callable[[paddle.Tensor], bool] = lambda parameter: True,
) -> None:
    """Set an optimizer's state from what `optimizer_state` returned.

    keeps_state_of: whether the optimizer is to have the state of a parameter. InputError where the
    state belongs to another optimizer or another model.
    """
    needed = KINDS.get(type(optimizer).__name__, set())
    state = {}
    for name, parameter in model.named_parameters():
        kinds = structured.get(name, {})
        # a frozen parameter may have none
        complete = isinstance(kinds, dict) and (set(kinds) == needed or parameter.stop_gradient)
        if not complete:
            missing = ' and '.join(sorted(needed))
            raise InputError(
                f'{path} has no {missing} for {name}: its optimizer state was saved by '
                'another program or another optimizer'
            )
        for kind, array in kinds.items():
            shape = list(array.shape)
            ours = list(parameter.shape)
            if shape not in (ours, [1]):
                raise InputError(f'{path}: {kind} of {name} is {shape} there, {ours} here')
            if keeps_state_of(parameter):
                key = f'{parameter.name}_{kind}_0'
                state[key] = state_tensor(key, array)
    optimizer.set_state_dict(state)
