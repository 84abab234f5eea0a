"""Classify pictures: the most probable labels of each. Or write their features to a file.

    python main_infer.py --model vit_base_patch16 --resume checkpoint-best.pd --img_path PICTURE
    python main_infer.py --resume checkpoint-0.pd --img_path FOLDER --features features.npz

PICTURE may be a folder or a quoted glob. Pooling, size and classes are those of the checkpoint; a
checkpoint that does not tell them needs flags. --resume may be a folder that main_export.py has
written: then Paddle Inference or ONNX Runtime runs it, on a CPU with oneDNN where possible.
"""

import json
import os
import sys
import time
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
from tqdm import tqdm

import models_features
import models_labels
import models_sizes
import models_zoo
from util import amp, archive_flags, cli, exported, feature_file, program, sizes
from util.augment import crop, transform
from util.data import folder, pictures, workers
from util.data.archives import places
from util.data.images import Images
from util.errors import InputError
from util.progress import bar

MOST_WORKERS = 4  # by default; each prepares some hundred images/s


def main(args):
    program.start(
        args.device, seed=0, amp=args.amp, deterministic=args.deterministic, to=sys.stderr
    )
    check_features(args)
    is_exported = Path(args.resume, exported.ABOUT).exists()
    outputs_of, about, how = from_folder(args) if is_exported else from_weights(args)
    stream = sys.stderr if args.json else sys.stdout
    print(f'Resume checkpoint {args.resume}', file=stream)
    channels = about['in_chans']
    images = find(args.img_path, channels, args.index_dir)

    # Pictures, prepared as in evaluation
    mean, std = crop.statistics(channels, about.get('mean'), about.get('std'))
    plain = transform.Evaluate(about['input_size'], mean, std)

    def prepare(index):
        with pictures.named(images.paths[index], channels):
            picture = pictures.read(images.source(index), channels, as_seen=True)
        return plain(picture)

    numbers = range(len(images))
    starts = range(0, len(images), args.batch_size)
    order = [numbers[start : start + args.batch_size] for start in starts]
    begin = time.perf_counter()
    batches = read_batches(order, prepare, args.num_workers, images.paths)
    several = len(images) > 1
    if several:
        batches = bar(batches, 'batches', len(order))
    outputs = (
        ([images.paths[index] for index in indices], outputs_of(batch))
        for indices, batch in zip(order, batches)
    )

    if args.features:
        write_features(args.features, list(images.paths), outputs)
    else:
        labels = class_names(args.class_names, about['labels'])
        show_labels(outputs, labels, args.topk, args.json, several=several)
    if several:
        seconds = time.perf_counter() - begin
        rate = len(images) / seconds
        took = f'{len(images)} pictures in {seconds:.1f} s'
        print(f'{took}, {rate:.1f} images/s with reading them ({how})', file=sys.stderr)


def check_features(args):
    """InputError where flags of features and labels contradict, or the file cannot be written."""
    if not args.features:
        for flag in ('feature', 'blocks'):
            if getattr(args, flag):
                raise InputError(f'--{flag} needs --features FILE, the file to write')
        return
    feature_file.check(Path(args.features), per_patch=args.feature == 'patches')
    for flag in ('json', 'class_names'):
        if getattr(args, flag):
            raise InputError(f'--{flag} is for labels, and --features writes none; leave out one')


def from_weights(args):
    """(images [N, C, height, width] -> outputs, facts about the model, what runs it).

    Outputs are scores [N, K], or arrays of features by their names.
    """
    if args.engine not in (None, 'live'):
        raise InputError(
            f'--engine {args.engine} takes a folder that main_export.py has written, '
            f'and {args.resume} is none'
        )
    if args.precision == 'int8':
        raise InputError('--precision int8 needs a folder of main_export.py --int8 as --resume')
    if args.precision != 'fp32':
        raise InputError(
            f'--precision {args.precision} is for folders of main_export.py; weights themselves '
            'take --amp, on a GPU'
        )
    autocast = amp.caster(args.amp)
    model, about = load(args)
    run = models_features.Features(model, args.feature, args.blocks) if args.features else model

    @paddle.no_grad()
    def outputs_of(images):
        with autocast():
            outputs = run(paddle.to_tensor(images))
        if args.features:
            return {name: as_array(x) for name, x in outputs.items()}
        return as_array(outputs)

    precision = 'fp32' if args.amp == 'off' else args.amp
    return outputs_of, about, f'live, {precision}'


