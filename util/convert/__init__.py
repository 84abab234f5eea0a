"""Weights from other code bases, and into them: read, write, and a report on what became of each tensor.

`python -m util.convert` is the program. No model is built: names and shapes are data, in names.py.
"""

import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from util import dist, log, pos_embed, weights
from util.convert import hugging_face, names
from util.errors import InputError
from util.progress import bar
from util.weights import paddle_file, safetensors_file, torch_file

TARGETS = {
    'paddle': names.PADDLE,
    'torch': names.TORCH,
    'timm': names.TORCH,
    'hf': names.HUGGING_FACE,
    'mmpretrain': names.MMPRETRAIN,
    'mmseg': names.MMSEGMENTATION,
}
SPECIAL = {
    ('mmpretrain', names.CLASS_TOKEN): names.MMPRETRAIN_CLASS_TOKEN,
    ('mmpretrain', names.PROBE): names.MMPRETRAIN_PROBE,
    ('mmseg', names.SEGMENTOR): names.MMSEGMENTOR,
}
ENCODER_ALONE = ('timm', 'mmseg')  # of an autoencoder, these get no more
PYRAMIDS = ('paddle', 'torch')  # where Swin and PVT as UM-MAE has them can go
REFUSED = {
    ('timm', names.PROBE): 'its classifier has no normalisation before the head',
    ('hf', names.PROBE): 'its classifier has no normalisation before the head',
    ('hf', names.POOLED): 'its classifier sees the class token, not the mean of the patches',
    **{
        (to, names.SEGMENTOR): 'it has no such segmentor'
        for to in ('torch', 'timm', 'hf', 'mmpretrain')
    },
    **{
        ('mmseg', kind): 'it has no classifiers'
        for kind in (names.PROBE, names.POOLED, names.CLASS_TOKEN)
    },
}
# Keys of averaged weights, DeiT's and timm's
AVERAGES = ('model_ema', 'state_dict_ema')
# states that only their own program goes on from
TRAINING = ('optimizer', 'scaler', 'param_schedulers', 'message_hub')


@dataclass
class Report:
    """What became of the tensors of a file, by the names that they have there: those taken over, those left out or made
    with the reason."""

    file: str
    format: str = ''
    kind: str = ''
    taken: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    made: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f'{self.file}: {self.kind}, {self.format}; {self.taken} tensors']
        for verb, reasons in (('dropped', self.dropped), ('made', self.made)):
            for reason in dict.fromkeys(reasons.values()):
                which = [name for name, why in reasons.items() if why == reason]
                lines.append(
                    f'  {verb} {", ".join(which[:3])}{f" and {len(which) - 3} more" * (len(which) > 3)}: {reason}'
                )
        return '\n'.join(lines)


def read(path: str | Path, partial: bool = False, use_ema: bool = False) -> tuple[dict, Report]:
    """A weight file's contents with its tensors under 'model', named and laid out as here, and how they came about.

    Numbers of other precisions become float32. A folder is one that `save_pretrained` wrote. InputError where the keys are
    of no known model, where tensors are left over or missing (unless `partial`), and where a shape contradicts the others.
    use_ema: of a file with an average beside the plain weights (`model_ema`; timm's `state_dict_ema`), take that.
    """
    path = hugging_face.file_in(path)
    contents = weights.read(path)
    key, tensors = _tensors(contents, path, use_ema)
    if names.kind(tensors) == names.SEGMENTOR and names.family(tensors) != names.VIT:
        # Segmentors over pyramids are this project's alone
        report = Report(
            str(path), f'{names.PADDLE.label}, over a pyramid', names.SEGMENTOR, len(tensors)
        )
        return {'model': tensors}, report
    scheme = max(names.SCHEMES, key=lambda scheme: len(_recognised(scheme, tensors)))
    known = _recognised(scheme, tensors)
    if not known:
        raise InputError(
            f'{path} holds no model known here; its keys begin with {", ".join(list(contents.get(key, contents))[:3])}'
        )
    report = Report(
        str(path), taken=len(known), dropped=_leftovers(scheme, known, tensors, path, partial)
    )
    model = _joined({ours: tensors[name] for name, ours in known.items()}, path)
    if scheme is names.PADDLE and _is_torch_layout(model):
        scheme = names.TORCH
    if scheme is not names.PADDLE:
        model = _turned(model)
    check(model, path, partial)
    others = (
        {
            name: value
            for name, value in contents.items()
            if name not in (key, 'model', 'ema', *AVERAGES)
        }
        if key
        else {}
    )
    if not isinstance(others.get('args', {}), dict):
        del others['args']  # other programs' may be of any type
    report.format, report.kind = (
        scheme.label + (', averaged weights' if key in ('ema', *AVERAGES) else ''),
        names.kind(model),
    )
    plain = {
        name: array.astype('float32', copy=False) for name, array in bar(model.items(), 'tensors')
    }
    return {**others, 'model': plain}, report


