"""Write weights for another code base: our tensors under its names and in its layout."""

import json
import math
from pathlib import Path

import numpy as np

from util import pos_embed
from util.convert import detectors, hugging_face, layout, model_card, names
from util.convert.report import Report
from util.convert.tables import Scheme
from util.errors import InputError
from util.weights import paddle_file, safetensors_file, torch_file

TARGETS = {
    'paddle': names.PADDLE,
    'torch': names.TORCH,
    'timm': names.TORCH,
    'hf': names.HUGGING_FACE,
    'mmpretrain': names.MMPRETRAIN,
    'mmseg': names.MMSEGMENTATION,
}
# Code bases that name some kinds of models in another way
SPECIAL = {
    ('mmpretrain', names.CLASS_TOKEN): names.MMPRETRAIN_CLASS_TOKEN,
    ('mmpretrain', names.PROBE): names.MMPRETRAIN_PROBE,
    ('mmseg', names.SEGMENTOR): names.MMSEGMENTOR,
}
OF_DETECTORS = ('mmdet', 'detectron2')
ENCODER_ALONE = ('timm', 'mmseg')  # code bases without a masked autoencoder's decoder
DECODER = (
    'decoder',
    'mask_token',
    'vis_mask',
    'encoder_mask_token',
    'pca_',
)  # what its names begin with
PYRAMIDS = ('paddle', 'torch', 'mmdet')  # code bases with the Swin and PVT of UM-MAE
NO_SEGMENTOR = 'it has no such segmentor'
NO_CLASSIFIER = 'it has no classifiers'
NO_DETECTOR = 'it has no such detector'
DETECTORS_ALONE = 'it has detectors alone, which begin from the files that --to torch writes'
REFUSED = {
    ('timm', names.PROBE): 'its classifier has no normalisation before the head',
    ('hf', names.PROBE): 'its classifier has no normalisation before the head',
    ('hf', names.POOLED): 'its classifier sees the class token, not the mean of the patches; '
    "name a folder, which gets timm's names and opens in transformers as well",
    ('torch', names.SEGMENTOR): NO_SEGMENTOR,
    ('timm', names.SEGMENTOR): NO_SEGMENTOR,
    ('hf', names.SEGMENTOR): NO_SEGMENTOR,
    ('mmpretrain', names.SEGMENTOR): NO_SEGMENTOR,
    ('mmseg', names.PROBE): NO_CLASSIFIER,
    ('mmseg', names.POOLED): NO_CLASSIFIER,
    ('mmseg', names.CLASS_TOKEN): NO_CLASSIFIER,
    ('torch', names.GFL): NO_DETECTOR,
    ('timm', names.GFL): NO_DETECTOR,
    ('hf', names.GFL): NO_DETECTOR,
    ('mmpretrain', names.GFL): NO_DETECTOR,
    ('mmseg', names.GFL): NO_DETECTOR,
    ('detectron2', names.GFL): NO_DETECTOR,
    ('torch', names.MASK_RCNN): NO_DETECTOR,
    ('timm', names.MASK_RCNN): NO_DETECTOR,
    ('hf', names.MASK_RCNN): NO_DETECTOR,
    ('mmpretrain', names.MASK_RCNN): NO_DETECTOR,
    ('mmseg', names.MASK_RCNN): NO_DETECTOR,
}
AUTHOR = 'MAE for PaddlePaddle'  # detectron2 takes a .pkl without an author for one of Caffe2
NO_CLASS_POSITION = 'the position of a class token, which ViTDet keeps but does not use, is zeros'
# The state of training, which no other program can use
TRAINING = ('optimizer', 'scaler', 'param_schedulers', 'message_hub')
NOT_KEPT = ('model', 'position', 'examples', *TRAINING)


def renamed(model: dict, to: str, class_position: list | None = None) -> tuple[dict, Report]:
    """Our tensors under the names and in the layout of a code base; InputError where it cannot.

    class_position: as `read` gives it for detectors.
    """
    scheme = _scheme(to, model)
    kind = names.kind(model)
    report = Report('', scheme.label, kind)
    if to in ENCODER_ALONE and kind == names.AUTOENCODER:
        decoder = [name for name in model if name.startswith(DECODER)]
        report.dropped = dict.fromkeys(decoder, f'{to} has the encoder alone')

    kept = {name: array for name, array in model.items() if name not in report.dropped}
    parts = {name: layout.split(name, scheme.stems) for name in kept}
    unknown = [name for name, (stem, _, _) in parts.items() if stem not in scheme.stems]
    if unknown:
        raise InputError(f'--to {to}: {scheme.label} has no place for {", ".join(unknown[:5])}')
    report.taken = len(kept)
    if to != 'paddle':
        kept = layout.transposed(kept)
    if scheme.class_position:
        table = kept[detectors.POSITIONS]
        kept[detectors.POSITIONS] = detectors.with_class_position(table, class_position)

    tensors = {}
    for name, array in kept.items():
        stem, number, suffix = parts[name]
        theirs = scheme.stems[stem]
        if isinstance(theirs, str):
            tensors[theirs.replace('{}', number) + suffix] = array
        else:  # query, key and value: [3D, D] to three [D, D]
            for part, third in zip(theirs, np.split(array, 3)):
                tensors[part.replace('{}', number) + suffix] = third
    if to != 'paddle':
        made = _kept_by_pytorch(tensors)
        tensors |= made
        report.made = {name: names.MADE[name.rpartition('.')[2]] for name in made}
    if scheme.class_position and class_position is None:
        report.made[scheme.stems[detectors.POSITIONS]] = NO_CLASS_POSITION
    return tensors, report


