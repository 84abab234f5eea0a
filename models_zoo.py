"""Every model by its name, and weights from files.

The names are those of facebookresearch/mae and UM-MAE; each is a function in the module of its family.
"""
from collections.abc import Callable
from types import ModuleType

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
from util import checkpoint, convert, pos_embed
from util.convert import names
from util.errors import InputError


def _variants(families: dict[str, ModuleType]) -> dict[str, Callable]:
    return {name: variant for prefix, module in families.items() for name, variant in vars(module).items()
            if name.startswith(prefix)}


CLASSIFIERS = _variants({'vit_': models_vit, 'swin_': models_swin, 'pvt_': models_pvt})
AUTOENCODERS = _variants({'mae_vit_': models_mae, 'mae_swin_': models_um, 'mae_pvt_': models_um, 'simmim_': models_simmim})


def classifier(name: str, **kwargs) -> Classifier:
    """The classifier called `name`; InputError with all names where there is none."""
    return _choose(CLASSIFIERS, name)(**kwargs)


def autoencoder(name: str, fix_um_positions: bool = False, **kwargs) -> Reconstruction:
    """The masked autoencoder called `name`; InputError with all names where there is none.
    fix_um_positions is explained in models_um.py."""
    variant = _choose(AUTOENCODERS, name)
    if fix_um_positions:
        if variant.__module__ != models_um.__name__:
            raise InputError(f'--fix_um_positions: the positions of {name} are right as they are; leave it out')
        kwargs['fix_um_positions'] = True
    return variant(**kwargs)


def _choose(variants: dict[str, Callable], name: str) -> Callable:
    if name not in variants:
        raise InputError(f'no model {name!r}; choose from {", ".join(sorted(variants))}')
    return variants[name]


def load_autoencoder(path: str, name: str | None = None, norm_pix_loss: bool | None = None) -> tuple[Reconstruction, dict]:
    """The model in a weight file, and the flags it was trained with ({} where the file does not say).

    name and norm_pix_loss are for files without flags; InputError where they are needed and missing, where they
    contradict the file, or where the file holds an encoder only. Channels and (square) image size follow from shapes.
    """
    state = convert.load(path)
    tensors, flags = state['model'], state.get('args', {})
    if names.kind(tensors) != names.AUTOENCODER:
        raise InputError(f'{path} holds {names.kind(tensors)}, which has no decoder and cannot reconstruct. '
                         'Take a whole pre-training checkpoint (of the official files: *_full and mae_visualize_*)')
    inferred = models_sizes.autoencoder_of(tensors)
    known = {'--model': (flags.get('model', inferred), name), '--norm_pix_loss': (flags.get('norm_pix_loss'), norm_pix_loss)}
    for flag, (said, asked) in known.items():
        if said is None and asked is None:
            raise InputError(f'{path} does not say its {flag[2:]}; give {flag} (of the official files, *_full predict '
                             'normalised pixels, mae_visualize_* do not: --no_norm_pix_loss)')
        if None not in (said, asked) and AUTOENCODERS.get(said, said) != AUTOENCODERS.get(asked, asked):  # or an alias
            raise InputError(f'{path} was trained with {flag[2:]} {said}, but {flag[2:]} {asked} was asked for')
    name, norm_pix_loss = (asked if said is None else said for said, asked in known.values())
    said = flags | models_sizes.said_by(tensors)
    secondary = {'vis_mask_ratio': flags.get('vis_mask_ratio') or 0.25} if 'vis_mask_token' in tensors else {}
    model = autoencoder(name, norm_pix_loss=norm_pix_loss, img_size=said['input_size'], in_chans=said['in_chans'],
                        fix_um_positions=flags.get('fix_um_positions', False), **secondary)
    checkpoint.load_model(model, tensors, path)
    return model, flags