def read_and_report(path: str | Path, use_ema: bool = False) -> dict:
    """A weight file's contents as `read` gives them; the main process prints on stderr what it made of a foreign file."""
    contents, report = read(path, use_ema=use_ema)
    if dist.is_main() and (report.dropped or not report.format.startswith(names.PADDLE.label)):
        print(report, file=sys.stderr)
    return contents


def _tensors(contents: dict, path: str | Path, use_ema: bool = False) -> tuple[str | None, dict]:
    """The key that the tensors are under, None where they are the whole file, and the tensors without wrappers' names."""
    key = _chosen(contents, path, use_ema)
    tensors = contents if key is None else contents[key]
    unknown = [
        name
        for name, value in tensors.items()
        if not isinstance(value, np.ndarray) or not isinstance(name, str)
    ]
    if unknown or not tensors:
        said = ', '.join(map(str, unknown[:3])) or 'nothing'
        raise InputError(
            f'{path} holds no weights: '
            + (
                f'neither "model" nor "state_dict" is in it, but {said}'
                if key is None
                else f'in its {key!r} is {said}, and that is no tensor'
            )
        )
    unwrapped = {_unwrapped(name): array for name, array in tensors.items()}
    if len(unwrapped) < len(tensors):
        raise InputError(
            f'{path} has some tensors twice, with and without {" or ".join(names.WRAPPERS)} before the name'
        )
    return key, unwrapped


def _chosen(contents: dict, path: str | Path, use_ema: bool) -> str | None:
    """The key of the tensors; a line says which is taken where there are plain weights and an average of PyTorch's."""
    # 'ema' is the average that our own runs keep: their accuracy is of that
    there = [
        key
        for key in ('ema', 'model', 'state_dict', *AVERAGES)
        if isinstance(contents.get(key), dict)
    ]
    averages = [key for key in there if key in ('ema', *AVERAGES)]
    if use_ema and not averages:
        raise InputError(f'--use_ema: {path} holds no average of the weights')
    if not there:
        return None
    key = averages[0] if use_ema else there[0]
    other = next((name for name in there if (name in AVERAGES) != (key in AVERAGES)), None)
    if other and key != 'ema':
        remedy = 'without --use_ema' if use_ema else '--use_ema, here or in python -m util.convert,'
        log.warn(f'{path} holds {key!r} and {other!r}; {key!r} is taken ({remedy} takes {other!r})')
    return key


def _unwrapped(name: str) -> str:
    name = re.sub(names.WRAPPED, '', name)
    return f'vit.{name}' if re.match(names.HUGGING_FACE_BARE, name) else name


def _leftovers(
    scheme: names.Scheme, known: dict, tensors: dict, path: str | Path, partial: bool
) -> dict[str, str]:
    """Names that the scheme does not know -> why they are left out; InputError where there is no reason for it."""
    dropped, unknown = {}, []
    for name in tensors:
        if name not in known:
            reason = next(
                (why for pattern, why in names.DROPPED.items() if re.search(pattern, name)), None
            )
            if name in names.IDENTITY and (tensors[name] == names.IDENTITY[name]).all():
                reason = f'{names.IDENTITY[name]} everywhere, so that it does nothing'
            dropped[name] = reason or 'no part of a model known here'
            unknown += [] if reason else [name]
    if unknown and not partial:
        raise InputError(
            f'{path} looks like {scheme.label}, but {len(unknown)} of its tensors have no place in the '
            f'model: {", ".join(unknown[:5])} (python -m util.convert --partial leaves them out)'
        )
    return dropped


