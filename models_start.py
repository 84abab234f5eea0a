"""Begin training from a pre-trained file: copy what fits, adapt what can be, say what was done."""

import re
from dataclasses import dataclass

from paddle import nn

import models_sizes
from models_classifier import Classifier
from util import channels, convert, pos_embed, sizes
from util.assign import assign_weights
from util.convert import names
from util.convert.report import Report
from util.errors import InputError


@dataclass
class Start:
    """The result of start_from: which tensors were copied from the file `source`, and which not.

    copied, dropped: names in the file. fresh: names in the model that keep their initial values.
    resized: a description of each position table that was interpolated.
    adapted: a description of each layer that was adapted to another number of channels, and of a
        decoder that was left out.
    """

    source: str
    copied: list[str]
    resized: list[str]
    adapted: list[str]
    dropped: list[str]
    fresh: list[str]

    def __str__(self) -> str:
        copied = len(self.copied)
        of_all = copied + len(self.fresh)
        lines = [f'starts from {self.source}', f'  copied: {copied} of {of_all} tensors']
        for title in ('resized', 'adapted', 'dropped', 'fresh'):
            entries = getattr(self, title)
            if not entries:
                continue
            first = ', '.join(entries[:4])
            more = f' and {len(entries) - 4} more' if len(entries) > 4 else ''
            lines.append(f'  {title}: {first}{more}')
        return '\n'.join(lines)


# Parts that a file may lack: heads, decoders, parameters that only segmentors and detectors have
BEYOND = re.compile(
    r'(head|fc_norm|decoder\w*|\w*mask_token|pca_\w+)(\.|$)'
    r'|(fpn\d|up\d|neck|decode_head|auxiliary_head|position_bias|bbox_head|rpn_head|roi_head)\.'
    r'|blocks\.\d+\.(gamma_\d|attn\.rel_pos_[hw])'
)
# The decoder of a masked autoencoder
DECODER = re.compile(r'(decoder_\w+|mask_token|pca_\w+)(\.|$)')
# Tensors whose shape depends on the number of classes
CLASSES = re.compile(
    r'(head|\w+_head\.(conv_seg|gfl_cls)|roi_head\.\w+\.(fc_cls|fc_reg|conv_logits))\.(weight|bias)'
)


def start_from(
    model: nn.Layer, path: str, fresh: tuple[str, ...] = (), use_ema: bool = False
) -> Start:
    """Copy a pre-trained file's tensors into a model, to begin training from them.

    The model is a classifier, a masked autoencoder, a segmentor, a detector or the backbone of one;
    the file is of any code base that util.convert knows. Position tables of another grid are
    interpolated; a class token's position is dropped if the model has none. Weights for another
    number of channels are averaged or repeated. Layers for another number of classes are dropped,
    and so are a decoder of another size and the tensors named in `fresh`. InputError for another
    kind of encoder, for a part of the encoder that the file lacks, and for any other difference in
    shape.
    """
    return start_with(model, convert.read(path, use_ema=use_ema), path, fresh)


def start_with(
    model: nn.Layer, converted: tuple[dict, Report], path: str, fresh: tuple[str, ...] = ()
) -> Start:
    """As `start_from`, with what convert.read has given for the file `path`."""
    state, report = converted
    own = model.state_dict()
    if isinstance(model, Classifier):
        _check_head(model, state['model'], path)
    check_family(own, state['model'], path)
    models_sizes.check_patches(own, state['model'], path)
    tensors = _named_as_in(own, state['model'])
    changes = channels.adapt(own, tensors)
    decoder = _other_decoder(own, tensors)
    adapted = [f'{name} {change}' for name, change in changes.items() if name not in decoder]
    if decoder:
        adapted.append('a decoder of another size begins fresh')
    resized = _interpolate_positions(model, tensors, state.get('args', {}), path)

    # Sort the file's tensors
    copied, dropped = {}, []
    for name, array in tensors.items():
        unfit = name not in own or name in decoder or _other_classes(name, array, own)
        if unfit or name in fresh:
            dropped.append(name)
        else:
            copied[name] = array

    # The rest of the model keeps its initial values; it must not include encoder parts
    left = [name for name in own if name not in copied]
    missing = sorted(name for name in left if not BEYOND.match(name.removeprefix('backbone.')))
    if missing:
        first = ', '.join(missing[:5])
        raise InputError(
            f"{path} does not fit; it lacks {len(missing)} of the model's tensors: {first}"
        )
    assign_weights(model, own | copied, path)
    return Start(str(report), list(copied), resized, adapted, dropped, fresh=left)


