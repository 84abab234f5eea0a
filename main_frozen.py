"""Judge the frozen features of encoders: k-NN, logistic regression, linear and attentive probes.

    python -m paddle.distributed.launch main_frozen.py --data_path DATA \\
        --finetune mae_pretrain_vit_base.pd --labels 1% 10% --random

One pass over the images extracts all features. The table shows the accuracy in percent on the
validation images; --output_dir receives every figure in frozen.json.
"""

import functools
import json
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle

import engine_frozen
import models_features
import models_probes
from util import amp, archive_flags, atomic, cli, dist, flags, log, program, provenance, sizes
from util.accuracies import METHODS, Figure, table, warn_of_edges
from util.augment import crop, transform
from util.data import folder, pictures, rows, subset, summary
from util.errors import InputError

PATCHES = models_features.ManyFeatures.PATCHES
RANDOM = 'random weights'
FILE = 'frozen.json'
SHAPE = ('model', 'input_size', 'patch_size', 'in_chans')  # flags that weights may tell


def main(args):
    program.start(
        args.device,
        args.seed,
        args.output_dir,
        amp=args.amp,
        deterministic=args.deterministic,
    )
    check(args)
    find = functools.cache(functools.partial(find_images, args))
    judged, figures = [], []
    for about, model in encoders(args):
        size = sizes.words(about['input_size'])
        log.info(f'{about["name"]}: {about["model"]}, images of {size} pixels')
        images, parts = find(about['in_chans'])
        with rows.folder(args.output_dir) as place:
            features = extract(args, place, model, about, images)
            figures += judge(args, about['name'], features, parts)
        judged.append(about)

    log.info(f'\n{table(figures)}')
    warn_of_edges(figures)
    if args.output_dir:
        write(args, judged, figures)


def check(args):
    """InputError where flags contradict each other."""
    if not args.finetune and not args.model:
        raise InputError('name weights (--finetune FILE), or a --model to judge random weights')


# Weights


def encoders(args):
    """The encoders to judge, one after the other: (properties, model).

    Properties: name, model, input_size, patch_size, in_chans, mean and std.
    """
    known = {flag: getattr(args, flag) for flag in SHAPE}
    bases = [Path(file).name for file in args.finetune]
    for file, base in zip(args.finetune, bases):
        name = file if bases.count(base) > 1 else base
        about, model = from_file(args, file, name)
        yield about, model
        for key, value in about.items():
            if known.get(key) is None:  # random weights are like the first file's
                known[key] = value

    if args.random or not args.finetune:
        in_chans = known['in_chans'] or 3
        paddle.seed(args.seed)  # the same weights on all ranks
        own = [known['model'], in_chans, known['input_size'], known['patch_size']]
        model = models_features.headless(*own)
        size = sizes.plain(model.patch_embed.img_size)
        yield known | {'name': RANDOM, 'input_size': size, 'in_chans': in_chans}, model


def from_file(args, file, name):
    """An encoder of --finetune: (properties, model)."""
    model, found = models_features.model_from(
        file,
        args.use_ema,
        model=args.model,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )
    if args.in_chans not in (None, found['in_chans']):
        raise InputError(f'{file} has {found["in_chans"]} channels; leave out --in_chans')
    about = {'name': name}
    for key in (*SHAPE, 'mean', 'std'):
        about[key] = found.get(key)
    return about, model


# Images


def find_images(args, channels):
    """The training images that are used and the validation images; and `parts`.

    parts: (labels, draw) -> the places of these training images among those that are used.
    """
    images, held_out = folder.find_both(
        args.data_path, pictures.suffixes(channels), index_dir=args.index_dir
    )
    log.info(summary.line('training', images))
    log.info(summary.line('validation', held_out))
    labels = np.array(images.labels)

    parts = {}
    for asked in dict.fromkeys(args.labels):
        draws = 1 if asked == subset.ALL else args.draws
        for draw in range(draws):
            parts[asked, draw] = subset.choose(labels, asked, args.seed + draw, images.classes)
    used = np.unique(np.concatenate(list(parts.values())))
    parts = {key: np.searchsorted(used, places) for key, places in parts.items()}
    return (subset.of(images, used), held_out), parts


def extract(args, place, model, about, images):
    """{feature: (training rows, validation rows)}, written below the folder `place`.

    images: those of find_images.
    """
    attentive = 'attentive' in args.methods
    run = models_features.ManyFeatures(model, args.blocks, patches=attentive)
    kinds = dict.fromkeys(run.parts, '<f4')
    if args.methods == ['attentive']:
        kinds = {}
    if attentive:
        models_probes.check_queries(args.queries, run.width)
        kinds[PATCHES] = '<f2'  # they are many

    autocast = amp.caster(args.amp)

    def features_of(images):
        with autocast():
            return run(images)

    recorded = {key: about.get(key) for key in ('mean', 'std') if about.get(key)}
    mean, std = crop.trained_statistics(recorded, about['in_chans'], args.mean, args.std)
    plain = transform.Evaluate(about['input_size'], mean, std)
    batches = engine_frozen.loaders(
        images,
        about['in_chans'],
        plain,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        timeout=args.data_timeout,
    )
    return engine_frozen.extract(features_of, batches, place, kinds)


# Methods


def judge(args, name, features, parts):
    """The figures of one encoder. features, parts: those of `extract` and `find_images`."""
    figures = []
    for (asked, draw), places in parts.items():
        found = []
        for feature, (train, val) in features.items():
            by_method = of_patches if feature == PATCHES else of_vectors
            for method, setting, acc1 in by_method(args, train, places, val):
                figure = Figure(
                    weights=name,
                    labels=asked,
                    draw=draw,
                    images=len(places),
                    method=method,
                    setting=setting,
                    feature=feature,
                    acc1=acc1,
                )
                found.append(figure)
        order = list(METHODS)
        figures += sorted(found, key=lambda figure: order.index(figure.method))
    return figures