def _recognised(scheme: names.Scheme, tensors: dict) -> dict[str, str | tuple[str, int]]:
    """Those names that the scheme knows -> ours; of a query, key or value, (ours, 0, 1 or 2)."""
    inverse, found = {}, {}
    for ours, theirs in scheme.stems.items():
        if isinstance(theirs, tuple):
            inverse.update({part: (ours, number) for number, part in enumerate(theirs)})
        else:
            inverse[theirs] = (ours, None)
    for name in tensors:
        stem, number, suffix = _split(name, inverse)
        if stem in inverse:
            ours, part = inverse[stem]
            ours = ours.replace('{}', number) + suffix
            found[name] = ours if part is None else (ours, part)
    return found


def _split(name: str, stems: dict) -> tuple[str, str, str]:
    """Stem, number of the block and suffix of a name. A number belongs to a stem that is known with it."""
    stem, suffix = next(
        ((name.removesuffix(end), end) for end in ('.weight', '.bias') if name.endswith(end)),
        (name, ''),
    )
    number = re.search(r'(?<=\.)\d+(?=\.)', stem)
    if stem in stems or not number:
        return stem, '', suffix
    return stem[: number.start()] + '{}' + stem[number.end() :], number[0], suffix


def _turned(model: dict) -> dict:
    """With Linear weights of the other framework's layout."""
    return {
        name: array.T if array.ndim == 2 and name.endswith('.weight') else array
        for name, array in model.items()
    }


def _joined(tensors: dict, path: str | Path) -> dict:
    """Query, key and value one below the other, as PyTorch's layout has them."""
    whole = {name: array for name, array in tensors.items() if isinstance(name, str)}
    for ours in dict.fromkeys(name[0] for name in tensors if not isinstance(name, str)):
        parts = [tensors.get((ours, number)) for number in range(3)]
        if any(part is None for part in parts) or len({part.shape for part in parts}) > 1:
            raise InputError(f'{path}: {ours} needs query, key and value of one shape')
        whole[ours] = np.concatenate(parts)
    return whole


def _is_torch_layout(model: dict) -> bool:
    """Whether Linear weights are [out, in]; query, key and value, or the latter two, make that visible."""
    for end, parts in (('attn.qkv.weight', 3), ('attn.kv.weight', 2)):
        for weight in (array for name, array in model.items() if name.endswith(end)):
            return weight.ndim == 2 and weight.shape[0] == parts * weight.shape[1]
    return False


def check(model: dict, path: str | Path, partial: bool = False) -> None:
    """InputError where a tensor is missing (unless `partial`), is none of the model's, is not of floating numbers, or where
    its shape contradicts another's."""
    expected = names.layout(model)
    missing = [name for name in expected if name not in model]
    if missing and not partial:
        raise InputError(
            f'{path} holds {names.kind(model)}, but {len(missing)} of its tensors are missing: '
            f'{", ".join(missing[:20])}'
        )
    unknown = [name for name in model if name not in expected]
    if unknown:
        raise InputError(f'{path} holds {names.kind(model)}, which has no {", ".join(unknown[:5])}')
    sides = {}
    for name in expected:  # in this order, so that always the same tensor is blamed
        if name in model:
            if not np.issubdtype(model[name].dtype, np.floating):
                raise InputError(
                    f'{path}: {name} is of type {model[name].dtype}, and no floating number'
                )
            _bind(name, model[name], expected[name].split(), sides, path)


