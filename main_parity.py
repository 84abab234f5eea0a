"""Prove that a model here and the original in PyTorch are the same: keys, blocks, outputs, loss, gradients, training.

    python main_parity.py SRC [DST] --report reports/NAME

SRC is a weight file that util.convert reads, DST what was made of it; without DST it is converted in memory. The original
loads SRC by itself, in an environment with PyTorch:  bash requirements/install.sh .venv-parity requirements/parity.txt
What it computes goes through the temporary folder (TMPDIR) and needs some three times the size of SRC there.
Exit code 0 where every rung passes, 1 where one fails, 2 for input that cannot be compared.
"""
import os
import shlex
import sys
import tempfile
from itertools import islice
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
from paddle.nn import functional as F

import layer
import models_mae
import models_sizes
import models_vit
from parity import ladder, ours, process, reprod
from util import checkpoint, cli, convert, optim, provenance, run, weights
from util import record as records
from util.augment import crop, transform
from util.convert import names
from util.data import folder, loader, pictures
from util.errors import InputError
from util.metrics import peak_memory

STEPS, WARMUP, PART = 5, 2, 512  # optimizer steps, those of them that warm up; validation images on the disk at a time
BATCH = {names.PROBE: 16}  # normalised over two images, features would be +-1 and gradients mere rounding
LR = {names.PROBE: 0.1}  # the largest rate, for others 1e-3: the recipes' are for batches of thousands
# Relative to the largest entry of each tensor; several times what float32 gives for ViT-H
TOLERANCES = {'weights': 0.0, 'blocks': 1e-5, 'mask': 0.0, 'loss': 1e-6, 'gradients': 2e-5, 'losses of the steps': 5e-6}
MOVES = 1e-4  # of how far the steps move a tensor; a fifth of the weight decay more or less makes some 5e-4
OUTPUT, SHARE = 1e-5, 1e-4  # of scores; of accuracies, since a tie may fall either way
KEY_BIAS = ('Key parts of qkv.bias: their gradient is 0 but for rounding, because the softmax takes no notice of them. '
            'Gradients are measured against the whole tensor; after the steps they are left out, since Adam makes rates '
            'of whatever is not 0')
LENGTHS = ('lengths (roots of the sums of squares): how far the ends of the two ways lie apart, relative to the way; to '
           'that comes what float32 may round off in each step')


def main(args):
    run.begin(args.device, args.seed)
    process.check(args.python)
    source, about = convert.read(args.src)
    own = convert.read(args.dst)[0] if args.dst else source
    settings = describe(args, source['model'], source.get('args', {}))
    given = inputs(settings, args.batch_size or BATCH.get(settings['kind'], 2), args.seed)
    settings['licence'] = args.licence or own.get('licence', 'not stated')
    log = reprod.Log(args.reprod_log)
    del source  # with DST, room for the original
    with tempfile.TemporaryDirectory() as scratch:
        original = process.run(args.python, Path(scratch) / 'ladder', source=str(Path(args.src).resolve()), **given)
        rungs = list(climb(settings, own['model'], args.dst or args.src, original, given, log))
        figures = {}
        if args.data_path and len(rungs) > 1:
            for rung, figures in accuracy(args, settings, Path(scratch), log):  # noqa: B007  the last figures are all
                rungs.append(rung)
    print(ladder.table(rungs))
    print(f'{original.about["original"]}: at most {original.about["peak_memory_mb"]} MB; ours: {peak_memory()} MB')
    for name, value in figures.items():
        print(f'{name}: {value}')
    log.write(rungs)
    if args.report:
        records.write(args.report, record(args, settings, about, original.about, rungs, figures))
    if not all(rung.passed for rung in rungs):
        sys.exit(1)


