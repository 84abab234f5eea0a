"""Prove that a model here and the original in PyTorch are the same.

    python main_parity.py SRC [DST] --report reports/NAME

It compares keys, blocks, outputs, loss, gradients and some steps of training. SRC is a weight file
that util.convert reads, DST its conversion; without DST it is converted in memory. --use_ema takes
the average in SRC. The original loads SRC by itself, in an environment with PyTorch:
    bash requirements/install.sh .venv-parity requirements/parity.txt
Its results go through the temporary folder (TMPDIR) and need about three times the size of SRC.
Exit code 0 where every rung passes, 1 where one fails, 2 for input that cannot be compared.
"""

import shlex
import sys
import tempfile
from functools import partial
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np

import models_sizes
from parity import climb, ladder, process, reprod
from parity.accuracy import accuracy
from util import cli, convert, program, provenance, sizes, weights
from util import record as records
from util.convert import names
from util.errors import InputError
from util.progress import bar, peak_memory

KEY_BIAS = (
    'Key parts of qkv.bias: their gradient is 0 but for rounding, because the softmax takes no '
    'notice of them. Gradients are measured against the whole tensor; after the steps they are '
    'left out, since Adam makes rates of whatever is not 0'
)


def main(args):
    program.start(args.device, args.seed, deterministic=args.deterministic, tf32=False)
    process.check(args.python)
    source, report = convert.read(args.src, use_ema=args.use_ema)
    own = convert.read(args.dst)[0] if args.dst else source
    settings = describe(args, source['model'], source.get('args', {}))
    given = climb.inputs(settings, args.batch_size, args.seed)
    settings['licence'] = args.licence or own.get('licence', 'not stated')
    log = reprod.Log(args.reprod_log)
    del source  # with DST, room for the original

    ours = args.dst or args.src
    theirs = {'source': str(Path(args.src).resolve()), 'use_ema': args.use_ema}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        original = process.run(args.python, scratch / 'ladder', **theirs, **given)
        rungs = climb.rungs(
            settings, tensors=own['model'], path=ours, original=original, given=given, log=log
        )
        rungs = list(bar(rungs, 'rungs', climb.count(settings)))
        figures = {}
        if args.data_path and len(rungs) > 1:
            theirs |= {'heads': settings['heads'], 'sides': settings['sides']}
            scores = partial(process.scores, args.python, scratch / 'part', theirs)
            judged = accuracy(
                args.data_path,
                settings,
                ours,
                original=scores,
                log=log,
                class_names=args.class_names,
                use_ema=args.use_ema and not args.dst,
            )
            for rung, figures in judged:  # noqa: B007  the last figures are all
                rungs.append(rung)

    print(ladder.table(rungs))
    about = original.about
    print(f'{about["original"]}: at most {about["peak_memory_mb"]} MB; ours: {peak_memory()} MB')
    for name, value in figures.items():
        print(f'{name}: {value}')
    log.write(rungs)
    if args.report:
        contents = record(args, settings, report, about, rungs=rungs, figures=figures)
        records.write(args.report, contents)
    if not all(rung.passed for rung in rungs):
        sys.exit(1)


# Tensors of a ViT's autoencoder that no package has, and what they mean
OURS_ALONE = {
    'vis_mask_token': "UM-MAE's secondary masking",
    'encoder_mask_token': 'mask tokens in its encoder',
    'pca_basis': 'a PCA as its target',
}


def describe(args, tensors, flags):
    """The settings that both sides must agree on: kind, size, heads, loss."""
    if names.kind(tensors) in (names.SEGMENTOR, *names.DETECTORS):
        raise InputError(f'{args.src} holds {names.kind(tensors)}; give its encoder alone')
    check_family(args.src, tensors)
    sides = sizes.image_sides(flags, args.input_size)
    models_sizes.check_positions(tensors, args.src, sides)
    kind = names.kind(tensors)
    heads, decoder_heads = heads_of(args, tensors, kind)
    if args.data_path and kind not in names.CLASSIFIERS:
        raise InputError(f'--data_path is for classifiers; {args.src} holds {kind}')
    norm_pix_loss = args.norm_pix_loss
    if norm_pix_loss is None:
        norm_pix_loss = flags.get('norm_pix_loss', True)
    size = models_sizes.name_of(tensors) or 'of_another_size'
    prefix = 'mae_vit_' if kind == names.AUTOENCODER else 'vit_'
    return {
        'kind': kind,
        'name': prefix + size,
        'heads': heads,
        'decoder_heads': decoder_heads,
        'norm_pix_loss': bool(norm_pix_loss),
        'clip_grad': np.inf if args.clip_grad is None else args.clip_grad,
        'layer_decay': 0.75 if size.startswith(('large', 'huge')) else 0.65,
        **shapes(args, tensors, sides, kind),
    }


def shapes(args, tensors, sides, kind):
    """The part of the settings that the shapes of a ViT tell."""
    known = models_sizes.said_by(tensors, sides)
    models_sizes.check_asked(
        args.src, known, {'input_size': args.input_size, 'patch_size': args.patch_size}
    )
    height, width = sizes.pair(known['input_size'])
    if kind == names.AUTOENCODER and height != width:
        raise InputError(
            f'{args.src} reconstructs images of {height} x {width}: the original that it would be '
            'compared with takes squares alone'
        )
    head_bias = tensors.get('head.1.bias', tensors.get('head.bias', []))
    return {
        'sides': (height, width),
        'channels': known['in_chans'],
        'classes': len(head_bias),
        'width': tensors['cls_token'].shape[-1],
        'patches': tensors['pos_embed'].shape[1] - 1,
        'patch': tensors['patch_embed.proj.weight'].shape[-1],
    }