def _bind(name: str, array: np.ndarray, shape: list[str], sides: dict, path: str | Path) -> None:
    """Learn the lengths that the letters of a shape stand for, or compare with what was learnt from other tensors."""
    fits = array.ndim == len(shape)
    for side, length in zip(shape, array.shape) if fits else ():
        factor, letter = int(re.match(r'\d*', side)[0] or 1), side.lstrip('0123456789')
        if letter:
            known, _ = sides.setdefault(letter, (length // factor, name))
            fits = fits and length == factor * known
        else:
            fits = fits and length == factor
    if not fits:
        others = {
            sides[side.lstrip('0123456789')][1]
            for side in shape
            if side.lstrip('0123456789') in sides
        } - {name}
        raise InputError(
            f'{path}: {name} has the shape {list(array.shape)} (in, out), which contradicts '
            f'{", ".join(sorted(others)) or "the model"}'
        )


def renamed(model: dict, to: str) -> tuple[dict, Report]:
    """Our tensors with the names and layout of a code base; InputError where it has no such model."""
    kind = names.kind(model)
    if to not in PYRAMIDS and (family := names.family(model)) != names.VIT:
        raise InputError(f'--to {to}: {family} cannot be written, because it has no such model')
    if (to, kind) in REFUSED:
        raise InputError(f'--to {to}: {kind} cannot be written, because {REFUSED[to, kind]}')
    scheme = SPECIAL.get((to, kind), TARGETS[to])
    report = Report('', scheme.label, kind)
    if to in ENCODER_ALONE and kind == names.AUTOENCODER:
        report.dropped = dict.fromkeys(
            (name for name in model if name.startswith(('decoder', 'mask_token', 'vis_mask'))),
            f'{to} has the encoder alone',
        )
    split = {name: _split(name, scheme.stems) for name in model if name not in report.dropped}
    unknown = [name for name, (stem, _, _) in split.items() if stem not in scheme.stems]
    if unknown:
        raise InputError(f'--to {to}: {scheme.label} has no place for {", ".join(unknown)}')
    tensors = {}
    for name, array in (model if to == 'paddle' else _turned(model)).items():
        if name in split:
            stem, number, suffix = split[name]
            theirs = scheme.stems[stem]
            parts = (
                [(theirs, array)] if isinstance(theirs, str) else zip(theirs, np.split(array, 3))
            )
            tensors |= {part.replace('{}', number) + suffix: piece for part, piece in parts}
    if to != 'paddle':
        made = _kept_by_pytorch(tensors)
        tensors |= made
        report.made = {name: names.MADE[name.rpartition('.')[2]] for name in made}
    report.taken = len(split)
    return tensors, report


def _kept_by_pytorch(tensors: dict) -> dict[str, np.ndarray]:
    """What files of PyTorch hold beside parameters and statistics."""
    counts = {
        name.replace('running_mean', 'num_batches_tracked'): np.array(0)
        for name in tensors
        if name.endswith('running_mean')
    }
    indices = {}
    for name in tensors:
        if name.endswith('relative_position_bias_table'):
            side = math.isqrt(tensors['backbone.pos_embed'].shape[1] - 1)
            indices[name.replace('bias_table', 'index')] = pos_embed.relative_positions(side, side)
    return counts | indices


def write(path: str | Path, state: dict, to: str, size=None) -> Report:
    """Write {'model': tensors under our names, ...} for a code base, whole or not at all. What else is in it (flags,
    class names, licence) is kept where the format has a place for it; the state of an optimizer is not. size: by
    models_sizes.size_of, for a folder of Hugging Face's."""
    path = Path(path)
    tensors, report = renamed(state['model'], to)
    report.file = str(path)
    about = {
        name: value
        for name, value in state.items()
        if name not in ('model', 'position', 'examples', *TRAINING)
    }
    report.dropped |= {
        name: 'the state of training stays behind' for name in TRAINING if state.get(name)
    }
    for name in [name for name, value in about.items() if not _is_plain(value)]:
        report.dropped[name] = 'more than text, numbers, lists and dicts of them'
        del about[name]
    if to == 'hf' and path.suffix == '':
        config = hugging_face.config(state['model'], size, about.get('args', {}), report.made)
        hugging_face.write(path, tensors, about, config)
    elif to == 'paddle':
        paddle_file.write(path, {'model': tensors, **about})
    elif path.suffix == '.safetensors':
        safetensors_file.write(path, tensors, about)
    else:
        torch_file.write(path, {'model' if to == 'torch' else 'state_dict': tensors, **about})
    return report


def _is_plain(value) -> bool:
    """Whether a value can be kept in every format."""
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False
