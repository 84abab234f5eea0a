"""Every model by its name, and models from weight files.

The names are those of facebookresearch/mae and UM-MAE. Each is a function in the module of its
family.
"""

from collections.abc import Callable
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
from models_start import check_family, start_from  # noqa: F401  callers look for it here
from util import convert, sizes
from util.assign import assign_weights
from util.convert import names
from util.convert.report import Report
from util.errors import InputError


def _variants(families: dict[str, ModuleType]) -> dict[str, Callable]:
    """The functions of each module whose names start with its prefix, by name."""
    variants = {}
    for prefix, module in families.items():
        functions = vars(module)
        variants |= {name: functions[name] for name in functions if name.startswith(prefix)}
    return variants


CLASSIFIERS = _variants({'vit_': models_vit, 'swin_': models_swin, 'pvt_': models_pvt})
AUTOENCODERS = _variants(
    {
        'mae_vit_': models_mae,
        'mae_swin_': models_um,
        'mae_pvt_': models_um,
        'simmim_': models_simmim,
    }
)


# Options of the paper's ablations, for MAE with a ViT alone
VIT_ONLY = {
    'decoder_depth': '--decoder_depth',
    'decoder_embed_dim': '--decoder_dim',
    'encoder_mask_tokens': '--encoder_mask_tokens',
    'pca_target': '--pca_target',
}


def classifier(name: str, **kwargs) -> Classifier:
    """A new classifier by its name; InputError with all names if the name is unknown."""
    return _build(_choose(CLASSIFIERS, name), name, **kwargs)


def autoencoder(name: str, fix_um_positions: bool = False, **kwargs) -> Reconstruction:
    """A new masked autoencoder by its name; InputError with all names if the name is unknown.

    fix_um_positions: see models_um.py. Of the options in VIT_ONLY, those that are None, 0 or False
    leave the model as its name says.
    """
    variant = _choose(AUTOENCODERS, name)
    for option, flag in VIT_ONLY.items():
        if not kwargs.get(option):
            kwargs.pop(option, None)
        elif variant.__module__ != models_mae.__name__:
            raise InputError(f'{flag} is for the models mae_vit_*, not for {name}; leave it out')
    if fix_um_positions:
        if variant.__module__ != models_um.__name__:
            raise InputError(
                f'--fix_um_positions: the positions of {name} are right already; leave it out'
            )
        kwargs['fix_um_positions'] = True
    return _build(variant, name, **kwargs)


def _build(variant: Callable, name: str, patch_size: int | None = None, **kwargs) -> nn.Layer:
    """The model of a variant; a vision transformer may have another patch size than its name."""
    if patch_size is None:
        return variant(**kwargs)
    if variant.__module__ not in (models_vit.__name__, models_mae.__name__):
        raise InputError(
            f'--patch_size {patch_size}: {name} has patches of one size; only ViTs have others'
        )
    return variant(patch_size=patch_size, **kwargs)


def _choose(variants: dict[str, Callable], name: str) -> Callable:
    if name not in variants:
        names_of_all = ', '.join(sorted(variants))
        raise InputError(f'no model {name!r}; choose from {names_of_all}')
    return variants[name]


def autoencoder_from(
    path: str,
    name: str | None = None,
    norm_pix_loss: bool | None = None,
    use_ema: bool = False,
    converted: tuple[dict, Report] | None = None,
    **asked,
) -> tuple[Reconstruction, dict]:
    """The masked autoencoder in a weight file, and the flags it was trained with ({} if unknown).

    name and norm_pix_loss are for files without flags. Channels and patch size follow from the
    shapes, and the image size from them and the flags. asked: input_size and patch_size, None is
    ignored. converted: what convert.read has given, if the file was read before. InputError if
    something is needed but missing, or contradicts the file, or if the file holds an encoder only.
    """
    state = convert.reported(converted or convert.read(path, use_ema=use_ema))
    tensors = state['model']
    flags = state.get('args', {})
    kind = names.kind(tensors)
    if kind != names.AUTOENCODER:
        raise InputError(
            f'{path} holds {kind}, which has no decoder and cannot reconstruct. '
            'Take a whole pre-training checkpoint '
            '(of the official files: *_full and mae_visualize_*)'
        )

    sides = sizes.image_sides(flags, asked.get('input_size'))
    models_sizes.check_positions(tensors, path, sides)
    recorded = flags.get('model')
    if recorded not in AUTOENCODERS:  # another code base's name; the shapes tell ours
        recorded = models_sizes.autoencoder_of(tensors)
    if recorded and recorded not in AUTOENCODERS:  # a decoder without a name; `options` has it
        recorded = recorded.rpartition('_dec')[0]
    name = _settle(path, '--model', recorded, name)
    norm_pix_loss = _settle(path, '--norm_pix_loss', flags.get('norm_pix_loss'), norm_pix_loss)

    known = models_sizes.said_by(tensors, sides)
    models_sizes.check_asked(path, known, asked)
    options = models_sizes.vit_options(tensors) if 'cls_token' in tensors else {}
    if 'vis_mask_token' in tensors:
        options['vis_mask_ratio'] = flags.get('vis_mask_ratio') or 0.25
    model = autoencoder(
        name,
        fix_um_positions=flags.get('fix_um_positions', False),
        norm_pix_loss=norm_pix_loss,
        img_size=known['input_size'],
        patch_size=known.get('patch_size'),
        in_chans=known['in_chans'],
        **options,
    )
    assign_weights(model, tensors, path)
    return model, flags