def _other_classes(name: str, array, own: dict) -> bool:
    """Whether a tensor of `own` is for another number of classes than the array."""
    return bool(CLASSES.fullmatch(name)) and list(array.shape) != own[name].shape


def _other_decoder(own: dict, tensors: dict) -> list[str]:
    """The tensors of a masked autoencoder's decoder, if the model has another one; else none.

    A decoder is taken over whole or not at all. Its positions may be for another grid.
    """
    theirs = {name: array.shape for name, array in tensors.items() if DECODER.match(name)}
    ours = {name: tensor.shape for name, tensor in own.items() if DECODER.match(name)}
    if not ours or theirs.keys() != ours.keys():
        return list(theirs) if ours else []
    for name, shape in theirs.items():
        first = 2 if name == 'decoder_pos_embed' else 0  # of the axes that must agree
        if list(shape)[first:] != ours[name][first:]:
            return list(theirs)
    return []


def _check_head(model: Classifier, tensors: dict, path: str) -> None:
    """Raise InputError if a file's classifier is a probe, or has another pooling than the model."""
    kind = names.kind(tensors)
    if kind == names.PROBE:
        raise InputError(f'{path} holds {kind}; fine-tune from the weights that it was trained on')
    if 'head.weight' in tensors and ('fc_norm.weight' in tensors) != model.global_pool:
        flag = '--cls_token' if model.global_pool else '--global_pool'
        raise InputError(f'{path} holds {kind}; add {flag}')


def _named_as_in(own: dict, tensors: dict) -> dict:
    """A file's tensors under the model's names, where a segmentor's encoder is called backbone.

    own: the model's tensors. If the model is no segmentor, a segmentor's other parts are dropped.
    """
    prefix = 'backbone.'
    backbone = {}
    for name, array in tensors.items():
        if name.startswith(prefix):
            backbone[name.removeprefix(prefix)] = array

    is_segmentor = any(name.startswith(prefix) for name in own)
    if is_segmentor and not backbone:
        return {prefix + name: array for name, array in tensors.items()}
    if backbone and not is_segmentor:
        return backbone
    return dict(tensors)


def _interpolate_positions(model: nn.Layer, tensors: dict, flags: dict, path: str) -> list[str]:
    """Interpolate the position tables in `tensors` to the model's grids; describe each change.

    A table is taken to be square, unless the flags of its file record another image size.
    InputError if neither fits its length.
    """
    own = model.state_dict()
    encoder = getattr(model, 'backbone', model)
    encoder_grid = getattr(encoder, 'position_grid', encoder.patch_embed.grid)
    sides = sizes.image_sides(flags)
    class_token_in_file = any(name.endswith('cls_token') for name in tensors)
    resized = []
    for name, table in tensors.items():
        if not name.endswith('pos_embed') or name not in own:
            continue
        grid = model.grid if name.startswith('decoder') else encoder_grid
        rows, columns = grid
        cls_token = own[name].shape[1] - rows * columns  # 1 or 0
        if not cls_token and (class_token_in_file or pos_embed.has_class_token(table, sides)):
            tensors[name] = table = table[:, 1:]
        patches = table.shape[1] - cls_token
        source = pos_embed.grid_of(patches, sides)
        if source is None and patches == rows * columns:
            source = tuple(grid)  # nothing but the model tells the sides
        if source == tuple(grid):
            continue
        if source is None:
            raise InputError(
                f'{path}: {name} has {table.shape[1]} positions, of which {patches} are for '
                'patches. That is no square number, and the file gives no sides; the model has '
                f'{rows} x {columns} patches'
            )
        tensors[name] = pos_embed.interpolate(table, grid, bool(cls_token), source)
        resized.append(f'{name} {patches} to {rows * columns} patches')
    return resized


def check_family(own: dict, tensors: dict, path: str) -> None:
    """Raise InputError if the encoder in a file is of another kind than the model's."""
    found, wanted = names.family(tensors), names.family(own)
    if found != wanted:
        raise InputError(f'{path} holds {found}, and the model is {wanted}; choose another model')
