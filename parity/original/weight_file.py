"""Weight files as PyTorch reads them, and the official names in those of other code bases."""

import argparse
import re
import types

import torch
from safetensors.torch import load_file

# Official name -> that in transformers 5's models, for the parts of a block and for the rest
PARTS = {
    'norm1': 'layernorm_before',
    'norm2': 'layernorm_after',
    'attn.proj': 'attention.o_proj',
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
}
STEMS = {
    'cls_token': 'vit.embeddings.cls_token',
    'pos_embed': 'vit.embeddings.position_embeddings',
    'patch_embed.proj': 'vit.embeddings.patch_embeddings.projection',
    'norm': 'vit.layernorm',
    'head': 'classifier',
    'mask_token': 'decoder.mask_token',
    'decoder_pos_embed': 'decoder.decoder_pos_embed',
    'decoder_embed': 'decoder.decoder_embed',
    'decoder_norm': 'decoder.decoder_norm',
    'decoder_pred': 'decoder.decoder_pred',
}
PARAMETERS = ('cls_token', 'pos_embed', 'mask_token', 'decoder_pos_embed')  # without a suffix
# The beginning of a name in an encoder that was saved without its `vit.`
BARE = r'^(?=embeddings\.|encoder\.layer\.|layers\.|layernorm\.)'
# Classes of the standard library that programs keep among their flags. They are read as text and
# never called: a path of Windows cannot be made elsewhere, and Python 3.13 has paths in a module
# that others lack
PATHS = ('Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath')
TEXTS = [
    *(f'pathlib.{name}' for name in PATHS),
    *(f'pathlib._local.{name}' for name in PATHS),
    'datetime.datetime',
    'datetime.date',
    'datetime.time',
    'datetime.timedelta',
    'datetime.timezone',
    'decimal.Decimal',
]
WRAPPERS = r'^((module|_orig_mod)\.)+'  # of DataParallel and torch.compile
# Patterns in OpenMMLab's names -> what makes them official, one after the other
OPEN_MMLAB = [
    (r'^backbone\.layers\.', 'blocks.'),
    (r'^neck\.decoder_blocks\.', 'decoder_blocks.'),
    (r'^backbone\.patch_embed\.projection', 'patch_embed.proj'),
    (r'\.ln(\d)', r'.norm\1'),
    (r'ffn\.layers\.0\.0', 'mlp.fc1'),
    (r'ffn\.layers\.1', 'mlp.fc2'),
    (r'^backbone\.norm1', 'norm'),
    (r'^backbone\.norm2', 'fc_norm'),
    (r'^neck\.norm1', 'decoder_norm'),
    (r'^neck\.bn', 'head.0'),
    (r'^head\.(fc|layers\.head)', 'head'),
    (r'^(backbone|neck)\.', ''),
]


def hugging_face(name):
    """The names of an official tensor in Hugging Face's model: three for query, key and value."""
    found = re.match(r'(decoder_)?blocks\.(\d+)\.(.+)\.(weight|bias)$', name)
    if not found:
        stem, suffix = re.match(r'(.+?)(\.weight|\.bias)?$', name).groups()
        return [STEMS[stem] + (suffix or '')]

    decoder, number, part, suffix = found.groups()
    stack = 'decoder.decoder_layers' if decoder else 'vit.layers'
    if part == 'attn.qkv':
        parts = [f'attention.{letter}_proj' for letter in 'qkv']
    else:
        parts = [PARTS[part]]
    return [f'{stack}.{number}.{theirs}.{suffix}' for theirs in parts]


def load(path, use_ema=False):
    """(code base, tensors) of a file; OpenMMLab's tensors get official names.

    The average of the weights is taken with `use_ema`, and where one of our runs kept it ('ema').
    """
    contents = read(path)
    if use_ema:
        keys = ('ema', 'model_ema', 'state_dict_ema')
    else:
        keys = ('ema', 'model', 'state_dict', 'model_ema', 'state_dict_ema')
    there = [key for key in keys if isinstance(contents.get(key), dict)]
    if there:
        contents = contents[there[0]]
    tensors = {}
    for name, tensor in contents.items():
        name = re.sub(WRAPPERS, '', name)
        if not name.startswith('data_preprocessor.'):
            tensors[name] = tensor.float()

    if 'backbone.cls_token' in tensors:
        renamed = {official(name): tensor for name, tensor in tensors.items()}
        return 'OpenMMLab', with_probe_names(renamed)
    if any('embeddings.cls_token' in name for name in tensors):
        return 'Hugging Face', tensors
    return 'official or timm', with_probe_names(tensors)


def read(path):
    """The contents of a file in safetensors' or PyTorch's format."""
    with open(path, 'rb') as file:
        beginning = file.read(9)
    if beginning[8:] == b'{':
        return load_file(path)
    harmless = [argparse.Namespace, types.SimpleNamespace]
    harmless += [(text, name) for name in TEXTS]
    with torch.serialization.safe_globals(harmless):
        return torch.load(path, map_location='cpu', weights_only=True)


def text(*parts):
    """What stands for an object of TEXTS, from the arguments that a pickle keeps for its class."""
    return ' '.join(map(str, parts))


def official(name):
    """The official name of a tensor of OpenMMLab's."""
    for pattern, replacement in OPEN_MMLAB:
        name = re.sub(pattern, replacement, name)
    return name


def with_probe_names(tensors):
    """The tensors, with a linear probe's head behind its normalisation.

    Some files have the head itself as `head`, and some lack the count of batches.
    """
    if 'head.0.running_mean' not in tensors:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        renamed[re.sub(r'^head\.(?=weight|bias)', 'head.1.', name)] = tensor
    renamed.setdefault('head.0.num_batches_tracked', torch.tensor(0))
    return renamed