def check_family(path, tensors):
    """InputError for models whose original is in no package."""
    family = names.family(tensors)
    what = family
    if family == names.VIT:
        found = [part for name, part in OURS_ALONE.items() if name in tensors]
        if not found:
            return
        what = f'a ViT with {found[0]}'
    raise InputError(f'{path} holds {what}: there is no package of the original to compare with')


def heads_of(args, tensors, kind):
    """Attention heads of encoder and decoder, by flags or by the size of the model."""
    size = models_sizes.size_of(tensors)
    heads, decoder_heads = args.heads, args.decoder_heads
    if size:
        heads = heads or size.heads
        width, _ = models_sizes.decoder_of(tensors) if kind == names.AUTOENCODER else (0, 0)
        decoder_heads = decoder_heads or size.heads_of_decoder(width or size.decoder_width)
    elif kind != names.AUTOENCODER:
        decoder_heads = decoder_heads or 1  # there is no decoder
    if not heads or not decoder_heads:
        flags = '--heads'
        if kind == names.AUTOENCODER:
            flags += ' and --decoder_heads'
        raise InputError(f'{args.src} has a size that is not known here; give {flags}')
    return heads, decoder_heads


def record(args, settings, report, original, rungs, figures):
    """The contents of the report."""
    command = map(without_folders, sys.argv[1:])
    verb = 'equals' if all(rung.passed for rung in rungs) else 'departs from'
    claim = f'{settings["name"]}, {settings["kind"]}: Paddle {verb} {original["original"]}'
    if args.weights_are:
        claim += f' ({args.weights_are})'
    memory = {'original': original['peak_memory_mb'], 'ours': peak_memory()}
    return {
        'claim': claim,
        'model': settings['name'],
        'run': shlex.join(['python', 'main_parity.py', *command]),
        'environment': {**provenance.environment(), 'original': original['versions']},
        'weights': weights_record(args, settings, report),
        'parity': [rung.record() for rung in rungs],
        'figures': {**figures, 'peak memory, MB': memory},
        'deviations': deviations(settings, original),
        'status': 'measured',
    }


def without_folders(word):
    """A word of the command line, an absolute path without its folders."""
    path = Path(word)
    return path.name if path.is_absolute() else word


def weights_record(args, settings, report):
    """What the report tells about SRC and DST."""
    entries = {
        'file': Path(args.src).name,
        'sha256': weights.sha256(args.src),
        'licence': settings['licence'],
        'format': report.format,
        'tensors': report.taken,
    }
    if args.dst:
        entries['converted file'] = Path(args.dst).name
        entries['its sha256'] = weights.sha256(args.dst)
    return entries


def deviations(settings, original):
    """What the comparison does in another way than the recipes."""
    rate = climb.LR.get(settings['kind'], 1e-3)
    listed = [
        KEY_BIAS,
        f'The rate rises for {climb.WARMUP} of {climb.STEPS} steps and falls by a cosine; its '
        f'largest value is {rate:g}, where the recipes scale theirs by batches of thousands',
    ]
    if original['names'] == 'OpenMMLab':
        listed.append(
            "OpenMMLab's tensors were renamed by the original's own script "
            f'and run by {original["original"]}'
        )
    return listed


PARSER = cli.parser(__doc__, cli.comparing_device, cli.average)
PARSER.add_argument('src', metavar='SRC', help='weights of the original')
PARSER.add_argument(
    'dst',
    metavar='DST',
    nargs='?',
    default=None,
    help='the same weights, converted; default: SRC itself',
)
PARSER.add_argument(
    '--python',
    default='.venv-parity/bin/python',
    metavar='FILE',
    help='interpreter that has PyTorch',
)
PARSER.add_argument(
    '--report', default=None, metavar='PREFIX', help='write PREFIX.yaml and PREFIX.md'
)
PARSER.add_argument(
    '--reprod_log',
    default=None,
    metavar='DIR',
    help="write the files of Paddle's reproduction guide",
)
PARSER.add_argument(
    '--batch_size',
    type=cli.number(int, 1),
    default=None,
    help='images a batch (default: 2; 16 for a linear probe, which normalises over them)',
)
PARSER.add_argument(
    '--seed', type=cli.number(int, 0), default=0, help='of images, targets and masks'
)
sizes.flags(PARSER)
PARSER.add_argument(
    '--heads',
    type=cli.number(int, 1),
    default=None,
    help='attention heads, for a size not known here',
)
PARSER.add_argument('--decoder_heads', type=cli.number(int, 1), default=None, help="the decoder's")
PARSER.add_argument(
    '--norm_pix_loss',
    action='store_true',
    default=None,
    help='the loss is of normalised pixels (default: as the file says, otherwise normalised)',
)
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')
PARSER.add_argument(
    '--clip_grad',
    type=cli.number(float, 0),
    default=None,
    help='largest norm of all gradients in the steps (default: no limit, as in the recipes)',
)
PARSER.add_argument(
    '--data_path',
    default=None,
    metavar='PATH',
    help='folder with val/<class>/<image>, or archives of them: accuracy of both',
)
PARSER.add_argument(
    '--class_names',
    default=None,
    metavar='FILE',
    help='with --data_path: the names of the class folders, one a line in the order of the '
    'outputs, where the file does not say them',
)
PARSER.add_argument(
    '--weights_are', default='', metavar='TEXT', help='where the weights are from, for the claim'
)
PARSER.add_argument(
    '--licence',
    default=None,
    help='licence of the weights, for the report (default: as the file says)',
)

if __name__ == '__main__':
    program.run(main, PARSER)