def _settle(path: str, flag: str, recorded, asked):
    """The value of a flag: the one that a file records, or else the one that was asked for.

    InputError if there is neither, or if they differ.
    """
    name = flag.removeprefix('--')
    if recorded is None and asked is None:
        raise InputError(
            f'{path} does not say its {name}; give {flag} (official *_full files predict '
            'normalised pixels; for mae_visualize_* give --no_norm_pix_loss)'
        )
    if recorded is None:
        return asked
    if asked is None:
        return recorded

    # aliases of one model count as equal
    same = AUTOENCODERS.get(recorded, recorded) == AUTOENCODERS.get(asked, asked)
    if not same:
        raise InputError(
            f'{path} was trained with {name} {recorded}, but {name} {asked} was asked for'
        )
    return recorded


def classifier_from(
    path: str, use_ema: bool = False, converted: tuple[dict, Report] | None = None, **asked
) -> tuple[Classifier, dict]:
    """The classifier in a weight file, ready to infer, and its properties.

    Properties: model, nb_classes, global_pool, input_size, patch_size (of a vision transformer),
    in_chans, `labels` (a list of synonyms for each class), and the other flags that the file
    records, such as mean and std.
    asked: the first five of these, for files that lack them; None is ignored.
    converted: what convert.read has given, if the file was read before.
    InputError if one is needed but missing, or contradicts the file, or if the file holds no
    classifier.
    """
    state = convert.reported(converted or convert.read(path, use_ema=use_ema))
    tensors = state['model']
    kind = names.kind(tensors)
    if kind not in names.CLASSIFIERS:
        raise InputError(f'{path} holds {kind}, which has no classes; fine-tune it first')
    flags = state.get('args', {})
    sides = sizes.image_sides(flags, asked.get('input_size'))
    models_sizes.check_positions(tensors, path, sides)

    known = _properties(flags, tensors, kind, sides)
    models_sizes.check_asked(path, known, asked)
    if 'model' not in known:
        raise InputError(f'{path} does not say its model; give --model')

    model = classifier(
        known['model'],
        img_size=known['input_size'],
        patch_size=known.get('patch_size'),
        in_chans=known['in_chans'],
        num_classes=known['nb_classes'],
        global_pool=known['global_pool'],
    )
    if kind == names.PROBE:
        model.probe()
    assign(model, tensors, path)
    model.eval()
    known['labels'] = labels(state.get('classes'), known['nb_classes'])
    return model, known


def _properties(flags: dict, tensors: dict, kind: str, sides: tuple[int, int] | None) -> dict:
    """A classifier's properties: the flags that its file records, overridden by the shapes."""
    known = dict(flags)
    known.pop('patch_size', None)  # the shapes tell it
    if known.get('model') not in CLASSIFIERS:
        known.pop('model', None)  # another code base's name

    head = 'head.1.bias' if kind == names.PROBE else 'head.bias'
    known['nb_classes'] = len(tensors[head])
    known['global_pool'] = 'fc_norm.weight' in tensors

    return known | models_sizes.said_by(tensors, sides)


def labels(own: list[str] | None, count: int) -> list[list[str]]:
    """A list of synonyms for each of `count` classes.

    ImageNet-1k's if the weights record no names and the count fits; otherwise their names `own`,
    then 'class <number>'.
    """
    if not own and count == len(id2class):
        return list(id2class.values())
    own = own or []
    named = [[name] for name in own]
    unnamed = [[f'class {i}'] for i in range(len(own), count)]
    return named + unnamed


def assign(model: nn.Layer, tensors: dict, path: str) -> None:
    """Set all weights of a model to a file's tensors.

    InputError if they are of another kind of model, or of another shape.
    """
    own = model.state_dict()
    check_family(own, tensors, path)
    found, wanted = names.kind(tensors), names.kind(own)
    if found != wanted:
        raise InputError(f'{path} holds {found}; {wanted} is needed here')
    assign_weights(model, tensors, path)


def assign_from(model: nn.Layer, path: str, use_ema: bool = False) -> dict:
    """Set all weights of a classifier from its file, and return the file's other entries.

    These are flags, class names and so on; the optimizer's state is left out.
    """
    if not path:
        raise InputError('--eval needs --resume FILE, the weights to evaluate')
    state = convert.read_and_report(path, use_ema)
    tensors = state['model']
    check_family(model.state_dict(), tensors, path)
    models_sizes.check_patches(model.state_dict(), tensors, path)
    sides = sizes.image_sides(state.get('args', {}))
    models_sizes.check_positions(tensors, path, sides, model.patch_embed.grid)
    assign(model, tensors, path)
    return {key: value for key, value in state.items() if key not in ('model', 'optimizer')}