def as_array(x):
    """A tensor as a float32 array."""
    return x.astype('float32').numpy()


def load(args):
    """The model in a weight file, and its properties; for features it may have no head."""
    model_from = models_features.model_from if args.features else models_zoo.classifier_from
    return model_from(
        args.resume,
        args.use_ema,
        model=args.model,
        nb_classes=args.nb_classes,
        global_pool=args.global_pool,
        input_size=args.input_size,
        patch_size=args.patch_size,
    )


def from_folder(args):
    """The same as from_weights for an exported model."""
    if args.amp != 'off':
        raise InputError(
            f'--amp {args.amp}: {args.resume} is an exported model, which takes --precision'
        )
    if args.engine == 'live':
        raise InputError(
            f'{args.resume} is an exported model; '
            '--engine live takes the weights that it was made of'
        )
    about = exported.description(args.resume)
    if args.features:
        check_exported_features(args, about)
    elif about['what'] != 'classify':
        raise InputError(
            f'{args.resume} was exported to {about["what"]}, which gives no classes; '
            'export a classifier'
        )
    check_flags(args, about)
    about['labels'] = about.get('classes')
    model = exported.Exported(args.resume, args.engine or 'inference', args.precision)

    def outputs_of(images):
        output = model(images)[0]
        return {'features': output} if args.features else output

    return outputs_of, about, model.how


def check_exported_features(args, about):
    """InputError where an exported model does not give the features that were asked for."""
    if about['what'] != 'features':
        raise InputError(
            f'{args.resume} was exported to {about["what"]}; '
            '--features needs a folder of main_export.py --what features'
        )
    if args.feature or args.blocks:
        raise InputError(
            f'{args.resume} is an exported model, which gives the input of the head alone; '
            'leave out --feature and --blocks, or name the weights that it was made of'
        )


def check_flags(args, about):
    """InputError where a flag contradicts an exported model."""
    known = {
        'model': about['model'],
        'input_size': about['input_size'],
        'patch_size': about.get('patch_size'),
        'nb_classes': len(about.get('classes', [])),
    }
    asked = {name: getattr(args, name) for name in known}
    for name, own in known.items():
        if own is None and asked[name] is not None:
            raise InputError(f'{args.resume} does not say its {name}; leave --{name} out')
    models_sizes.check_asked(args.resume, known, asked)


def find(path, channels, index_dir):
    """The pictures that a path, folder, glob or archive stands for; InputError without any."""
    suffixes = pictures.suffixes(channels)
    if places.named(path):
        return folder.find_all(places.expand(path), suffixes, index_dir)
    files = [str(file) for file in pictures.find(path, channels)]
    archives = [] if files else places.in_folder(path)
    if archives:
        return folder.find_all(archives, suffixes, index_dir)
    if not files:
        raise InputError(f'--img_path {path}: no picture there ({" ".join(suffixes)})')
    return Images(files, None, None)


def read_batches(order, prepare, num_workers, names):
    """The pictures of each batch, prepared and stacked; names: of the pictures, for errors.

    Worker processes do it where there are several batches.
    """
    if num_workers is None:
        num_workers = min(MOST_WORKERS, os.cpu_count() or 1, len(order) - 1)
    return workers.batches(prepare, np.stack, order, count=num_workers, name=names.__getitem__)


def write_features(path, files, outputs):
    """Write the features of all pictures; outputs: (files of a batch, arrays by their names)."""
    with feature_file.writing(Path(path), files) as sink:
        for batch, arrays in outputs:
            sink.add(batch, arrays)
    shapes = ', '.join(f'{name} {list(array.shape[1:])}' for name, array in arrays.items())
    print(f'wrote {path}: {len(files)} rows of {shapes}')


