"""The recipe's optimizer."""

import paddle
from paddleseg.cvlibs import manager

from util import optim
from util.errors import InputError


@manager.OPTIMIZERS.add_component
class LayerDecayAdamW:
    """AdamW whose rate falls by `layer_decay` from block to block towards the image.

    The model needs a `backbone`. As in mmsegmentation (1.2.2), vectors are not decayed, but the
    class token and all position tables are, unless `undecayed` names them. PaddleSeg's AdamWDL_CAE
    gives the class token the head's rate, and its AdamWDL needs a kernel that Paddle has on GPUs
    only. Rates and decays are set on the parameters, because in mixed precision PaddleSeg's own
    loop calls `minimize`, which knows no groups.
    """

    def __init__(
        self,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        beta1: float = 0.9,
        beta2: float = 0.999,
        undecayed: tuple[str, ...] = (),
    ):
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.beta1 = beta1
        self.beta2 = beta2
        self.undecayed = undecayed

    def __call__(
        self, model: paddle.nn.Layer, lr: paddle.optimizer.lr.LRScheduler
    ) -> paddle.optimizer.AdamW:
        known = {name for name, _ in model.named_parameters()}
        unknown = set(self.undecayed) - known
        if unknown:
            raise InputError(
                f'LayerDecayAdamW: undecayed names {min(unknown)}, '
                'but the model has no such parameter'
            )

        groups = optim.layer_decay_groups(
            model, self.weight_decay, self.layer_decay, self.undecayed
        )
        parameters = []
        decayed = set()
        for group in groups:
            parameters.extend(group['params'])
            for parameter in group['params']:
                parameter.optimize_attr['learning_rate'] = group['learning_rate']
                if group['weight_decay']:
                    decayed.add(parameter.name)

        return paddle.optimizer.AdamW(
            lr,
            beta1=self.beta1,
            beta2=self.beta2,
            epsilon=1e-8,
            parameters=parameters,
            weight_decay=self.weight_decay,
            apply_decay_param_fun=decayed.__contains__,
        )