def saved_classifier(path: str, **asked) -> tuple[Classifier, dict]:
    """The classifier in a weight file, ready to infer, and what is known of it: model, nb_classes, global_pool, input_size,
    in_chans, `labels` (a list of synonyms for each class), and mean and std where the file says them.

    asked: the first four of these, for files that do not say them, None where nothing is asked; InputError where one is
    needed and missing, where one contradicts the file, or where the file holds no classifier.
    """
    state = convert.load(path)
    tensors, said = state['model'], dict(state.get('args', {}))
    kind = names.kind(tensors)
    if kind not in (names.PROBE, names.POOLED, names.CLASS_TOKEN):
        raise InputError(f'{path} holds {kind}, which has no classes; fine-tune it first')
    said['nb_classes'] = len(tensors['head.1.bias' if kind == names.PROBE else 'head.bias'])
    said['global_pool'] = 'fc_norm.weight' in tensors
    size_is_free = 'pos_embed' not in tensors and 'input_size' in said
    inferred = models_sizes.said_by(tensors)
    said |= {name: value for name, value in inferred.items() if name != 'input_size' or not size_is_free}
    for name, value in asked.items():
        if value is not None and said.setdefault(name, value) != value:
            raise InputError(f'{path} has {name} {said[name]}, but {name} {value} was asked for')
    if 'model' not in said:
        raise InputError(f'{path} does not say its model; give --model')
    model = classifier(said['model'], img_size=said['input_size'], in_chans=said['in_chans'], num_classes=said['nb_classes'],
                       global_pool=said['global_pool'])
    if kind == names.PROBE:
        model.probe()
    set_weights(model, tensors, path)
    model.eval()
    return model, said | {'labels': labels(state.get('classes'), said['nb_classes'])}


def labels(own: list[str] | None, count: int) -> list[list[str]]:
    """A list of synonyms for each of `count` classes: those that the weights' own names begin, or ImageNet-1k's."""
    if not own and count == len(id2class):
        return list(id2class.values())
    return [[name] for name in own or []] + [[f'class {i}'] for i in range(len(own or []), count)]


def load_pretrained(model: Classifier, path: str) -> list[str]:
    """Begin from a pre-trained encoder: every parameter but the head's, and fc_norm's, must be in the file.

    The position table is interpolated where the grid differs; a decoder and the other pooling's norm are left out.
    Returns the names of the parameters that keep their fresh values; InputError lists what is missing besides.
    """
    tensors = convert.load(path)['model']
    own = model.state_dict()
    _check_family(own, tensors, path)
    if names.kind(tensors) == names.PROBE:
        raise InputError(f'{path} holds a linear probe; fine-tune from the weights that it was trained on')
    if 'head.weight' in tensors and ('fc_norm.weight' in tensors) != model.global_pool:
        raise InputError(f'{path} holds {names.kind(tensors)}; add '
                         + ('--cls_token' if model.global_pool else '--global_pool'))
    for name in ('head.weight', 'head.bias'):
        if name in tensors and list(tensors[name].shape) != list(own[name].shape):
            del tensors[name]  # of another number of classes, as upstream
    if 'pos_embed' in tensors:
        tensors['pos_embed'] = pos_embed.interpolate(tensors['pos_embed'], model.patch_embed.grid, 'cls_token' in tensors)
    fresh = [name for name in own if name not in tensors]
    allowed = {'head.weight', 'head.bias', 'fc_norm.weight', 'fc_norm.bias'}
    if missing := sorted(set(fresh) - allowed):
        raise InputError(f'{path} does not fit the model; {len(missing)} of its tensors are missing there: '
                         f'{", ".join(missing[:5])}')
    checkpoint.load_model(model, {name: tensors.get(name, tensor) for name, tensor in own.items()}, path)
    return fresh


def _check_family(own: dict, tensors: dict, path: str) -> None:
    """InputError where the encoder in a file is of another kind than the model's."""
    found, wanted = names.family(tensors), names.family(own)
    if found != wanted:
        raise InputError(f'{path} holds {found}, and the model is {wanted}; choose another --model')


def set_weights(model: Classifier, tensors: dict, path: str) -> None:
    """Set all weights of a classifier; InputError where the tensors are of another kind of model, or another shape."""
    own = model.state_dict()
    _check_family(own, tensors, path)
    found, wanted = names.kind(tensors), names.kind(own)
    if found != wanted:
        raise InputError(f'{path} holds {found}; {wanted} is needed here')
    checkpoint.load_model(model, tensors, path)


def load_classifier(model: Classifier, path: str) -> dict:
    """Set all weights from a classifier's file, as set_weights; what else the file says (flags, class names ...)."""
    if not path:
        raise InputError('--eval needs --resume FILE, the weights to evaluate')
    state = convert.load(path)
    set_weights(model, state['model'], path)
    return {key: value for key, value in state.items() if key not in ('model', 'optimizer')}
