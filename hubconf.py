"""All models for paddle.hub: list them, read how one is called, build it with or without weights.

    paddle.hub.list('DIR', source='local')
    paddle.hub.load('DIR', 'vit_base_patch16', source='local', weights='checkpoint-best.pd')

DIR is a clone of this project. Every name of models_zoo is an entry.
"""

import functools

import paddle

import models_features
import models_zoo
from util import convert, errors, log, machine
from util.convert import names

# paddle.hub looks for these before it loads a model
dependencies = ['numpy', 'paddle', 'PIL', 'safetensors', 'tqdm']

# What paddle.hub.help shows below the sentence of the model's own function
USAGE = """
Without a file the model is new. Its settings are the arguments of its class, such as img_size.

weights: a file of any known code base. The model is built from it and ready to use, and `about`
    holds what the file says, such as mean and std. What it does not say may be given:
    {settings}.{heads}
start_from: a pre-trained file to begin a training from. The model has the given settings.
use_ema: take the averaged weights of the file.
"""
HEADS = """
    `about` also has the labels of a classifier. Of a pre-trained file the encoder is taken, with a
    random head: forward_features(images) gives [N, D]."""

# How the settings of a model are called where a file is read
IN_FILES = {'img_size': 'input_size', 'num_classes': 'nb_classes'}
OF_ENCODERS = ('img_size', 'patch_size')
OF_AUTOENCODERS = (*OF_ENCODERS, 'in_chans', 'norm_pix_loss')
OF_CLASSIFIERS = (*OF_ENCODERS, 'in_chans', 'num_classes', 'global_pool')


def _model(name, build, ready, weights=None, start_from=None, use_ema=False, **settings):
    """A model by its name: new, ready from the file `weights`, or new with a file's weights.

    build: makes it new. ready: makes it from a file.
    """
    if weights and start_from:
        raise errors.InputError(
            'weights and start_from: give one; the first makes a model that is ready to use, the '
            'second the beginning of a training'
        )
    if use_ema and not weights and not start_from:
        raise errors.InputError('use_ema chooses among the weights of a file; give weights')
    _warn_of_late_settings()
    if weights:
        model, model.about = ready(name, str(weights), use_ema, settings)
        model.eval()
        return model

    model = build(name, **settings)
    if start_from:
        log.info(models_zoo.start_from(model, str(start_from), use_ema=use_ema))
    return model


def _warn_of_late_settings():
    """Say once what the settings for CPUs lack, because paddle.hub needs Paddle before them."""
    missing = machine.too_late()
    if missing and not paddle.device.is_compiled_with_cuda():
        log.warn_once(
            'Paddle was imported first, so the settings for CPUs do not apply and models are '
            f'slower; import util before paddle, or start Python with {missing}'
        )


def _autoencoder_from(name, path, use_ema, settings):
    """The masked autoencoder in a file, and the flags of the file."""
    _check(path, settings, OF_AUTOENCODERS)
    asked = _named_as_in_files(settings)
    return models_zoo.autoencoder_from(path, name, use_ema=use_ema, **asked)


def _classifier_from(name, path, use_ema, settings):
    """The classifier in a file, or the encoder of a pre-trained one, and its properties."""
    converted = convert.read(path, use_ema=use_ema)
    kind = names.kind(converted[0]['model'])
    if kind not in names.CLASSIFIERS:
        _check(f'{path}, which holds {kind},', settings, OF_ENCODERS)
        asked = _named_as_in_files(settings)
        return models_features.encoder_from(converted, path, name, **asked)

    _check(path, settings, OF_CLASSIFIERS)
    asked = _named_as_in_files(settings)
    return models_zoo.classifier_from(path, converted=converted, model=name, **asked)


def _check(path, settings, known):
    """InputError for a setting that has no meaning beside the file."""
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise errors.InputError(
            f'{unknown[0]}: beside the weights of {path} only {", ".join(known)} can be given; '
            'for another model give start_from instead of weights'
        )


def _named_as_in_files(settings):
    return {IN_FILES.get(name, name): value for name, value in settings.items()}


def _entry(name, variant, build, ready, known, heads=''):
    """The function that paddle.hub calls for a model."""
    entry = functools.partial(_model, name, build, ready)
    usage = USAGE.format(settings=', '.join(known), heads=heads)
    entry.__doc__ = f'{variant.__doc__.strip()}\n{usage}'
    return entry


def _entries():
    """All models by their names."""
    found = {}
    for name, variant in models_zoo.AUTOENCODERS.items():
        build = models_zoo.autoencoder
        found[name] = _entry(name, variant, build, _autoencoder_from, OF_AUTOENCODERS)
    for name, variant in models_zoo.CLASSIFIERS.items():
        build = models_zoo.classifier
        found[name] = _entry(
            name, variant, build, ready=_classifier_from, known=OF_CLASSIFIERS, heads=HEADS
        )
    return found


globals().update(_entries())