def _scheme(to: str, model: dict) -> Scheme:
    """The names of a code base for a model; InputError where it has no such model."""
    kind, family = names.kind(model), names.family(model)
    if to not in PYRAMIDS and family != names.VIT:
        raise InputError(f'--to {to}: {family} cannot be written, because it has no such model')
    reason = REFUSED.get((to, kind))
    if to in OF_DETECTORS and kind not in names.DETECTORS:
        reason = DETECTORS_ALONE
    if reason:
        raise InputError(f'--to {to}: {kind} cannot be written, because {reason}')
    if to in OF_DETECTORS:
        return detectors.scheme_for(to, model)
    if to == 'paddle' and kind in names.DETECTORS:
        return detectors.PADDLE
    return SPECIAL.get((to, kind), TARGETS[to])


def _kept_by_pytorch(tensors: dict) -> dict[str, np.ndarray]:
    """The tensors that files of PyTorch have and ours do not."""
    counts, indices, distances = {}, {}, {}
    for name in tensors:
        if name.endswith('running_mean'):
            counts[name.replace('running_mean', 'num_batches_tracked')] = np.array(0)
        elif name.endswith('relative_position_bias_table'):
            patches = tensors['backbone.pos_embed'].shape[1] - 1
            side = math.isqrt(patches)
            if len(tensors[name]) != (2 * side - 1) ** 2 + 3:
                raise InputError(
                    f'{name} has {len(tensors[name])} distances, which are not those of a square '
                    'grid: a file of PyTorch needs an index of them, which only squares get here'
                )
            index = pos_embed.relative_positions(side, side)
            indices[name.replace('bias_table', 'index')] = index
        elif name == 'bbox_head.gfl_reg.bias':
            bins = len(tensors[name]) // 4
            distances['bbox_head.integral.project'] = np.arange(bins, dtype='float32')
    return counts | indices | distances


def write(
    path: str | Path, state: dict, to: str, size=None, labels: list[str] | None = None
) -> Report:
    """Write {'model': tensors under our names, ...} for a code base, whole or not at all.

    The rest of `state` (flags, class names, licence) is kept where the format has a place for it;
    the state of training is not. For a folder of Hugging Face's: size by models_sizes.size_of, and
    a label for each class (None: numbers).
    """
    path = Path(path)
    to_folder = to == 'hf' and path.suffix == ''
    by_timm = to_folder and names.kind(state['model']) == names.POOLED
    class_position = state.get('class_position')
    tensors, report = renamed(state['model'], 'timm' if by_timm else to, class_position)
    report.file = str(path)
    for name in TRAINING:
        if state.get(name):
            report.dropped[name] = 'the state of training stays behind'
    about = {}
    for name, value in state.items():
        if name in NOT_KEPT or (name == 'class_position' and to in OF_DETECTORS):
            continue
        if _is_plain(value):
            about[name] = value
        else:
            report.dropped[name] = 'more than text, numbers, lists and dicts of them'

    if to_folder:
        flags = about.get('args', {})
        config = hugging_face.config(state['model'], size, flags, report.made, labels)
        processor = hugging_face.processor(state['model'], size, flags)
        texts = {
            'README.md': model_card.text(state['model'], size, about, bool(processor)),
            'config.json': json.dumps(config, indent=2),
        }
        if processor:
            texts['preprocessor_config.json'] = json.dumps(processor, indent=2)
        hugging_face.write(path, tensors, about, texts)
    elif path.suffix == '.pkl':
        paddle_file.write(path, {'__author__': AUTHOR, **about, 'model': tensors})
    elif to == 'paddle':
        paddle_file.write(path, {'model': tensors, **about})
    elif path.suffix == '.safetensors':
        safetensors_file.write(path, tensors, about)
    else:
        key = 'model' if to in ('torch', 'detectron2') else 'state_dict'
        torch_file.write(path, {key: tensors, **about})
    return report


def _is_plain(value) -> bool:
    """Whether every format can keep a value."""
    try:
        return bool(json.dumps(value))
    except (TypeError, ValueError):
        return False
