"""Read a weight file of any known code base: its tensors under our names and in Paddle's layout."""

import re
import sys
from pathlib import Path

import numpy as np

from util import dist, download, log, weights
from util.convert import detectors, hugging_face, layout, names
from util.convert.report import Report
from util.convert.shapes import check
from util.convert.tables import Scheme
from util.errors import InputError
from util.progress import bar

AVERAGES = ('model_ema', 'state_dict_ema')  # keys of averaged weights: DeiT's, timm's
OUR_AVERAGE = 'ema'
PLAIN = ('model', 'state_dict')
# Of several that fit a file equally well, the first is taken
SCHEMES = names.SCHEMES + detectors.SCHEMES
PADDLE = (names.PADDLE, detectors.PADDLE)


def read(
    path: str | Path, partial: bool = False, use_ema: bool = False, contents: dict | None = None
) -> tuple[dict, Report]:
    """A weight file's contents with its tensors under 'model', named as here, and a report on them.

    All numbers become float32. A folder is one that `save_pretrained` wrote; an https or http
    address is downloaded once.

    partial: leave out tensors that no model here has, and accept that some are missing.
    use_ema: take the average of a file that has one beside its plain weights.
    contents: what weights.read has given, if the file was read before.

    InputError where the keys are of no known model, where tensors are left over or missing, and
    where a shape contradicts the others.
    """
    path = hugging_face.file_in(download.local(path))
    contents = weights.read(path) if contents is None else contents
    key = _chosen(contents, path, use_ema)
    tensors = _tensors(contents, key, path)
    if names.kind(tensors) == names.SEGMENTOR and names.family(tensors) != names.VIT:
        # no other code base has a segmentor over a pyramid, so its names are ours
        label = f'{names.PADDLE.label}, over a pyramid'
        report = Report(str(path), label, names.SEGMENTOR, taken=len(tensors))
        return {'model': tensors}, report

    # The file is of the code base that knows the most of its names
    scheme = max(SCHEMES, key=lambda scheme: len(_recognised(scheme, tensors)))
    known = _recognised(scheme, tensors)
    if not known:
        keys = list(contents if key is None else contents[key])
        raise InputError(
            f'{path} holds no model known here; its keys begin with {", ".join(keys[:3])}'
        )
    dropped = _leftovers(scheme, known, tensors, path, partial)

    # Our names, and Linear weights as [in, out]
    model = _joined({ours: tensors[name] for name, ours in known.items()}, path)
    if scheme in PADDLE and _is_torch_layout(model):
        scheme = names.TORCH if scheme is names.PADDLE else detectors.MMDETECTION
    if scheme not in PADDLE:
        model = layout.transposed(model)
    class_position = detectors.take_class_position(model) if scheme.class_position else None
    check(model, path, partial)

    label = scheme.label
    if key in (OUR_AVERAGE, *AVERAGES):
        label += ', averaged weights'
    report = Report(str(path), label, names.kind(model), taken=len(known), dropped=dropped)
    contents = _besides_weights(contents, key)
    if class_position is not None:
        contents['class_position'] = class_position  # no weight here, but the way back needs it
    contents['model'] = {}
    for name, array in bar(model.items(), 'tensors'):
        contents['model'][name] = array.astype('float32', copy=False)
    return contents, report


def read_and_report(path: str | Path, use_ema: bool = False, contents: dict | None = None) -> dict:
    """A weight file's contents as `read` gives them; see `reported`."""
    return reported(read(path, use_ema=use_ema, contents=contents))


def reported(converted: tuple[dict, Report]) -> dict:
    """The contents that `read` has given.

    For a file of another code base the main process prints the report on stderr.
    """
    contents, report = converted
    foreign = not report.format.startswith(names.PADDLE.label)
    if dist.is_main() and (report.dropped or foreign):
        print(report, file=sys.stderr)
    return contents


def _chosen(contents: dict, path: str | Path, use_ema: bool) -> str | None:
    """The key of the tensors; None where the file holds nothing but tensors.

    Where another code base left plain weights and an average, a warning tells which is taken.
    """
    # The average of our own runs comes first, because their accuracy is measured with it
    there = [key for key in (OUR_AVERAGE, *PLAIN, *AVERAGES) if isinstance(contents.get(key), dict)]
    averages = [key for key in there if key in (OUR_AVERAGE, *AVERAGES)]
    if use_ema and not averages:
        raise InputError(f'--use_ema: {path} holds no average of the weights')
    if not there:
        return None

    key = averages[0] if use_ema else there[0]
    others = [name for name in there if (name in AVERAGES) != (key in AVERAGES)]
    if others and key != OUR_AVERAGE:
        remedy = 'without --use_ema' if use_ema else '--use_ema, here or in python -m util.convert,'
        log.warn(
            f'{path} holds {key!r} and {others[0]!r}; {key!r} is taken '
            f'({remedy} takes {others[0]!r})'
        )
    return key


