"""Classify pictures: the most probable labels of each.

    python main_infer.py --model vit_base_patch16 --resume checkpoint-best.pd --img_path PICTURE

PICTURE may be a folder or a quoted glob. Pooling, size and classes are the checkpoint's own where it says them, and need
flags where it does not. --resume may be a folder that main_export.py has written: then Paddle Inference or ONNX Runtime
runs it, on a CPU with oneDNN where it can.
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

import models_labels
import models_zoo
from util import cli, exported, program
from util.augment import crop, transform
from util.data import pictures, workers
from util.errors import InputError
from util.progress import bar

MOST_WORKERS = 4  # by default; each prepares some hundred images/s


def main(args):
    program.start(args.device, seed=0)
    scores_of, said, how = (
        from_folder(args) if Path(args.resume, exported.ABOUT).exists() else from_weights(args)
    )
    print(f'Resume checkpoint {args.resume}', file=sys.stderr if args.json else sys.stdout)
    labels = class_names(args.class_names, said['labels'])
    files = pictures.find(args.img_path, said['in_chans'])
    if not files:
        suffixes = ' '.join(pictures.suffixes(said['in_chans']))
        raise InputError(f'--img_path {args.img_path}: no picture there ({suffixes})')
    plain = transform.Evaluate(
        said['input_size'], *crop.statistics(said['in_chans'], said.get('mean'), said.get('std'))
    )
    order = [
        files[start : start + args.batch_size] for start in range(0, len(files), args.batch_size)
    ]
    start = time.perf_counter()
    batches = read_batches(
        order, lambda file: plain(pictures.read_as_seen(file, said['in_chans'])), args.num_workers
    )
    if len(files) > 1:
        batches = bar(batches, 'batches', len(order))
    for batch, images in zip(order, batches):
        probabilities = paddle.nn.functional.softmax(paddle.to_tensor(scores_of(images)), axis=1)
        values, indices = (
            part.tolist() for part in probabilities.topk(min(args.topk, len(labels)), axis=1)
        )
        for row in zip(batch, values, indices):
            show(*row, labels, args.json, several=len(files) > 1)
    if len(files) > 1:
        seconds = time.perf_counter() - start
        print(
            f'{len(files)} pictures in {seconds:.1f} s, {len(files) / seconds:.1f} images/s with reading them ({how})',
            file=sys.stderr,
        )


def from_weights(args):
    """images [N, C, height, width] -> scores [N, K], what is known of the model, and what runs it."""
    if args.engine not in (None, 'live'):
        raise InputError(
            f'--engine {args.engine} takes a folder that main_export.py has written, and {args.resume} is none'
        )
    bf16 = args.precision == 'bf16'
    if bf16 and paddle.get_device() == 'cpu':
        raise InputError(
            '--precision bf16: on a CPU the live model has float32 alone; main_export.py writes one for which '
            '--engine inference has bfloat16'
        )
    model, said = models_zoo.classifier_from(
        args.resume,
        args.use_ema,
        model=args.model,
        nb_classes=args.nb_classes,
        global_pool=args.global_pool,
        input_size=args.input_size,
    )

    @paddle.no_grad()
    def scores_of(images):
        with paddle.amp.auto_cast(bf16, dtype='bfloat16'):
            return model(paddle.to_tensor(images)).astype('float32').numpy()

    return scores_of, said, f'live, {args.precision}'


def from_folder(args):
    """As from_weights, of an exported model."""
    if args.engine == 'live':
        raise InputError(
            f'{args.resume} is an exported model; --engine live takes the weights that it was made of'
        )
    said = exported.description(args.resume)
    if said['what'] != 'classify':
        raise InputError(
            f'{args.resume} was exported to {said["what"]}, which gives no classes; export a classifier'
        )
    for name, own in (
        ('model', said['model']),
        ('input_size', said['input_size']),
        ('nb_classes', len(said['classes'])),
    ):
        if getattr(args, name) not in (None, own):
            raise InputError(
                f'{args.resume} has {name} {own}, but {name} {getattr(args, name)} was asked for'
            )
    model = exported.Exported(args.resume, args.engine or 'inference', args.precision)
    return lambda images: model(images)[0], said | {'labels': said['classes']}, model.how


def read_batches(order, prepare, num_workers):
    """The files of each batch, prepared and stacked; by worker processes where there are several batches."""
    if num_workers is None:
        num_workers = min(MOST_WORKERS, os.cpu_count() or 1, len(order) - 1)
    if num_workers and workers.supported():
        return workers.Pool(prepare, np.stack, order, num_workers, str)
    return (np.stack([prepare(file) for file in batch]) for batch in order)


def show(file, values, indices, labels, as_json, several):
    """One picture's labels: as the earlier Paddle port prints them, or as one JSON object."""
    if as_json:
        tqdm.write(
            json.dumps(
                {
                    'file': str(file),
                    'labels': [
                        {'id': index, 'names': labels[index], 'probability': value}
                        for value, index in zip(values, indices)
                    ],
                }
            )
        )
        return
    tqdm.write(f'{file}:' if several else 'Inference results:')
    for value, index in zip(values, indices):
        tqdm.write(f'{labels[index]}: {value}')


def class_names(file, own):
    """A list of synonyms for each class: from a file, or the model's own."""
    if not file:
        return own
    return [[name] for name in models_labels.read_names(file, len(own))]


PARSER = cli.parser(__doc__, cli.device, cli.average)
PARSER.add_argument(
    '--img_path', required=True, metavar='PATH', help='a picture, a folder, or a quoted glob'
)
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
    help='what runs it (default: live for '
    'weights; inference, which is Paddle Inference, for a folder)',
)
PARSER.add_argument(
    '--precision',
    choices=exported.PRECISIONS,
    default='fp32',
    help='bf16: faster where the processor has it; needs an exported model, or a GPU',
)
PARSER.add_argument(
    '--model', default=None, metavar='NAME', help='needed where the weights do not say it'
)
PARSER.add_argument(
    '--nb_classes', type=cli.number(int, 1), default=None, help="default: the weights' own"
)
PARSER.add_argument(
    '--input_size', type=cli.number(int, 1), default=None, help="default: the weights' own"
)
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
    help='processes that read pictures (default: '
    f'one a core, {MOST_WORKERS} at most, where there are several batches)',
)
PARSER.add_argument(
    '--class_names', default=None, metavar='FILE', help='a name a line, in the order of the classes'
)
PARSER.add_argument('--json', action='store_true', help='one JSON object a line')

if __name__ == '__main__':
    program.run(main, PARSER)
