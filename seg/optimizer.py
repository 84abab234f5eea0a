"""The recipe's optimizer."""

import paddle
from paddleseg.cvlibs import manager

from util import optim
from util.errors import InputError


@manager.OPTIMIZERS.add_component
class LayerDecayAdamW:
    """AdamW whose rate falls by `layer_decay` from block to block towards the image, for a model with a `backbone`.

    As mmsegmentation's (1.2.2): vectors are not decayed, but the class token and all tables of positions are, unless
    `undecayed` names them. PaddleSeg's AdamWDL_CAE gives the class token the head's rate, and its AdamWDL needs what Paddle
    has on GPUs only. Rates and decays are the parameters' own, because PaddleSeg's mixed precision calls `minimize`, which
    knows no groups.
    """

    def __init__(
        self,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        beta1: float = 0.9,
        beta2: float = 0.999,
        undecayed: tuple[str, ...] = (),
    ):
        self.layer_decay, self.weight_decay, self.betas = (
            layer_decay,
            weight_decay,
            {'beta1': beta1, 'beta2': beta2},
        )
        self.undecayed = undecayed

    def __call__(
        self, model: paddle.nn.Layer, lr: paddle.optimizer.lr.LRScheduler
    ) -> paddle.optimizer.AdamW:
        if unknown := set(self.undecayed) - {name for name, _ in model.named_parameters()}:
            raise InputError(
                f'LayerDecayAdamW: undecayed names {min(unknown)}, which the model has not'
            )
        groups = optim.layer_decay_groups(
            model, self.weight_decay, self.layer_decay, self.undecayed
        )
        for group in groups:
            for parameter in group['params']:
                parameter.optimize_attr['learning_rate'] = group['learning_rate']
        decayed = {
            parameter.name
            for group in groups
            if group['weight_decay']
            for parameter in group['params']
        }
        return paddle.optimizer.AdamW(
            lr,
            **self.betas,
            epsilon=1e-8,
            parameters=[parameter for group in groups for parameter in group['params']],
            weight_decay=self.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
        )
