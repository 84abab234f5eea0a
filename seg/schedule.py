"""Learning rates that PaddleSeg's configs cannot describe."""

import paddle
from paddle.optimizer.lr import LRScheduler


class WarmupOverPolynomialDecay(LRScheduler):
    """The polynomial decay of mmcv 1, with a linear warm-up laid over it.

    The decay counts from iteration 0, and the warm-up multiplies it: after `warmup_steps` the rate
    is already below `learning_rate`. mmsegmentation 0.x and UM-MAE train so. In mmsegmentation 1.x,
    as with PaddleSeg's PolynomialDecay and warmup_iters, the decay begins where the warm-up ends.

    decay_steps: iterations of the whole training, which seg/train.py fills in. warmup_ratio: the
    first rate over the decay's.
    Source: lr_updater.py of mmcv 1.3.
    """

    def __init__(
        self,
        learning_rate: float,
        decay_steps: int,
        warmup_steps: int,
        warmup_ratio: float = 1e-6,
        power: float = 1.0,
        end_lr: float = 0.0,
    ):
        self.decay_steps, self.power, self.end_lr = decay_steps, power, end_lr
        self.warmup_steps, self.warmup_ratio = warmup_steps, warmup_ratio
        super().__init__(learning_rate)

    def get_lr(self) -> float:
        """The rate of iteration `last_epoch`, from 0."""
        done = min(self.last_epoch / self.decay_steps, 1.0)
        rate = self.end_lr + (self.base_lr - self.end_lr) * (1 - done) ** self.power
        if self.last_epoch < self.warmup_steps:
            to_come = 1 - self.last_epoch / self.warmup_steps
            rate *= 1 - to_come * (1 - self.warmup_ratio)
        return rate


# PaddleSeg's builder looks for a config's lr_scheduler.type there, and nowhere else
paddle.optimizer.lr.WarmupOverPolynomialDecay = WarmupOverPolynomialDecay
