"""The optimizer of a config's OptimizerBuilder, in PaddleDetection's form."""

import re

import paddle

from util import optim
from util.errors import InputError

DEFAULTS = {
    'type': 'AdamW',
    'weight_decay': 0.05,
    'beta2': 0.999,
    'layer_decay': 1.0,
    'undecayed': [],
}


def groups(
    model: paddle.nn.Layer, weight_decay: float, layer_decay: float, undecayed: list[str]
) -> list[dict]:
    """Groups of a detector's parameters by layer and by decay.

    undecayed: patterns; a parameter in whose name one is found has no weight decay. The rate of
    layer i of the backbone is multiplied by layer_decay^(n - i), as in util.optim.
    """
    last = len(model.backbone.blocks) + 1
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.stop_gradient:
            continue
        is_undecayed = any(re.search(pattern, name) for pattern in undecayed)
        decay = 0.0 if is_undecayed else weight_decay
        layer = last
        if name.startswith('backbone.'):
            layer = optim.layer_of(name.removeprefix('backbone.'), last)
        group = found.setdefault(
            (layer, decay),
            {
                'params': [],
                'weight_decay': decay,
                'learning_rate': layer_decay ** (last - layer),
            },
        )
        group['params'].append(parameter)
    return list(found.values())


def build(section: dict, model: paddle.nn.Layer) -> tuple[paddle.optimizer.AdamW, float | None]:
    """The optimizer of a model, and the largest norm of the gradients, None for no limit.

    section: {optimizer: {type, weight_decay, ...}, clip_grad_by_norm}. InputError for what AdamW
    over these groups does not have.
    """
    given = section.get('optimizer') or {}
    if not isinstance(given, dict):
        raise InputError(f'OptimizerBuilder.optimizer holds keys and values, not {given!r}')
    settings = DEFAULTS | given
    unknown = settings.keys() - DEFAULTS.keys()
    if unknown:
        raise InputError(
            f'OptimizerBuilder.optimizer has no key {min(unknown)}; it has {", ".join(DEFAULTS)}'
        )
    if settings['type'] != 'AdamW':
        raise InputError(f'OptimizerBuilder.optimizer.type is AdamW, not {settings["type"]!r}')

    grouped = groups(
        model, settings['weight_decay'], settings['layer_decay'], settings['undecayed']
    )
    optimizer = optim.adamw(grouped, settings['beta2'])
    return optimizer, section.get('clip_grad_by_norm')