def describe(args, tensors, flags):
    """What both sides must agree on: kind, size, heads, loss."""
    family = names.family(tensors)
    if family != names.VIT or 'vis_mask_token' in tensors:
        what = family if family != names.VIT else "a ViT with UM-MAE's secondary masking"
        raise InputError(f'{args.src} holds {what}: there is no package of the original to compare with')
    name, kind = models_sizes.name_of(tensors), names.kind(tensors)
    size = models_sizes.size_of(tensors)
    channels, side = (models_sizes.said_by(tensors)[flag] for flag in ('in_chans', 'input_size'))
    heads = args.heads or (size and size.heads)
    decoder_heads = args.decoder_heads or (size.decoder_heads if size else 1 if kind != names.AUTOENCODER else None)
    if not heads or not decoder_heads:
        raise InputError(f'{args.src} has a size that is not known here; give --heads'
                         + ' and --decoder_heads' * (kind == names.AUTOENCODER))
    if args.data_path and kind not in (names.PROBE, names.POOLED, names.CLASS_TOKEN):
        raise InputError(f'--data_path is for classifiers; {args.src} holds {kind}')
    norm_pix_loss = flags.get('norm_pix_loss', True) if args.norm_pix_loss is None else args.norm_pix_loss
    title = ('mae_vit_' if kind == names.AUTOENCODER else 'vit_') + (name or 'of_another_size')
    return {'kind': kind, 'name': title, 'side': side, 'channels': channels, 'heads': heads, 'decoder_heads': decoder_heads,
            'norm_pix_loss': bool(norm_pix_loss), 'clip_grad': np.inf if args.clip_grad is None else args.clip_grad,
            'classes': len(tensors.get('head.1.bias', tensors.get('head.bias', []))),
            'width': tensors['cls_token'].shape[-1], 'patches': tensors['pos_embed'].shape[1] - 1,
            'patch': tensors['patch_embed.proj.weight'].shape[-1],
            'layer_decay': 0.75 if name and name.startswith(('large', 'huge')) else 0.65}


def inputs(settings, batch_size, seed):
    """What both models are given, as arrays."""
    rng = np.random.default_rng(seed)
    batch, side = [STEPS, batch_size], settings['side']
    images = rng.normal(size=[*batch, settings['channels'], side, side]).astype('float32')
    noise = rng.random([*batch, settings['patches']]).astype('float32')
    classes = settings['classes']
    targets = rng.dirichlet(np.ones(classes), size=batch) if classes else rng.normal(size=[*batch, settings['width']])
    return {'images': images, 'noise': noise, 'targets': targets.astype('float32'), 'heads': settings['heads'],
            'decoder_heads': settings['decoder_heads'], 'norm_pix_loss': settings['norm_pix_loss'],
            'lr': LR.get(settings['kind'], 1e-3), 'warmup': WARMUP, 'layer_decay': settings['layer_decay'],
            'clip_grad': settings['clip_grad']}


def build(settings, tensors, path):
    """Our model with these weights. An encoder's features are what it gives instead of scores."""
    kind, width = settings['kind'], settings['width']
    def depth_of(stack):
        return sum(name.startswith(f'{stack}.') and name.endswith('.norm1.weight') for name in tensors)
    shared = dict(img_size=settings['side'], patch_size=settings['patch'], in_chans=settings['channels'], embed_dim=width,
                  depth=depth_of('blocks'), num_heads=settings['heads'], norm_layer=layer.LayerNorm,
                  mlp_ratio=len(tensors['blocks.0.mlp.fc1.bias']) / width)
    if kind == names.AUTOENCODER:
        model = models_mae.MaskedAutoencoderViT(
            **shared, decoder_embed_dim=tensors['mask_token'].shape[-1], decoder_depth=depth_of('decoder_blocks'),
            decoder_num_heads=settings['decoder_heads'], norm_pix_loss=settings['norm_pix_loss'])
    else:
        model = models_vit.VisionTransformer(**shared, num_classes=max(settings['classes'], 1),
                                             global_pool='fc_norm.weight' in tensors)
        if kind == names.PROBE:
            model.probe()
        elif kind == names.ENCODER:
            model.head = paddle.nn.Identity()
    checkpoint.load_model(model, tensors, path)
    return model


def objective_of(given):
    """objective(model, i) -> what the model makes of batch i, by name, and the loss."""
    def objective(model, i):
        images, noise, targets = (paddle.to_tensor(given[name][i]) for name in ('images', 'noise', 'targets'))
        if isinstance(model, models_mae.MaskedAutoencoderViT):
            loss, prediction, mask = model(images, 0.75, noise)
            return {'prediction': prediction, 'mask': mask, 'loss': loss}
        out = model(images)
        if isinstance(model.head, paddle.nn.Identity):
            return {'features': out, 'loss': (out - targets).square().mean()}
        return {'logits': out, 'loss': F.cross_entropy(out, targets, soft_label=True)}
    return objective


