"""Compute the workloads on one device, in one precision, in a process of its own.

    python -m gpu.compute '{"settings": ..., "precision": ..., "cases": [...], "out": FOLDER}'

Each case becomes FOLDER/NUMBER.npz with output, gradient and losses, or NUMBER.txt with the error.
The precision `reference` is float32 on the CPU.
"""

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import paddle

import main_pretrain
from engine_loop import Run
from gpu import precision, workloads
from gpu.report import Settings, one_line
from util import program

STEPS = 3
# A scale of the losses that overflows nowhere: the first step must not be skipped
SCALE = 1024.0


class OneBatch:
    """Data of engine_loop.Run: a batch, once an epoch."""

    accum_iter = 1

    def __init__(self, batch, images: int):
        self.batch = batch
        self.samples = range(images)
        self.global_batch = self.effective_batch = images

    def __len__(self):
        return 1

    def accumulate(self, accum_iter):
        """Nothing to accumulate."""

    def batches(self, epoch, first):
        """The batches of an epoch."""
        return [self.batch]


def flags(amp: str, model: str):
    """The flags that Run reads."""
    words = '--data_path= --output_dir= --log_dir= --lr 1e-4 --warmup_epochs 0 --print_freq 1000000'
    return main_pretrain.PARSER.parse_args(
        [*words.split(), '--epochs', str(STEPS), '--amp', amp, '--model', model]
    )


def build(kind: workloads.Kind, device: str) -> workloads.Workload:
    """The workload on the device, with the weights that the CPU's random numbers give."""
    paddle.set_device('cpu')
    paddle.seed(0)
    made = kind.make(kind)
    if device != 'cpu':
        state = {name: tensor.numpy() for name, tensor in made.model.state_dict().items()}
        paddle.set_device('gpu:0')
        made = kind.make(kind)
        made.model.set_state_dict(state)
    for part in made.model.sublayers():
        if isinstance(part, paddle.nn.Dropout | paddle.nn.Dropout2D):
            part.p = 0.0
        elif hasattr(part, 'rate'):  # layer.DropPath
            part.rate = 0.0
    return made


def results(kind: workloads.Kind, device: str, amp: str) -> dict[str, np.ndarray]:
    """Output before training, gradient of the first step, losses of all."""
    made = build(kind, device)
    data = OneBatch(made.batch, kind.images)
    run = Run(made.model, made.optimizer, data, flags(amp, kind.model), clip_grad=made.clip_grad)
    if run.step.scaler.is_enable():
        run.step.scaler.set_init_loss_scaling(SCALE)

    made.model.eval()
    with paddle.no_grad(), run.step.autocast():
        output = made.output().astype('float32').numpy()

    losses, gradient = [], None
    for _ in run.epochs():
        losses.append(made.epoch(run)['loss'])
        if gradient is None:
            gradient = first_moments(made.optimizer)
    return {'output': output, 'gradient': gradient, 'losses': np.array(losses)}


def first_moments(optimizer) -> np.ndarray:
    """The first moments or velocities, one after the other: a multiple of the gradient."""
    parts = []
    for name, value in optimizer.state_dict().items():
        is_first = any(word in name for word in ('moment1', 'velocity', '_momentum_'))
        if is_first and value is not None:
            parts.append(value.astype('float32').numpy().ravel())
    return np.concatenate(parts)


def main(asked: dict) -> None:
    settings = Settings(**asked['settings'])
    name = asked['precision']
    out = Path(asked['out'])
    out.mkdir(parents=True, exist_ok=True)
    device = 'cpu' if name == 'reference' else settings.flag
    program.start(device, seed=0)

    rounding = contextlib.nullcontext()
    amp = 'off'
    if name != 'reference':
        chosen = precision.PRECISIONS[name]
        amp = chosen.amp
        if reason := precision.missing(name, device):
            (out / 'skipped.txt').write_text(reason)
            return
        if device == 'cpu':
            amp = 'off'
            rounding = precision.stand_in(chosen.bits)

    kinds = workloads.TINY if settings.tiny else workloads.FULL
    with rounding:
        for number, case in enumerate(asked['cases']):
            try:
                if name != 'reference':
                    settings.spend_memory()
                np.savez(out / f'{number}.npz', **results(kinds[case], device, amp))
            except Exception as error:
                (out / f'{number}.txt').write_text(one_line(error))


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
