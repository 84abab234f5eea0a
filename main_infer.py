"""Classify pictures: the most probable labels of each.

    python main_infer.py --model vit_base_patch16 --resume checkpoint-best.pd --img_path PICTURE

PICTURE may be a folder or a quoted glob. Pooling, size and classes are the checkpoint's own where it says them, and need
flags where it does not.
"""
import json
import sys
from glob import glob
from pathlib import Path

import util  # noqa: F401  first of all, because it prepares the machine before Paddle is imported

# isort: split
import numpy as np
import paddle
from tqdm import tqdm

import models_zoo
from imagenet_classes import id2class
from util import cli, convert, run
from util.augment import crop, transform
from util.convert import names
from util.data import pictures
from util.errors import InputError
from util.weights import sizes


@paddle.no_grad()
def main(args):
    run.begin(args.device, seed=0)
    state = convert.load(args.resume)
    print(f'Resume checkpoint {args.resume}', file=sys.stderr if args.json else sys.stdout)
    said = settings(args, state)
    model = models_zoo.classifier(said['model'], img_size=said['input_size'], in_chans=said['in_chans'],
                              num_classes=said['nb_classes'], global_pool=said['global_pool'])
    if names.kind(state['model']) == names.PROBE:
        model.probe()
    models_zoo.set_weights(model, state['model'], args.resume)
    model.eval()

    labels = class_names(args.class_names, state.get('classes'), said['nb_classes'])
    files = find(args.img_path, said['in_chans'])
    plain = transform.Evaluate(said['input_size'], *crop.statistics(said['in_chans'], said.get('mean'), said.get('std')))
    for start in tqdm(range(0, len(files), args.batch_size), unit='batch', disable=len(files) == 1 or None):
        batch = files[start:start + args.batch_size]
        images = np.stack([plain(read(file, said['in_chans'])) for file in batch])
        probabilities = paddle.nn.functional.softmax(model(paddle.to_tensor(images)), axis=1)
        values, indices = (part.tolist() for part in probabilities.topk(min(args.topk, said['nb_classes']), axis=1))
        for row in zip(batch, values, indices):
            show(*row, labels, args.json, several=len(files) > 1)


def show(file, values, indices, labels, as_json, several):
    """One picture's labels: as the earlier Paddle port prints them, or as one JSON object."""
    if as_json:
        tqdm.write(json.dumps({'file': str(file), 'labels': [
            {'id': index, 'names': labels[index], 'probability': value} for value, index in zip(values, indices)]}))
        return
    tqdm.write(f'{file}:' if several else 'Inference results:')
    for value, index in zip(values, indices):
        tqdm.write(f'{labels[index]}: {value}')


def settings(args, state):
    """What is known of the model: by the checkpoint, else by flags. A flag that contradicts it is an error."""
    said = dict(state.get('args', {}))
    tensors = state['model']
    kind = names.kind(tensors)
    if kind not in (names.PROBE, names.POOLED, names.CLASS_TOKEN):
        raise InputError(f'{args.resume} holds {kind}, which has no classes; fine-tune it first')
    said['nb_classes'] = len(tensors['head.1.bias' if kind == names.PROBE else 'head.bias'])
    said['global_pool'] = 'fc_norm.weight' in tensors
    size_is_free = 'pos_embed' not in tensors and 'input_size' in said
    said |= {name: value for name, value in sizes.said_by(tensors).items() if name != 'input_size' or not size_is_free}
    for name in ('model', 'nb_classes', 'global_pool', 'input_size'):
        asked = getattr(args, name)
        if asked is not None and said.setdefault(name, asked) != asked:
            raise InputError(f'{args.resume} has {name} {said[name]}, but {name} {asked} was asked for')
    if 'model' not in said:
        raise InputError(f'{args.resume} does not say its model; give --model')
    return said


def class_names(file, own, count):
    """A list of synonyms for each class: from a file, the checkpoint, or ImageNet-1k."""
    if file:
        try:
            lines = [[name] for name in Path(file).read_text(encoding='utf-8').splitlines() if name]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f'--class_names {file}: cannot be read ({error})') from None
        if len(lines) != count:
            raise InputError(f'--class_names {file} has {len(lines)} lines, but the model has {count} classes')
        return lines
    if own:
        return [[name] for name in own] + [[f'class {i}'] for i in range(len(own), count)]
    return list(id2class.values()) if count == len(id2class) else [[f'class {i}'] for i in range(count)]


def find(img_path, in_chans):
    """The picture, the pictures of the folder, or those that the glob matches."""
    path = Path(img_path)
    if path.is_dir():
        files = sorted(file for file in path.rglob('*') if file.suffix.lower() in pictures.suffixes(in_chans))
    else:
        files = [path] if path.exists() else sorted(map(Path, glob(img_path, recursive=True)))
    if not files:
        raise InputError(f'--img_path {img_path}: no picture there ({" ".join(pictures.suffixes(in_chans))})')
    return files


def read(file, in_chans):
    """A picture as a person sees it: turned as the camera was held, transparency on white."""
    try:
        return pictures.read(file, in_chans, as_seen=True)
    except Exception as error:  # PIL raises a dozen kinds for broken files
        raise InputError(f'{file} cannot be read as a picture of {in_chans} channels ({error})') from None


PARSER = cli.parser(__doc__, cli.device)
PARSER.add_argument('--img_path', required=True, metavar='PATH', help='a picture, a folder, or a quoted glob')
PARSER.add_argument('--resume', required=True, metavar='FILE', help='weights of a classifier')
PARSER.add_argument('--model', default=None, metavar='NAME', help='needed where the weights do not say it')
PARSER.add_argument('--nb_classes', type=cli.number(int, 1), default=None, help="default: the weights' own")
PARSER.add_argument('--input_size', type=cli.number(int, 1), default=None, help="default: the weights' own")
PARSER.add_argument('--global_pool', action='store_true', default=None, help="pooling; default: the weights' own")
PARSER.add_argument('--cls_token', action='store_false', dest='global_pool')
PARSER.add_argument('--topk', type=cli.number(int, 1), default=5, help='labels a picture')
PARSER.add_argument('--batch_size', type=cli.number(int, 1), default=32, help='pictures at a time')
PARSER.add_argument('--class_names', default=None, metavar='FILE', help='a name a line, in the order of the classes')
PARSER.add_argument('--json', action='store_true', help='one JSON object a line')

if __name__ == '__main__':
    run.program(main, PARSER)