def recipe(model, settings):
    """The optimizer of the recipe that the weights are for."""
    if settings['kind'] == names.PROBE:
        return optim.Lars([p for p in model.parameters() if not p.stop_gradient])
    if settings['kind'] == names.AUTOENCODER:
        return optim.adamw(optim.decay_groups(model, 0.05), beta2=0.95)
    return optim.adamw(optim.layer_decay_groups(model, 0.05, settings['layer_decay']), beta2=0.999)


def climb(settings, tensors, path, original, given, log):
    """The rungs, one after the other; keys that differ end it, since nothing beyond can be compared."""
    def rung(name, pairs, tolerance=None):
        return ladder.rung(name, log.through(name, pairs), TOLERANCES.get(name, OUTPUT) if tolerance is None else tolerance)

    def part(name, arrays):
        return ladder.paired(arrays, original.items(name))
    named = {ours.BUFFERS.get(name, name): list(array.shape[::-1] if array.ndim == 2 else array.shape)
             for name, array in tensors.items()}
    yield (keys := ladder.keys(named, original.shapes('weights')))
    if not keys.passed:
        return
    model, objective = build(settings, tensors, path), objective_of(given)
    tensors.clear()  # the model has them; at ViT-H twice is too often
    stacks = {name: list(getattr(model, name)) for name in ('blocks', 'decoder_blocks') if hasattr(model, name)}
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
    losses = ours.train(model, recipe(model, settings), schedule, STEPS, objective, given['clip_grad'])
    yield rung('losses of the steps', [('losses', losses, theirs['losses'])])
    ends = part('after', ours.Arrays(ours.tensors(model)))
    yield ladder.rung('weights after the steps', moves(original.items('weights'), ends), MOVES, LENGTHS)


def moves(starts, ends):
    """A pair of lengths for each pair of tensors: the way from the start to the original's end, and that plus how far the
    ends lie apart. The largest entries would say too little: moves of 1e-3 hardly show next to weights of 1, and single
    entries may depart, where Adam divides a gradient that is mere rounding by its own size. What a step may round off, an
    ulp, counts as way: in fine-tuning the lowest layers' rates are so small that they move less than that."""
    roundings = (STEPS - 1) * np.finfo('float32').eps / MOVES  # the first step's rate is 0
    for (name, *arrays), (_, start) in zip(ends, starts):
        if name.endswith('qkv.bias'):
            third = len(start) // 3
            start, *arrays = (np.delete(array, slice(third, 2 * third)) for array in (start, *arrays))
        end, theirs = (array.astype('float64') for array in arrays)
        way = np.linalg.norm(theirs - start) + roundings * np.linalg.norm(start)
        yield name, np.array([way + np.linalg.norm(end - theirs)]), np.array([way])