def _tensors(contents: dict, key: str | None, path: str | Path) -> dict:
    """The tensors of a file, without the prefixes of wrappers before their names."""
    tensors = contents if key is None else contents[key]
    strange = []
    for name, value in tensors.items():
        if not isinstance(value, np.ndarray) or not isinstance(name, str):
            strange.append(str(name))
    if strange or not tensors:
        found = ', '.join(strange[:3]) or 'nothing'
        if key is None:
            found = f'it has neither "model" nor "state_dict", but {found}'
        else:
            found = f'its {key!r} holds {found} where tensors are expected'
        raise InputError(f'{path} holds no weights: {found}')

    unwrapped = {_unwrapped(name): array for name, array in tensors.items()}
    if len(unwrapped) < len(tensors):
        wrappers = ' or '.join(names.WRAPPERS)
        raise InputError(
            f'{path} has some tensors twice, with and without {wrappers} before the name'
        )
    return unwrapped


def _unwrapped(name: str) -> str:
    name = re.sub(names.WRAPPED, '', name)
    return f'vit.{name}' if re.match(names.HUGGING_FACE_BARE, name) else name


def _recognised(scheme: Scheme, tensors: dict) -> dict[str, str | tuple[str, int]]:
    """The names that a scheme knows -> ours; (ours, 0, 1 or 2) for a query, key or value."""
    inverse = {}
    for ours, theirs in scheme.stems.items():
        if isinstance(theirs, str):
            inverse[theirs] = ours, None
        else:
            for part, stem in enumerate(theirs):
                inverse[stem] = ours, part

    known = {}
    for name in tensors:
        stem, number, suffix = layout.split(name, inverse)
        if stem in inverse:
            ours, part = inverse[stem]
            ours = ours.replace('{}', number) + suffix
            known[name] = ours if part is None else (ours, part)
    return known


def _leftovers(
    scheme: Scheme, known: dict, tensors: dict, path: str | Path, partial: bool
) -> dict[str, str]:
    """Names that the scheme does not know -> why they are dropped.

    InputError where there is no reason to drop one, unless `partial`.
    """
    dropped = {}
    unknown = []
    for name, array in tensors.items():
        if name in known:
            continue
        reason = _reason_to_drop(name, array)
        if reason is None:
            unknown.append(name)
        dropped[name] = reason or 'no part of a model known here'
    if unknown and not partial:
        raise InputError(
            f'{path} looks like {scheme.label}, but {len(unknown)} of its tensors have no place '
            f'in the model: {", ".join(unknown[:5])} '
            '(python -m util.convert --partial leaves them out)'
        )
    return dropped


def _reason_to_drop(name: str, array: np.ndarray) -> str | None:
    """Why a tensor can be left out without a loss; None where it cannot."""
    if name in names.IDENTITY and (array == names.IDENTITY[name]).all():
        return f'{names.IDENTITY[name]} everywhere, so that it does nothing'
    for pattern, reason in names.DROPPED.items():
        if re.search(pattern, name):
            return reason
    return None


def _joined(tensors: dict, path: str | Path) -> dict:
    """The tensors with query, key and value stacked along the outputs: three [D, D] to [3D, D].

    This is for PyTorch's layout. Keys are our names, or (our name, 0, 1 or 2) for the three.
    """
    whole = {name: array for name, array in tensors.items() if isinstance(name, str)}
    split = [name[0] for name in tensors if not isinstance(name, str)]
    for ours in dict.fromkeys(split):
        parts = [tensors.get((ours, number)) for number in range(3)]
        shapes = {None if part is None else part.shape for part in parts}
        if None in shapes or len(shapes) > 1:
            raise InputError(f'{path}: {ours} needs query, key and value of one shape')
        whole[ours] = np.concatenate(parts)
    return whole


def _is_torch_layout(model: dict) -> bool:
    """Whether Linear weights are [out, in]: seen from the joined query, key and value."""
    for end, parts in (('attn.qkv.weight', 3), ('attn.kv.weight', 2)):
        for name, weight in model.items():
            if name.endswith(end):
                return weight.ndim == 2 and weight.shape[0] == parts * weight.shape[1]
    return False


def _besides_weights(contents: dict, key: str | None) -> dict:
    """What a file holds besides its weights and their averages."""
    if key is None:
        return {}
    left_out = (key, 'model', OUR_AVERAGE, *AVERAGES)
    others = {name: value for name, value in contents.items() if name not in left_out}
    if not isinstance(others.get('args', {}), dict):
        del others['args']  # another program's flags, in an unknown form
    return others
