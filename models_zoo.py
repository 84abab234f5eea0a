"""Every model by its name, and weights from files.

The names are those of facebookresearch/mae and UM-MAE; each is a function in the module of its family.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from paddle import nn

import models_mae
import models_pvt
import models_simmim
import models_sizes
import models_swin
import models_um
import models_vit
from imagenet_classes import id2class
from models_classifier import Classifier
from models_mae import Reconstruction
from util import convert, pos_embed
from util.assign import assign_weights
from util.convert import names
from util.errors import InputError


def _variants(families: dict[str, ModuleType]) -> dict[str, Callable]:
    return {
        name: variant
        for prefix, module in families.items()
        for name, variant in vars(module).items()
        if name.startswith(prefix)
    }


CLASSIFIERS = _variants({'vit_': models_vit, 'swin_': models_swin, 'pvt_': models_pvt})
AUTOENCODERS = _variants(
    {
        'mae_vit_': models_mae,
        'mae_swin_': models_um,
        'mae_pvt_': models_um,
        'simmim_': models_simmim,
    }
)


def classifier(name: str, **kwargs) -> Classifier:
    """The classifier called `name`; InputError with all names where there is none."""
    return _choose(CLASSIFIERS, name)(**kwargs)


def autoencoder(name: str, fix_um_positions: bool = False, **kwargs) -> Reconstruction:
    """The masked autoencoder called `name`; InputError with all names where there is none.
    fix_um_positions is explained in models_um.py."""
    variant = _choose(AUTOENCODERS, name)
    if fix_um_positions:
        if variant.__module__ != models_um.__name__:
            raise InputError(
                f'--fix_um_positions: the positions of {name} are right as they are; leave it out'
            )
        kwargs['fix_um_positions'] = True
    return variant(**kwargs)


def _choose(variants: dict[str, Callable], name: str) -> Callable:
    if name not in variants:
        raise InputError(f'no model {name!r}; choose from {", ".join(sorted(variants))}')
    return variants[name]


def autoencoder_from(
    path: str,
    name: str | None = None,
    norm_pix_loss: bool | None = None,
    use_ema: bool = False,
) -> tuple[Reconstruction, dict]:
    """The masked autoencoder in a weight file, and the flags it was trained with ({} where the file does not say).

    name and norm_pix_loss are for files without flags; InputError where they are needed and missing, where they
    contradict the file, or where the file holds an encoder only. Channels and (square) image size follow from shapes.
    """
    state = convert.read_and_report(path, use_ema)
    tensors, flags = state['model'], state.get('args', {})
    if names.kind(tensors) != names.AUTOENCODER:
        raise InputError(
            f'{path} holds {names.kind(tensors)}, which has no decoder and cannot reconstruct. '
            'Take a whole pre-training checkpoint (of the official files: *_full and mae_visualize_*)'
        )
    said_name = flags.get('model')
    if said_name not in AUTOENCODERS:  # another code base's name; the shapes know ours
        said_name = models_sizes.autoencoder_of(tensors)
    name = _settled(path, '--model', said_name, name)
    norm_pix_loss = _settled(path, '--norm_pix_loss', flags.get('norm_pix_loss'), norm_pix_loss)
    said = flags | models_sizes.said_by(tensors)
    secondary = {}
    if 'vis_mask_token' in tensors:
        secondary = {'vis_mask_ratio': flags.get('vis_mask_ratio') or 0.25}
    model = autoencoder(
        name,
        flags.get('fix_um_positions', False),
        norm_pix_loss=norm_pix_loss,
        img_size=said['input_size'],
        in_chans=said['in_chans'],
        **secondary,
    )
    assign_weights(model, tensors, path)
    return model, flags


def _settled(path: str, flag: str, said, asked):
    """What a file says of a flag, or else what was asked; InputError where neither does, or they differ."""
    name = flag.removeprefix('--')
    if said is None and asked is None:
        raise InputError(
            f'{path} does not say its {name}; give {flag} (of the official files, *_full predict '
            'normalised pixels, mae_visualize_* do not: --no_norm_pix_loss)'
        )
    # A model may have two names
    differ = AUTOENCODERS.get(said, said) != AUTOENCODERS.get(asked, asked)
    if said is not None and asked is not None and differ:
        raise InputError(f'{path} was trained with {name} {said}, but {name} {asked} was asked for')
    return asked if said is None else said


def classifier_from(path: str, use_ema: bool = False, **asked) -> tuple[Classifier, dict]:
    """The classifier in a weight file, ready to infer, and what is known of it.

    Known are model, nb_classes, global_pool, input_size, in_chans, `labels` (a list of synonyms for each class), and mean
    and std where the file says them. asked: the first four of these, for files that do not say them, None where nothing is
    asked; InputError where one is needed and missing, where one contradicts the file, or where the file holds no
    classifier.
    """
    state = convert.read_and_report(path, use_ema)
    tensors, said = state['model'], dict(state.get('args', {}))
    kind = names.kind(tensors)
    if kind not in (names.PROBE, names.POOLED, names.CLASS_TOKEN):
        raise InputError(f'{path} holds {kind}, which has no classes; fine-tune it first')

    if said.get('model') not in CLASSIFIERS:
        said.pop('model', None)  # another code base's name

    # What the tensors say holds; but without a position table they fit any size
    said['nb_classes'] = len(tensors['head.1.bias' if kind == names.PROBE else 'head.bias'])
    said['global_pool'] = 'fc_norm.weight' in tensors
    by_shapes = models_sizes.said_by(tensors)
    if 'pos_embed' not in tensors and 'input_size' in said:
        by_shapes['input_size'] = said['input_size']
    said |= by_shapes
    for name, value in asked.items():
        if value is not None and said.setdefault(name, value) != value:
            raise InputError(f'{path} has {name} {said[name]}, but {name} {value} was asked for')
    if 'model' not in said:
        raise InputError(f'{path} does not say its model; give --model')

    model = classifier(
        said['model'],
        img_size=said['input_size'],
        in_chans=said['in_chans'],
        num_classes=said['nb_classes'],
        global_pool=said['global_pool'],
    )
    if kind == names.PROBE:
        model.probe()
    assign(model, tensors, path)
    model.eval()
    return model, said | {'labels': labels(state.get('classes'), said['nb_classes'])}


def labels(own: list[str] | None, count: int) -> list[list[str]]:
    """A list of synonyms for each of `count` classes: those that the weights' own names begin, or ImageNet-1k's."""
    if not own and count == len(id2class):
        return list(id2class.values())
    own = own or []
    return [[name] for name in own] + [[f'class {i}'] for i in range(len(own), count)]


def assign(model: nn.Layer, tensors: dict, path: str) -> None:
    """Set all weights; InputError where the tensors are of another kind of model, or of another shape."""
    own = model.state_dict()
    _check_family(own, tensors, path)
    found, wanted = names.kind(tensors), names.kind(own)
    if found != wanted:
        raise InputError(f'{path} holds {found}; {wanted} is needed here')
    assign_weights(model, tensors, path)


def assign_from(model: nn.Layer, path: str, use_ema: bool = False) -> dict:
    """Set all weights of a classifier from its file; what else the file says (flags, class names ...)."""
    if not path:
        raise InputError('--eval needs --resume FILE, the weights to evaluate')
    state = convert.read_and_report(path, use_ema)
    assign(model, state['model'], path)
    return {key: value for key, value in state.items() if key not in ('model', 'optimizer')}


def _check_family(own: dict, tensors: dict, path: str) -> None:
    """InputError where the encoder in a file is of another kind than the model's."""
    found, wanted = names.family(tensors), names.family(own)
    if found != wanted:
        raise InputError(f'{path} holds {found}, and the model is {wanted}; choose another --model')


