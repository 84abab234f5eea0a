"""The ladder from the keys to the end of some optimizer steps, rung by rung."""

from collections.abc import Iterator

import numpy as np

from parity import ladder, ours, process, reprod, tolerances
from parity.model import build, objective_of, optimizer_of
from util import optim
from util.convert import names

STEPS, WARMUP = 5, 2  # optimizer steps, and how many of them warm up
# Images a batch, for others 2: a probe normalises its features over the batch, and over two images
# they would be +-1 and their gradients mere rounding
BATCH = {names.PROBE: 16}
# Largest learning rate, for others 1e-3; the recipes' rates are for batches of thousands
LR = {names.PROBE: 0.1}
LENGTHS = (
    'lengths (roots of the sums of squares): the distance between the two ends, relative to the '
    'way, which includes what float32 may round off in each step'
)


def inputs(settings: dict, batch_size: int | None, seed: int) -> dict:
    """The arrays and values that both models get; batch_size None is the usual one."""
    rng = np.random.default_rng(seed)
    batch = [STEPS, batch_size or BATCH.get(settings['kind'], 2)]
    images = rng.normal(size=[*batch, settings['channels'], *settings['sides']]).astype('float32')
    noise = rng.random([*batch, settings['patches']]).astype('float32')
    if settings['classes']:  # probabilities
        targets = rng.dirichlet(np.ones(settings['classes']), size=batch)
    else:  # features
        targets = rng.normal(size=[*batch, settings['width']])
    return {
        'images': images,
        'noise': noise,
        'targets': targets.astype('float32'),
        'sides': settings['sides'],
        'heads': settings['heads'],
        'decoder_heads': settings['decoder_heads'],
        'norm_pix_loss': settings['norm_pix_loss'],
        'lr': LR.get(settings['kind'], 1e-3),
        'warmup': WARMUP,
        'layer_decay': settings['layer_decay'],
        'clip_grad': settings['clip_grad'],
    }


def count(settings: dict) -> int:
    """The number of rungs."""
    outputs = 2 if settings['kind'] == names.AUTOENCODER else 1  # prediction and mask
    return 7 + outputs


def rungs(
    settings: dict,
    tensors: dict,
    path: str,
    original: process.Results,
    given: dict,
    log: reprod.Log,
) -> Iterator[ladder.Rung]:
    """The rungs one after the other; keys that differ end it, since no other rung could compare."""

    def rung(name, pairs):
        tolerance = tolerances.RUNGS.get(name, tolerances.OUTPUT)
        return ladder.rung(name, log.through(name, pairs), tolerance)

    def part(name, arrays):
        return ladder.paired(arrays, original.items(name))

    shapes = {ours.BUFFERS.get(name, name): ours.official_shape(a) for name, a in tensors.items()}
    keys = ladder.keys(shapes, original.shapes('weights'))
    yield keys
    if not keys.passed:
        return
    model = build(settings, tensors, path)
    objective = objective_of(given)
    tensors.clear()  # the model has them, and ViT-H would not fit twice
    yield rung('weights', part('weights', ours.Arrays(ours.tensors(model))))

    # One forward and one backward pass
    seen, outputs = ours.forward(model, _stacks(model), objective)
    yield rung('blocks', part('blocks', seen))
    outputs['loss'], gradients = ours.gradients(model, objective)
    theirs = dict(original.items('outputs'))
    for name, output in outputs.items():
        yield rung(name, [(name, output, theirs[name])])
    yield rung('gradients', part('gradients', gradients))
    del gradients

    # Some steps of training
    schedule = optim.Cosine(given['lr'], 0.0, WARMUP, STEPS)
    losses = ours.train(
        model,
        optimizer=optimizer_of(model, settings),
        schedule=schedule,
        steps=STEPS,
        objective=objective,
        clip_grad=given['clip_grad'],
    )
    yield rung('losses of the steps', [('losses', losses, theirs['losses'])])
    ends = part('after', ours.Arrays(ours.tensors(model)))
    pairs = moves(original.items('weights'), ends)
    yield ladder.rung('weights after the steps', pairs, tolerances.MOVES, LENGTHS)


def _stacks(model) -> dict[str, list]:
    """The blocks of a model by the names of their stacks."""
    stacks = {}
    for name in ('blocks', 'decoder_blocks'):
        if hasattr(model, name):
            stacks[name] = list(getattr(model, name))
    return stacks


def moves(starts: Iterator, ends: ladder.Pairs) -> ladder.Pairs:
    """A pair of lengths for each tensor.

    The second is the way from the start to the original's end; the first is that and the distance
    between the two ends. The largest entries would tell too little: a move of 1e-3 hardly shows
    beside a weight of 1, and where a gradient is mere rounding, Adam divides it by its own size, so
    that single entries depart. The way includes one ulp a step, which a step may round off: in
    fine-tuning the lowest layers move less than that.
    """
    rounding_steps = STEPS - 1  # the first step's rate is 0
    roundings = rounding_steps * np.finfo('float32').eps / tolerances.MOVES
    for (name, end, theirs), (_, start) in zip(ends, starts):
        if name.endswith('qkv.bias'):
            # the keys' gradient is mere rounding: the softmax does not depend on their bias
            third = len(start) // 3
            keys = slice(third, 2 * third)
            start, end, theirs = (np.delete(array, keys) for array in (start, end, theirs))
        end = end.astype('float64')
        theirs = theirs.astype('float64')
        way = np.linalg.norm(theirs - start) + roundings * np.linalg.norm(start)
        with np.errstate(invalid='ignore'):  # infinities give NaN, which fails
            apart = np.linalg.norm(end - theirs)
        yield name, np.array([way + apart]), np.array([way])
