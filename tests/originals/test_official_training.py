"""A training of the official programs goes on here as it does there.

PyTorch trains two epochs with the official groups, optimizer and checkpoint, then both sides go on
for two more on the same batches.
"""

import json

import numpy as np
import paddle
import pytest

import engine_finetune
import engine_pretrain
import main_finetune
import main_linprobe
import main_pretrain
import models_zoo
from engine_loop import Run
from util import convert, optim
from util.augment.mixup import Mixup
from util.convert import layout
from util.weights import paddle_file

from .conftest import SIZES, report

EPOCHS, ITERATIONS, BATCH, CLASSES = 4, 4, 8, 3
SIZE = {**SIZES['nano'], 'channels': 1, 'classes': CLASSES}
COMMON = {
    'batch_size': BATCH,
    'accum_iter': 2,
    'epochs': EPOCHS,
    'warmup_epochs': 1,
    'world_size': 1,
}
FLAGS = {
    'pretrain': {
        'model': 'mae_vit_nano_patch4',
        'mask_ratio': 0.75,
        'blr': 0.01,
        'min_lr': 0.0,
        'weight_decay': 0.05,
    },
    'finetune': {
        'model': 'vit_nano_patch4',
        'blr': 0.02,
        'min_lr': 1e-6,
        'weight_decay': 0.05,
        'layer_decay': 0.75,
        'drop_path': 0.0,
        'smoothing': 0.1,
    },
    'linprobe': {'model': 'vit_nano_patch4', 'blr': 3.0, 'min_lr': 0.0, 'weight_decay': 0.0},
}
PROGRAMS = {'pretrain': main_pretrain, 'finetune': main_finetune, 'linprobe': main_linprobe}


class Batches(list):
    """The batches of an epoch, in place of a loader's."""

    def files(self, iteration):
        return []


class Data:
    """Given batches in place of a training loader."""

    samples = range(ITERATIONS * BATCH)
    global_batch = BATCH

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return ITERATIONS

    def accumulate(self, accum_iter):
        self.accum_iter = accum_iter
        self.effective_batch = accum_iter * BATCH

    def batches(self, epoch, first):
        assert first == 0
        return Batches(zip(*([paddle.to_tensor(a) for a in array[epoch]] for array in self.arrays)))


def given():
    rng = np.random.default_rng(0)
    shape, side = [EPOCHS, ITERATIONS, BATCH], SIZE['image']
    labels = rng.integers(0, CLASSES, shape)
    images = rng.normal(size=[*shape, 1, side, side]) + labels[..., None, None, None]
    patches = (side // SIZE['patch']) ** 2
    noise = rng.random([*shape, patches])
    return {
        'images': images.astype('float32'),
        'noise': noise.astype('float32'),
        'labels': labels,
    }


def run_of(kind, args, arrays):
    """The program's model and optimizer in a run, and a function that trains it for an epoch."""
    data = Data([arrays['images'], arrays['noise' if kind == 'pretrain' else 'labels']])
    if kind == 'pretrain':
        model = models_zoo.autoencoder(args.model, img_size=args.input_size, in_chans=1)
        optimizer = optim.adamw(optim.decay_groups(model, args.weight_decay), beta2=0.95)
        run = Run(model, optimizer, data, args)
        return run, lambda: engine_pretrain.train_one_epoch(run, args.mask_ratio)

    model = models_zoo.classifier(
        args.model,
        img_size=args.input_size,
        in_chans=1,
        num_classes=CLASSES,
        global_pool=args.global_pool,
    )
    if kind == 'linprobe':
        model.probe()
        trained = [parameter for parameter in model.parameters() if not parameter.stop_gradient]
        optimizer = optim.Lars(trained, args.weight_decay)
    else:
        groups = optim.layer_decay_groups(model, args.weight_decay, args.layer_decay)
        optimizer = optim.adamw(groups, args.beta2)
    smoothing = args.smoothing if kind == 'finetune' else 0
    mix = Mixup(mixup=0, cutmix=0, smoothing=smoothing, classes=CLASSES)
    run = Run(model, optimizer, data, args, kept={'best': {}})
    return run, lambda: engine_finetune.train_one_epoch(run, mix)


def gone_on(kind, path, arrays, *more):
    """Losses of the last epochs, and the weights in the end, of our program from a checkpoint."""
    flags = {**COMMON, **FLAGS[kind], 'input_size': SIZE['image'], 'in_chans': 1}
    words = [word for name, value in flags.items() for word in (f'--{name}', str(value))]
    words += ['--resume', str(path), '--data_path', 'none', '--output_dir=', '--log_dir=', *more]
    args = PROGRAMS[kind].PARSER.parse_args(words)
    run, train = run_of(kind, args, arrays)
    losses = [train()['loss'] for _ in run.epochs()]
    network = run.saver.model
    return losses, {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def apart(ours, theirs, begun):
    """The distance between two results, relative to the distance that the weights have moved."""
    buffers = ('._mean', '._variance')
    names = [name for name in begun if not name.endswith(buffers)]
    difference = sum(np.square(ours[name] - theirs[name], dtype='f8').sum() for name in names)
    moved = sum(np.square(theirs[name] - begun[name], dtype='f8').sum() for name in names)
    return (difference / moved) ** 0.5


@pytest.mark.parametrize('kind', PROGRAMS)
def test_a_training_of_pytorch_goes_on_as_there(kind, reference, tmp_path, capsys):
    arrays = given()
    flags = {**COMMON, **FLAGS[kind], 'kind': kind, 'folder': str(tmp_path), 'size': SIZE}
    there = reference('official_training', flags=json.dumps(flags), **arrays)
    losses = there.pop('losses').mean(1)[EPOCHS // 2 :]
    path = tmp_path / 'checkpoint-1.pth'
    state, _ = convert.read(path)
    end = {}
    for name, array in layout.transposed(there).items():
        name = name.replace('.running_mean', '._mean').replace('.running_var', '._variance')
        end[name] = array

    here, weights = gone_on(kind, path, arrays)
    said = capsys.readouterr()
    assert 'epoch 2, 0 samples into it' in said.out and 'other' not in said.err
    distance = apart(weights, end, state['model'])
    worst = np.abs(np.array(here) / losses - 1).max()
    with capsys.disabled():
        report(kind, losses=worst, weights=distance)
    assert here == pytest.approx(losses, rel=1e-5)
    assert distance < 1e-3

    # The bound is a sharp one: without the moments, weights end far from there
    paddle_file.write(tmp_path / 'alone.pd', {'model': state['model']})
    _, weights = gone_on(kind, tmp_path / 'alone.pd', arrays, '--start_epoch', '2')
    assert 'holds no optimizer state, so training begins at epoch 2' in capsys.readouterr().err
    assert apart(weights, end, state['model']) > 0.1