@dataclass
class Start:
    """What became of a file's tensors and a model's: names of those copied, dropped and left fresh; a line on those resized."""

    source: str
    copied: list[str]
    resized: list[str]
    dropped: list[str]
    fresh: list[str]

    def __str__(self) -> str:
        of = len(self.copied) + len(self.fresh)
        lines = [f'starts from {self.source}', f'  copied: {len(self.copied)} of {of} tensors']
        for what in ('resized', 'dropped', 'fresh'):
            if listed := getattr(self, what):
                more = f' and {len(listed) - 4} more' if len(listed) > 4 else ''
                lines.append(f'  {what}: {", ".join(listed[:4])}{more}')
        return '\n'.join(lines)


# What a model may have beyond the encoder that it starts from: heads, decoders, and what only segmentors learn
BEYOND = re.compile(
    r'(head|fc_norm|decoder\w*|mask_token|vis_mask_token)(\.|$)'
    r'|(fpn\d|neck|decode_head|auxiliary_head|position_bias)\.|blocks\.\d+\.gamma_\d'
)
CLASSES = re.compile(r'(head|\w+_head\.conv_seg)\.(weight|bias)')  # depend on the number of classes


def start_from(
    model: nn.Layer, path: str, fresh: tuple[str, ...] = (), use_ema: bool = False
) -> Start:
    """Copy what a pre-trained file has for a model, to train on from there; what became of each tensor.

    The model is a classifier, a masked autoencoder, a segmentor or its backbone; the file is of any code base that
    util.convert knows. Position tables are interpolated where the grid differs, layers for another number of classes are
    dropped, and so is what is named in `fresh`. InputError for another kind of encoder, for a part of the encoder that the
    file lacks, and for any other difference in shape.
    """
    state, report = convert.read(path, use_ema=use_ema)
    own = model.state_dict()
    if isinstance(model, Classifier):
        _check_head(model, state['model'], path)
    _check_family(own, state['model'], path)
    tensors = _named_as_in(own, state['model'])

    resized = _interpolate_positions(model, tensors, state.get('args', {}), path)
    dropped = [
        name
        for name, array in tensors.items()
        if name not in own
        or name in fresh
        or (CLASSES.fullmatch(name) and list(array.shape) != own[name].shape)
    ]
    copied = {name: array for name, array in tensors.items() if name not in dropped}
    left = [name for name in own if name not in copied]
    missing = sorted(name for name in left if not BEYOND.match(name.removeprefix('backbone.')))
    if missing:
        raise InputError(
            f'{path} does not fit the model; {len(missing)} of its tensors are missing there: '
            f'{", ".join(missing[:5])}'
        )
    assign_weights(model, own | copied, path)
    return Start(str(report), list(copied), resized, dropped, left)


