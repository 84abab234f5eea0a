"""Folders that transformers opens: weights, config.json, preprocessor_config.json, a model card.

A classifier on the class token is a ViTForImageClassification. One on the mean of the patches is a
timm model, which transformers opens as TimmWrapperForImageClassification.

Pictures: no processor of transformers 5.23 crops as our evaluation (and torchvision) does. If an
odd number of pixels is left over, they round the corner down, and torchvision to the even side: a
shift by one pixel. Only TimmWrapperImageProcessor has torchvision's transforms. AutoImageProcessor
takes it, for both kinds of classifiers, because their config.json has `pretrained_cfg`.
"""

from pathlib import Path

from util import atomic, pos_embed, sizes
from util.augment import crop, transform
from util.convert import names
from util.errors import InputError
from util.weights import safetensors_file

FILES = ('model.safetensors', 'pytorch_model.bin')
CLASSES = {
    names.CLASS_TOKEN: 'ViTForImageClassification',
    names.AUTOENCODER: 'ViTMAEForPreTraining',
}
ARCHITECTURES = {  # width: timm's name
    384: 'vit_small_patch16_224',
    768: 'vit_base_patch16_224',
    1024: 'vit_large_patch16_224',
    1280: 'vit_huge_patch14_224',
}
EVALUATION = {  # of timm's pretrained_cfg
    'fixed_input_size': True,
    'interpolation': 'bicubic',
    'crop_mode': 'center',
    'first_conv': 'patch_embed.proj',
    'classifier': 'head',
}
PROCESSOR = {
    'image_processor_type': 'CLIPImageProcessor',
    'do_resize': True,
    'resample': 3,  # Pillow's number of bicubic
    'do_center_crop': True,
    'do_rescale': True,
    'rescale_factor': 1 / 255,
}
ALWAYS = {
    'layer_norm_eps': 1e-6,
    'hidden_act': 'gelu',
    'qkv_bias': True,
    'hidden_dropout_prob': 0.0,
    'attention_probs_dropout_prob': 0.0,
}


def file_in(path: str | Path) -> Path:
    """The one weight file of a folder; any other path as it is."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = [name for name in FILES if (path / name).exists()]
    if len(found) == 1:
        return path / found[0]
    shards = sorted(file.name for file in path.glob('*.index.json'))
    if shards:
        raise InputError(
            f'{path} has its weights in several files ({shards[0]}); write them to one with '
            'save_pretrained(FOLDER, max_shard_size="100GB")'
        )
    contents = ' and '.join(found) or f'neither {" nor ".join(FILES)}'
    raise InputError(f'{path} is a folder with {contents}; name a weight file')


def write(folder: Path, tensors: dict, about: dict, texts: dict[str, str]) -> None:
    """Write the weights and then files of text; each file is whole or not there."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        safetensors_file.write(folder / FILES[0], tensors, about)
        for name, text in texts.items():
            with atomic.writing(folder / name) as file:
                file.write(text.encode())
    except BaseException:
        if new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def config(
    model: dict, size, flags: dict, made: dict[str, str], labels: list[str] | None = None
) -> dict:
    """The contents of config.json for weights under our names.

    It is for ViTMAEForPreTraining, ViTMAEModel, ViTForImageClassification or timm. size: that of
    the weights, by models_sizes.size_of. `made` learns which entries are assumed because the
    weights do not tell them.
    """
    kind = names.kind(model)
    if kind == names.POOLED:
        return _timm_config(model, size, flags, _labels(model, labels))
    sides = image_sides(model, size, flags)
    patch, channels = _patch_and_channels(model)
    if kind != names.CLASS_TOKEN and sides[0] != sides[1]:
        raise InputError(
            '--to hf: a ViTMAE of transformers is for square images, '
            f'but these are of {sizes.shown(sides)} pixels'
        )
    encoder = {
        'model_type': 'vit' if kind == names.CLASS_TOKEN else 'vit_mae',
        'architectures': [CLASSES.get(kind, 'ViTMAEModel')],
        'hidden_size': size.width,
        'num_hidden_layers': size.depth,
        'num_attention_heads': size.heads,
        'intermediate_size': 4 * size.width,
        **ALWAYS,
        'patch_size': patch,
        'num_channels': channels,
        'image_size': sizes.plain(sides),
    }
    if kind != names.CLASS_TOKEN:
        return encoder | _decoder(model, size, flags, made)
    labels = _labels(model, labels)
    encoder['num_labels'] = len(labels)
    encoder['id2label'] = {str(number): label for number, label in enumerate(labels)}
    encoder['label2id'] = {label: number for number, label in enumerate(labels)}
    encoder['image_processor_type'] = 'TimmWrapperImageProcessor'
    encoder['pretrained_cfg'] = _pretrained_cfg(sides, channels, flags)
    return encoder