@paddle.no_grad()
def accuracy(args, settings, scratch, log):
    """Both models on the validation images: rungs over scores and accuracies, and the figures. Pixels are decoded and
    transformed here and go to the original in parts, so that the disk need not hold all."""
    state = convert.read(args.dst or args.src)[0]
    said, channels = state.get('args', {}), settings['channels']
    images = folder.find_labelled(args.data_path, 'val', pictures.suffixes(channels), settings['classes'])
    plain = transform.Evaluate(settings['side'], *crop.statistics(channels, said.get('mean'), said.get('std')))
    model = build(settings, state['model'], args.dst or args.src)
    model.eval()
    batches, pairs, part = iter(loader.EvalLoader(loader.EvalSet(images, channels, plain), 16)), [], scratch / 'part'
    part.mkdir()
    while pixels := [batch.numpy() for batch, _ in islice(batches, PART // 16)]:
        np.save(part / 'pixels.npy', np.concatenate(pixels))
        process.run(args.python, part, source=str(Path(args.src).resolve()), heads=settings['heads'],
                    pixels=str(part / 'pixels.npy'))
        scores = np.concatenate([model(paddle.to_tensor(batch)).numpy() for batch in pixels])
        pairs.append((f'images from {PART * len(pairs)}', scores, np.load(part / 'scores.npy')))
    yield ladder.rung('validation scores', pairs, OUTPUT), {}
    ours_, theirs = (np.concatenate([pair[side] for pair in pairs]) for side in (1, 2))
    labels = np.array(images.labels)
    shares = [(f'acc{k}', *(100 * (ladder.places(scores, labels) < k).mean(keepdims=True) for scores in (ours_, theirs)))
              for k in (1, 5)]
    apart = [os.path.relpath(images.paths[i], args.data_path)
             for i in np.flatnonzero(ours_.argmax(1) != theirs.argmax(1))]
    figures = {'images': len(labels), **{f'{name} {who}': round(float(value[0]), 4) for name, *both in shares
                                         for who, value in zip(('ours', 'original'), both)}, 'predicted differently': apart}
    yield ladder.rung('metric', log.through('metric', shares), SHARE), figures


def record(args, settings, about, original, rungs, figures):
    """The report's contents."""
    command = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    verb = 'equals' if all(rung.passed for rung in rungs) else 'departs from'
    title = f'{settings["name"]}, {settings["kind"]}: Paddle {verb} {original["original"]}'
    deviations = [KEY_BIAS, f'The rate rises for {WARMUP} of {STEPS} steps and falls by a cosine; its largest value is '
                  f'{LR.get(settings["kind"], 1e-3):g}, where the recipes scale theirs by batches of thousands']
    if original['names'] == 'OpenMMLab':
        deviations.append(f"OpenMMLab's tensors were renamed by the original's own script and run by {original['original']}")
    converted = {'converted file': Path(args.dst).name, 'its sha256': weights.sha256(args.dst)} if args.dst else {}
    figures = {**figures, 'peak memory, MB': {'original': original['peak_memory_mb'], 'ours': peak_memory()}}
    return {'claim': f'{title} ({args.weights_are})' if args.weights_are else title, 'model': settings['name'],
            'run': shlex.join(['python', 'main_parity.py', *command]),
            'environment': {**provenance.environment(), 'original': original['versions']},
            'weights': {'file': Path(args.src).name, 'sha256': weights.sha256(args.src), 'licence': settings['licence'],
                        'format': about.format, 'tensors': about.taken, **converted},
            'parity': [rung.record() for rung in rungs], 'figures': figures, 'deviations': deviations, 'status': 'measured'}


PARSER = cli.parser(__doc__, cli.device)
PARSER.add_argument('src', metavar='SRC', help='weights of the original')
PARSER.add_argument('dst', metavar='DST', nargs='?', default=None, help='the same weights, converted; default: SRC itself')
PARSER.add_argument('--python', default='.venv-parity/bin/python', metavar='FILE', help='interpreter that has PyTorch')
PARSER.add_argument('--report', default=None, metavar='PREFIX', help='write PREFIX.yaml and PREFIX.md')
PARSER.add_argument('--reprod_log', default=None, metavar='DIR', help="write the files of Paddle's reproduction guide")
PARSER.add_argument('--batch_size', type=cli.number(int, 1), default=None, help='images a batch (default: 2; 16 for a '
                    'linear probe, which normalises over them)')
PARSER.add_argument('--seed', type=cli.number(int, 0), default=0, help='of images, targets and masks')
PARSER.add_argument('--heads', type=cli.number(int, 1), default=None, help='attention heads, for a size not known here')
PARSER.add_argument('--decoder_heads', type=cli.number(int, 1), default=None, help="the decoder's")
PARSER.add_argument('--norm_pix_loss', action='store_true', default=None, help='the loss is of normalised pixels; default: '
                    'as the weights say, else so')
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')
PARSER.add_argument('--clip_grad', type=cli.number(float, 0), default=None, help='largest norm of all gradients in the '
                    'steps; default: any, as in the recipes')
PARSER.add_argument('--data_path', default=None, metavar='PATH', help='folder with val/<class>/<image>: accuracy of both')
PARSER.add_argument('--weights_are', default='', metavar='TEXT', help='where the weights are from, for the claim')
PARSER.add_argument('--licence', default=None, help='of the weights, for the report; default: what they say themselves')

if __name__ == '__main__':
    run.program(main, PARSER)
