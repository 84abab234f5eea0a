"""Prove that a model here and the original in PyTorch are the same: keys, blocks, outputs, loss, gradients, training.

    python main_parity.py SRC [DST] --report reports/NAME

SRC is a weight file that util.convert reads, DST what was made of it; without DST it is converted in memory. The original
loads SRC by itself, in an environment with PyTorch:  bash requirements/install.sh .venv-parity requirements/parity.txt
What it computes goes through the temporary folder (TMPDIR) and needs some three times the size of SRC there.
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
from util import cli, convert, program, provenance, weights
from util import record as records
from util.convert import names
from util.errors import InputError
from util.progress import bar, peak_memory

KEY_BIAS = (
    'Key parts of qkv.bias: their gradient is 0 but for rounding, because the softmax takes no notice of them. '
    'Gradients are measured against the whole tensor; after the steps they are left out, since Adam makes rates '
    'of whatever is not 0'
)


def main(args):
    program.start(args.device, args.seed)
    process.check(args.python)
    source, about = convert.read(args.src)
    own = convert.read(args.dst)[0] if args.dst else source
    settings = describe(args, source['model'], source.get('args', {}))
    given = climb.inputs(settings, args.batch_size, args.seed)
    settings['licence'] = args.licence or own.get('licence', 'not stated')
    log = reprod.Log(args.reprod_log)
    del source  # with DST, room for the original
    with tempfile.TemporaryDirectory() as scratch:
        file = str(Path(args.src).resolve())
        original = process.run(args.python, Path(scratch) / 'ladder', source=file, **given)
        rungs = climb.rungs(settings, own['model'], args.dst or args.src, original, given, log)
        rungs = list(bar(rungs, 'rungs', climb.count(settings)))
        figures = {}
        if args.data_path and len(rungs) > 1:
            scores = partial(
                process.scores, args.python, Path(scratch) / 'part', file, settings['heads']
            )
            judged = accuracy(
                args.data_path,
                settings,
                args.dst or args.src,
                scores,
                log,
                class_names=args.class_names,
            )
            for rung, figures in judged:  # noqa: B007  the last figures are all
                rungs.append(rung)
    print(ladder.table(rungs))
    print(
        f'{original.about["original"]}: at most {original.about["peak_memory_mb"]} MB; ours: {peak_memory()} MB'
    )
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
        raise InputError(
            f'{args.src} holds {what}: there is no package of the original to compare with'
        )
    name, kind = models_sizes.name_of(tensors), names.kind(tensors)
    size = models_sizes.size_of(tensors)
    channels, side = (models_sizes.said_by(tensors)[flag] for flag in ('in_chans', 'input_size'))
    heads = args.heads or (size and size.heads)
    decoder_heads = args.decoder_heads or (
        size.decoder_heads if size else 1 if kind != names.AUTOENCODER else None
    )
    if not heads or not decoder_heads:
        raise InputError(
            f'{args.src} has a size that is not known here; give --heads'
            + ' and --decoder_heads' * (kind == names.AUTOENCODER)
        )
    if args.data_path and kind not in (names.PROBE, names.POOLED, names.CLASS_TOKEN):
        raise InputError(f'--data_path is for classifiers; {args.src} holds {kind}')
    norm_pix_loss = (
        flags.get('norm_pix_loss', True) if args.norm_pix_loss is None else args.norm_pix_loss
    )
    title = ('mae_vit_' if kind == names.AUTOENCODER else 'vit_') + (name or 'of_another_size')
    return {
        'kind': kind,
        'name': title,
        'side': side,
        'channels': channels,
        'heads': heads,
        'decoder_heads': decoder_heads,
        'norm_pix_loss': bool(norm_pix_loss),
        'clip_grad': np.inf if args.clip_grad is None else args.clip_grad,
        'classes': len(tensors.get('head.1.bias', tensors.get('head.bias', []))),
        'width': tensors['cls_token'].shape[-1],
        'patches': tensors['pos_embed'].shape[1] - 1,
        'patch': tensors['patch_embed.proj.weight'].shape[-1],
        'layer_decay': 0.75 if name and name.startswith(('large', 'huge')) else 0.65,
    }


def record(args, settings, about, original, rungs, figures):
    """The report's contents."""
    command = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    verb = 'equals' if all(rung.passed for rung in rungs) else 'departs from'
    title = f'{settings["name"]}, {settings["kind"]}: Paddle {verb} {original["original"]}'
    rate = climb.LR.get(settings['kind'], 1e-3)
    deviations = [
        KEY_BIAS,
        f'The rate rises for {climb.WARMUP} of {climb.STEPS} steps and falls by a cosine; its largest '
        f'value is {rate:g}, where the recipes scale theirs by batches of thousands',
    ]
    if original['names'] == 'OpenMMLab':
        deviations.append(
            f"OpenMMLab's tensors were renamed by the original's own script and run by {original['original']}"
        )
    converted = (
        {'converted file': Path(args.dst).name, 'its sha256': weights.sha256(args.dst)}
        if args.dst
        else {}
    )
    figures = {
        **figures,
        'peak memory, MB': {'original': original['peak_memory_mb'], 'ours': peak_memory()},
    }
    return {
        'claim': f'{title} ({args.weights_are})' if args.weights_are else title,
        'model': settings['name'],
        'run': shlex.join(['python', 'main_parity.py', *command]),
        'environment': {**provenance.environment(), 'original': original['versions']},
        'weights': {
            'file': Path(args.src).name,
            'sha256': weights.sha256(args.src),
            'licence': settings['licence'],
            'format': about.format,
            'tensors': about.taken,
            **converted,
        },
        'parity': [rung.record() for rung in rungs],
        'figures': figures,
        'deviations': deviations,
        'status': 'measured',
    }


PARSER = cli.parser(__doc__, cli.device)
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
    help='the loss is of normalised pixels; default: as the weights say, else so',
)
PARSER.add_argument('--no_norm_pix_loss', action='store_false', dest='norm_pix_loss')
PARSER.add_argument(
    '--clip_grad',
    type=cli.number(float, 0),
    default=None,
    help='largest norm of all gradients in the steps; default: any, as in the recipes',
)
PARSER.add_argument(
    '--data_path',
    default=None,
    metavar='PATH',
    help='folder with val/<class>/<image>: accuracy of both',
)
PARSER.add_argument(
    '--class_names',
    default=None,
    metavar='FILE',
    help='with --data_path: the names of the class folders, '
    'one a line in the order of the outputs, where the weights do not say them',
)
PARSER.add_argument(
    '--weights_are', default='', metavar='TEXT', help='where the weights are from, for the claim'
)
PARSER.add_argument(
    '--licence',
    default=None,
    help='of the weights, for the report; default: what they say themselves',
)

if __name__ == '__main__':
    program.run(main, PARSER)