def image_sides(model: dict, size, flags: dict) -> tuple[int, int]:
    """(height, width) of the images; InputError where size is None, or nobody tells the grid."""
    if size is None:
        raise InputError(
            '--to hf: config.json needs the number of heads, which no shape shows, and these '
            'weights have none of the sizes known here; '
            'name DST *.safetensors to leave config.json out'
        )
    patches = model['pos_embed'].shape[1] - 1
    grid = pos_embed.grid_of(patches, sizes.image_sides(flags))
    if grid is None:
        raise InputError(
            '--to hf: config.json needs the size of the images, but the position table has '
            f'{patches} patches, which is no square number, and the file gives no sides'
        )
    patch, _ = _patch_and_channels(model)
    return grid[0] * patch, grid[1] * patch


def _patch_and_channels(model: dict) -> tuple[int, int]:
    """The side of the patches, and the number of channels."""
    _, channels, patch, _ = model['patch_embed.proj.weight'].shape
    return patch, channels


def _labels(model: dict, labels: list[str] | None) -> list[str]:
    """The given labels, or else one for each class with its number."""
    count = len(model['head.bias'])
    return labels or [f'class {number}' for number in range(count)]


def _timm_config(model: dict, size, flags: dict, labels: list[str]) -> dict:
    """config.json of timm, whose `model_args` make any of its ViTs this one."""
    sides = image_sides(model, size, flags)
    patch, channels = _patch_and_channels(model)
    arguments = {'img_size': sizes.plain(sides), 'in_chans': channels, 'global_pool': 'avg'}
    arguments |= {'patch_size': patch, 'embed_dim': size.width}
    arguments |= {'depth': size.depth, 'num_heads': size.heads}

    classes = {'num_classes': len(labels), 'label_names': labels}
    architecture = ARCHITECTURES.get(size.width, 'vit_base_patch16_224')
    return {
        'architecture': architecture,
        **classes,
        'num_features': size.width,
        'global_pool': 'avg',
        'model_args': arguments,
        'pretrained_cfg': _pretrained_cfg(sides, channels, flags),
    }


def _pretrained_cfg(sides: tuple[int, int], channels: int, flags: dict) -> dict:
    """timm's description of our evaluation."""
    pictures = {'input_size': [channels, *sides], 'crop_pct': transform.crop_share(sides)}
    return pictures | EVALUATION | _statistics(channels, flags)


def _statistics(channels: int, flags: dict) -> dict:
    """The mean and std of each channel; nothing where they are not known."""
    mean, std = flags.get('mean'), flags.get('std')
    try:
        mean, std = crop.statistics(channels, mean, std)
    except InputError:  # many channels, which no processor of pictures reads
        return {}
    return {'mean': list(mean), 'std': list(std)}


def processor(model: dict, size, flags: dict) -> dict | None:
    """preprocessor_config.json, for programs without timm; the crop may be shifted by a pixel.

    None for images that are not square: CLIPImageProcessor resizes without regard to their shape.
    """
    side, width = image_sides(model, size, flags)
    if side != width:
        return None
    _, channels = _patch_and_channels(model)
    own = {'do_convert_rgb': channels == 3}
    own['size'] = {'shortest_edge': int(side / transform.crop_share(side))}
    own['crop_size'] = {'height': side, 'width': side}

    statistics = _statistics(channels, flags)
    own['do_normalize'] = bool(statistics)
    for name, values in statistics.items():
        own[f'image_{name}'] = values
    return PROCESSOR | own


def _decoder(model: dict, size, flags: dict, made: dict[str, str]) -> dict:
    """The part of config.json that is about the decoder and the loss."""
    if names.kind(model) == names.AUTOENCODER and 'norm_pix_loss' not in flags:
        made['norm_pix_loss'] = (
            'false in config.json, because SRC does not say it; it matters for the loss alone'
        )
    blocks = [name for name in model if name.startswith('decoder_blocks.')]
    depth = sum(name.endswith('.norm1.weight') for name in blocks)
    width = len(model['decoder_norm.bias']) if blocks else size.decoder_width
    return {
        'decoder_hidden_size': width,
        'decoder_num_hidden_layers': depth or size.decoder_depth,
        'decoder_num_attention_heads': size.heads_of_decoder(width),
        'decoder_intermediate_size': 4 * width,
        'norm_pix_loss': bool(flags.get('norm_pix_loss', False)),
        'mask_ratio': flags.get('mask_ratio', 0.75),
    }