def show_labels(outputs, labels, topk, as_json, several):
    """Print the labels of all pictures; outputs: (files of a batch, scores [N, K])."""
    topk = min(topk, len(labels))
    for batch, scores in outputs:
        probabilities = paddle.nn.functional.softmax(paddle.to_tensor(scores), axis=1)
        values, classes = probabilities.topk(topk, axis=1)  # the most probable first
        for file, *best in zip(batch, values.tolist(), classes.tolist()):
            show(file, *best, labels, as_json, several=several)


def show(file, values, indices, labels, as_json, several):
    """Print one picture's labels, as the earlier Paddle port does or as one JSON object."""
    if as_json:
        best = []
        for value, index in zip(values, indices):
            best.append({'id': index, 'names': labels[index], 'probability': value})
        tqdm.write(json.dumps({'file': str(file), 'labels': best}))
        return
    tqdm.write(f'{file}:' if several else 'Inference results:')
    for value, index in zip(values, indices):
        tqdm.write(f'{labels[index]}: {value}')


def class_names(file, own):
    """A list of synonyms for each class: from a file, or the model's own."""
    if not file:
        return own
    return [[name] for name in models_labels.read_names(file, len(own))]


PARSER = cli.parser(__doc__, cli.device, cli.amp, cli.average)
PARSER.add_argument(
    '--img_path',
    required=True,
    metavar='PATH',
    help='a picture, a folder, a quoted glob, or archives as for training',
)
archive_flags.index_dir(PARSER)
PARSER.add_argument(
    '--resume',
    required=True,
    metavar='PATH',
    help="weights of a classifier, or an exported one's folder",
)
PARSER.add_argument(
    '--engine',
    choices=['live', *exported.ENGINES],
    default=None,
    help='what runs the model (default: live for weights; '
    'inference, which is Paddle Inference, for a folder)',
)
PARSER.add_argument(
    '--precision',
    choices=exported.PRECISIONS,
    default='fp32',
    help='of an exported model; bf16 is faster where the processor has it, or on a GPU',
)
cli.model(PARSER)
PARSER.add_argument(
    '--nb_classes', type=cli.number(int, 1), default=None, help="default: the weights' own"
)
sizes.flags(PARSER)
PARSER.add_argument(
    '--global_pool', action='store_true', default=None, help="pooling; default: the weights' own"
)
PARSER.add_argument('--cls_token', action='store_false', dest='global_pool')
PARSER.add_argument('--topk', type=cli.number(int, 1), default=5, help='labels a picture')
PARSER.add_argument('--batch_size', type=cli.number(int, 1), default=32, help='pictures at a time')
PARSER.add_argument(
    '--num_workers',
    type=cli.number(int, 0),
    default=None,
    help='processes that read pictures '
    f'(default: one a core, {MOST_WORKERS} at most, where there are several batches)',
)
PARSER.add_argument(
    '--class_names', default=None, metavar='FILE', help='a name a line, in the order of the classes'
)
PARSER.add_argument(
    '--features',
    default='',
    metavar='FILE',
    help='write features instead of labels: a .npz, .parquet or .csv; '
    '--resume may also be a pre-trained encoder or autoencoder',
)
PARSER.add_argument(
    '--feature',
    choices=models_features.FEATURES,
    default=None,
    help='of the class token, the mean of the patches, or each patch '
    "(default: what the model's head sees; cls for a pre-trained ViT)",
)
PARSER.add_argument(
    '--blocks',
    type=cli.number(int, 0),
    nargs='+',
    default=None,
    metavar='N',
    help='features of these blocks, from 0, without a normalisation '
    '(default: of the whole encoder)',
)
PARSER.add_argument('--json', action='store_true', help='one JSON object a line')

if __name__ == '__main__':
    program.run(main, PARSER)