def of_vectors(args, train, places, val):
    """(method, setting, accuracy) of every method that takes one vector an image."""
    train = train.at(places)
    val = val.whole()
    found = []
    if 'knn' in args.methods:
        by_count = engine_frozen.knn(train, val, args.k, args.temperature)
        found += [('knn', count, acc1) for count, acc1 in by_count.items()]
    if not {'logistic', 'linear'} & {*args.methods}:
        return found

    train, val = engine_frozen.standardised(train, val)
    if 'logistic' in args.methods:
        judge_part = functools.partial(engine_frozen.logistic, train, val)
        results = engine_frozen.shared(args.C, judge_part)
        for strength, (acc1, converged) in zip(args.C, results):
            found.append(('logistic', strength, acc1))
            if not converged:
                log.warn(f'logistic regression with C {strength:g} has not converged')
    if 'linear' in args.methods:
        width = train.features.shape[1]
        make = functools.partial(models_probes.linear, width, classes_of(train, val))
        found += of_probes(args, 'linear', make, train, val)
    return found


def of_patches(args, train, places, val):
    """(method, setting, accuracy) of the attentive probe."""
    _, width = train.features.shape
    classes = classes_of(train, val)
    make = functools.partial(models_probes.Attentive, width, classes, args.queries)
    return of_probes(args, 'attentive', make, train, val, places=places)


def classes_of(train, val):
    """The number of classes; a list of either may lack images of the last one."""
    return int(max(train.labels.max(), val.labels.max())) + 1


def of_probes(args, method, make, train, val, *, places=None):
    """(method, rate, accuracy) of probes that differ in their rate."""
    how = engine_frozen.Training(args.steps, args.probe_batch_size, args.seed)

    def judge_rates(rates):
        return engine_frozen.probes(train, val, make, rates, how, places=places)

    results = engine_frozen.shared(args.rates, judge_rates)
    return [(method, rate, acc1) for rate, acc1 in zip(args.rates, results)]


def write(args, judged, figures):
    """Write every figure, the weights and the settings to --output_dir, on the main process."""
    if not dist.is_main():
        return
    contents = {
        'weights': judged,
        'settings': vars(args),
        'environment': provenance.environment(),
        'figures': [figure.entry() for figure in figures],
    }
    path = Path(args.output_dir) / FILE
    with atomic.writing(path) as file:
        file.write(json.dumps(contents, indent=1).encode())
    log.info(f'every figure: {path}')


PARSER = cli.parser(__doc__, flags.data, archive_flags.index_dir, cli.device, cli.amp)
PARSER.add_argument(
    '--finetune',
    nargs='+',
    default=[],
    metavar='FILE',
    help='weights of encoders, autoencoders or classifiers, of any code base, or their https '
    'addresses; the table compares them',
)
PARSER.add_argument('--random', action='store_true', help='also judge random weights')
cli.model(PARSER)
sizes.flags(PARSER)
cli.average(PARSER)
PARSER.add_argument(
    '--methods', nargs='+', choices=METHODS, default=list(METHODS), help='what judges the features'
)
PARSER.add_argument(
    '--labels',
    type=subset.amount,
    nargs='+',
    default=[subset.ALL],
    metavar='PART',
    help='training labels: all, a share of each class as 1%%, or images a class as 5; several are '
    'judged one after the other',
)
PARSER.add_argument(
    '--draws',
    type=flags.positive,
    default=1,
    help='how often a part is drawn, from the seeds --seed, --seed + 1 and so on; the table then '
    'shows mean and deviation',
)
PARSER.add_argument(
    '--blocks',
    type=flags.count,
    default=2,
    help='also judge the outputs of this number of last blocks, without a normalisation',
)
PARSER.add_argument(
    '--k', type=flags.positive, nargs='+', default=[10, 20, 100, 200], help='nearest neighbours'
)
PARSER.add_argument(
    '--temperature',
    type=cli.number(float, 1e-3),
    default=engine_frozen.TEMPERATURE,
    help='of the vote of the neighbours, exp(cosine / temperature)',
)
PARSER.add_argument(
    '--C',
    type=cli.number(float, 1e-9),
    nargs='+',
    default=[1e-3, 1e-2, 0.1, 1.0, 10.0],
    help="logistic regression's inverse strength of regularization; the best is shown",
)
PARSER.add_argument(
    '--rates',
    type=flags.amount,
    nargs='+',
    default=[1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
    help='learning rates of the probes, which are trained side by side; the best is shown',
)
PARSER.add_argument(
    '--queries', type=flags.positive, default=32, help='of the attentive probe; divides the width'
)
PARSER.add_argument(
    '--steps',
    type=flags.positive,
    default=12500,
    help='training steps of a probe, for any part of the labels; 12500 are 10 epochs of ImageNet',
)
PARSER.add_argument(
    '--probe_batch_size',
    type=flags.positive,
    default=1024,
    help='images of a step of a probe, over all processes',
)
PARSER.add_argument(
    '--batch_size',
    type=flags.positive,
    default=128,
    help='images per process whose features are computed at a time',
)
PARSER.add_argument(
    '--precision', action=cli.Renamed, const='--amp bfloat16', help='the earlier name of --amp'
)
PARSER.add_argument('--seed', type=flags.count, default=0, help='of parts, probes, random weights')
PARSER.add_argument(
    '--output_dir',
    default='./output_dir',
    metavar='DIR',
    help='folder of frozen.json, and of the features while the program runs; empty: none',
)
PARSER.set_defaults(in_chans=None)

if __name__ == '__main__':
    program.run(main, PARSER)
