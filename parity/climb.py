"""From the keys to the end of some optimizer steps, rung by rung."""

from collections.abc import Iterator

import numpy as np

from parity import ladder, ours, process, reprod
from parity.model import build, objective_of, optimizer_of
from util import optim
from util.convert import names

STEPS, WARMUP = 5, 2  # optimizer steps, those of them that warm up
# normalised over two images, features would be +-1 and gradients mere rounding
BATCH = {names.PROBE: 16}
# the largest rate, for others 1e-3: the recipes' are for batches of thousands
LR = {names.PROBE: 0.1}
# Relative to the largest entry of each tensor; several times what float32 gives for ViT-H
OUTPUT = 1e-5
TOLERANCES = {
    'weights': 0.0,
    'blocks': 1e-5,
    'mask': 0.0,
    'loss': 1e-6,
    'gradients': 2e-5,
    'losses of the steps': 5e-6,
}
MOVES = 1e-4  # of how far the steps move a tensor; a fifth of the weight decay more or less makes some 5e-4
LENGTHS = (
    'lengths (roots of the sums of squares): how far the ends of the two ways lie apart, relative to the way; to '
    'that comes what float32 may round off in each step'
)


def inputs(settings: dict, batch_size: int | None, seed: int) -> dict:
    """What both models are given, as arrays; batch_size None is the usual one."""
    rng = np.random.default_rng(seed)
    batch, side = [STEPS, batch_size or BATCH.get(settings['kind'], 2)], settings['side']
    images = rng.normal(size=[*batch, settings['channels'], side, side]).astype('float32')
    noise = rng.random([*batch, settings['patches']]).astype('float32')
    classes = settings['classes']
    targets = (
        rng.dirichlet(np.ones(classes), size=batch)
        if classes
        else rng.normal(size=[*batch, settings['width']])
    )
    return {
        'images': images,
        'noise': noise,
        'targets': targets.astype('float32'),
        'heads': settings['heads'],
        'decoder_heads': settings['decoder_heads'],
        'norm_pix_loss': settings['norm_pix_loss'],
        'lr': LR.get(settings['kind'], 1e-3),
        'warmup': WARMUP,
        'layer_decay': settings['layer_decay'],
        'clip_grad': settings['clip_grad'],
    }


def count(settings: dict) -> int:
    """How many rungs there are."""
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
    """The rungs, one after the other; keys that differ end it, since nothing beyond can be compared."""

    def rung(name, pairs, tolerance=None):
        return ladder.rung(
            name,
            log.through(name, pairs),
            TOLERANCES.get(name, OUTPUT) if tolerance is None else tolerance,
        )

    def part(name, arrays):
        return ladder.paired(arrays, original.items(name))

    named = {
        ours.BUFFERS.get(name, name): list(array.shape[::-1] if array.ndim == 2 else array.shape)
        for name, array in tensors.items()
    }
    yield (keys := ladder.keys(named, original.shapes('weights')))
    if not keys.passed:
        return
    model, objective = build(settings, tensors, path), objective_of(given)
    tensors.clear()  # the model has them; at ViT-H twice is too often
    stacks = {
        name: list(getattr(model, name))
        for name in ('blocks', 'decoder_blocks')
        if hasattr(model, name)
    }
    yield rung('weights', part('weights', ours.Arrays(ours.tensors(model))))
    seen, outputs = ours.forward(model, stacks, objective)
    yield rung('blocks', part('blocks', seen))
    outputs['loss'], gradients = ours.gradients(model, objective)
    theirs = dict(original.items('outputs'))
    for name in [*(name for name in outputs if name != 'loss'), 'loss']:
        yield rung(name, [(name, outputs[name], theirs[name])])
    yield rung('gradients', part('gradients', gradients))
    del gradients
    schedule = optim.Cosine(given['lr'], 0.0, WARMUP, STEPS)
    losses = ours.train(
        model, optimizer_of(model, settings), schedule, STEPS, objective, given['clip_grad']
    )
    yield rung('losses of the steps', [('losses', losses, theirs['losses'])])
    ends = part('after', ours.Arrays(ours.tensors(model)))
    yield ladder.rung(
        'weights after the steps', moves(original.items('weights'), ends), MOVES, LENGTHS
    )


def moves(starts: Iterator, ends: ladder.Pairs) -> ladder.Pairs:
    """A pair of lengths for each pair of tensors: the way from the start to the original's end, and that plus how far the
    ends lie apart. The largest entries would say too little: moves of 1e-3 hardly show next to weights of 1, and single
    entries may depart, where Adam divides a gradient that is mere rounding by its own size. What a step may round off, an
    ulp, counts as way: in fine-tuning the lowest layers' rates are so small that they move less than that."""
    roundings = (STEPS - 1) * np.finfo('float32').eps / MOVES  # the first step's rate is 0
    for (name, *arrays), (_, start) in zip(ends, starts):
        if name.endswith('qkv.bias'):
            third = len(start) // 3
            start, *arrays = (
                np.delete(array, slice(third, 2 * third)) for array in (start, *arrays)
            )
        end, theirs = (array.astype('float64') for array in arrays)
        way = np.linalg.norm(theirs - start) + roundings * np.linalg.norm(start)
        with np.errstate(invalid='ignore'):  # what ends in no number stays none, and fails
            apart = np.linalg.norm(end - theirs)
        yield name, np.array([way + apart]), np.array([way])
