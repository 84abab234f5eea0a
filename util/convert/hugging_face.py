"""Folders that transformers' `from_pretrained` reads: weights and config.json."""

import json
import math
from pathlib import Path

from util import atomic
from util.convert import names
from util.errors import InputError
from util.weights import safetensors_file

FILES = ('model.safetensors', 'pytorch_model.bin')
CLASSES = {
    names.CLASS_TOKEN: 'ViTForImageClassification',
    names.AUTOENCODER: 'ViTMAEForPreTraining',
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


def write(folder: Path, tensors: dict, about: dict, config: dict) -> None:
    """Write the weights and then config.json; each file is whole or not there."""
    new = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        safetensors_file.write(folder / FILES[0], tensors, about)
        with atomic.writing(folder / 'config.json') as file:
            file.write(json.dumps(config, indent=2).encode())
    except BaseException:
        if new and not any(folder.iterdir()):
            folder.rmdir()
        raise


def config(model: dict, size, flags: dict, made: dict[str, str]) -> dict:
    """The contents of config.json for weights under our names.

    It is for ViTMAEForPreTraining, ViTMAEModel or ViTForImageClassification. size: that of the
    weights, by models_sizes.size_of; InputError where it is None. `made` learns which entries are
    assumed because the weights do not tell them.
    """
    if size is None:
        raise InputError(
            '--to hf: config.json needs the number of heads, which no shape shows, and these '
            'weights have none of the sizes known here; '
            'name DST *.safetensors to leave config.json out'
        )
    kind = names.kind(model)
    patches = model['pos_embed'].shape[1] - 1
    side = math.isqrt(patches)
    if side**2 != patches:
        raise InputError(
            '--to hf: config.json is for square images, '
            f'but the position table has {patches} patches'
        )

    encoder = {
        'model_type': 'vit' if kind == names.CLASS_TOKEN else 'vit_mae',
        'architectures': [CLASSES.get(kind, 'ViTMAEModel')],
        'hidden_size': size.width,
        'num_hidden_layers': size.depth,
        'num_attention_heads': size.heads,
        'intermediate_size': 4 * size.width,
        **ALWAYS,
        'patch_size': size.patch,
        'num_channels': model['patch_embed.proj.weight'].shape[1],
        'image_size': side * size.patch,
    }
    if kind == names.CLASS_TOKEN:
        return encoder | {'num_labels': len(model['head.bias'])}
    return encoder | _decoder(model, size, flags, made)


def _decoder(model: dict, size, flags: dict, made: dict[str, str]) -> dict:
    """The part of config.json that is about the decoder and the loss."""
    if names.kind(model) == names.AUTOENCODER and 'norm_pix_loss' not in flags:
        made['norm_pix_loss'] = (
            'false in config.json, because SRC does not say it; it matters for the loss alone'
        )
    blocks = [name for name in model if name.startswith('decoder_blocks.')]
    depth = sum(name.endswith('.norm1.weight') for name in blocks)
    return {
        'decoder_hidden_size': size.decoder_width,
        'decoder_num_hidden_layers': depth or size.decoder_depth,
        'decoder_num_attention_heads': size.decoder_heads,
        'decoder_intermediate_size': 4 * size.decoder_width,
        'norm_pix_loss': bool(flags.get('norm_pix_loss', False)),
        'mask_ratio': flags.get('mask_ratio', 0.75),
    }
