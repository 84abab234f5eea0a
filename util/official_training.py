"""The training state in a checkpoint of the official PyTorch programs, turned into ours.

PyTorch numbers the parameters of an optimizer in the order of its groups, and keeps no names. The
official groups (facebookresearch/mae @ efb2a80) are those of util/optim.py: for pre-training,
parameters without weight decay, then those with it; for fine-tuning, a group for each layer and
decay, as they are met first; for probing, the head. Within a group the parameters are in the order
of the model, which is that of the weights in the file.
"""

import numpy as np
import paddle

from util import log
from util.convert import layout
from util.errors import InputError


def is_one(state: dict) -> bool:
    """Whether a file's contents are those of a training in PyTorch."""
    optimizer = state.get('optimizer')
    return isinstance(optimizer, dict) and 'param_groups' in optimizer


def translated(state: dict) -> dict:
    """The contents with our scaler's state, our flags and the position; the optimizer as it was.

    `optimizer_state` translates that, when the model and its optimizer are known.
    """
    flags = dict(state.get('args', {}))
    position = {'epoch': state['epoch'] + 1}
    batch = [flags.get(name) for name in ('batch_size', 'accum_iter', 'world_size')]
    if all(isinstance(factor, int) for factor in batch):
        position['effective_batch'] = int(np.prod(batch))

    # The official programs store the rate that they computed from --blr as --lr
    lr, blr = flags.get('lr'), flags.get('blr')
    if lr and blr and 'effective_batch' in position:
        computed = blr * position['effective_batch'] / 256
        if np.isclose(lr, computed):
            flags['lr'] = None
    own = {'args': flags, 'position': position, 'scaler': scaler_state(state.get('scaler'))}
    return state | own | {'ema': None}


def scaler_state(saved: dict | None) -> dict:
    """Paddle's state of a loss scaler, from PyTorch's; empty if it was off."""
    if not saved:
        return {}
    return {
        'scale': np.float32([saved['scale']]),
        'incr_ratio': saved['growth_factor'],
        'decr_ratio': saved['backoff_factor'],
        'incr_every_n_steps': saved['growth_interval'],
        'decr_every_n_nan_or_inf': 1,
        'incr_count': saved['_growth_tracker'],
        'decr_count': 0,
        'use_dynamic_loss_scaling': True,
    }


def optimizer_state(
    saved: dict,
    model: paddle.nn.Layer,
    optimizer: paddle.optimizer.Optimizer,
    order: list[str],
    path: str,
) -> dict[str, dict]:
    """PyTorch's state of AdamW or of the official LARS by the model's names, for util.assign.

    order: the names of the weights in the file. InputError if the groups are of other sizes, and
    a warning if they have another weight decay or other betas than here.
    """
    theirs = saved['param_groups']
    ours = _groups(optimizer)
    before, now = _sizes(theirs), _sizes(ours)
    if before != now:
        raise InputError(
            f'--resume {path}: the groups of its optimizer have {before} parameters, and {now} '
            'here; it is of another program or model. --finetune, or --start_from in '
            'pre-training, begins from its weights'
        )
    _warn_of_settings(theirs, ours, path)

    structured = {parameter.name: name for name, parameter in model.named_parameters()}
    place = {name: number for number, name in enumerate(order)}
    state = {}
    for own, group in zip(ours, theirs):
        names = [structured[parameter.name] for parameter in own['params']]
        names.sort(key=place.get)
        for name, number in zip(names, group['params']):
            state[name] = _kinds(name, saved['state'].get(number, {}), group)
    return state


def _sizes(groups: list[dict]) -> str:
    """The number of parameters in each group, for a message."""
    return ', '.join(str(len(group['params'])) for group in groups) or 'no'


def _groups(optimizer: paddle.optimizer.Optimizer) -> list[dict]:
    """The groups of an optimizer of util/optim.py; LARS has one."""
    groups = optimizer._param_groups
    if isinstance(groups[0], dict):
        return groups
    return [{'params': groups, 'weight_decay': optimizer.decay}]


def _kinds(name: str, saved: dict, group: dict) -> dict[str, np.ndarray]:
    """What Paddle's optimizer keeps for a parameter, from what PyTorch's did."""
    arrays = {kind: value for kind, value in saved.items() if kind != 'step'}
    for kind, array in arrays.items():
        # a Linear's weight is transposed, and so is what belongs to it
        arrays[kind] = layout.transposed({name: array})[name]
    if 'mu' in arrays:
        return {'momentum': arrays['mu']}
    if 'exp_avg' not in arrays or 'step' not in saved:
        return {}

    # Paddle keeps the powers of the betas that the next step needs
    step = int(saved['step']) + 1
    beta1, beta2 = group['betas']
    return {
        'moment1': arrays['exp_avg'],
        'moment2': arrays['exp_avg_sq'],
        'beta1_pow_acc': np.float32([beta1**step]),
        'beta2_pow_acc': np.float32([beta2**step]),
    }


def _warn_of_settings(theirs: list[dict], ours: list[dict], path: str) -> None:
    """Warn if the optimizer of a file has other settings than the one here."""
    changed = set()
    for saved, group in zip(theirs, ours):
        before, now = saved['weight_decay'], group['weight_decay']
        if before != now:
            changed.add(f'weight decay {before:g} there, {now:g} here')
        if 'betas' in saved:
            before, now = list(saved['betas']), [group['beta1'], group['beta2']]
            if before != now:
                changed.add(f'betas {before} there, {now} here')
    if changed:
        log.warn(f'--resume {path}: its optimizer had other settings: {"; ".join(sorted(changed))}')
