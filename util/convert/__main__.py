"""Weights from other code bases, and weights for them.

    python -m util.convert SRC DST [--to paddle|torch|timm|hf|mmpretrain|mmseg|mmdet|detectron2]

SRC is a file of the official code, UM-MAE, timm, Hugging Face, OpenMMLab or detectron2, in
PyTorch's or safetensors' format or a pickle of arrays (.pkl), or a Paddle file; its keys and shapes
tell which. It may also be a folder of Hugging Face's. DST ends in .pd (paddle), .pth, .safetensors
or .pkl (detectron2); for hf it may be a folder, which transformers then opens, with the preparation
of pictures. docs/weights.md has the table of what is exact and what is not.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import models_sizes
import models_zoo
from util import cli, convert, download, program
from util.convert import hugging_face
from util.errors import InputError
from util.weights import sha256

LICENCE = (
    'that of the source; '
    'weights derived from those that facebookresearch/mae published: CC-BY-NC 4.0'
)
SUFFIXES = {
    'paddle': ['.pd', '.pdparams'],
    'torch': ['.pth', '.safetensors'],
    'timm': ['.safetensors', '.pth'],
    'hf': ['', '.safetensors'],
    'mmpretrain': ['.pth', '.safetensors'],
    'mmseg': ['.pth'],
    'mmdet': ['.pth'],
    'detectron2': ['.pkl', '.pth'],
}


def main(args):
    check_destination(args.src, Path(args.dst), args.to)
    source = hugging_face.file_in(download.local(args.src))
    with ThreadPoolExecutor() as beside:  # a thread hashes the file while it is read
        hashed = beside.submit(sha256, source)
        state, report = convert.read(source, args.partial, args.use_ema)
        print(report)

    state['licence'] = state.get('licence') or state.get('license') or args.licence
    state['source'] = {'file': source.name, 'sha256': hashed.result()}
    size = models_sizes.size_of(state['model'])
    try:
        written = convert.write(args.dst, state, args.to, size, labels_of(state))
    except OSError as error:
        raise InputError(f'DST {args.dst}: cannot be written ({error.strerror})') from None
    print('wrote', written)
    print(f'licence: {state["licence"]}')


def labels_of(state: dict) -> list[str] | None:
    """A label for each class: the state's own names, or ImageNet's; None without classes."""
    if 'head.bias' not in state['model']:
        return None
    count = len(state['model']['head.bias'])
    synonyms = models_zoo.labels(state.get('classes'), count)
    return [', '.join(names) for names in synonyms]


def check_destination(src: str, dst: Path, to: str) -> None:
    """InputError where DST cannot be written, before anything large is read."""
    suffixes = SUFFIXES[to]
    if dst.suffix not in suffixes:
        endings = ' or '.join(suffix or 'a folder' for suffix in suffixes)
        raise InputError(f'DST {dst}: --to {to} is written to {endings}')
    if not dst.parent.is_dir():
        raise InputError(f'DST {dst}: there is no folder {dst.parent}')
    if not dst.exists():
        return
    wants_folder = dst.suffix == ''
    if dst.is_dir() != wants_folder:
        found = 'folder' if dst.is_dir() else 'file'
        raise InputError(f'DST {dst} is a {found} already')
    if Path(src).exists() and dst.samefile(src):
        raise InputError(f'DST {dst} is SRC itself; choose another name')


PARSER = cli.parser(__doc__, cli.average)
PARSER.prog = 'python -m util.convert'
PARSER.add_argument('src', metavar='SRC', help='weights to read')
PARSER.add_argument('dst', metavar='DST', help='file to write')
PARSER.add_argument('--to', choices=SUFFIXES, default='paddle', help='code base to write for')
PARSER.add_argument(
    '--partial',
    action='store_true',
    help='leave out tensors that no known model has, and accept missing ones',
)
PARSER.add_argument(
    '--licence', default=LICENCE, help='licence to keep in DST where SRC carries none'
)

if __name__ == '__main__':
    program.run(main, PARSER)
