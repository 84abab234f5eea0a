"""The smallest training: a linear layer, a few batches, the flags that engine_loop.Run reads."""

from argparse import Namespace

import numpy as np
import paddle

from util import amp, device


class Batches:
    """The batches of an epoch, of any kind, with made-up file names."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def files(self, iteration):
        return [f'batch-{iteration}.png']


class Data:
    """The data that Run needs: the same list of batches in each epoch."""

    def __init__(self, batches, global_batch=1):
        self.all, self.global_batch, self.accum_iter = batches, global_batch, 1
        self.samples = range(len(batches) * global_batch)

    def __len__(self):
        return len(self.all)

    @property
    def effective_batch(self):
        return self.global_batch * self.accum_iter

    def accumulate(self, accum_iter):
        self.accum_iter = accum_iter

    def batches(self, epoch, first):
        return Batches(self.all[first:])


def flags(folder='', **asked):
    """The flags of a training that writes to this folder, at the rate .1 without warm-up."""
    return Namespace(
        **{
            'model': 'toy',
            'resume': '',
            'start_epoch': 0,
            'seed': 0,
            'output_dir': str(folder) if folder else '',
            'log_dir': '',
            'epochs': 1,
            'lr': 0.1,
            'blr': None,
            'min_lr': 0.0,
            'warmup_epochs': 0,
            'accum_iter': 1,
            'shard_optimizer': False,
            'amp': None,
            'save_every': 1,
            'save_every_iters': 0,
            'keep': 0,
            'print_freq': 100,
            'profile': '',
        }
        | asked
    )


def gpu_step(monkeypatch, *args, **kwargs):
    """amp.Step(...) with the scaler that it has on a GPU, Paddle's own, but computed on the CPU."""
    tracer = Namespace(_expected_place=Namespace(is_gpu_place=lambda: True))
    with monkeypatch.context() as patch:
        patch.setattr('paddle.amp.grad_scaler._dygraph_tracer', lambda: tracer)
        patch.setattr(paddle.device, 'get_device', lambda: 'gpu:0')
        patch.setattr(device, 'supports', lambda dtype: True)
        step = amp.Step(*args, **kwargs)
    assert type(step.scaler) is paddle.amp.GradScaler and step.scaler.is_enable()
    return step


FACTORS = [1.0, float('inf'), 1.0, float('nan'), float('-inf'), 1.0]  # of a gradient, step by step


def overflow(monkeypatch, model, optimizer, loss_of, parameter, **kwargs):
    """Assert that six steps, as in float16 on a GPU, leave out those with a gradient of no number.

    loss_of() is finite; the gradient of `parameter` is multiplied by FACTORS. kwargs: of amp.Step.
    """
    step = gpu_step(monkeypatch, optimizer, **kwargs)

    def state():
        tensors = [*model.state_dict().values(), *optimizer.state_dict().values()]
        arrays = [tensor.numpy() for tensor in tensors if isinstance(tensor, paddle.Tensor)]
        return np.concatenate([array.ravel() for array in arrays])

    optimizer.set_lr(0.1)
    before, moved, skipped = state(), [], 0
    for iteration, factor in enumerate(FACTORS):
        hook = parameter.register_hook(lambda gradient, factor=factor: gradient * factor)
        with step.autocast():
            loss = loss_of()
        step.backward(loss, iteration)
        hook.remove()
        after = state()
        moved.append(len(after) != len(before) or bool((after != before).any()))
        assert np.isfinite(after).all()
        before, skipped = after, skipped + float(step.count()['skipped_steps'])
    assert moved == [np.isfinite(factor) for factor in FACTORS]
    assert skipped == 3 and step.state_dict()['scale'] == 2.0**13


def layer():
    """Two weights and a bias that are always the same."""
    paddle.seed(1)
    return paddle.nn.Linear(2, 1)


def adamw(model):
    return paddle.optimizer.AdamW(0.0, parameters=model.parameters())


def sgd(model):
    return paddle.optimizer.SGD(0.0, parameters=model.parameters())