def _check_head(model: Classifier, tensors: dict, path: str) -> None:
    """InputError where a file's classifier pools otherwise, or is a probe."""
    kind = names.kind(tensors)
    if kind == names.PROBE:
        raise InputError(f'{path} holds {kind}; fine-tune from the weights that it was trained on')
    if 'head.weight' in tensors and ('fc_norm.weight' in tensors) != model.global_pool:
        flag = '--cls_token' if model.global_pool else '--global_pool'
        raise InputError(f'{path} holds {kind}; add {flag}')


def _named_as_in(own: dict, tensors: dict) -> dict:
    """A file's tensors by the names that they have in a segmentor or in an encoder: which of the two `own` tells."""
    prefix = 'backbone.'
    ours, theirs = (any(name.startswith(prefix) for name in state) for state in (own, tensors))
    if ours and not theirs:
        return {prefix + name: array for name, array in tensors.items()}
    if theirs and not ours:
        return {
            name.removeprefix(prefix): array
            for name, array in tensors.items()
            if name.startswith(prefix)
        }
    return dict(tensors)


def _interpolate_positions(model: nn.Layer, tensors: dict, flags: dict, path: str) -> list[str]:
    """Put the position tables that are of another grid into the model's; a line on each.

    A table is a square, unless the flags of its file say other sides. InputError where neither fits its length.
    """
    own, encoder = model.state_dict(), getattr(model, 'backbone', model)
    resized = []
    for name, table in tensors.items():
        if not name.endswith('pos_embed') or name not in own:
            continue
        grid = model.grid if name.startswith('decoder') else encoder.patch_embed.grid
        first = own[name].shape[1] - grid[0] * grid[1]  # 1 with a class token
        patches = table.shape[1] - first
        source = pos_embed.grid_of(patches, models_sizes.image_sides(flags))
        if source == tuple(grid):
            continue
        if source is None:
            raise InputError(
                f'{path}: {name} has {table.shape[1]} positions, of which {patches} are of patches. That is no square, '
                f'and the file does not say other sides; the model has {grid[0]} x {grid[1]} patches'
            )
        tensors[name] = pos_embed.interpolate(table, grid, cls_token=bool(first), source=source)
        resized.append(f'{name} {patches} to {grid[0] * grid[1]} patches')
    return resized
