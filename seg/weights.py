"""Weights into a segmentor or its backbone, of any code base that util.convert knows, and a word on what became of them."""
import math
import re

import numpy as np
import paddle

from layer import Pyramid
from util import checkpoint, convert, pos_embed, run
from util import weights as files
from util.convert import names
from util.errors import InputError

OTHER_CLASSES = ('conv_seg.weight', 'conv_seg.bias')  # may be drawn anew, for a data set of other classes


def load(model: paddle.nn.Layer, path: str) -> None:
    """Set every tensor of a segmentor; InputError where the file holds something else, or one of another shape."""
    tensors, kind, said = _read(model, path)
    if kind != names.SEGMENTOR:
        raise InputError(f'{path} holds {kind}; {names.SEGMENTOR} is needed here')
    checkpoint.load_model(model, tensors, path)
    run.say(said)


def begin(layer: paddle.nn.Layer, path: str) -> None:
    """Set what a file has for a segmentor or a backbone, to train on from there.

    The position table is interpolated where the grid differs, the last layer of a head is left out where the number of
    classes does, and what the file does not have stays as it was drawn. InputError for any other difference in shape, and
    for another kind of encoder.
    """
    tensors, kind, said = _read(layer, path)
    own = layer.state_dict()
    tensors = _for(own, tensors, kind)
    for name in own:
        if re.search(r'\bblocks\.\d+\.attn\.', name) and name not in tensors:
            raise InputError(f'{path} does not fit the model: {name} {list(own[name].shape)} is missing there')
    resized = []
    for name, table in tensors.items():
        if name.endswith('pos_embed') and name in own and table.shape != tuple(own[name].shape):
            first = int(name.replace('pos_embed', 'cls_token') in own)
            length = own[name].shape[1]
            side = math.isqrt(length - first)
            tensors[name] = pos_embed.interpolate(table, (side, side), cls_token=bool(first))
            resized.append(f'{name} {table.shape[1] - first} to {length - first} patches')
    anew = [name for name in own if name.endswith(OTHER_CLASSES) and name in tensors
            and list(tensors[name].shape) != own[name].shape]
    unused = [name for name in tensors if name not in own or name in anew]
    taken = {name: array for name, array in tensors.items() if name not in unused}
    checkpoint.load_model(layer, {**own, **taken}, path)
    run.say(f'{said}\n  set {len(taken)} of {len(own)} tensors here')
    drawn = [name for name in own if name not in taken]
    for what, which in (('resized', resized), ('not used', unused), ('as drawn', drawn)):
        if which:
            run.say(f'  {what}: {_shortened(which)}')


def _read(layer: paddle.nn.Layer, path: str) -> tuple[dict[str, np.ndarray], str, str]:
    """A file's tensors, what they are, and a word on them. Segmentors over pyramids are this project's alone, and read as
    they stand there; util.convert reads all others."""
    if any(isinstance(part, Pyramid) for part in layer.sublayers(include_self=True)):
        contents = files.read(path)
        tensors = contents['model'] if isinstance(contents.get('model'), dict) else contents
        if names.kind(tensors) == names.SEGMENTOR:
            return tensors, names.SEGMENTOR, f'{path}: {names.SEGMENTOR} over a pyramid; {len(tensors)} tensors'
    state, report = convert.read(path)
    return state['model'], report.kind, str(report)


def _for(own: dict, tensors: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The tensors by the names that they have in a segmentor, or in a backbone: which of the two `own` tells."""
    whole = 'backbone.patch_embed.proj.weight' in own
    if whole and kind != names.SEGMENTOR:
        return {f'backbone.{name}': array for name, array in tensors.items()}
    if not whole and kind == names.SEGMENTOR:
        return {name.removeprefix('backbone.'): array for name, array in tensors.items() if name.startswith('backbone.')}
    return dict(tensors)


def _shortened(listed: list[str]) -> str:
    return ', '.join(listed[:4]) + (f' and {len(listed) - 4} more' if len(listed) > 4 else '')
